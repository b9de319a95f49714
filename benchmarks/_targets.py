"""Verdicts on the GPU targets, from result rows.

One H200 or H100, bf16, N = 4096, forward and backward, Triton backend, in one run: operations on logits at
V = 151,936, operations on hidden states with the heads of `benchmarks/_cases.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks._bounds import STRICT_FLOORS, STRICT_LOSS
from benchmarks._cases import BOTH, DIVERGENCE_HEADS, HEADLINE_VOCAB, TOKEN_HEADS, Heads, hidden_name
from benchmarks._results import MEASURED, Row


class Headline(NamedTuple):
    """The case of a target: name in the table, variant, and sizes (hidden size 0: from logits)."""

    name: str
    variant: str
    heads: Heads


VARIANTS = ("tidal", "reverse_kl", "token_logprob")
LOGITS_IN = tuple(Headline(variant, variant, Heads(HEADLINE_VOCAB, 0)) for variant in VARIANTS)
HIDDEN_IN = tuple(
    Headline(f"{variant}, d {hidden_name(*heads[1:])}", variant, heads)
    for variant, all_heads in (
        ("linear_tidal", DIVERGENCE_HEADS),
        ("linear_forward_kl", DIVERGENCE_HEADS),
        ("linear_reverse_kl", DIVERGENCE_HEADS),
        ("linear_token_logprob", TOKEN_HEADS),
    )
    for heads in all_heads
)
HEADLINE = {"rows": 4096, "dtype": "bfloat16", "mode": BOTH}

COPY_PERCENT = 85.0
EAGER_RATIO = 5.0
COMPILE_RATIO = 1.5
# Allows for the per-row statistics beside the gradient: a few numbers per 151,936 entries.
PEAK_RATIO = 1.01
# From this many elements on an int32 offset overflows.
INT32_ELEMENTS = 2**31

PRODUCTS_RATIO = 1.3
WORKSPACE_BYTES = 1.5e9
HIDDEN_EAGER_RATIO = 3.0
HIDDEN_PEER_RATIO = 1.3
HIDDEN_GRADIENT_ERROR = 3e-3

UNMEASURED = "unmeasured"


class Verdict(NamedTuple):
    """Outcome of a target for a headline: `met (91 %)`, `missed (80 %)` or `unmeasured`."""

    target: str
    variant: str
    outcome: str


def judge(rows: list[Row]) -> list[Verdict]:
    """Verdicts on every target of the logits-in operations, from the rows of one device."""
    return _judged(rows, LOGITS_IN, _logits_in_targets)


def judge_hidden_in(rows: list[Row]) -> list[Verdict]:
    """Verdicts on every target of the operations over hidden states, from the rows of one device."""
    return _judged(rows, HIDDEN_IN, _hidden_in_targets)


def _judged(
    rows: list[Row],
    headlines: tuple[Headline, ...],
    targets: Callable[[dict[str, Row], list[Row], Headline], list[tuple[str, str]]],
) -> list[Verdict]:
    verdicts = []
    for headline in headlines:
        own = [r for r in rows if _is_headline(r, headline)]
        at = {r["contestant"]: r for r in own if r["status"] == MEASURED}
        red = [r for r in own if r["contestant"] == "triton" and r["status"] != MEASURED]
        for target, outcome in targets(at, rows, headline):
            if outcome == UNMEASURED and red and red[0]["reason"]:
                outcome = f"{UNMEASURED} ({red[0]['status']}: {red[0]['reason']})"
            verdicts.append(Verdict(target, headline.name, outcome))
    return verdicts


def _logits_in_targets(at: dict[str, Row], rows: list[Row], headline: Headline) -> list[tuple[str, str]]:
    triton = at.get("triton")
    return [
        (f"at least {COPY_PERCENT:.0f} % of copy bandwidth", _bandwidth(triton)),
        (f"at least {EAGER_RATIO:g}x faster than eager", _ratio(triton, at.get("eager"), EAGER_RATIO)),
        (
            f"at least {COMPILE_RATIO:g}x faster than torch.compile of it",
            _ratio(triton, at.get("compile_official"), COMPILE_RATIO),
        ),
        ("peak beyond inputs is the gradient", _peak(triton)),
        (f"loss within {STRICT_LOSS:.0e} of fp64, near-converged too", _loss(triton)),
        ("gradient at the rounding floor, near-converged too", _gradient(triton)),
        ("right at N V > 2^31", _large(rows, headline.variant)),
    ]


def _hidden_in_targets(at: dict[str, Row], rows: list[Row], headline: Headline) -> list[tuple[str, str]]:
    triton = at.get("triton")
    others = [r for name, r in at.items() if not r["ours"] and name not in ("eager", "gemms")]
    best = min(others, key=lambda r: float(r["median_ms"]), default=None)
    return [
        (f"at most {PRODUCTS_RATIO:g}x the products it cannot avoid", _products(triton, at.get("gemms"))),
        (f"peak beyond inputs and gradients at most {WORKSPACE_BYTES / 1e9:g} GB", _workspace(triton)),
        (
            f"at least {HIDDEN_EAGER_RATIO:g}x faster than eager",
            _ratio(triton, at.get("eager"), HIDDEN_EAGER_RATIO),
        ),
        (
            f"at least {HIDDEN_PEER_RATIO:g}x faster than the best of torch.compile and peers",
            _ratio(triton, best, HIDDEN_PEER_RATIO, "" if best is None else f" {best['contestant']}"),
        ),
        (
            f"gradient within {100 * HIDDEN_GRADIENT_ERROR:g} % of fp64",
            UNMEASURED if triton is None else _gradient_percent(triton["gradient_error"]),
        ),
    ]


def _is_headline(row: Row, headline: Headline) -> bool:
    vocab, student, teacher = headline.heads
    sizes = (row["vocab"], row["width"], row.get("student_hidden", 0), row.get("teacher_hidden", 0))
    return (
        row["variant"] == headline.variant
        and sizes == (vocab, vocab, student, teacher)
        and all(row[key] == value for key, value in HEADLINE.items())
    )


def _outcome(met: bool, figure: str) -> str:
    return f"{'met' if met else 'missed'} ({figure})"


def _bandwidth(row: Row | None) -> str:
    if row is None:
        return UNMEASURED
    per_element = row["least_bytes"] / (row["rows"] * row["vocab"])
    figure = f"{row['copy_percent']:.0f} %, {per_element:g} bytes per element"
    return _outcome(row["copy_percent"] >= COPY_PERCENT, figure)


def _ratio(row: Row | None, other: Row | None, least: float, whom: str = "") -> str:
    if row is None or other is None:
        return UNMEASURED
    ratio = other["median_ms"] / row["median_ms"]
    return _outcome(ratio >= least, f"{ratio:.1f}x{whom}")


def _products(row: Row | None, products: Row | None) -> str:
    if row is None or products is None:
        return UNMEASURED
    ratio = row["median_ms"] / products["median_ms"]
    return _outcome(ratio <= PRODUCTS_RATIO, f"{ratio:.2f}x")


def _workspace(row: Row | None) -> str:
    if row is None or row["peak_mib"] is None:
        return UNMEASURED
    beyond = (row["peak_mib"] - row["gradient_mib"]) * 2**20
    return _outcome(beyond <= WORKSPACE_BYTES, f"{beyond / 1e9:.2f} GB")


def _gradient_percent(error: float) -> str:
    return _outcome(error <= HIDDEN_GRADIENT_ERROR, f"{100 * error:.2g} %")


def _peak(row: Row | None) -> str:
    if row is None or row["peak_mib"] is None:
        return UNMEASURED
    ratio = row["peak_mib"] / row["gradient_mib"]
    return _outcome(ratio <= PEAK_RATIO, f"{ratio:.3f} gradients")


def _loss(row: Row | None) -> str:
    if row is None:
        return UNMEASURED
    errors = (row["loss_error"], row["near_loss_error"])
    # all(), not max(), which would lose a NaN.
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
