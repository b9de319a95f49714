"""Padding, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tide.batch import Example, TokenSequence
from tide.data import Collator


def sequence(ids: list[int], *, prompt: int = 1, chunks: list[int] | None = None) -> TokenSequence:
    return TokenSequence(
        torch.tensor(ids, dtype=torch.long),
        torch.arange(len(ids)) >= prompt,
        torch.tensor(chunks if chunks is not None else [-1] * len(ids), dtype=torch.long),
    )


def test_two_sides_by_hand():
    examples = [
        Example(sequence([5, 6, 7], chunks=[-1, 0, 1]), sequence([8, 9], chunks=[0, 1], prompt=0), 2),
        Example(sequence([4], prompt=0, chunks=[0]), sequence([3, 2, 1], chunks=[-1, 0, 0]), 1),
    ]
    batch = Collator(student_pad_id=50, teacher_pad_id=60, pad_to_multiple_of=4)(examples)
    student, teacher = batch.student, batch.teacher
    assert student.token_ids.tolist() == [[5, 6, 7, 50], [4, 50, 50, 50]]
    assert student.valid.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert student.loss_mask.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert student.chunks.tolist() == [[-1, 0, 1, -1], [0, -1, -1, -1]]
    assert teacher.token_ids.tolist() == [[8, 9, 60, 60], [3, 2, 1, 60]]
    assert teacher.valid.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert teacher.loss_mask.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert teacher.chunks.tolist() == [[0, 1, -1, -1], [-1, 0, 0, -1]]
    assert batch.chunk_exists.tolist() == [[True, True], [True, False]]
    for side in (student, teacher):
        dtypes = [getattr(side, field.name).dtype for field in dataclasses.fields(side)]
        assert dtypes == [torch.int64, torch.bool, torch.bool, torch.int64]
    assert batch.chunk_exists.dtype == torch.bool


@pytest.mark.parametrize(
    ("longest", "multiple", "length"), [(5, 1, 5), (5, 4, 8), (8, 4, 8), (9, 4, 12), (1, 32, 32)]
)
def test_lengths_are_whole_blocks(longest, multiple, length):
    batch = Collator(student_pad_id=0, pad_to_multiple_of=multiple)(
        [Example(sequence([1] * longest)), Example(sequence([1]))]
    )
    assert batch.student.token_ids.shape == (2, length)
    assert batch.student.valid.sum(1).tolist() == [longest, 1]


def test_no_chunks_is_a_width_of_zero():
    batch = Collator(student_pad_id=0)([Example(sequence([1, 2])), Example(sequence([1]))])
    assert batch.chunk_exists.shape == (2, 0) and batch.chunk_exists.dtype == torch.bool


def test_the_teachers_side_is_there_when_every_example_has_one():
    both, alone = Example(sequence([1, 2]), sequence([1, 2])), Example(sequence([3]))
    assert Collator(student_pad_id=0, teacher_pad_id=0)([both, both]).teacher is not None
    assert Collator(student_pad_id=0, teacher_pad_id=0)([both, alone]).teacher is None
    assert Collator(student_pad_id=0)([both, both]).teacher is None


def test_a_teachers_side_without_tokens_is_one_block_of_padding():
    example = Example(sequence([1, 2]), sequence([], chunks=[]))
    batch = Collator(student_pad_id=0, teacher_pad_id=7, pad_to_multiple_of=3)([example])
    assert batch.teacher.token_ids.tolist() == [[7, 7, 7]]
    assert not batch.teacher.valid.any() and not batch.teacher.loss_mask.any()


def test_a_batch_moves_whole():
    example = Example(sequence([1, 2]), sequence([3]), 1)
    batch = Collator(student_pad_id=0, teacher_pad_id=0)([example]).on_device("meta")
    tensors = [batch.chunk_exists]
    for side in (batch.student, batch.teacher):
        tensors += [getattr(side, field.name) for field in dataclasses.fields(side)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 9
    assert Collator(student_pad_id=0)([example]).on_device("meta").teacher is None
