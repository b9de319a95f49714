"""Figures of one device: time, peak memory and share of copy bandwidth, over N and over V."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks._cases import BOTH, layout_name
from benchmarks._results import MEASURED, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VARIANTS = {"tidal": "TIDAL (interpolated KL)", "reverse_kl": "reverse KL", "token_logprob": "token log-prob"}
# The Okabe-Ito palette, which readers with any colour blindness can tell apart; markers say the same again.
STYLES = {
    "triton": ("#D55E00", "o", "tide triton"),
    "torch": ("#0072B2", "s", "tide torch"),
    "reference": ("#56B4E9", "D", "tide reference"),
    "eager": ("#000000", "^", "eager official"),
    "compile": ("#009E73", "v", "compile (reference)"),
    "liger_kl_div": ("#CC79A7", "P", "liger kl_div"),
    "liger_jsd": ("#E69F00", "X", "liger jsd"),
    "liger_cross_entropy": ("#E69F00", "X", "liger cross-entropy"),
}
# File stem -> (column, axis label, title, logarithmic).
FIGURES = {
    "time": (
        "median_ms",
        "ms per step",
        "Time, forward + backward (median; bars: 20th to 80th percentile)",
        True,
    ),
    "memory": ("peak_mib", "MiB beyond inputs", "Peak memory beyond the inputs, forward + backward", True),
    "bandwidth": (
        "copy_percent",
        "% of copy bandwidth",
        "Least bytes over time, as a share of the copy bandwidth measured beside it",
        False,
    ),
}


def draw(environment: dict[str, Any], rows: list[Row], folder: Path) -> list[str]:
    """Write the figures as PNG files.

    Args:
        environment: of the rows.
        rows: of one device.
        folder: where to.

    Returns:
        Names of the files; none where no row of a logits-in operation was measured.
    """
    rows = [r for r in rows if r["status"] == MEASURED and r["mode"] == BOTH and r["variant"] in VARIANTS]
    variants = [v for v in VARIANTS if any(r["variant"] == v for r in rows)]
    if not rows:
        return []
    # The dtype that was swept; the headline alone has others.
    dtypes = [r["dtype"] for r in rows]
    dtype = max(dict.fromkeys(dtypes), key=dtypes.count)
    rows = [r for r in rows if r["dtype"] == dtype]
    names = []
    for stem, (column, unit, title, logarithmic) in FIGURES.items():
        figure = Figure(figsize=(10.5, 2.9 * len(variants) + 1.3), layout="constrained", dpi=130)
        grid = figure.subplots(len(variants), 2, squeeze=False, sharey="row")
        for line, variant in enumerate(variants):
            own = [r for r in rows if r["variant"] == variant and r[column] is not None]
            # Small tests measure no memory: a logarithm of 0 has no place.
            scaled = logarithmic and all(r[column] > 0 for r in own)
            _over_rows(grid[line][0], own, column, scaled)
            _over_layouts(grid[line][1], own, column, scaled)
            grid[line][0].set_ylabel(unit)
            grid[line][0].set_title(f"{VARIANTS[variant]}: over N", loc="left", fontsize=10)
            grid[line][1].set_title(f"{VARIANTS[variant]}: over V", loc="left", fontsize=10)
        found = {
            label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{title}\n{environment['device']}, {dtype}", fontsize=11)
        figure.savefig(folder / f"{stem}.png")
        names.append(f"{stem}.png")
    return names


def _over_rows(ax: Axes, rows: list[Row], column: str, logarithmic: bool) -> None:
    width = _headline(rows, "width")
    own = [r for r in rows if r["width"] == width and r["vocab"] == width]
    for name, points in _by_contestant(own):
        points = sorted(points, key=lambda r: int(r["rows"]))
        _line(ax, name, [r["rows"] for r in points], points, column, "-")
    ax.set_xscale("log", base=2)
    counts = sorted({r["rows"] for r in own})
    ax.set_xticks(counts, [f"{n:,}" for n in counts])
    ax.minorticks_off()
    ax.set_xlabel(f"N (V = {width:,})")
    _dress(ax, logarithmic)


def _over_layouts(ax: Axes, rows: list[Row], column: str, logarithmic: bool) -> None:
    count = _headline(rows, "rows")
    own = [r for r in rows if r["rows"] == count]
    layouts = sorted({(r["vocab"], r["width"]) for r in own}, key=lambda pair: (pair[0], -pair[1]))
    contestants = _by_contestant(own)
    for place, (name, points) in enumerate(contestants):
        # Side by side: points of two contestants often coincide.
        shift = 0.08 * (place - (len(contestants) - 1) / 2)
        points = sorted(points, key=lambda r: layouts.index((r["vocab"], r["width"])))
        where = [layouts.index((r["vocab"], r["width"])) + shift for r in points]
        _line(ax, name, where, points, column, "none")
    ax.set_xticks(range(len(layouts)), [layout_name(*pair).replace(" of ", "\nof ") for pair in layouts])
    ax.set_xlim(-0.5, len(layouts) - 0.5)
    ax.set_xlabel(f"V, of the width where less is read (N = {count:,})")
    _dress(ax, logarithmic)


def _line(ax: Axes, name: str, x: list[float], points: list[Row], column: str, style: str) -> None:
    colour, marker, label = STYLES[name]
    values = [r[column] for r in points]
    spread = None
    if column == "median_ms":
        spread = [
            [r["median_ms"] - r["p20_ms"] for r in points],
            [r["p80_ms"] - r["median_ms"] for r in points],
        ]
    ax.errorbar(
        x,
        values,
        yerr=spread,
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=style,
        label=label,
        linewidth=1.4,
    )


def _dress(ax: Axes, logarithmic: bool) -> None:
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(bottom=0)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _headline(rows: list[Row], key: str) -> int:
    stage = [int(r[key]) for r in rows if r["stage"] == 0]
    return stage[0] if stage else int(rows[0][key])


def _by_contestant(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    pairs = [(name, [r for r in rows if r["contestant"] == name]) for name in STYLES]
    return [(name, points) for name, points in pairs if points]
