"""The GPU targets, judged from rows alone.

One H200 or H100, bf16, N = 4096, V = 151,936, forward and backward, the Triton backend, all in one run.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks._cases import BOTH, HEADLINE_VOCAB
from benchmarks._gate import STRICT_FLOORS, STRICT_LOSS
from benchmarks._results import MEASURED, Row

VARIANTS = ("tidal", "reverse_kl", "token_logprob")
HEADLINE = {"rows": 4096, "vocab": HEADLINE_VOCAB, "width": HEADLINE_VOCAB, "dtype": "bfloat16", "mode": BOTH}

COPY_PERCENT = 85.0
EAGER_RATIO = 5.0
COMPILE_RATIO = 1.5
# Per-row statistics beside the gradient: a few numbers for each 151,936 entries.
PEAK_RATIO = 1.01
# From here on an int32 element offset overflows.
INT32_ELEMENTS = 2**31

UNMEASURED = "unmeasured"


class Verdict(NamedTuple):
    """One target for one variant: `met (91 %)`, `missed (80 %)` or `unmeasured`."""

    target: str
    variant: str
    outcome: str


def judge(rows: list[Row]) -> list[Verdict]:
    """Every target for every logits-in operation.

    Args:
        rows: of one device.
    """
    verdicts = []
    for variant in VARIANTS:
        at = {r["contestant"]: r for r in rows if _is_headline(r, variant) and r["status"] == MEASURED}
        red = [
            r
            for r in rows
            if _is_headline(r, variant) and r["contestant"] == "triton" and r not in at.values()
        ]
        triton = at.get("triton")
        for target, outcome in (
            (f"at least {COPY_PERCENT:.0f} % of copy bandwidth", _bandwidth(triton)),
            (f"at least {EAGER_RATIO:g}x faster than eager", _ratio(triton, at.get("eager"), EAGER_RATIO)),
            (
                f"at least {COMPILE_RATIO:g}x faster than torch.compile of it",
                _ratio(triton, at.get("compile_official"), COMPILE_RATIO),
            ),
            ("peak beyond inputs is the gradient", _peak(triton)),
            (f"loss within {STRICT_LOSS:.0e} of fp64, near-converged too", _loss(triton)),
            ("gradient at the rounding floor, near-converged too", _gradient(triton)),
            ("right at N V > 2^31", _large(rows, variant)),
        ):
            if outcome == UNMEASURED and red and red[0]["reason"]:
                outcome = f"{UNMEASURED} ({red[0]['status']}: {red[0]['reason']})"
            verdicts.append(Verdict(target, variant, outcome))
    return verdicts


def _is_headline(row: Row, variant: str) -> bool:
    return row["variant"] == variant and all(row[key] == value for key, value in HEADLINE.items())


def _outcome(met: bool, figure: str) -> str:
    return f"{'met' if met else 'missed'} ({figure})"


def _bandwidth(row: Row | None) -> str:
    if row is None:
        return UNMEASURED
    per_element = row["least_bytes"] / (row["rows"] * row["vocab"])
    figure = f"{row['copy_percent']:.0f} %, {per_element:g} bytes per element"
    return _outcome(row["copy_percent"] >= COPY_PERCENT, figure)


def _ratio(row: Row | None, other: Row | None, least: float) -> str:
    if row is None or other is None:
        return UNMEASURED
    ratio = other["median_ms"] / row["median_ms"]
    return _outcome(ratio >= least, f"{ratio:.1f}x")


def _peak(row: Row | None) -> str:
    if row is None or row["peak_mib"] is None:
        return UNMEASURED
    ratio = row["peak_mib"] / row["gradient_mib"]
    return _outcome(ratio <= PEAK_RATIO, f"{ratio:.3f} gradients")


def _loss(row: Row | None) -> str:
    if row is None:
        return UNMEASURED
    errors = (row["loss_error"], row["near_loss_error"])
    # Each by itself: max() would lose a NaN.
    return _outcome(all(e <= STRICT_LOSS for e in errors), f"{max(errors):.1e}")


def _gradient(row: Row | None) -> str:
    if row is None:
        return UNMEASURED
    floors = [
        row[f"{kind}gradient_error"] / row[f"{kind}gradient_floor"]
        for kind in ("", "near_")
        if row[f"{kind}gradient_floor"]
    ]
    if not floors:
        return UNMEASURED
    return _outcome(all(f <= STRICT_FLOORS for f in floors), f"{max(floors):.2f} floors")


def _large(rows: list[Row], variant: str) -> str:
    large = [
        r
        for r in rows
        if r["variant"] == variant
        and r["contestant"] == "triton"
        and r["status"] != "absent"
        and r["status"] != "not reached"
        and r["rows"] * r["vocab"] > INT32_ELEMENTS
    ]
    if not large:
        return UNMEASURED
    return _outcome(all(r["status"] == MEASURED for r in large), f"N up to {max(r['rows'] for r in large):,}")
