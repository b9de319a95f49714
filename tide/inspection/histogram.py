"""Histograms of chunks: their bytes, and their tokens on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.inspection.figures import DARK, LIGHT, Theme, add_legend, new_figure, png, style_axes
from tide.inspection.statistics import spread

if TYPE_CHECKING:
    from collections import Counter

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tide.inspection.statistics import ChunkStatistics

STUDENT, TEACHER = 2, 1  # indices into Theme.lines
MAX_BARS = 24


def chunk_figure(statistics: ChunkStatistics, theme: Theme = LIGHT) -> Figure:
    """Shares of chunks by bytes and by tokens; the last bar holds all longer ones.

    Raises:
        ValueError: there are no chunks.
    """
    if not statistics.num_chunks:
        raise ValueError(
            f"chunk_figure: {statistics.rows} rows have no chunk. Give rows that both tokenizers can read."
        )
    heading = f"{statistics.num_chunks:,} chunks, {statistics.coverage:.1%} of the answers' bytes"
    figure = new_figure(9.6, 3.8, heading, theme)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1.0])
    style_axes(left, theme, "Bytes in a chunk", "bytes", "share of chunks, %")
    _bars(left, [("", statistics.chunk_bytes, theme.muted)])
    style_axes(right, theme, "Tokens in a chunk", "tokens", "share of chunks, %")
    student = ("student", statistics.student.per_chunk, theme.lines[STUDENT])
    _bars(right, [student, ("teacher", statistics.teacher.per_chunk, theme.lines[TEACHER])])
    add_legend(right, theme)
    return figure


def chunk_images(statistics: ChunkStatistics) -> tuple[bytes, bytes]:
    """The figure as PNG, for a light and for a dark page."""
    light, dark = (png(chunk_figure(statistics, theme)) for theme in (LIGHT, DARK))
    return light, dark


def _bars(axes: Axes, series: list[tuple[str, Counter[int], str]]) -> None:
    """Bars of (name, counts, colour) side by side, up to the largest 99 % quantile."""
    last = min(max(3, *(spread(counts).p99 + 1 for _, counts, _ in series)), MAX_BARS)
    width = 0.84 / len(series)
    for number, (name, counts, colour) in enumerate(series):
        shares = [100 * counts[value] / counts.total() for value in range(1, last)]
        shares.append(100 * sum(n for value, n in counts.items() if value >= last) / counts.total())
        places = [value + (number - (len(series) - 1) / 2) * width for value in range(1, last + 1)]
        label = f"{name}, mean {spread(counts).mean:.2f}" if name else None
        axes.bar(places, shares, width=width * 0.94, color=colour, label=label)
    axes.grid(visible=False, axis="x")
    more = "+" if any(value > last for _, counts, _ in series for value in counts) else ""
    step = 1 if last <= 12 else 2 if last <= 16 else 4
    ticks = sorted({*range(step, last + 1 - step // 2, step), last})
    axes.set_xticks(ticks, [f"{tick}{more}" if tick == last else str(tick) for tick in ticks])
