"""Plots of one device over N: time, peak memory and share of the limit, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from benchmarks._cases import BOTH
from benchmarks._results import MEASURED, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The Okabe-Ito palette, safe for colour blindness, and markers; what is not listed is not drawn.
STYLES = {
    "triton": ("#D55E00", "o"),
    "native": ("#D55E00", "o"),
    "torch": ("#0072B2", "s"),
    "eager": ("#000000", "^"),
    "compile": ("#009E73", "v"),
    "liger_kl_div": ("#CC79A7", "P"),
    "liger_jsd": ("#E69F00", "X"),
    "liger_cross_entropy": ("#E69F00", "X"),
    "liger_fused_jsd": ("#CC79A7", "P"),
    "liger_chunked_jsd": ("#E69F00", "X"),
    "liger_fused_cross_entropy": ("#CC79A7", "P"),
    "trl_chunked_divergence": ("#56B4E9", "D"),
    "cut_cross_entropy": ("#E69F00", "X"),
    "torch_linear_cross_entropy": ("#F0E442", "*"),
    "gemms": ("#999999", "h"),
}
# Column, label and title, by file; memory of a small test may be 0, which has no logarithm.
FIGURES = {
    "time": ("median_ms", "ms per step", "Time (median; bars: 20th to 80th percentile)"),
    "memory": ("peak_mib", "MiB beyond inputs", "Peak memory beyond the inputs"),
    "bandwidth": ("copy_percent", "% of copy bandwidth", "Least bytes over time, beside a large copy"),
    "gemms": ("gemm_percent", "% of the products", "Time of the unavoidable products over the step's"),
}
LOGITS_IN = ("tidal", "reverse_kl", "token_logprob")
FAMILIES = {
    "": (LOGITS_IN, ("time", "memory", "bandwidth")),
    "linear_": (tuple(f"linear_{name}" for name in LOGITS_IN), ("time", "memory", "gemms")),
}


def draw(environment: dict[str, Any], rows: list[Row], folder: Path) -> list[str]:
    """Write the figures of one device as PNG files into `folder`; return their names."""
    names = []
    for prefix, (variants, figures) in FAMILIES.items():
        own = [r for r in rows if r["status"] == MEASURED and r["mode"] == BOTH and r["variant"] in variants]
        # The headline's layout, and the dtype of the sweeps.
        layouts = [(r["width"], r.get("student_hidden", 0)) for r in own if r["stage"] == 0]
        dtypes = [r["dtype"] for r in own]
        if not layouts:
            continue
        dtype = max(dict.fromkeys(dtypes), key=dtypes.count)
        own = [
            r
            for r in own
            if r["dtype"] == dtype
            and (r["width"], r.get("student_hidden", 0)) == layouts[0]
            and r["vocab"] == r["width"]
        ]
        present = [v for v in variants if any(r["variant"] == v for r in own)]
        for stem in figures:
            column, unit, title = FIGURES[stem]
            figure = Figure(figsize=(4.2 * len(present) + 1, 4.2), layout="constrained", dpi=130)
            panels = figure.subplots(1, len(present), squeeze=False, sharey=True)[0]
            for panel, variant in zip(panels, present, strict=True):
                _draw_panel(panel, [r for r in own if r["variant"] == variant], column)
                panel.set_title(variant, loc="left", fontsize=10)
            panels[0].set_ylabel(unit)
            found = {
                label: line
                for panel in panels
                for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
            }
            figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=5, frameon=False)
            figure.suptitle(f"{title}\n{environment['device']}, V = {layouts[0][0]:,}, {dtype}", fontsize=11)
            figure.savefig(folder / f"{prefix}{stem}.png")
            names.append(f"{prefix}{stem}.png")
    return names


def _draw_panel(panel: Axes, rows: list[Row], column: str) -> None:
    rows = sorted((r for r in rows if r.get(column) is not None), key=lambda r: int(r["rows"]))
    for name, (colour, marker) in STYLES.items():
        points = [r for r in rows if r["contestant"] == name]
        spread = None
        if column == "median_ms":
            spread = [
                [r["median_ms"] - r["p20_ms"] for r in points],
                [r["p80_ms"] - r["median_ms"] for r in points],
            ]
        if points:
            panel.errorbar(
                [r["rows"] for r in points],
                [r[column] for r in points],
                yerr=spread,
                color=colour,
                marker=marker,
                label=name,
            )
    counts = sorted({r["rows"] for r in rows})
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [f"{n:,}" for n in counts])
    panel.minorticks_off()
    panel.set_xlabel("N")
    if not column.endswith("percent") and all(r[column] > 0 for r in rows):
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
