"""Targets of an operation on a GPU, judged from its result rows.

One H200 or H100, bf16, N = 4096, forward and backward, backend Triton, all in one run. A judge gets the
measured rows of the headline by contestant, and returns None without the rows that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks._cases import BOTH
from benchmarks._results import MEASURED, Row

HEADLINE = {"rows": 4096, "dtype": "bfloat16", "mode": BOTH}
UNMEASURED = "unmeasured"
# Allows for the per-row statistics beside the gradient: a few numbers per 151,936 entries.
PEAK_RATIO = 1.01
Rows = dict[str, Row]


class Outcome(NamedTuple):
    """Whether a target is met, and the figure."""

    met: bool
    figure: str


class Target(NamedTuple):
    """A target: its line in the table, and its judge."""

    name: str
    judge: Callable[[Rows], Outcome | None]


def verdict(target: Target, rows: list[Row]) -> str:
    """`met (91 %)`, `missed (80 %)` or `unmeasured`, from the rows of one headline."""
    outcome = target.judge({r["contestant"]: r for r in rows if r["status"] == MEASURED})
    if outcome is not None:
        return f"{'met' if outcome.met else 'missed'} ({outcome.figure})"
    reasons = [
        f" ({r['status']}: {r['reason']})" for r in rows if r["contestant"] == "triton" and r["reason"]
    ]
    return UNMEASURED + "".join(reasons[:1])


def _of_triton(name: str, judge: Callable[[Row], Outcome | None]) -> Target:
    return Target(name, lambda at: judge(at["triton"]) if "triton" in at else None)


def _copy_bandwidth(percent: float) -> Target:
    def judge(row: Row) -> Outcome:
        per_entry = row["least_bytes"] / (row["rows"] * row["vocab"])
        figure = f"{row['copy_percent']:.0f} %, {per_entry:g} bytes per entry"
        return Outcome(row["copy_percent"] >= percent, figure)

    return _of_triton(f"at least {percent:g} % of copy bandwidth", judge)


def _faster(ratio: float, name: str) -> Target:
    def judge(at: Rows) -> Outcome | None:
        if not {"triton", name} <= at.keys():
            return None
        found = at[name]["median_ms"] / at["triton"]["median_ms"]
        return Outcome(found >= ratio, f"{found:.1f}x")

    return Target(f"at least {ratio:g}x faster than {name}", judge)


def _faster_than_the_best(ratio: float) -> Target:
    def judge(at: Rows) -> Outcome | None:
        others = [r for name, r in at.items() if not r["ours"] and name not in ("eager", "gemms")]
        if "triton" not in at or not others:
            return None
        best = min(others, key=lambda r: float(r["median_ms"]))
        found = best["median_ms"] / at["triton"]["median_ms"]
        return Outcome(found >= ratio, f"{found:.1f}x {best['contestant']}")

    return Target(f"at least {ratio:g}x faster than the best of compile and peers", judge)


def _products(ratio: float) -> Target:
    def judge(row: Row) -> Outcome | None:
        if "gemm_ms" not in row:
            return None
        found = row["median_ms"] / row["gemm_ms"]
        return Outcome(found <= ratio, f"{found:.2f}x")

    return _of_triton(f"at most {ratio:g}x the products it cannot avoid", judge)


def _workspace(num_bytes: float) -> Target:
    def judge(row: Row) -> Outcome | None:
        if row["peak_mib"] is None:
            return None
        beyond = (row["peak_mib"] - row["gradient_mib"]) * 2**20
        return Outcome(beyond <= num_bytes, f"{beyond / 1e9:.2f} GB")

    return _of_triton(f"peak beyond inputs and gradients at most {num_bytes / 1e9:g} GB", judge)


def _peak(row: Row) -> Outcome | None:
    if row["peak_mib"] is None:
        return None
    ratio = row["peak_mib"] / row["gradient_mib"]
    return Outcome(ratio <= PEAK_RATIO, f"{ratio:.3f} gradients")


def _loss_error(bound: float) -> Target:
    def judge(row: Row) -> Outcome:
        errors = (row["loss_error"], row["near_loss_error"])
        # all(), not max(), which would lose a NaN.
        return Outcome(all(e <= bound for e in errors), f"{max(errors):.1e}")

    return _of_triton(f"loss within {bound:.0e} of fp64, near-converged too", judge)


def _gradient_floors(bound: float) -> Target:
    def judge(row: Row) -> Outcome:
        floors = [row[f"{kind}gradient_error"] / row[f"{kind}gradient_floor"] for kind in ("", "near_")]
        return Outcome(all(f <= bound for f in floors), f"{max(floors):.2f} floors")

    return _of_triton("gradient at the rounding floor, near-converged too", judge)


def _gradient_error(bound: float) -> Target:
    def judge(row: Row) -> Outcome:
        return Outcome(row["gradient_error"] <= bound, f"{100 * row['gradient_error']:.2g} %")

    return _of_triton(f"gradient within {100 * bound:g} % of fp64", judge)


LOGITS_IN = (
    _copy_bandwidth(85.0),
    _faster(5.0, "eager"),
    _faster(1.5, "compile"),
    _of_triton("peak beyond inputs is the gradient", _peak),
    _loss_error(1e-5),
    _gradient_floors(1.1),
)
HIDDEN_IN = (
    _products(1.3),
    _workspace(1.5e9),
    _faster(3.0, "eager"),
    _faster_than_the_best(1.3),
    _gradient_error(3e-3),
)
