"""Rows -> what both sides read, token by token, beside each other by chunks. Nothing is cut to a length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tide.alignment import ByteTable, check_merging
from tide.data import Rejected
from tide.inspection.readable import LINE_BREAK, readable
from tide.preparation import NO_CHUNK, align_answers, read_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from jaxtyping import Int64
    from transformers import PreTrainedTokenizerFast

    from tide.data import Row
    from tide.preparation import AlignedAnswers, Side

NO_BYTES = "∅"  # Shown for a token that stands for nothing.


class ShownToken(NamedTuple):
    """A token to be looked at.

    Attributes:
        token_id: in its tokenizer.
        text: what it stands for, in characters that show; a special token's own text.
        chunk: from 0 through the row; NO_CHUNK for none.
        learnt: a loss reads it.
    """

    token_id: int
    text: str
    chunk: int
    learnt: bool


class Column(NamedTuple):
    """What stands above one another.

    Attributes:
        student, teacher: tokens of one chunk; or at most one token each that is in none.
        chunk: NO_CHUNK for none. A token in no chunk may stand inside one, as a part of its column.
    """

    student: tuple[ShownToken, ...]
    teacher: tuple[ShownToken, ...]
    chunk: int

    @property
    def line_break(self) -> Literal["before", "after"] | None:
        """Where the text of a chunk breaks a line, if it does at its beginning or end."""
        if self.chunk == NO_CHUNK:
            return None
        if self.student[0].text.startswith(LINE_BREAK) and self.student[-1].text.strip(LINE_BREAK):
            return "before"
        return "after" if self.student[-1].text.endswith(LINE_BREAK) else None


@dataclass(frozen=True)
class AlignedRow:
    """A row on both sides.

    Attributes:
        student, teacher: every token, in order.
        answers: what is learnt on both sides, with its chunks.
    """

    student: tuple[ShownToken, ...]
    teacher: tuple[ShownToken, ...]
    answers: AlignedAnswers

    def columns(self) -> Iterator[Column]:
        """Both sides from left to right; between chunks, tokens stand above one another as they come."""
        num_chunks = self.answers.alignment.num_chunks
        runs = _runs(self.student, num_chunks), _runs(self.teacher, num_chunks)
        ends = [0, 0]
        for chunk, (one, other) in enumerate(zip(*runs, strict=True)):
            yield from _between(self.student[ends[0] : one.start], self.teacher[ends[1] : other.start])
            yield Column(self.student[one], self.teacher[other], chunk)
            ends = [one.stop, other.stop]
        yield from _between(self.student[ends[0] :], self.teacher[ends[1] :])


class Aligner:
    """Aligns rows between two tokenizers as `tide prepare` does before it cuts them to a length.

    Args:
        student: the student's tokenizer.
        teacher: the teacher's.
        merge, max_bytes, max_tokens: how chunks are joined, as `tide.alignment.align_spans` takes them.
        template_arguments: variables of the chat templates, by "student" and "teacher"; none if None.
    Raises:
        ValueError: the bytes of a tokenizer cannot be told, or the options for joining contradict each other.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerFast,
        teacher: PreTrainedTokenizerFast,
        *,
        merge: Literal["none", "words", "length"] = "none",
        max_bytes: int | None = None,
        max_tokens: int | None = None,
        template_arguments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        check_merging("Aligner", merge, max_bytes, max_tokens)
        self.tokenizers = student, teacher
        self.tables = ByteTable.from_tokenizer(student), ByteTable.from_tokenizer(teacher)
        self.merge, self.max_bytes, self.max_tokens = merge, max_bytes, max_tokens
        self.template_arguments = template_arguments or {}

    def __call__(self, rows: Sequence[Row]) -> list[AlignedRow | Rejected]:
        """Each row, or why it cannot be aligned."""
        pairs = read_pairs(rows, *self.tokenizers, self.template_arguments)
        aligned = align_answers(
            pairs, self.tables, merge=self.merge, max_bytes=self.max_bytes, max_tokens=self.max_tokens
        )
        return [
            pair if isinstance(pair, Rejected) else self._shown(*pair, answers)
            for pair, answers in zip(pairs, aligned, strict=True)
        ]

    def _shown(self, one: Side, other: Side, answers: AlignedAnswers | Rejected) -> AlignedRow | Rejected:
        if isinstance(answers, Rejected):
            return answers
        student, teacher = self.tables
        return AlignedRow(
            _shown(one, answers.alignment.student_chunks, student),
            _shown(other, answers.alignment.teacher_chunks, teacher),
            answers,
        )


def _shown(side: Side, chunks: Int64[np.ndarray, " L"], table: ByteTable) -> tuple[ShownToken, ...]:
    ids, learnt = side.tokens.token_ids.tolist(), side.tokens.loss_mask.tolist()
    texts = [_text(token_id, table) for token_id in ids]
    return tuple(map(ShownToken, ids, texts, chunks.tolist(), learnt))


def _text(token_id: int, table: ByteTable) -> str:
    return readable(table.tokens[token_id] or table.special_text.get(token_id, b"")) or NO_BYTES


def _runs(tokens: Sequence[ShownToken], num_chunks: int) -> list[slice]:
    """From the first to the last token of every chunk."""
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    for at, token in enumerate(tokens):
        firsts.setdefault(token.chunk, at)
        lasts[token.chunk] = at
    return [slice(firsts[chunk], lasts[chunk] + 1) for chunk in range(num_chunks)]


def _between(student: Sequence[ShownToken], teacher: Sequence[ShownToken]) -> Iterator[Column]:
    for one, other in zip_longest(student, teacher):
        yield Column((one,) if one else (), (other,) if other else (), NO_CHUNK)
