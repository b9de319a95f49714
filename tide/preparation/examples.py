"""Rows -> Examples: both sides tokenized, aligned, and cut to what they share. Composes data and "
"alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.alignment import ByteTable, align_chunks
from tide.batch import Example, TokenSequence
from tide.data import tokenize_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Bool, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from tide.data import TextRow


def same_tokenizer_examples(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    block_size: int,
    with_teacher: bool,
) -> list[Example]:
    """Examples whose two sides are the same tokens; the teacher's side is left out where none runs.

    Rows whose prompt fills `max_length` are dropped. Lengths are in tokens, multiples of `block_size`.
    """
    examples = []
    tokenized = tokenize_rows(rows, tokenizer, max_length=max_length, block_size=block_size)
    for token_ids, maskable in tokenized:
        if maskable.any():
            sequence = TokenSequence(token_ids, maskable, torch.full_like(token_ids, -1))
            examples.append(Example(sequence, sequence if with_teacher else None))
    return _checked(examples, max_length)


def cross_tokenizer_examples(
    rows: Sequence[TextRow],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    teacher_max_length: int,
    block_size: int,
) -> list[Example]:
    """Examples tokenized by both sides, with chunks of equal bytes over the completion.

    A chunk that truncation cuts on either side is dropped on both. Beside a truncated student text, the
    teacher's ends with the block of the last shared chunk. Rows that leave the student nothing to learn are
    dropped.
    """
    student_table = ByteTable.from_tokenizer(student_tokenizer)
    teacher_table = ByteTable.from_tokenizer(teacher_tokenizer)
    student_side = tokenize_rows(rows, student_tokenizer, max_length=max_length, block_size=block_size)
    teacher_side = tokenize_rows(
        rows, teacher_tokenizer, max_length=teacher_max_length, block_size=block_size
    )
    examples = []
    both_sides = zip(student_side, teacher_side, strict=True)
    for number, ((student_ids, student_maskable), (teacher_ids, teacher_maskable)) in enumerate(
        both_sides, 1
    ):
        if not student_maskable.any():
            continue
        try:
            alignment = align_chunks(student_ids.numpy(), teacher_ids.numpy(), student_table, teacher_table)
        except ValueError as error:
            raise ValueError(
                f"cross_tokenizer_examples: row {number} (from 1) does not align. A tokenizer that "
                f"normalises text (NFC) needs text that is normalised: drop or normalise the row. {error}"
            ) from None
        student_chunks = torch.from_numpy(alignment.student_chunks).long()
        teacher_chunks = torch.from_numpy(alignment.teacher_chunks).long()
        kept = _keep_completion_chunks(student_chunks, teacher_chunks, student_maskable, teacher_maskable)
        student_chunks, teacher_chunks, num_chunks = kept
        whole = int(student_ids[-1]) == student_tokenizer.eos_token_id
        end = None if whole else _end_of_shared_blocks(alignment.teacher_chunks, block_size)
        teacher = TokenSequence(teacher_ids[:end], teacher_maskable[:end], teacher_chunks[:end])
        examples.append(
            Example(TokenSequence(student_ids, student_maskable, student_chunks), teacher, num_chunks)
        )
    return _checked(examples, max_length)


def _keep_completion_chunks(
    student_chunks: Int[Tensor, "L"],
    teacher_chunks: Int[Tensor, "M"],
    student_maskable: Bool[Tensor, "L"],
    teacher_maskable: Bool[Tensor, "M"],
) -> tuple[Int[Tensor, "L"], Int[Tensor, "M"], int]:
    """Renumbers the chunks that lie wholly in the completion from 0; the prompt's lose their id."""
    lost = [student_chunks[~student_maskable], teacher_chunks[~teacher_maskable]]
    num_chunks = 1 + int(max(student_chunks.max(), teacher_chunks.max()))
    keep = torch.ones(num_chunks + 1, dtype=torch.bool)  # The last entry stands for id −1.
    keep[torch.cat(lost)] = False
    keep[-1] = False
    new_ids = torch.where(keep, keep.long().cumsum(0) - 1, -1)
    return new_ids[student_chunks], new_ids[teacher_chunks], int(keep.sum())


def _end_of_shared_blocks(teacher_chunks: Int[np.ndarray, " M"], block_size: int) -> int:
    """Where the teacher's block of the last shared chunk ends; 0 without one."""
    shared = (teacher_chunks >= 0).nonzero()[0]
    return 0 if not len(shared) else int(-(-(shared[-1] + 1) // block_size) * block_size)


def _checked(examples: list[Example], max_length: int) -> list[Example]:
    if not examples:
        raise ValueError(
            f"prepare examples: no row has a completion within max_length={max_length} tokens. "
            "Raise data.max_length, or shorten the prompts."
        )
    return examples
