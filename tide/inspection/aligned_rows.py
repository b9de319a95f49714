"""Rows -> tokens of both sides, column by column. Nothing is truncated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tide.alignment import ByteTable
from tide.config import DataConfig
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

NO_BYTES = "∅"  # Shown for a token that stands for no bytes.


class ShownToken(NamedTuple):
    """A token to show."""

    token_id: int
    text: str  # its bytes as visible characters; a special token's own text
    chunk: int  # from 0 through the row, or NO_CHUNK
    in_loss: bool  # the loss mask covers it


class Column(NamedTuple):
    """Tokens that stand above one another: a chunk from its first to its last token, or at most one each."""

    student: tuple[ShownToken, ...]
    teacher: tuple[ShownToken, ...]
    chunk: int

    @property
    def line_break(self) -> Literal["before", "after"] | None:
        """Where the text of a chunk breaks a line, if it starts or ends with a line break."""
        if self.chunk == NO_CHUNK:
            return None
        if self.student[0].text.startswith(LINE_BREAK) and self.student[-1].text.strip(LINE_BREAK):
            return "before"
        return "after" if self.student[-1].text.endswith(LINE_BREAK) else None


@dataclass(frozen=True)
class AlignedRow:
    """Every token of a row on both sides, and its aligned answers."""

    student: tuple[ShownToken, ...]
    teacher: tuple[ShownToken, ...]
    answers: AlignedAnswers

    def columns(self) -> Iterator[Column]:
        """Both sides from left to right; tokens between chunks pair up in their order."""
        num_chunks = self.answers.alignment.num_chunks
        sides = (_gaps_and_chunks(tokens, num_chunks) for tokens in (self.student, self.teacher))
        for number, (student, teacher) in enumerate(zip(*sides, strict=True)):
            if number % 2:
                yield Column(student, teacher, number // 2)
                continue
            for one, other in zip_longest(student, teacher):
                yield Column((one,) if one else (), (other,) if other else (), NO_CHUNK)


class Aligner:
    """Aligns rows between two tokenizers as `tide prepare` does before it truncates them.

    Args:
        student, teacher: the tokenizers.
        merging: its chunk_* settings join chunks; by default they stay as they are.
        template_arguments: variables of the chat templates, by "student" and "teacher".
    Raises:
        ValueError: a tokenizer's tokens have no known bytes.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerFast,
        teacher: PreTrainedTokenizerFast,
        *,
        merging: DataConfig | None = None,
        template_arguments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.tokenizers = student, teacher
        self.tables = ByteTable.from_tokenizer(student), ByteTable.from_tokenizer(teacher)
        self.merging = DataConfig() if merging is None else merging
        self.template_arguments = template_arguments or {}

    def __call__(self, rows: Sequence[Row]) -> list[AlignedRow | Rejected]:
        """Align each row, or reject it with the reason."""
        pairs = read_pairs(rows, *self.tokenizers, self.template_arguments)
        aligned = align_answers(
            pairs,
            self.tables,
            merge=self.merging.chunk_merging,
            max_bytes=self.merging.chunk_max_bytes,
            max_tokens=self.merging.chunk_max_tokens,
        )
        found: list[AlignedRow | Rejected] = []
        for pair, answers in zip(pairs, aligned, strict=True):
            if isinstance(pair, Rejected):
                found.append(pair)
            elif isinstance(answers, Rejected):
                found.append(answers)
            else:
                chunks = answers.alignment.student_chunks, answers.alignment.teacher_chunks
                student, teacher = map(_shown, pair, chunks, self.tables)
                found.append(AlignedRow(student, teacher, answers))
        return found


def _shown(side: Side, chunks: Int64[np.ndarray, " L"], table: ByteTable) -> tuple[ShownToken, ...]:
    ids = side.tokens.token_ids.tolist()
    spelled = (table.tokens[token_id] or table.special_text.get(token_id, b"") for token_id in ids)
    texts = (readable(data) or NO_BYTES for data in spelled)
    return tuple(map(ShownToken, ids, texts, chunks.tolist(), side.tokens.loss_mask.tolist()))


def _gaps_and_chunks(tokens: tuple[ShownToken, ...], num_chunks: int) -> Iterator[tuple[ShownToken, ...]]:
    """Split tokens: those before chunk 0, chunk 0, those before chunk 1, ..., those after the last."""
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    for at, token in enumerate(tokens):
        firsts.setdefault(token.chunk, at)
        lasts[token.chunk] = at
    borders = [0]
    for chunk in range(num_chunks):
        borders += firsts[chunk], lasts[chunk] + 1
    for start, end in pairwise([*borders, len(tokens)]):
        yield tokens[start:end]
