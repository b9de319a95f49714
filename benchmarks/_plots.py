"""Plots of one device: time, peak memory and share of the limit, over N and over V or heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks._cases import BOTH, hidden_name, layout_name
from benchmarks._results import MEASURED, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Family(NamedTuple):
    """Titles by variant; figures: file stem to (column, axis label, title, logarithmic)."""

    variants: dict[str, str]
    figures: dict[str, tuple[str, str, str, bool]]


# The Okabe-Ito palette, safe for colour blindness, plus one marker each.
STYLES = {
    "triton": ("#D55E00", "o", "tide triton"),
    "torch": ("#0072B2", "s", "tide torch"),
    "reference": ("#56B4E9", "D", "tide reference"),
    "eager": ("#000000", "^", "eager official"),
    "compile": ("#009E73", "v", "compile (reference)"),
    "liger_kl_div": ("#CC79A7", "P", "liger kl_div"),
    "liger_jsd": ("#E69F00", "X", "liger jsd"),
    "liger_cross_entropy": ("#E69F00", "X", "liger cross-entropy"),
    "liger_fused_jsd": ("#CC79A7", "P", "liger fused linear JSD"),
    "liger_chunked_jsd_1024": ("#E69F00", "X", "liger chunked JSD, 1,024 rows"),
    "liger_fused_cross_entropy": ("#CC79A7", "P", "liger fused linear cross-entropy"),
    "cut_cross_entropy": ("#E69F00", "X", "cut-cross-entropy"),
    "torch_linear_cross_entropy_1024": ("#F0E442", "*", "torch linear_cross_entropy, 1,024 rows"),
    "gemms": ("#999999", "h", "the matrix products alone"),
}
TIME = ("median_ms", "ms per step", "Time, forward + backward (median; bars: 20th to 80th percentile)", True)
MEMORY = ("peak_mib", "MiB beyond inputs", "Peak memory beyond the inputs, forward + backward", True)
BANDWIDTH = (
    "copy_percent",
    "% of copy bandwidth",
    "Least bytes over time, as a share of the copy bandwidth measured beside it",
    False,
)
GEMMS = (
    "gemm_percent",
    "% of the products",
    "Time of the matrix products that cannot be avoided, measured beside it, as a share of the step's",
    False,
)
LOGITS_IN = Family(
    {"tidal": "TIDAL (interpolated KL)", "reverse_kl": "reverse KL", "token_logprob": "token log-prob"},
    {"time": TIME, "memory": MEMORY, "bandwidth": BANDWIDTH},
)
HIDDEN_IN = Family(
    {
        "linear_tidal": "TIDAL from hidden states",
        "linear_reverse_kl": "reverse KL from hidden states",
        "linear_token_logprob": "token log-prob from hidden states",
    },
    {"linear_time": TIME, "linear_memory": MEMORY, "linear_gemms": GEMMS},
)


def draw(environment: dict[str, Any], rows: list[Row], folder: Path) -> list[str]:
    """Write the figures of one device as PNG files into `folder`; return their names."""
    return [
        name for family in (LOGITS_IN, HIDDEN_IN) for name in _draw_family(environment, rows, folder, family)
    ]


def _draw_family(environment: dict[str, Any], rows: list[Row], folder: Path, family: Family) -> list[str]:
    titles = family.variants
    rows = [r for r in rows if r["status"] == MEASURED and r["mode"] == BOTH and r["variant"] in titles]
    variants = [v for v in titles if any(r["variant"] == v for r in rows)]
    if not rows:
        return []
    # The dtype of the sweeps; only the headline has others.
    dtypes = [r["dtype"] for r in rows]
    dtype = max(dict.fromkeys(dtypes), key=dtypes.count)
    rows = [r for r in rows if r["dtype"] == dtype]
    names = []
    for stem, (column, unit, title, logarithmic) in family.figures.items():
        figure = Figure(figsize=(10.5, 2.9 * len(variants) + 1.3), layout="constrained", dpi=130)
        grid = figure.subplots(len(variants), 2, squeeze=False, sharey="row")
        for line, variant in enumerate(variants):
            own = [r for r in rows if r["variant"] == variant and r.get(column) is not None]
            # In small tests memory may be 0, which has no logarithm.
            scaled = logarithmic and all(r[column] > 0 for r in own)
            _over_rows(grid[line][0], own, column, scaled)
            _over_layouts(grid[line][1], own, column, scaled)
            grid[line][0].set_ylabel(unit)
            grid[line][0].set_title(f"{titles[variant]}: over N", loc="left", fontsize=10)
            grid[line][1].set_title(f"{titles[variant]}: over V", loc="left", fontsize=10)
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
    layouts = sorted({_layout(r) for r in own}, key=lambda layout: (layout[0], -layout[1]))
    contestants = _by_contestant(own)
    for place, (name, points) in enumerate(contestants):
        # Side by side: points of two contestants often coincide.
        shift = 0.08 * (place - (len(contestants) - 1) / 2)
        points = sorted(points, key=lambda r: layouts.index(_layout(r)))
        where = [layouts.index(_layout(r)) + shift for r in points]
        _line(ax, name, where, points, column, "none")
    ax.set_xticks(range(len(layouts)), [_layout_label(*layout) for layout in layouts])
    ax.set_xlim(-0.5, len(layouts) - 0.5)
    what = "V, hidden sizes below" if layouts and layouts[0][2] else "V, of the width where less is read"
    ax.set_xlabel(f"{what} (N = {count:,})")
    _dress(ax, logarithmic)


def _layout(row: Row) -> tuple[int, int, int, int]:
    """(vocabulary, width, student_hidden, teacher_hidden); hidden sizes are 0 without heads."""
    return row["vocab"], row["width"], row.get("student_hidden", 0), row.get("teacher_hidden", 0)


def _layout_label(vocab: int, width: int, student_hidden: int, teacher_hidden: int) -> str:
    label = layout_name(vocab, width).replace(" of ", "\nof ")
    return f"{label}\nd {hidden_name(student_hidden, teacher_hidden)}" if student_hidden else label


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
