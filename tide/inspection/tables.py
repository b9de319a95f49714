"""Statistics of chunks as sentences and tables: the one model that terminal and page render."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from tide.inspection.statistics import spread

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from tide.config import DataConfig
    from tide.inspection.statistics import ChunkStatistics

ABSENT = "-"
NOT_ALIGNED = "Only chunks are aligned; other tokens stand in their order."
SPREAD_NAMES = ("mean", "median", "90 %", "99 %", "largest")
_INDENTATION = re.compile("·{5,}")


class Table(NamedTuple):
    """Column headings, and lines of as many texts; the first text names the line."""

    names: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]

    def transposed(self) -> Table:
        """Lines as columns, one word of a name per line: narrower and longer."""
        first, *columns = zip(self.names, *self.lines, strict=True)
        return Table((first[0], *(name.replace(" ", "\n") for name in first[1:])), columns)


class DataSet(NamedTuple):
    """The source of statistics, and its rows, sampled or not."""

    name: str
    num_rows: int


def merging_text(data: DataConfig) -> str:
    """How a recipe's data section joins chunks."""
    limits = {"bytes": data.chunk_max_bytes, "tokens": data.chunk_max_tokens}
    given = [f"{limit} {unit}" for unit, limit in limits.items() if limit is not None]
    return data.chunk_merging + (f", at most {' and '.join(given)}" if given else "")


def share_of(statistics: ChunkStatistics, data: DataSet) -> str:
    """Rows sampled, of all rows."""
    return f"{statistics.rows:,} of the {data.num_rows:,} rows"


def figure(value: float, spec: str) -> str:
    """The value as text; - for nan."""
    return ABSENT if math.isnan(value) else format(value, spec)


def rejected_texts(statistics: ChunkStatistics) -> list[str]:
    """Each reason with its number of rejected rows, the most frequent first."""
    return [f"{reason}: {number:,}" for reason, number in statistics.rejected.most_common()]


def summary(statistics: ChunkStatistics, data: DataSet | None = None) -> list[str]:
    """Sentences: the data, the rows and chunks aligned, their share of the answers."""
    used = statistics.rows - statistics.rejected.total()
    lines = [] if data is None else [f"{share_of(statistics, data)} of {data.name}."]
    lines.append(
        f"Rows aligned: {used:,} of {statistics.rows:,}; answers: {statistics.answers:,}; chunks: "
        f"{statistics.num_chunks:,}."
    )
    if statistics.rejected_chunks:
        lines.append(f"Rejected chunks, which a tokenizer respells: {statistics.rejected_chunks:,}.")
    if statistics.num_chunks:
        lines.append(
            f"{statistics.coverage:.2%} of {statistics.answer_bytes:,} bytes of answers lie in a chunk; "
            f"{statistics.one_to_one / statistics.num_chunks:.1%} of chunks are one token on both sides."
        )
    return lines


def sides_table(statistics: ChunkStatistics) -> Table:
    """Tokens of each side, and bytes: their number, the share in chunks, and how many a chunk holds."""
    lines: list[tuple[str, ...]] = []
    for name, side in (("student tokens", statistics.student), ("teacher tokens", statistics.teacher)):
        shares = figure(side.coverage, ".2%"), figure(side.chunks_per_token, ".3f")
        lines.append((name, f"{side.tokens:,}", *shares, *_spread(side.per_chunk)))
    shares = figure(statistics.coverage, ".2%"), ABSENT
    lines.append(("bytes", f"{statistics.answer_bytes:,}", *shares, *_spread(statistics.chunk_bytes)))
    return Table(("per chunk:", "all", "in chunks", "chunks each", *SPREAD_NAMES), lines)


def longest_table(statistics: ChunkStatistics) -> Table:
    """The longest chunks, long indentation counted."""
    lines = [
        (
            _INDENTATION.sub(lambda run: f"·×{len(run[0])} ", chunk.text),
            f"{chunk.num_bytes:,}",
            str(chunk.student_tokens),
            str(chunk.teacher_tokens),
        )
        for chunk in statistics.longest
    ]
    return Table(("longest chunks", "bytes", "student tokens", "teacher tokens"), lines)


def _spread(counts: Counter[int]) -> tuple[str, ...]:
    mean, *quantiles = spread(counts) if counts else [math.nan] * len(SPREAD_NAMES)
    return (figure(mean, ".2f"), *(figure(value, ",") for value in quantiles))
