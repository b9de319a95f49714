"""Aligned rows and statistics in a terminal: the teacher's tokens under the student's, chunk by chunk."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from tide.inspection.tables import NOT_ALIGNED, longest_table, sides_table, summary
from tide.preparation import NO_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from tide.inspection.aligned_rows import AlignedRow, Column, ShownToken
    from tide.inspection.statistics import ChunkStatistics
    from tide.inspection.tables import DataSet, Table

PARTING = "│"  # Between the tokens of a chunk.
WIDER_THAN_A_TABLE = 10_000  # Columns; a console's own width would bound what it measures.
LABELS = ("student ", "teacher ")
# Neighbours differ in hue and in lightness. They bring their own ink: any terminal's background will do.
CHUNK_STYLES = tuple(
    Style.parse(f"#10151c on {tint}") for tint in ("#a9cdf7", "#ffe3a6", "#8fd3a8", "#f6c3dd")
)
CONTEXT = Style.parse("dim")
UNCOMPARED = Style.parse("red underline")


class _Cell(NamedTuple):
    """One place of a column on one side."""

    text: str
    style: Style


def print_row(console: Console, row: AlignedRow, *, legend: bool = True) -> None:
    """Prints both sides of a row, and what the marks mean.

    Args:
        console: where to. Without colours, chunks stand in brackets.
        row: to be printed.
        legend: say what the marks mean.
    """
    plain = console.no_color or console.color_system is None
    widest = max(16, console.width - len(LABELS[0]) - 1)
    for line in _lines(row, widest, plain=plain):
        for label, cells in zip(LABELS, line, strict=True):
            text = Text().append(label, "bold")
            for cell, width in cells:
                text.append(cell.text, cell.style)
                # The background goes on to the column's end: a chunk is as wide on both sides.
                text.append(" " * (width - cell_len(cell.text)), cell.style if cell.text else "")
                text.append(" ")
            if plain:
                text.rstrip()
            console.print(text, no_wrap=True, overflow="ignore", crop=False)
        console.print()
    if legend:
        console.print(_legend(plain=plain))


def print_statistics(
    console: Console, statistics: ChunkStatistics, data: DataSet | None = None, *, longest: bool = True
) -> None:
    """Prints what the chunks of a data set are like, and its longest ones.

    Args:
        console: where to.
        statistics: to be printed.
        data: what their rows were taken from, if it is to be said.
        longest: print the longest chunks, too.
    """
    for line in summary(statistics, data):
        console.print(line, highlight=False, markup=False)
    if not statistics.num_chunks:
        return
    sides = _table(sides_table(statistics))
    unbounded = console.options.update(max_width=WIDER_THAN_A_TABLE)
    if console.measure(sides, options=unbounded).minimum > console.width:
        sides = _table(sides_table(statistics).turned())
    for shown in [sides] + [_table(longest_table(statistics), figures_first=True)] * longest:
        console.print()
        # A table that is wider than the terminal runs over: a figure that is cut is another figure.
        console.print(shown, crop=False)


def _table(table: Table, *, figures_first: bool = False) -> RichTable:
    """The first column's texts stand first or, where they may be cut, last. Figures are never cut."""
    names, lines = table
    shown = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    order = [*range(1, len(names)), 0] if figures_first else range(len(names))
    for at in order:
        shrinks = figures_first and not at
        words = names[at].splitlines()
        width = max(cell_len(text) for text in [*words, *(texts[at] for texts in lines)])
        shown.add_column(
            names[at],
            justify="right" if at else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if shrinks else width,
        )
    for texts in lines:
        shown.add_row(*(Text(texts[at]) for at in order))
    return shown


def _lines(
    row: AlignedRow, widest: int, *, plain: bool
) -> Iterator[tuple[list[tuple[_Cell, int]], list[tuple[_Cell, int]]]]:
    """Both sides' cells and their widths, line by line; an answer's line breaks break lines."""
    line: tuple[list[tuple[_Cell, int]], list[tuple[_Cell, int]]] = ([], [])
    used = 0
    for column in row.columns():
        breaks = column.line_break
        for number, cells in enumerate(_cells(column, widest, plain=plain)):
            width = max(cell_len(cell.text) for cell in cells)
            if used and (used + width > widest or (breaks == "before" and not number)):
                yield line
                line, used = ([], []), 0
            for side, cell in zip(line, cells, strict=True):
                side.append((cell, width))
            used += width + 1
        if breaks == "after":
            yield line
            line, used = ([], []), 0
    if used:
        yield line


def _cells(column: Column, widest: int, *, plain: bool) -> Iterator[tuple[_Cell, _Cell]]:
    """The column, in several where it is wider than a line."""
    sides = [list(_parts(tokens, widest - 2)) for tokens in (column.student, column.teacher)]
    for texts in zip_longest(*sides, fillvalue=""):
        yield (
            _cell(texts[0], column.student, column.chunk, plain),
            _cell(texts[1], column.teacher, column.chunk, plain),
        )


def _parts(tokens: Sequence[ShownToken], widest: int) -> Iterator[str]:
    """Tokens with bars between them, in parts that fit."""
    part = ""
    for number, token in enumerate(tokens):
        for at, piece in enumerate(chop_cells(token.text, widest - 1)):
            text = PARTING + piece if number and not at else piece
            if cell_len(part + text) > widest:
                yield part
                part = ""
            part += text
    if part:
        yield part


def _cell(text: str, tokens: Sequence[ShownToken], chunk: int, plain: bool) -> _Cell:
    if not text:
        return _Cell("", Style.null())
    if chunk != NO_CHUNK:
        return (
            _Cell(f"[{text}]", Style.null())
            if plain
            else _Cell(text, CHUNK_STYLES[chunk % len(CHUNK_STYLES)])
        )
    if tokens[0].learnt:
        return _Cell(f"({text})", Style.null()) if plain else _Cell(text, UNCOMPARED)
    return _Cell(text, CONTEXT)


def _legend(*, plain: bool) -> Text:
    legend = Text()
    if plain:
        legend.append(f"[a{PARTING}b] a chunk and its tokens; (a) learnt, in no chunk; a: context.")
        return legend.append(f" ·↵→ are white space.\n{NOT_ALIGNED}")
    legend.append(f"a{PARTING}b", CHUNK_STYLES[0]).append(" ").append("c", CHUNK_STYLES[1])
    legend.append(" chunks and their tokens; ").append("a", UNCOMPARED).append(" learnt, in no chunk; ")
    return legend.append("a", CONTEXT).append(f" context. ·↵→ are white space.\n{NOT_ALIGNED}")
