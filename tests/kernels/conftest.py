"""Fixtures of the kernel tests."""

from __future__ import annotations

import pytest

from tide_kernels._shared import row_blocks


@pytest.fixture
def few_rows_at_a_time(monkeypatch):
    """Buffers of five rows of 1000 fp32 entries, so that a handful of rows takes several row blocks."""
    monkeypatch.setattr(row_blocks, "CPU_BUFFER_BYTES", 5 * 1000 * 4)
