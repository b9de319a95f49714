"""Masks: of tokens, of whole chunks, on the teacher's side so that chunks stay whole, and CompDemo's split.

Source: TIDE (arXiv 2604.26951) §2.
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
    """Mask every token of the loss mask independently, with the probability of time t."""
    noise = torch.rand(tokens.token_ids.shape, generator=generator)
    return (noise < masking_probability(t)[:, None]) & tokens.loss_mask


def chunk_consistent_mask(
    tokens: TokenBatch, num_chunks: int, t: Float[Tensor, "B"], *, generator: torch.Generator
) -> Bool[Tensor, "B L"]:
    """Mask whole chunks with the probability of time t, and tokens outside a chunk independently.

    Every token is masked with probability t exactly, which keeps the weight 1/t right. (Masking a chunk when
    any of its tokens is drawn would raise the mask rate above t and inflate the cross-entropy.)
    """
    token_noise = torch.rand(tokens.token_ids.shape, generator=generator)
    chunk_noise = torch.rand((tokens.token_ids.shape[0], max(num_chunks, 1)), generator=generator)
    in_chunk = tokens.chunks >= 0
    noise = torch.where(in_chunk, chunk_noise.gather(1, tokens.chunks.clamp_min(0)), token_noise)
    return (noise < masking_probability(t)[:, None]) & tokens.loss_mask


def touched_chunks(
    masked: Bool[Tensor, "B L"], chunks: Int[Tensor, "B L"], num_chunks: int
) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Chunks with any masked token, and chunks with all tokens masked; neither for a chunk without tokens."""
    shape = (chunks.shape[0], num_chunks + 1)  # column C takes the tokens outside any chunk
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
    """Mask the teacher's side: every chunk of `hidden_chunks` whole, tokens outside a chunk at random.

    The teacher's noised blocks then show no byte of a chunk that the student has to predict, and its chunk
    likelihoods are of whole chunks. Blocks count tokens, so the clean text before a chunk may end at another
    byte on either side.
    """
    at_random = random_mask(teacher, t, generator=generator)
    if hidden_chunks.shape[1] == 0:
        return at_random
    of_chunk = hidden_chunks.gather(1, teacher.chunks.clamp_min(0))
    return torch.where(teacher.chunks >= 0, of_chunk, at_random)


def complementary_views(
    token_ids: Int[Tensor, "B L"],
    masked: Bool[Tensor, "B L"],
    *,
    mask_id: int,
    demo_ratio: float = 0.5,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "B 2 L"], Int[Tensor, "B L"]]:
    """CompDemo: two views of a noised text that reveal complementary parts of its masked set.

    The masked set is split at random into A (each token with probability `demo_ratio`) and B. View 0 reveals
    A and predicts B; view 1 reveals B and predicts A.

    Returns:
        views [B, 2, L], and [B, L] int64, the view that predicts each masked token.
    Raises:
        ValueError: demo_ratio is outside (0, 1).
    """
    if not 0 < demo_ratio < 1:
        raise ValueError(
            f"complementary_views: demo_ratio must be in (0, 1); got {demo_ratio}. 0.5 makes equal halves."
        )
    in_a = (torch.rand(masked.shape, generator=generator) < demo_ratio) & masked
    in_b = masked & ~in_a
    views = torch.stack([token_ids.masked_fill(in_b, mask_id), token_ids.masked_fill(in_a, mask_id)], dim=1)
    return views, in_a.long()
