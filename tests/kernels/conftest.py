"""Fixtures of the kernel tests."""

from __future__ import annotations

import pytest
import torch

from tide_kernels._shared import row_blocks


@pytest.fixture
def few_rows_at_a_time(monkeypatch):
    """Buffers of five rows of 1000 fp32 entries, so that a handful of rows takes several row blocks."""
    monkeypatch.setattr(row_blocks, "CPU_BUFFER_BYTES", 5 * 1000 * 4)


@pytest.fixture
def nan_filled_memory():
    """torch.empty returns NaN, which shows memory that is read before it is written."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
