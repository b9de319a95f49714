"""What became of the rows of sources, and what is in the examples that they make."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Counts:
    """What became of rows, and what is in the examples.

    Attributes:
        rows: read; kept plus all that were rejected.
        kept: examples.
        cut: of those, how many end before their text does.
        rejected: rows by reason.
        student_tokens, teacher_tokens: of the examples, filling included.
        loss_tokens: of the student's, those that a loss reads.
        chunks: of all examples.
        rejected_chunks: chunks that the aligner could not make.
        without_chunks: examples of two tokenizers that have no chunk at all.
        highest_id: largest of the student's token ids; -1 without examples.
    """

    rows: int = 0
    kept: int = 0
    cut: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    loss_tokens: int = 0
    chunks: int = 0
    without_chunks: int = 0
    rejected_chunks: int = 0
    highest_id: int = -1
    rejected: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([self.in_a_line, *self.rejected_in_lines])

    @property
    def in_a_line(self) -> str:
        """All but the reasons."""
        line = f"{self.rows:,} rows, {self.kept:,} examples"
        notes = [f"{self.cut:,} cut at max_length"] if self.cut else []
        if self.without_chunks:
            notes.append(f"{self.without_chunks:,} without chunks")
        if notes:
            line += f" ({', '.join(notes)})"
        line += f", {self.student_tokens:,} student tokens, {self.loss_tokens:,} in the loss"
        if self.chunks:
            line += f", {self.chunks:,} chunks"
        return line

    @property
    def rejected_in_lines(self) -> list[str]:
        """An indented line for every reason, that of the most rows first; none without rejected rows."""
        width = max((len(f"{number:,}") for number in self.rejected.values()), default=0)
        return [f"  {number:>{width},} rejected: {reason}" for reason, number in self.reasons]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Rows rejected by reason, most first."""
        return sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """The sum, reasons in alphabetical order."""
        sums: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        highest = -1
        for part in parts:
            values = asdict(part)
            rejected.update(values.pop("rejected"))
            highest = max(highest, values.pop("highest_id"))
            sums.update(values)
        return cls(**sums, highest_id=highest, rejected=dict(sorted(rejected.items())))


@dataclass(frozen=True)
class SourceCounts:
    """What became of one source's rows: those read are kept or rejected."""

    rows: int
    kept: int
    rejected: int

    @classmethod
    def total(cls, parts: Iterable[Sequence[SourceCounts]]) -> list[SourceCounts]:
        """The sums over parts, each of which counts the same sources in the same order."""
        return [
            cls(
                sum(part.rows for part in of_source),
                sum(part.kept for part in of_source),
                sum(part.rejected for part in of_source),
            )
            for of_source in zip(*parts, strict=True)
        ]
