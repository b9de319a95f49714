"""Masks: of tokens, of whole chunks, on the teacher's side so that chunks stay whole, and CompDemo's split.

Source: TIDE (arXiv 2604.26951) §2.
Legend: B sequences, L and M tokens on the student's and the teacher's side, C chunks, K views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.masking.schedule import masking_probability

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
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
    noise = shared_noise(tokens, num_chunks, generator=generator)
    return (noise < masking_probability(t)[:, None]) & tokens.loss_mask


def touched_chunk_mask(
    tokens: TokenBatch, num_chunks: int, t: Float[Tensor, "B"], *, generator: torch.Generator
) -> Bool[Tensor, "B L"]:
    """Draw tokens independently at time t, and mask chunks whole that hold a drawn one: the official way.

    A chunk of n tokens is then masked with `touched_probability(t, n)`, which is above t.
    """
    drawn = random_mask(tokens, t, generator=generator)
    touched, _ = touched_chunks(drawn, tokens.chunks, num_chunks)
    return (drawn | of_chunk(touched, tokens.chunks, outside=False)) & tokens.loss_mask


def shared_noise(tokens: TokenBatch, num_chunks: int, *, generator: torch.Generator) -> Float[Tensor, "B L"]:
    """Uniform noise, one draw for all tokens of a chunk and one for each token outside."""
    token_noise = torch.rand(tokens.token_ids.shape, generator=generator)
    chunk_noise = torch.rand((tokens.token_ids.shape[0], max(num_chunks, 1)), generator=generator)
    return torch.where(tokens.chunks >= 0, of_chunk(chunk_noise, tokens.chunks, outside=0.0), token_noise)


def of_chunk(
    values: Shaped[Tensor, "B C"], chunks: Int[Tensor, "B L"], *, outside: float
) -> Shaped[Tensor, "B L"]:
    """The value of each token's chunk; `outside` for tokens of none."""
    padded = torch.nn.functional.pad(values, (0, 1), value=outside)
    return padded.gather(1, torch.where(chunks >= 0, chunks, values.shape[1]))


def chunk_counts(
    counted: Bool[Tensor, "B L"], chunks: Int[Tensor, "B L"], num_chunks: int
) -> Float[Tensor, "B C"]:
    """How many tokens of each chunk are counted."""
    slot = torch.where(chunks >= 0, chunks, num_chunks)  # column C takes the tokens outside any chunk
    sums = torch.zeros((chunks.shape[0], num_chunks + 1)).scatter_add_(1, slot, counted.float())
    return sums[:, :num_chunks]


def touched_chunks(
    masked: Bool[Tensor, "B L"], chunks: Int[Tensor, "B L"], num_chunks: int
) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Chunks with any masked token, and chunks with all tokens masked; neither for a chunk without tokens."""
    num_tokens = chunk_counts(torch.ones_like(masked), chunks, num_chunks)
    num_masked = chunk_counts(masked, chunks, num_chunks)
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
    return torch.where(teacher.chunks >= 0, of_chunk(hidden_chunks, teacher.chunks, outside=False), at_random)


def complementary_masks(
    masked: Bool[Tensor, "B L"], noise: Float[Tensor, "B L"], *, demo_ratio: float = 0.5
) -> Bool[Tensor, "B 2 L"]:
    """CompDemo: what two views hide, which reveal complementary parts of the masked set.

    The masked set is split into A, the tokens whose noise is below `demo_ratio`, and B. View 0 reveals A and
    predicts B; view 1 reveals B and predicts A.

    Args:
        masked: the masked set.
        noise: uniform in [0, 1); tokens that share it stay together.
        demo_ratio: expected share of A.
    Raises:
        ValueError: demo_ratio is outside (0, 1).
    """
    if not 0 < demo_ratio < 1:
        raise ValueError(
            f"complementary_masks: demo_ratio must be in (0, 1); got {demo_ratio}. 0.5 makes equal halves."
        )
    in_a = noise < demo_ratio
    return torch.stack([masked & ~in_a, masked & in_a], dim=1)


def clip_to_rates(
    hidden: Bool[Tensor, "B K L"],
    noise: Float[Tensor, "B K L"],
    loss_mask: Bool[Tensor, "B L"],
    rate: Float[Tensor, "B K"],
    rates: tuple[float, float],
) -> Bool[Tensor, "B K L"]:
    """Bring the expected mask rate of every view into a range, to its nearest end.

    Above the range, hidden tokens are revealed at random; below it, further ones of the loss mask are hidden.

    Args:
        hidden: what each view hides.
        noise: uniform in [0, 1); tokens that share it stay together.
        loss_mask: the tokens whose rate counts.
        rate: expected share of the loss mask that a view hides.
        rates: the lowest and the highest rate.
    """
    low, high = rates
    keeping, adding = high / rate, (low - rate) / (1 - rate)  # at least 1 and at most 0 within the range
    added = (noise < adding[..., None]) & loss_mask[:, None]
    return torch.where(hidden, noise < keeping[..., None], added)
