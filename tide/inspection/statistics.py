"""Statistics of chunks: how many, how long, and how much of the text they cover."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.data import Rejected
from tide.inspection.readable import readable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Int64

    from tide.inspection.aligned_rows import AlignedRow
    from tide.preparation import AlignedAnswers

NUM_LONGEST = 10


class LongChunk(NamedTuple):
    """A chunk where the tokenizers agree least."""

    num_bytes: int
    text: str
    student_tokens: int
    teacher_tokens: int


class Spread(NamedTuple):
    """Mean and quantiles of a count over chunks."""

    mean: float
    median: int
    p90: int
    p99: int
    largest: int


@dataclass
class SideStatistics:
    """One side's tokens that hold a byte of an answer; specials that end a turn do not count."""

    tokens: int = 0
    in_chunks: int = 0
    per_chunk: Counter[int] = field(default_factory=Counter)  # tokens in a chunk -> such chunks

    @property
    def chunks_per_token(self) -> float:
        """Chunks over tokens in chunks, in (0, 1]; nan without tokens."""
        return _ratio(self.per_chunk.total(), self.in_chunks)

    @property
    def coverage(self) -> float:
        """Share of the tokens that lie in a chunk; nan without tokens."""
        return _ratio(self.in_chunks, self.tokens)


@dataclass
class ChunkStatistics:
    """Counts over the rows added so far."""

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> rows that could not be aligned
    answers: int = 0
    answer_bytes: int = 0  # bytes of answers that both sides show
    covered_bytes: int = 0  # those in a chunk
    num_chunks: int = 0
    rejected_chunks: int = 0  # spans that a tokenizer respells
    one_to_one: int = 0  # chunks of one token on either side
    chunk_bytes: Counter[int] = field(default_factory=Counter)  # bytes of a chunk -> such chunks
    student: SideStatistics = field(default_factory=SideStatistics)
    teacher: SideStatistics = field(default_factory=SideStatistics)
    longest: list[LongChunk] = field(default_factory=list)  # different ones; of equal length, the first

    @classmethod
    def of(cls, rows: Iterable[AlignedRow | Rejected]) -> ChunkStatistics:
        """Statistics of these rows."""
        statistics = cls()
        for row in rows:
            statistics.add(row)
        return statistics

    def add(self, row: AlignedRow | Rejected) -> None:
        """Count one more row."""
        self.rows += 1
        if isinstance(row, Rejected):
            self.rejected[row.reason] += 1
        else:
            self._add(row.answers)

    @property
    def coverage(self) -> float:
        """Share of the answers' bytes that lie in a chunk; nan without bytes."""
        return _ratio(self.covered_bytes, self.answer_bytes)

    def _add(self, answers: AlignedAnswers) -> None:
        alignment = answers.alignment
        self.answers += answers.number
        self.answer_bytes += len(answers.text)
        self.num_chunks += alignment.num_chunks
        self.rejected_chunks += alignment.num_rejected
        lengths = alignment.ends - alignment.starts
        self.covered_bytes += int(lengths.sum())
        self.chunk_bytes.update(lengths.tolist())
        counts = []
        for side, chunks, num_tokens in (
            (self.student, alignment.student_chunks, answers.num_tokens[0]),
            (self.teacher, alignment.teacher_chunks, answers.num_tokens[1]),
        ):
            in_chunks = chunks[chunks >= 0]
            side.tokens += num_tokens
            side.in_chunks += len(in_chunks)
            counts.append(np.bincount(in_chunks, minlength=alignment.num_chunks))
            side.per_chunk.update(counts[-1].tolist())
        self.one_to_one += int(((counts[0] == 1) & (counts[1] == 1)).sum())
        self._keep_longest(answers, lengths, counts)

    def _keep_longest(
        self, answers: AlignedAnswers, lengths: Int64[np.ndarray, " C"], counts: list[Int64[np.ndarray, " C"]]
    ) -> None:
        shortest = self.longest[-1].num_bytes if len(self.longest) == NUM_LONGEST else 0
        by_text = {chunk.text: chunk for chunk in self.longest}
        for chunk in np.flatnonzero(lengths > shortest).tolist():
            start, end = answers.alignment.starts[chunk], answers.alignment.ends[chunk]
            text = readable(answers.text[start:end])
            tokens = (int(count[chunk]) for count in counts)
            by_text.setdefault(text, LongChunk(int(lengths[chunk]), text, *tokens))
        self.longest = sorted(by_text.values(), key=lambda chunk: -chunk.num_bytes)[:NUM_LONGEST]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def spread(counts: Counter[int]) -> Spread:
    """Mean and quantiles of at least one counted value."""
    values, numbers = np.array(sorted(counts.items())).T
    ends = np.cumsum(numbers)
    median, p90, p99 = (int(values[np.searchsorted(ends, share * ends[-1])]) for share in (0.5, 0.9, 0.99))
    return Spread(float(np.average(values, weights=numbers)), median, p90, p99, int(values[-1]))
