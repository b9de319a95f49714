"""Mask rates, whole chunks, and what the teacher may still see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from tests.batches import cross_batches, masks_with_chunks, plain_batch, token_batch
from tide.masking import (
    chunk_consistent_mask,
    random_mask,
    teacher_chunk_mask,
    touched_chunk_mask,
    touched_chunks,
)

TIMES = (0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def five_sigma(rate: float, draws: int) -> float:
    return 5 * (rate * (1 - rate) / draws) ** 0.5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_sequence_is_masked_at_its_own_rate():
    length = 1 << 16
    t = torch.tensor(TIMES)
    rates = random_mask(plain_batch(len(TIMES), length), t, generator=generator()).double().mean(1)
    for rate, time in zip(rates.tolist(), TIMES, strict=True):
        assert abs(rate - time) <= five_sigma(time, length)


def test_tokens_are_masked_independently_of_each_other():
    draws = 40_000
    masked = random_mask(plain_batch(draws, 4), torch.full((draws,), 0.3), generator=generator()).double()
    both = (masked[:, :, None] * masked[:, None, :]).mean(0)
    for first in range(4):
        for second in range(4):
            expected = 0.3 if first == second else 0.09
            assert abs(float(both[first, second]) - expected) <= five_sigma(expected, draws)


@pytest.mark.parametrize("masking", ["tokens", "chunks", "consistent"])
def test_only_tokens_of_the_loss_mask_are_masked(masking):
    tokens = token_batch([[-1, -1, 0, 0, 1, -1], [-1, -1, 0, -1, -1, -1]], prompt=2, lengths=[6, 4])
    t = torch.ones(2)
    if masking == "tokens":
        masked = random_mask(tokens, t, generator=generator())
    elif masking == "chunks":
        masked = chunk_consistent_mask(tokens, 2, t, generator=generator())
    else:
        masked = touched_chunk_mask(tokens, 2, t, generator=generator())
    # At t = 1 the mask is the loss mask.
    assert masked.tolist() == [
        [False, False, True, True, True, True],
        [False, False, True, True, False, False],
    ]


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_chunks_are_masked_whole_and_each_token_at_rate_t(time):
    draws = 40_000
    chunks = [-1, 0, 0, 0, 0, 0, 1, -1, 2, 2]
    tokens = token_batch([chunks] * draws)
    masked = chunk_consistent_mask(tokens, 3, torch.full((draws,), time), generator=generator())
    for members in ([1, 2, 3, 4, 5], [8, 9]):
        assert torch.equal(masked[:, members].all(1), masked[:, members].any(1))
    # Masking a chunk as soon as one of its tokens is drawn would mask the chunk of five at 1 − (1 − t)⁵.
    for rate in masked.double().mean(0).tolist():
        assert abs(rate - time) <= five_sigma(time, draws)
    # One draw a chunk, and one a stray token: different ones are independent.
    pairs = masked[:, [0, 1, 6, 7]] & masked[:, [1, 6, 8, 0]]
    for rate in pairs.double().mean(0).tolist():
        assert abs(rate - time**2) <= five_sigma(time**2, draws)


def test_without_chunks_every_token_is_masked_by_itself():
    draws = 40_000
    masked = chunk_consistent_mask(
        plain_batch(draws, 3), 0, torch.full((draws,), 0.4), generator=generator()
    ).double()
    for rate, expected in ((masked.mean(0), 0.4), ((masked[:, :2].prod(1)).mean()[None], 0.16)):
        assert (rate - expected).abs().max() <= five_sigma(expected, draws)


@given(batch=cross_batches())
def test_consistent_masks_are_token_masks_with_their_chunks(batch):
    tokens, t = batch.student, torch.full((batch.student.token_ids.shape[0],), 0.4)
    drawn = random_mask(tokens, t, generator=generator(3)).tolist()
    masked = touched_chunk_mask(tokens, batch.chunk_exists.shape[1], t, generator=generator(3))
    for sequence, chunks in enumerate(tokens.chunks.tolist()):
        touched = {chunk for chunk, hit in zip(chunks, drawn[sequence], strict=True) if hit} - {-1}
        expected = [hit or chunk in touched for chunk, hit in zip(chunks, drawn[sequence], strict=True)]
        assert masked[sequence].tolist() == expected


@pytest.mark.parametrize("time", [0.05, 0.5])
def test_a_touched_chunk_is_masked_above_rate_t(time):
    draws, chunks = 40_000, [-1, 0, 0, 0, 1, 1, 2]
    masked = touched_chunk_mask(
        token_batch([chunks] * draws), 3, torch.full((draws,), time), generator=generator()
    )
    for token, chunk in enumerate(chunks):
        rate = 1 - (1 - time) ** (chunks.count(chunk) if chunk >= 0 else 1)
        assert abs(float(masked[:, token].double().mean()) - rate) <= five_sigma(rate, draws)


def test_touched_chunks_by_hand():
    chunks = torch.tensor([[0, 0, 1, -1, 2], [2, -1, 0, 0, 0]])
    masked = torch.tensor([[True, False, True, True, False], [True, True, False, True, False]])
    any_masked, all_masked = touched_chunks(masked, chunks, 4)
    assert any_masked.tolist() == [[True, True, False, False], [True, False, True, False]]
    assert all_masked.tolist() == [[False, True, False, False], [False, False, True, False]]


@given(case=masks_with_chunks())
def test_touched_chunks_are_those_of_a_plain_loop(case):
    masked, chunks, num_chunks = case
    any_masked, all_masked = touched_chunks(masked, chunks, num_chunks)
    assert any_masked.shape == all_masked.shape == (len(masked), num_chunks)
    for sequence in range(len(masked)):
        for chunk in range(num_chunks):
            inside = [
                m
                for m, c in zip(masked[sequence].tolist(), chunks[sequence].tolist(), strict=True)
                if c == chunk
            ]
            assert bool(any_masked[sequence, chunk]) == any(inside)
            assert bool(all_masked[sequence, chunk]) == (bool(inside) and all(inside))


@given(batch=cross_batches())
def test_the_teacher_hides_every_touched_chunk_whole_and_no_other(batch):
    t = torch.full((batch.student.token_ids.shape[0],), 0.5)
    student_masked = random_mask(batch.student, t, generator=generator(1))
    touched, _ = touched_chunks(student_masked, batch.student.chunks, batch.chunk_exists.shape[1])
    masked = teacher_chunk_mask(batch.teacher, touched, t, generator=generator(2))
    assert masked.shape == batch.teacher.token_ids.shape
    assert not (masked & ~batch.teacher.loss_mask).any()
    for sequence, chunks in enumerate(batch.teacher.chunks.tolist()):
        seen = set(batch.student.chunks[sequence][student_masked[sequence]].tolist()) - {-1}
        hidden = [chunk in seen for chunk in chunks]
        in_chunk = [chunk >= 0 for chunk in chunks]
        assert masked[sequence][in_chunk].tolist() == [h for h, c in zip(hidden, in_chunk, strict=True) if c]


def test_the_teachers_tokens_of_no_chunk_are_masked_at_rate_t():
    draws = 40_000
    teacher = token_batch([[-1, 0, -1, -1]] * draws, prompt=1)
    hidden = (torch.arange(draws) % 2 == 0)[:, None]
    masked = teacher_chunk_mask(teacher, hidden, torch.full((draws,), 0.3), generator=generator())
    assert not masked[:, 0].any()  # the prompt
    assert torch.equal(masked[:, 1], hidden[:, 0])
    for half in (masked[::2], masked[1::2]):  # whatever happens to the chunk beside them
        for rate in half[:, 2:].double().mean(0).tolist():
            assert abs(rate - 0.3) <= five_sigma(0.3, draws // 2)


def test_the_teacher_without_chunks_is_masked_at_rate_t():
    draws = 40_000
    teacher = plain_batch(draws, 2, prompt=1)
    none = torch.zeros((draws, 0), dtype=torch.bool)
    masked = teacher_chunk_mask(teacher, none, torch.full((draws,), 0.6), generator=generator())
    assert not masked[:, 0].any()
    assert abs(float(masked[:, 1].double().mean()) - 0.6) <= five_sigma(0.6, draws)
