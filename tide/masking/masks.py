"""Which tokens are masked: independently, by whole chunks, and on the teacher's side so that chunks stay
whole.

Legend: B sequences, L and M tokens on the student's and the teacher's side, C chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.masking.schedule import masking_probability

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide.batch import TokenBatch


def random_mask(
    tokens: TokenBatch, t: Float[Tensor, "B"], *, generator: torch.Generator
) -> Bool[Tensor, "B L"]:
    """Masks every token of the loss mask by itself, with the probability of time t."""
    noise = torch.rand(tokens.token_ids.shape, generator=generator)
    return (noise < masking_probability(t)[:, None]) & tokens.loss_mask


def chunk_consistent_mask(
    tokens: TokenBatch, num_chunks: int, t: Float[Tensor, "B"], *, generator: torch.Generator
) -> Bool[Tensor, "B L"]:
    """Masks whole chunks with the probability of time t; tokens outside a chunk by themselves.

    Every token is masked with probability t exactly, so the weight 1/t stays right. (Masking a chunk as soon
    as one of its tokens is drawn raises the mask rate above t and inflates the cross-entropy.)
    """
    token_noise = torch.rand(tokens.token_ids.shape, generator=generator)
    chunk_noise = torch.rand((tokens.token_ids.shape[0], max(num_chunks, 1)), generator=generator)
    in_chunk = tokens.chunks >= 0
    noise = torch.where(in_chunk, chunk_noise.gather(1, tokens.chunks.clamp_min(0)), token_noise)
    return (noise < masking_probability(t)[:, None]) & tokens.loss_mask


def touched_chunks(
    masked: Bool[Tensor, "B L"], chunks: Int[Tensor, "B L"], num_chunks: int
) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Chunks with any masked token, and chunks whose tokens are all masked.

    Returns:
        (any_masked, all_masked), [B, C] bool. A chunk without tokens has neither.
    """
    shape = (chunks.shape[0], num_chunks + 1)  # Column C takes the tokens of no chunk.
    slot = torch.where(chunks >= 0, chunks, num_chunks)
    num_tokens = torch.zeros(shape).scatter_add_(1, slot, torch.ones(chunks.shape))[:, :num_chunks]
    num_masked = torch.zeros(shape).scatter_add_(1, slot, masked.float())[:, :num_chunks]
    return num_masked > 0, (num_masked == num_tokens) & (num_tokens > 0)


def teacher_chunk_mask(
    teacher: TokenBatch,
    hidden_chunks: Bool[Tensor, "B C"],
    t: Float[Tensor, "B"],
    *,
    generator: torch.Generator,
) -> Bool[Tensor, "B M"]:
    """Masks, on the teacher's side, every chunk in `hidden_chunks` whole; other tokens at random.

    The teacher's noised blocks then show no byte of a chunk that the student has to predict, and its chunk
    likelihoods are of whole chunks. The clean blocks before a block end at other bytes on either side, since
    blocks count tokens: the two models may read a little more or less of the text before a chunk.
    """
    stray = torch.rand(teacher.token_ids.shape, generator=generator) < masking_probability(t)[:, None]
    if hidden_chunks.shape[1] == 0:
        return stray & teacher.loss_mask
    of_chunk = hidden_chunks.gather(1, teacher.chunks.clamp_min(0))
    return torch.where(teacher.chunks >= 0, of_chunk, stray & teacher.loss_mask)
