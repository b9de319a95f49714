"""Peak memory of the `torch` backend: one [N, V] tensor too many fails.

Measured as in the benchmark, in another process. One fp32 [N, V] tensor takes 40 MiB.
"""

from __future__ import annotations

import pytest

from benchmarks._memory import can_reset_peak
from benchmarks._session import peaks_in_process
from benchmarks.cpu_losses import case_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_reset_peak(), reason="the system cannot reset a process's high-water mark"),
]

ROWS, VOCAB, WIDTHS = 160, 65_536, (64, 96)
UNIT_BYTES = 4 * ROWS * VOCAB
WORKSPACE_BYTES = 8 * 2**20
# Four or five buffers of 1 MiB for row chunks, and a little for everything else.
ALLOWANCE = 6 * 2**20 / UNIT_BYTES
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
        cases = [(case_of(case, ROWS, VOCAB, WIDTHS), side) for case, side in work]
        measured = peaks_in_process(cases, threads=1)
    return {key: peak["all"] / UNIT_BYTES for key, peak in zip(work, measured, strict=True)}


@pytest.mark.parametrize("case", LOGITS_IN)
def test_logits_in_losses_hold_two_inputs_and_one_gradient(case, peaks):
    assert 3 * SEEN <= peaks[case, "tide"] <= 3 + ALLOWANCE


def test_the_measurement_sees_what_eager_allocates(peaks):
    assert 6.8 <= peaks["tidal", "eager"] <= 7.2


@pytest.mark.parametrize("case", HIDDEN_IN)
def test_hidden_in_losses_hold_a_workspace_in_place_of_logits(case, peaks):
    # Both heads and the gradient of the student's, once. Logits of both sides would add 2.
    heads = (2 * WIDTHS[0] + WIDTHS[1]) / ROWS
    assert heads * SEEN <= peaks[case, "tide"] <= heads + WORKSPACE_BYTES / UNIT_BYTES + ALLOWANCE
