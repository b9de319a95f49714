"""Batches written out by hand, and hypothesis strategies for random ones."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tide.batch import Batch, NoisedBatch, NoisedTokens, TokenBatch

STUDENT_MASK, TEACHER_MASK = 90, 91
NO_CHUNK = -1


def token_batch(
    chunks: list[list[int]], *, prompt: int = 0, lengths: list[int] | None = None, first_id: int = 10
) -> TokenBatch:
    """Ids count up from `first_id`; the loss mask leaves out `prompt` tokens and padding past `lengths`."""
    ids = torch.tensor(chunks)
    num, length = ids.shape
    position = torch.arange(length).expand(num, -1)
    valid = position < torch.tensor(lengths if lengths is not None else [length] * num)[:, None]
    token_ids = torch.where(valid, first_id + torch.arange(num * length).view(num, length) % 70, 0)
    return TokenBatch(token_ids, valid, valid & (position >= prompt), torch.where(valid, ids, NO_CHUNK))


def plain_batch(num: int, length: int, *, prompt: int = 0) -> TokenBatch:
    """B sequences of L tokens in no chunk."""
    return token_batch([[NO_CHUNK] * length] * num, prompt=prompt)


def cross_batch(student: TokenBatch, teacher: TokenBatch) -> Batch:
    """Two tokenizations whose chunk ids run from 0 in every sequence."""
    num_chunks = torch.stack([student.chunks.amax(1), teacher.chunks.amax(1)]).amax(0) + 1
    return Batch(student, teacher, torch.arange(int(num_chunks.max()))[None] < num_chunks[:, None])


def same_batch(student: TokenBatch) -> Batch:
    """One tokenization on both sides."""
    return Batch(student, student, torch.zeros((student.token_ids.shape[0], 0), dtype=torch.bool))


@st.composite
def masks_with_chunks(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """masked [B, L], chunks [B, L] in any order with −1 between, and C, which no sequence need reach."""
    num, length = draw(st.integers(1, 4)), draw(st.integers(0, 12))
    num_chunks = draw(st.integers(0, 5))
    masked = [[draw(st.booleans()) for _ in range(length)] for _ in range(num)]
    chunks = [[draw(st.integers(-1, num_chunks - 1)) for _ in range(length)] for _ in range(num)]
    shape = (num, length)
    return torch.tensor(masked).reshape(shape).bool(), torch.tensor(chunks).reshape(shape).long(), num_chunks


@st.composite
def cross_batches(draw: st.DrawFn) -> Batch:
    """Chunks of 1-3 tokens on either side, strays between them, a prompt before and an end token after."""
    sides: list[list[list[int]]] = [[], []]
    prompt = draw(st.integers(0, 3))
    for _ in range(draw(st.integers(1, 3))):
        rows: list[list[int]] = [[NO_CHUNK] * prompt, [NO_CHUNK] * prompt]
        for chunk in range(draw(st.integers(0, 4))):
            for row in rows:
                row.extend([NO_CHUNK] * draw(st.integers(0, 1)) + [chunk] * draw(st.integers(1, 3)))
        for side, row in zip(sides, rows, strict=True):
            side.append([*row, NO_CHUNK])
    batches = []
    for side in sides:
        lengths = [len(row) for row in side]
        padded = [row + [NO_CHUNK] * (max(lengths) - len(row)) for row in side]
        batches.append(token_batch(padded, prompt=prompt, lengths=lengths))
    return cross_batch(*batches)


def noised_tokens(
    masked: torch.Tensor, *, views: int = 1, lengths: tuple[int, ...] | None = None, seed: int = 0
) -> NoisedTokens:
    """Random ids below STUDENT_MASK; of two views, each masks every other masked token of a sequence."""
    num, length = masked.shape
    token_ids = torch.randint(0, STUDENT_MASK, masked.shape, generator=torch.Generator().manual_seed(seed))
    valid = torch.arange(length) < torch.tensor(lengths or [length] * num)[:, None]
    view_of_token = (masked.cumsum(1) - 1).clamp_min(0) % views
    hidden = masked[:, None] & (view_of_token[:, None] == torch.arange(views)[:, None])
    rows = (masked & valid).flatten().nonzero().flatten()
    noised = token_ids[:, None].masked_fill(hidden, STUDENT_MASK)
    return NoisedTokens(token_ids, valid, noised, rows, view_of_token.flatten()[rows])


def masked_set(noised: NoisedTokens) -> torch.Tensor:
    """[B, L], True on the rows."""
    return (
        torch.zeros(noised.token_ids.numel(), dtype=torch.bool)
        .index_fill(0, noised.rows, True)
        .view_as(noised.token_ids)
    )


def in_active_chunks(noised: NoisedBatch) -> torch.Tensor:
    """[B, M], True on the teacher's tokens of chunks that count."""
    no_chunk_last = torch.nn.functional.pad(noised.chunk_mask, (0, 1))
    return no_chunk_last.gather(1, noised.teacher_chunks % no_chunk_last.shape[1])


def random_masked(num: int = 3, length: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.rand((num, length), generator=torch.Generator().manual_seed(seed)) < 0.5
