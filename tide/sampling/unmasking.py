"""Rules that choose the masked positions to fill at a denoising step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def most_confident(
    confidence: Float[Tensor, "B S"], masked: Bool[Tensor, "B S"], count: Int[Tensor, "B"]
) -> Bool[Tensor, "B S"]:
    """The `count` masked positions of each row with the highest confidence; ties go to the earlier position.

    Args:
        confidence: [B, S], comparable within a row (a log-probability).
        masked: [B, S] bool; the candidates.
        count: [B]; number to take, or all candidates if there are fewer.
    Returns:
        [B, S] bool, a subset of `masked`.
    """
    ranked = torch.where(masked, confidence, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = ranked.argsort(dim=1)
    return (rank < count[:, None]) & masked


def tokens_per_step(num_masked: Int[Tensor, "B"], steps_left: int) -> Int[Tensor, "B"]:
    """An even share of the masked positions: ceil(masked / steps left)."""
    return (num_masked + steps_left - 1) // max(steps_left, 1)
