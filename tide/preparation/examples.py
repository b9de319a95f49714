"""Rows -> Examples: both sides filled to whole blocks, aligned, and cut to what they share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from tide.alignment import ByteTable
from tide.batch import Example, TokenSequence
from tide.data import Rejected
from tide.preparation.answers import NO_CHUNK, align_answers
from tide.preparation.sides import Side, read_pairs, read_sides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from jaxtyping import Bool, Int64
    from transformers import PreTrainedTokenizerFast

    from tide.alignment import ChunkAlignment
    from tide.data import Row
    from tide.preparation.answers import AlignedAnswers

NOTHING_TO_LEARN = "nothing to learn within max_length"


class Built(NamedTuple):
    """An example, and whether its text goes on behind it."""

    example: Example
    cut: bool


@dataclass(frozen=True)
class Layout:
    """How long examples are.

    Attributes:
        block_size: tokens per diffusion block.
        max_length, teacher_max_length: tokens, multiples of block_size.
        end_fill: end-of-text up to a whole block: "learnt" (a model that is to stop has to learn that nothing
            follows), "unlearnt", or "none" (one end-of-text, where the text does not bring its own).
        chunk_merging: "none"; "words": no chunk ends inside a word; "length": as long as the limits allow.
        chunk_max_bytes: limit on the bytes of a merged chunk.
        chunk_max_tokens: limit on its tokens, on the side that has more.
    """

    block_size: int
    max_length: int
    teacher_max_length: int
    end_fill: Literal["learnt", "unlearnt", "none"] = "learnt"
    chunk_merging: Literal["none", "words", "length"] = "none"
    chunk_max_bytes: int | None = None
    chunk_max_tokens: int | None = None


class ExampleBuilder:
    """Rows to examples that the student, and the teacher if one runs, can read.

    Args:
        layout: lengths and filling.
        student: its tokenizer.
        teacher: the teacher's tokenizer if the two differ; chunks are aligned then.
        shared: the teacher reads the student's tokens.
        template_arguments: variables of the chat templates, by "student" and "teacher".
    Raises:
        ValueError: a tokenizer has no end-of-text token, or its bytes cannot be told.
    """

    def __init__(
        self,
        layout: Layout,
        student: PreTrainedTokenizerFast,
        teacher: PreTrainedTokenizerFast | None = None,
        *,
        shared: bool = False,
        template_arguments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.layout = layout
        self.template_arguments = template_arguments or {}
        self.student, self.teacher, self.shared = student, teacher, shared
        for role, tokenizer in (("student", student), ("teacher", teacher)):
            if tokenizer is not None and tokenizer.eos_token_id is None:
                raise ValueError(
                    f"prepare examples: the {role}'s tokenizer has no end-of-text token, which fills the "
                    "last block of a text. Set its eos_token."
                )
        self.tables = None
        if teacher is not None:
            self.tables = ByteTable.from_tokenizer(student), ByteTable.from_tokenizer(teacher)

    def __call__(self, rows: Sequence[Row]) -> list[Built | Rejected]:
        """One example, or the reason why there is none, per row."""
        if self.teacher is None:
            sides = read_sides(rows, self.student, self.template_arguments.get("student"))
            return [side if isinstance(side, Rejected) else self._alone(side) for side in sides]
        assert self.tables is not None
        pairs = read_pairs(rows, self.student, self.teacher, self.template_arguments)
        aligned = align_answers(
            pairs,
            self.tables,
            merge=self.layout.chunk_merging,
            max_bytes=self.layout.chunk_max_bytes,
            max_tokens=self.layout.chunk_max_tokens,
        )
        return [
            pair if isinstance(pair, Rejected) else self._pair(*pair, answers)
            for pair, answers in zip(pairs, aligned, strict=True)
        ]

    def _alone(self, side: Side) -> Built | Rejected:
        token_ids, learnt, cut = self._laid_out(side, self.student, self.layout.max_length)
        if not learnt.any():
            return _nothing_to_learn(side)
        sequence = _sequence(token_ids, learnt, np.full(len(token_ids), NO_CHUNK))
        return Built(Example(sequence, sequence if self.shared else None), cut)

    def _pair(self, one: Side, other: Side, answers: AlignedAnswers | Rejected) -> Built | Rejected:
        assert self.teacher is not None
        layout = self.layout
        token_ids, learnt, cut = self._laid_out(one, self.student, layout.max_length)
        if not learnt.any():
            return _nothing_to_learn(one)
        teacher_ids, teacher_learnt, _ = self._laid_out(other, self.teacher, layout.teacher_max_length)
        if isinstance(answers, Rejected):
            return answers
        chunks, teacher_chunks, num_chunks = _whole_chunks(
            answers.alignment, len(token_ids), len(teacher_ids)
        )
        end = len(teacher_ids)
        if cut:
            # What the student's text leaves out, the teacher's need not hold.
            shared = np.flatnonzero(teacher_chunks >= 0)
            prompt = int(np.argmax(teacher_learnt)) if teacher_learnt.any() else len(teacher_ids)
            held = max(prompt, shared[-1] + 1 if shared.size else 0)
            end = min(end, -(-held // layout.block_size) * layout.block_size)
        teacher = _sequence(teacher_ids[:end], teacher_learnt[:end], teacher_chunks[:end])
        return Built(Example(_sequence(token_ids, learnt, chunks), teacher, num_chunks), cut)

    def _laid_out(
        self, side: Side, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> tuple[Int64[np.ndarray, " L"], Bool[np.ndarray, " L"], bool]:
        """Ids and learnt flags, filled and cut; and whether text was cut off.

        A conversation ends with the turn that is learnt last, which brings its own end. A text has none: it
        gets at least one end-of-text.
        """
        layout, token_ids, learnt = self.layout, side.tokens.token_ids, side.tokens.loss_mask
        is_text = side.is_text
        if not is_text and learnt.any():
            last = len(learnt) - int(np.argmax(learnt[::-1]))
            token_ids, learnt = token_ids[:last], learnt[:last]
        num_ends = -(len(token_ids) + is_text) % layout.block_size + is_text
        if layout.end_fill == "none":
            num_ends = int(is_text)
        filled = np.concatenate([token_ids, np.full(num_ends, tokenizer.eos_token_id)])
        ends = np.full(num_ends, layout.end_fill != "unlearnt")
        ends[: int(is_text)] = True
        learnt = np.concatenate([learnt, ends])
        return filled[:max_length], learnt[:max_length], len(token_ids) + is_text > max_length


def _whole_chunks(
    alignment: ChunkAlignment, length: int, teacher_length: int
) -> tuple[Int64[np.ndarray, " l_s"], Int64[np.ndarray, " l_t"], int]:
    """Chunk ids of the first tokens of either side, of chunks that are whole on both, from 0 without gaps."""
    chunks, teacher_chunks = alignment.student_chunks, alignment.teacher_chunks
    keep = np.ones(alignment.num_chunks + 1, dtype=np.bool_)  # The last entry stands for NO_CHUNK.
    keep[chunks[length:]] = False
    keep[teacher_chunks[teacher_length:]] = False
    keep[NO_CHUNK] = False
    new_ids = np.where(keep, np.cumsum(keep) - 1, NO_CHUNK)
    return (
        _filled(new_ids[chunks[:length]], length),
        _filled(new_ids[teacher_chunks[:teacher_length]], teacher_length),
        int(keep.sum()),
    )


def _filled(chunks: Int64[np.ndarray, " n"], length: int) -> Int64[np.ndarray, " L"]:
    return np.concatenate([chunks, np.full(length - len(chunks), NO_CHUNK)])


def _sequence(
    token_ids: Int64[np.ndarray, " L"], learnt: Bool[np.ndarray, " L"], chunks: Int64[np.ndarray, " L"]
) -> TokenSequence:
    return TokenSequence(torch.from_numpy(token_ids), torch.from_numpy(learnt), torch.from_numpy(chunks))


def _nothing_to_learn(side: Side) -> Rejected:
    return Rejected(NOTHING_TO_LEARN, f"{len(side.tokens.token_ids)} tokens, none learnt before max_length")


def same_tokenizer_examples(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    block_size: int,
    with_teacher: bool,
) -> list[Example]:
    """Examples whose two sides are the same tokens; the teacher's side is left out where none runs.

    Rows that make no example are left out. Lengths are in tokens, multiples of `block_size`.

    Raises:
        ValueError: no row makes an example.
    """
    layout = Layout(block_size, max_length, max_length)
    return _kept(ExampleBuilder(layout, tokenizer, shared=with_teacher)(rows), max_length)


def cross_tokenizer_examples(
    rows: Sequence[Row],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    teacher_max_length: int,
    block_size: int,
) -> list[Example]:
    """Examples tokenized by both sides, with chunks of equal bytes over what is learnt.

    A chunk that truncation cuts on either side is dropped on both. Beside a truncated student text, the
    teacher's ends with the block of the last shared chunk. Rows that make no example are left out.

    Raises:
        ValueError: no row makes an example.
    """
    layout = Layout(block_size, max_length, teacher_max_length)
    return _kept(ExampleBuilder(layout, student_tokenizer, teacher_tokenizer)(rows), max_length)


def _kept(built: list[Built | Rejected], max_length: int) -> list[Example]:
    examples = [row.example for row in built if isinstance(row, Built)]
    if not examples:
        reasons = Counter(row.reason for row in built if isinstance(row, Rejected))
        told = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items())) or "no rows"
        raise ValueError(
            f"prepare examples: no row makes an example at max_length={max_length} ({told}). Raise "
            "data.max_length, or correct the rows."
        )
    return examples
