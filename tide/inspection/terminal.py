"""Aligned rows and statistics in a terminal: the teacher's tokens under the student's, chunk by chunk."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from tide.inspection.tables import NOT_ALIGNED, longest_table, rejected_texts, sides_table, summary
from tide.preparation import NO_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from tide.inspection.aligned_rows import AlignedRow, Column, ShownToken
    from tide.inspection.statistics import ChunkStatistics
    from tide.inspection.tables import DataSet, Table

SEPARATOR = "│"  # between the tokens of a chunk
UNBOUNDED = 10_000  # columns; to measure a table wider than the console
LABELS = ("student ", "teacher ")
# Neighbours differ in hue and in lightness; their own ink makes them readable on any background.
CHUNK_STYLES = tuple(
    Style.parse(f"#10151c on {tint}") for tint in ("#a9cdf7", "#ffe3a6", "#8fd3a8", "#f6c3dd")
)
CONTEXT = Style.parse("dim")
UNALIGNED = Style.parse("red underline")


def print_row(console: Console, row: AlignedRow, *, legend: bool = True) -> None:
    """Print both sides of a row, and a legend; without colours, chunks stand in brackets."""
    plain = console.no_color or console.color_system is None
    max_width = max(16, console.width - len(LABELS[0]) - 1)
    for line in _lines(row, max_width, plain=plain):
        for label, cells in zip(LABELS, zip(*line, strict=True), strict=True):
            text = Text.assemble((label, "bold"), Text(" ").join(cells))
            if plain:
                text.rstrip()
            console.print(text, no_wrap=True, overflow="ignore", crop=False)
        console.print()
    if legend:
        chunk, unaligned = _cell(f"a{SEPARATOR}b", 0, True, plain), _cell("a", NO_CHUNK, True, plain)
        marks = (chunk, " a chunk and its tokens; ", unaligned, " trained on, in no chunk; ", ("a", CONTEXT))
        console.print(Text.assemble(*marks, f": context. ·↵→ are whitespace.\n{NOT_ALIGNED}"))


def print_statistics(
    console: Console, statistics: ChunkStatistics, data: DataSet | None = None, *, longest: bool = True
) -> None:
    """Print sentences and tables about the chunks of a data set, with its `longest` chunks."""
    rejected = [f"Rejected: {text}." for text in rejected_texts(statistics)]
    for line in summary(statistics, data) + rejected:
        console.print(line, highlight=False, markup=False)
    if not statistics.num_chunks:
        return
    sides = _rich_table(sides_table(statistics))
    if console.measure(sides, options=console.options.update(max_width=UNBOUNDED)).minimum > console.width:
        sides = _rich_table(sides_table(statistics).transposed())
    for table in [sides] + [_rich_table(longest_table(statistics), name_last=True)] * longest:
        console.print()
        # A table wider than the terminal runs over: a cut number is another number.
        console.print(table, crop=False)


def _rich_table(table: Table, *, name_last: bool = False) -> RichTable:
    """Numbers are never cut; the names of lines are, where they come last."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    order = [*range(1, len(table.names)), 0] if name_last else list(range(len(table.names)))
    for at in order:
        texts = [*table.names[at].splitlines(), *(line[at] for line in table.lines)]
        width = None if name_last and at == 0 else max(map(cell_len, texts))
        shown.add_column(
            table.names[at],
            justify="right" if at else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=width,
        )
    for line in table.lines:
        shown.add_row(*(Text(line[at]) for at in order))
    return shown


def _lines(row: AlignedRow, max_width: int, *, plain: bool) -> Iterator[list[tuple[Text, Text]]]:
    """Cells of both sides, line by line; line breaks of an answer break lines."""
    line: list[tuple[Text, Text]] = []
    used = 0
    for column in row.columns():
        breaks_before = column.line_break == "before"
        for student, teacher in _cells(column, max_width, plain=plain):
            if line and (breaks_before or used + student.cell_len > max_width):
                yield line
                line, used = [], 0
            line.append((student, teacher))
            used += student.cell_len + 1
            breaks_before = False
        if column.line_break == "after":
            yield line
            line, used = [], 0
    if line:
        yield line


def _cells(column: Column, max_width: int, *, plain: bool) -> Iterator[tuple[Text, Text]]:
    """The column, as wide on both sides, split where it is wider than a line."""
    sides = (column.student, column.teacher)
    in_loss = [any(token.in_loss for token in tokens) for tokens in sides]
    for texts in zip_longest(*(_parts(tokens, max_width - 2) for tokens in sides), fillvalue=""):
        student, teacher = (
            _cell(text, column.chunk, loss, plain) for text, loss in zip(texts, in_loss, strict=True)
        )
        student.pad_right(teacher.cell_len - student.cell_len)
        teacher.pad_right(student.cell_len - teacher.cell_len)
        yield student, teacher


def _parts(tokens: Sequence[ShownToken], max_width: int) -> Iterator[str]:
    """Separated tokens, in parts of at most `max_width`."""
    part = ""
    for number, token in enumerate(tokens):
        for at, piece in enumerate(chop_cells(token.text, max_width - 1)):
            text = SEPARATOR + piece if number and not at else piece
            if cell_len(part + text) > max_width:
                yield part
                part = ""
            part += text
    if part:
        yield part


def _cell(text: str, chunk: int, in_loss: bool, plain: bool) -> Text:
    """Text in the colour of its chunk or of its mark, or in brackets."""
    if not text or (chunk == NO_CHUNK and not in_loss):
        return Text(text, CONTEXT)
    style, marks = (UNALIGNED, "()") if chunk == NO_CHUNK else (CHUNK_STYLES[chunk % len(CHUNK_STYLES)], "[]")
    return Text(f"{marks[0]}{text}{marks[1]}") if plain else Text(text, style)
