"""Make examples of rows: both sides filled to whole blocks, aligned, and cut to what they share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tide.alignment import ByteTable
from tide.batch import Example, TokenSequence
from tide.data import Rejected, read_row
from tide.preparation.answers import NO_CHUNK, align_answers
from tide.preparation.manifest import Counts
from tide.preparation.sides import Side, read_pairs, read_sides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from jaxtyping import Bool, Int64
    from transformers import PreTrainedTokenizerFast

    from tide.alignment import ChunkAlignment
    from tide.config import DataConfig
    from tide.data import Raw, Row
    from tide.methods import Method
    from tide.preparation.answers import AlignedAnswers

NOTHING_TO_LEARN = "nothing to learn within max_length"
MAX_DETAIL = 300  # characters of one row's fault in a message


class Built(NamedTuple):
    """An example; `cut` if its text goes on behind it; the number of chunks that alignment rejected."""

    example: Example
    cut: bool
    rejected_chunks: int = 0


class Part(NamedTuple):
    """Examples of some rows, in their order; rejected rows by their position."""

    examples: list[Example]
    rejected: dict[int, Rejected]
    counts: Counts


class ExampleBuilder:
    """Makes the examples that a method trains on: the student's side, and the teacher's if it has one.

    Args:
        data: lengths, filling, merging of chunks.
        method: its teacher reads nothing, the student's tokens, or its own; then chunks are aligned.
        student_tokenizer: with an end-of-text token.
        teacher_tokenizer: likewise, for a method across tokenizers; otherwise unused.
        block_size: tokens per diffusion block.
        template_arguments: variables of the chat templates, by "student" and "teacher".
    Raises:
        ValueError: a tokenizer has no end-of-text token, or no bytes for its tokens.
    """

    def __init__(
        self,
        data: DataConfig,
        method: Method,
        student_tokenizer: PreTrainedTokenizerFast,
        teacher_tokenizer: PreTrainedTokenizerFast | None = None,
        *,
        block_size: int,
        template_arguments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.data, self.method, self.block_size = data, method, block_size
        self.student = student_tokenizer
        self.teacher = teacher_tokenizer if method.across_tokenizers else None
        self.template_arguments = template_arguments or {}
        for role, tokenizer in (("student", self.student), ("teacher", self.teacher)):
            if tokenizer is not None and tokenizer.eos_token_id is None:
                raise ValueError(
                    f"prepare examples: the {role}'s tokenizer has no end-of-text token, which fills the "
                    "last block of a text. Set its eos_token."
                )
        self.tables = None
        if self.teacher is not None:
            self.tables = ByteTable.from_tokenizer(self.student), ByteTable.from_tokenizer(self.teacher)

    def __call__(self, rows: Sequence[Row]) -> list[Built | Rejected]:
        """Make one example per row."""
        if self.teacher is None or self.tables is None:
            sides = read_sides(rows, self.student, self.template_arguments.get("student"))
            return [side if isinstance(side, Rejected) else self._built(side) for side in sides]
        pairs = read_pairs(rows, self.student, self.teacher, self.template_arguments)
        aligned = align_answers(
            pairs,
            self.tables,
            merge=self.data.chunk_merging,
            max_bytes=self.data.chunk_max_bytes,
            max_tokens=self.data.chunk_max_tokens,
        )
        return [
            pair if isinstance(pair, Rejected) else self._built(*pair, answers)
            for pair, answers in zip(pairs, aligned, strict=True)
        ]

    def _built(
        self, student: Side, teacher: Side | None = None, answers: AlignedAnswers | Rejected | None = None
    ) -> Built | Rejected:
        token_ids, loss_mask, cut = self._fit(student, self.student, self.data.max_length)
        if not loss_mask.any():
            detail = f"{len(student.tokens.token_ids)} tokens, none of the first max_length in the loss"
            return Rejected(NOTHING_TO_LEARN, detail)
        if isinstance(answers, Rejected):
            return answers
        if self.teacher is None or teacher is None or answers is None:
            sequence = _sequence(token_ids, loss_mask, np.full(len(token_ids), NO_CHUNK))
            return Built(Example(sequence, sequence if self.method.has_teacher else None), cut)
        teacher_ids, teacher_mask, _ = self._fit(teacher, self.teacher, self.data.teacher_length)
        end = len(teacher_ids)
        chunks, teacher_chunks, num_chunks = _whole_chunks(answers.alignment, len(token_ids), end)
        if cut:
            # What the student's text leaves out, the teacher's need not hold.
            in_chunks = np.flatnonzero(teacher_chunks >= 0)
            prompt = int(np.argmax(teacher_mask)) if teacher_mask.any() else end
            needed = max(prompt, in_chunks[-1] + 1 if in_chunks.size else 0)
            end = min(end, -(-needed // self.block_size) * self.block_size)
        example = Example(
            _sequence(token_ids, loss_mask, chunks),
            _sequence(teacher_ids[:end], teacher_mask[:end], teacher_chunks[:end]),
            num_chunks,
        )
        return Built(example, cut, answers.alignment.num_rejected)

    def _fit(
        self, side: Side, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> tuple[Int64[np.ndarray, " L"], Bool[np.ndarray, " L"], bool]:
        """Fill to whole blocks and cut; return ids, loss mask, and True if text was cut off.

        A conversation ends with its last turn in the loss, which brings its own end. A text has none: it gets
        at least one end-of-text.
        """
        token_ids, loss_mask, is_text = side.tokens.token_ids, side.tokens.loss_mask, side.is_text
        if not is_text and loss_mask.any():
            last = len(loss_mask) - int(np.argmax(loss_mask[::-1]))
            token_ids, loss_mask = token_ids[:last], loss_mask[:last]
        num_ends = int(is_text)
        if self.data.end_fill != "none":
            num_ends += -(len(token_ids) + is_text) % self.block_size
        in_loss = np.full(num_ends, self.data.end_fill != "unlearnt")
        in_loss[: int(is_text)] = True
        filled = np.concatenate([token_ids, np.full(num_ends, tokenizer.eos_token_id)])
        loss_mask = np.concatenate([loss_mask, in_loss])
        return filled[:max_length], loss_mask[:max_length], len(token_ids) + is_text > max_length


def build_part(raw_rows: Sequence[Raw | Rejected], build: ExampleBuilder) -> Part:
    """Parse rows as a source gives them, and make and count their examples."""
    parsed = list(map(read_row, raw_rows))
    made = iter(build([row for row in parsed if not isinstance(row, Rejected)]))
    built = [row if isinstance(row, Rejected) else next(made) for row in parsed]
    rejected = {at: row for at, row in enumerate(built) if isinstance(row, Rejected)}
    kept = [row for row in built if isinstance(row, Built)]
    examples = [row.example for row in kept]
    across = build.teacher is not None
    counts = Counts(
        rows=len(raw_rows),
        kept=len(examples),
        cut=sum(row.cut for row in kept),
        student_tokens=sum(len(example.student.token_ids) for example in examples),
        teacher_tokens=sum(len(example.teacher.token_ids) for example in examples if example.teacher),
        loss_tokens=sum(int(example.student.loss_mask.sum()) for example in examples),
        chunks=sum(example.num_chunks for example in examples),
        rejected_chunks=sum(row.rejected_chunks for row in kept),
        without_chunks=sum(across and not example.num_chunks for example in examples),
        highest_id=max((int(example.student.token_ids.max()) for example in examples), default=-1),
        rejected=dict(sorted(Counter(row.reason for row in rejected.values()).items())),
    )
    return Part(examples, rejected, counts)


def no_examples(
    counts: Counts,
    where: str,
    first: Rejected,
    *,
    rejects: str | None = None,
    length_key: str = "data.max_length",
) -> ValueError:
    """The error where every row was rejected: counts, place and fault of the first, files that list all."""
    detail = " ".join(first.detail.removeprefix(f"{where}: ").split())  # a template's error has many lines
    if len(detail) > MAX_DETAIL:
        detail = detail[:MAX_DETAIL] + "..."
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts.reasons)
    listed = f" All are listed in {rejects!r}." if rejects else ""
    remedy = f", or raise {length_key}" if NOTHING_TO_LEARN in counts.rejected else ""
    return ValueError(
        f"prepare: none of {counts.rows:,} rows makes an example ({reasons}). The first, {where}: "
        f"{Rejected(first.reason, detail)}.{listed} Correct the data{remedy}."
    )


def _whole_chunks(
    alignment: ChunkAlignment, length: int, teacher_length: int
) -> tuple[Int64[np.ndarray, " l_s"], Int64[np.ndarray, " l_t"], int]:
    """Renumber the chunks that are whole on both sides, from 0, and fit their ids to the lengths."""
    chunks, teacher_chunks = alignment.student_chunks, alignment.teacher_chunks
    keep = np.ones(alignment.num_chunks + 1, dtype=np.bool_)  # The last entry stands for NO_CHUNK.
    keep[chunks[length:]] = False
    keep[teacher_chunks[teacher_length:]] = False
    keep[NO_CHUNK] = False
    new_ids = np.where(keep, np.cumsum(keep) - 1, NO_CHUNK)

    def fitted(ids: Int64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " L"]:
        return np.concatenate([new_ids[ids[:size]], np.full(max(0, size - len(ids)), NO_CHUNK)])

    return fitted(chunks, length), fitted(teacher_chunks, teacher_length), int(keep.sum())


def _sequence(
    token_ids: Int64[np.ndarray, " L"], loss_mask: Bool[np.ndarray, " L"], chunks: Int64[np.ndarray, " L"]
) -> TokenSequence:
    return TokenSequence(torch.from_numpy(token_ids), torch.from_numpy(loss_mask), torch.from_numpy(chunks))
