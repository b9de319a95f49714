"""Aligned rows and statistics as one HTML page: the teacher's tokens under the student's, chunk by chunk."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tide.inspection.tables import (
    ABSENT,
    NOT_ALIGNED,
    longest_table,
    rejected_rows,
    share_of,
    sides_table,
    summary,
)
from tide.preparation import NO_CHUNK
from tide.presentation.page import facts, figure, header, page, scrolling, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.inspection.aligned_rows import AlignedRow, Column, ShownToken
    from tide.inspection.statistics import ChunkStatistics
    from tide.inspection.tables import DataSet, Table

NUM_TINTS = 4


def alignment_page(
    rows: Sequence[tuple[str, AlignedRow]],
    statistics: ChunkStatistics,
    *,
    student: str,
    teacher: str,
    merging: str = "none",
    data: DataSet | None = None,
    images: tuple[bytes, bytes] | None = None,
) -> str:
    """The page.

    Args:
        rows: headings, and the rows to be shown under them.
        statistics: of these rows, or of a data set.
        student: the tokenizer's name.
        teacher: the same.
        merging: how chunks were joined, in words.
        data: what the rows of the statistics were taken from; None for those that are shown.
        images: their figure as PNG, for a light and for a dark page.
    """
    per_token = {
        f"chunks per {name} token": f"{side.chunks_per_token:.3f}" if side.in_chunks else ABSENT
        for name, side in (("student", statistics.student), ("teacher", statistics.teacher))
    }
    coverage = f"{statistics.coverage:.2%}" if statistics.answer_bytes else ABSENT
    tiles = {
        "chunks": f"{statistics.num_chunks:,}",
        "of the answers' bytes in a chunk": coverage,
        **per_token,
    }
    given = {"student": student, "teacher": teacher, "chunk merging": merging}
    if data is not None:
        given |= {"data": data.name, "statistics of": share_of(statistics, data)}
    parts = [
        header("tide align", f"{_short(student)} and {_short(teacher)}", tiles),
        "<main>",
        section("given", "What is aligned", facts(given)),
        *(section(f"row-{number}", heading, _row(row)) for number, (heading, row) in enumerate(rows)),
        section(
            "statistics", "The data set" if data else "In numbers", _statistics(statistics, data, images)
        ),
        "</main>",
    ]
    return page("tide align", parts, style=_STYLE)


def _short(tokenizer: str) -> str:
    """The last part of a path; a name on the hub as it is."""
    path = Path(tokenizer).expanduser()
    return path.name if path.is_dir() and path.name else tokenizer


def _row(row: AlignedRow) -> str:
    columns = "".join(map(_column, row.columns()))
    note = (
        "Above: the student's tokens; below: the teacher's. One colour: a chunk, the same bytes on both "
        "sides; underlined: learnt, in no chunk; grey: context. Spaces are ·, line breaks ↵, tabs →. "
        f"{NOT_ALIGNED} Point at a token for its id."
    )
    return f'<div class="aligned">{columns}</div><p class="caption">{escape(note)}</p>'


def _column(column: Column) -> str:
    tint = f"tint-{column.chunk % NUM_TINTS}" if column.chunk != NO_CHUNK else "alone"
    sides = "".join(
        f"<span>{''.join(map(_token, tokens))}</span>" for tokens in (column.student, column.teacher)
    )
    before, after = ("<br>" * (column.line_break == place) for place in ("before", "after"))
    return f'{before}<span class="column {tint}">{sides}</span>{after}'


def _token(token: ShownToken) -> str:
    chunk = "no chunk" if token.chunk == NO_CHUNK else f"chunk {token.chunk}"
    kind = ' class="lost"' if token.learnt and token.chunk == NO_CHUNK else ""
    return f'<bdi{kind} title="id {token.token_id}, {chunk}">{escape(token.text)}</bdi>'


def _statistics(statistics: ChunkStatistics, data: DataSet | None, images: tuple[bytes, bytes] | None) -> str:
    lines = summary(statistics, data, with_rejected=False)
    content = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if reasons := rejected_rows(statistics):
        items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
        content += f"<p>Rejected:</p><ul>{items}</ul>"
    if not statistics.num_chunks:
        return content
    content += scrolling("statistics of chunks", _table(sides_table(statistics)))
    if images is not None:
        content += figure(*images, "Chunks by their length in bytes, and by their tokens on either side.")
    if statistics.rows == 1:
        return content
    longest = scrolling("longest chunks", _table(longest_table(statistics)))
    return f'{content}<div class="longest">{longest}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.names)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(figure)}</td>" for figure in figures)
        + "</tr>"
        for name, *figures in table.lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
.aligned { font: .9rem/1.5 var(--mono); overflow-wrap: anywhere; }
.column {
  display: inline-grid; vertical-align: top; margin: 0 .2rem .55rem 0; border-radius: .3rem;
  padding: .05rem .25rem; min-width: .6rem; white-space: pre-wrap;
}
.column > span { min-height: 1.5em; }
.column bdi + bdi { border-left: 1px solid rgb(0 0 0 / .45); margin-left: .12rem; padding-left: .12rem; }
.alone { color: var(--muted); }
.lost { text-decoration: underline dotted 2px #d0342c; }
.tint-0 { background: #cfe3fb; color: #10151c; }
.tint-1 { background: #ffeabf; color: #10151c; }
.tint-2 { background: #b9e4c7; color: #10151c; }
.tint-3 { background: #f8d3e6; color: #10151c; }
.longest tbody th { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 40rem; }
"""
