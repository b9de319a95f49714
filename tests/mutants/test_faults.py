"""Every planted fault applies to the current sources, and every op has faults."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.linear_faults import FAULTS
from tide_kernels._shared.backends import BACKENDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.op}, {f.backend}: {f.name}")
def test_old_text_occurs_once(fault):
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    assert fault.old != fault.new
    assert (ROOT / fault.tests[0]).exists()


def test_every_op_has_faults_in_both_fast_backends():
    counts = Counter((fault.op, fault.backend) for fault in FAULTS)
    for op in BACKENDS:
        if op in ("linear_interpolated_kl", "linear_reverse_kl"):
            op = "linear divergences"
        assert counts[op, "triton"] >= 2 and counts[op, "torch"] >= 1, op
    assert len(set(FAULTS)) == len(FAULTS)
