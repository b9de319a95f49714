"""Peak memory of the `torch` backend, so that a tensor of [N, V] too many fails.

Measured as the benchmark does, in processes of their own, at N = 128 and V = 65,536, where one fp32 tensor of
[N, V] takes 32 MiB.
"""

from __future__ import annotations

import pytest

from benchmarks._cpu_cases import Sizes
from benchmarks.cpu_losses import measure_memory

SIZES = Sizes(rows=128, vocab=65_536, student_width=64, teacher_width=96, dtype="float32")
# Five buffers of 1 MiB for row chunks, and as much again for what the allocator keeps.
ALLOWANCE = 10 * 2**20 / SIZES.unit_bytes


@pytest.mark.parametrize("case", ["tidal", "forward_kl", "reverse_kl", "calm"])
def test_logits_in_losses_hold_two_inputs_and_one_gradient(case):
    assert measure_memory(case, "tide", SIZES, threads=1)["peak_units"] <= 3 + ALLOWANCE


def test_the_measurement_sees_what_eager_allocates():
    assert measure_memory("tidal", "eager", SIZES, threads=1)["peak_units"] >= 6.5


@pytest.mark.parametrize("case", ["linear_tidal", "linear_reverse_kl", "linear_calm"])
def test_hidden_in_losses_hold_a_workspace_in_place_of_logits(case, monkeypatch):
    workspace_bytes = 8 * 2**20
    monkeypatch.setenv("TIDE_WORKSPACE_BYTES", str(workspace_bytes))
    # Both heads, the gradient of the student's, and that gradient times the upstream one. Logits would add 2.
    heads = (3 * SIZES.student_width + SIZES.teacher_width) / SIZES.rows
    peak = measure_memory(case, "tide", SIZES, threads=1)["peak_units"]
    assert peak <= heads + workspace_bytes / SIZES.unit_bytes + ALLOWANCE
