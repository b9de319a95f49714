"""Peak memory of the `torch` backend: one [N, V] tensor too many fails.

Measured as in the benchmark, in another process. One fp32 [N, V] tensor takes 40 MiB.
"""

from __future__ import annotations

import os

import pytest

from benchmarks._cpu_cases import Sizes
from benchmarks._memory import CLEAR_REFS
from benchmarks.cpu_losses import measure_memory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.access(CLEAR_REFS, os.W_OK), reason="the system cannot reset a process's high-water mark"
    ),
]

SIZES = Sizes(rows=160, vocab=65_536, student_width=64, teacher_width=96, dtype="float32")
WORKSPACE_BYTES = 8 * 2**20
# Four or five buffers of 1 MiB for row chunks, and a little for everything else.
ALLOWANCE = 6 * 2**20 / SIZES.unit_bytes
# The inputs alone, less the pages resident before.
SEEN = 0.97
LOGITS_IN = ("tidal", "forward_kl", "reverse_kl", "calm")
HIDDEN_IN = ("linear_tidal", "linear_reverse_kl", "linear_calm")


@pytest.fixture(scope="module")
def peaks():
    """Peak of every case in units of one fp32 [N, V] tensor, inputs included."""
    work = [(case, "tide") for case in (*LOGITS_IN, *HIDDEN_IN)] + [("tidal", "eager")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDE_WORKSPACE_BYTES", str(WORKSPACE_BYTES))
        measured = measure_memory(work, SIZES, threads=1)
    return {key: peak / SIZES.unit_bytes for key, peak in zip(work, measured, strict=True)}


@pytest.mark.parametrize("case", LOGITS_IN)
def test_logits_in_losses_hold_two_inputs_and_one_gradient(case, peaks):
    assert 3 * SEEN <= peaks[case, "tide"] <= 3 + ALLOWANCE


def test_the_measurement_sees_what_eager_allocates(peaks):
    assert 6.8 <= peaks["tidal", "eager"] <= 7.2


@pytest.mark.parametrize("case", HIDDEN_IN)
def test_hidden_in_losses_hold_a_workspace_in_place_of_logits(case, peaks):
    # Both heads and the gradient of the student's, once. Logits of both sides would add 2.
    heads = (2 * SIZES.student_width + SIZES.teacher_width) / SIZES.rows
    assert heads * SEEN <= peaks[case, "tide"] <= heads + WORKSPACE_BYTES / SIZES.unit_bytes + ALLOWANCE
