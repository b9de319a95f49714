"""Counts of rows, and of what is in the examples that they make."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import Field

from tide.config import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Counts(Record):
    """Counts of rows and of their examples.

    Attributes:
        rows: read: kept and rejected.
        kept: examples.
        cut: examples that end before their text does.
        student_tokens, teacher_tokens: of the examples, filling included.
        loss_tokens: student tokens that the loss reads.
        chunks: of all examples.
        rejected_chunks: left out by the aligner.
        without_chunks: examples of two tokenizers that have no chunk.
        highest_id: largest of the student's token ids; -1 without examples.
        rejected: rows by reason.
    """

    rows: int = 0
    kept: int = 0
    cut: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    loss_tokens: int = 0
    chunks: int = 0
    rejected_chunks: int = 0
    without_chunks: int = 0
    highest_id: int = -1
    rejected: dict[str, int] = Field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([self.in_a_line, *self.rejected_in_lines])

    @property
    def in_a_line(self) -> str:
        """All but the reasons."""
        notes = [
            f"{number:,} {note}"
            for number, note in ((self.cut, "cut at max_length"), (self.without_chunks, "without chunks"))
            if number
        ]
        line = f"{self.rows:,} rows, {self.kept:,} examples" + (f" ({', '.join(notes)})" if notes else "")
        line += f", {self.student_tokens:,} student tokens, {self.loss_tokens:,} in the loss"
        line += f", {self.chunks:,} chunks" if self.chunks else ""
        return line + (f" ({self.rejected_chunks:,} rejected)" if self.rejected_chunks else "")

    @property
    def rejected_in_lines(self) -> list[str]:
        """One indented line per reason, the most frequent first."""
        width = max((len(f"{number:,}") for number in self.rejected.values()), default=0)
        return [f"  {number:>{width},} rejected: {reason}" for reason, number in self.reasons]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Rejected rows by reason, the most frequent first."""
        return sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Add up counts; reasons come in alphabetical order."""
        sums: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        highest = -1
        for part in parts:
            sums.update(part.model_dump(exclude={"rejected", "highest_id"}))
            rejected.update(part.rejected)
            highest = max(highest, part.highest_id)
        return cls(**sums, highest_id=highest, rejected=dict(sorted(rejected.items())))


class SourceCounts(Record):
    """Rows of one source: those read are kept or rejected."""

    rows: int
    kept: int
    rejected: int

    @classmethod
    def total(cls, parts: Iterable[Sequence[SourceCounts]]) -> list[SourceCounts]:
        """Add up parts, each of which counts the same sources in the same order."""
        return [
            cls(**{name: sum(getattr(part, name) for part in of_source) for name in cls.model_fields})
            for of_source in zip(*parts, strict=True)
        ]
