"""Statistics of chunks in words and tables, as terminal and page show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tide.inspection.statistics import spread

if TYPE_CHECKING:
    from collections import Counter

    from tide.inspection.statistics import ChunkStatistics

ABSENT = "-"
NOT_ALIGNED = "Only chunks are aligned; other tokens stand as they come."
_RUN = re.compile("·{5,}")  # Indentation would leave no room for what follows.
SPREAD_NAMES = ("mean", "median", "90 %", "99 %", "largest")


class Table(NamedTuple):
    """Texts, one line after another; the first column names the line."""

    names: tuple[str, ...]
    lines: list[tuple[str, ...]]

    def turned(self) -> Table:
        """Lines as columns, their names above them, a word a line: narrower, and longer."""
        first, *columns = zip(self.names, *self.lines, strict=True)
        names = (first[0], *(name.replace(" ", "\n") for name in first[1:]))
        return Table(names, columns)


class DataSet(NamedTuple):
    """What the rows of statistics were taken from.

    Attributes:
        name: as a reader knows it.
        num_rows: all that it holds, looked at or not.
    """

    name: str
    num_rows: int


def share_of(statistics: ChunkStatistics, data: DataSet) -> str:
    """How many of the data's rows were looked at."""
    return f"{statistics.rows:,} of the {data.num_rows:,} rows"


def summary(
    statistics: ChunkStatistics, data: DataSet | None = None, *, with_rejected: bool = True
) -> list[str]:
    """One sentence a line: rows, rejected rows by reason, how much is in chunks.

    Args:
        statistics: to be said in words.
        data: what their rows were taken from, if it is to be said.
        with_rejected: False leaves rejected rows out.
    """
    used = statistics.rows - statistics.rejected.total()
    lines = [] if data is None else [f"{share_of(statistics, data)} of {data.name}."]
    lines += [
        f"Rows aligned: {used:,} of {statistics.rows:,}; answers: {statistics.answers:,}; chunks: "
        f"{statistics.num_chunks:,}."
    ]
    if with_rejected:
        lines += [f"Rejected: {line}." for line in rejected_rows(statistics)]
    if statistics.num_chunks:
        lines.append(
            f"{statistics.coverage:.2%} of {statistics.answer_bytes:,} bytes of answers lie in a chunk; "
            f"{statistics.one_to_one / statistics.num_chunks:.1%} of chunks are one token on both sides."
        )
    return lines


def rejected_rows(statistics: ChunkStatistics) -> list[str]:
    """Rejected rows by reason, the most frequent first."""
    return [f"{reason}: {number:,}" for reason, number in statistics.rejected.most_common()]


def sides_table(statistics: ChunkStatistics) -> Table:
    """Tokens of either side, and bytes: how many, how many in chunks, how many in each chunk."""
    lines: list[tuple[str, ...]] = []
    for name, side in (("student tokens", statistics.student), ("teacher tokens", statistics.teacher)):
        share = f"{side.in_chunks / side.tokens:.2%}" if side.tokens else ABSENT
        per_token = f"{side.chunks_per_token:.3f}" if side.in_chunks else ABSENT
        lines.append((name, f"{side.tokens:,}", share, per_token, *_spread(side.per_chunk)))
    share = f"{statistics.coverage:.2%}" if statistics.answer_bytes else ABSENT
    bytes_line = ("bytes", f"{statistics.answer_bytes:,}", share, ABSENT, *_spread(statistics.chunk_bytes))
    names = ("per chunk:", "all", "in chunks", "chunks each", *SPREAD_NAMES)
    return Table(names, [*lines, bytes_line])


def longest_table(statistics: ChunkStatistics) -> Table:
    """The longest chunks."""
    names = ("longest chunks", "bytes", "student tokens", "teacher tokens")
    return Table(
        names,
        [
            (
                _RUN.sub(lambda run: f"·×{len(run[0])} ", chunk.text),
                f"{chunk.num_bytes:,}",
                str(chunk.student_tokens),
                str(chunk.teacher_tokens),
            )
            for chunk in statistics.longest
        ],
    )


def _spread(counts: Counter[int]) -> tuple[str, ...]:
    found = spread(counts)
    if found is None:
        return (ABSENT,) * len(SPREAD_NAMES)
    return (f"{found.mean:.2f}", *(f"{value:,}" for value in found[1:]))
