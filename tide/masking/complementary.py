"""CompDemo's complementary split of the masked set. Source: TIDE (arXiv 2604.26951) §2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


def complementary_views(
    token_ids: Int[Tensor, "B L"],
    masked: Bool[Tensor, "B L"],
    *,
    mask_id: int,
    demo_ratio: float = 0.5,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "B 2 L"], Int[Tensor, "B L"]]:
    """Two views of a noised text that reveal complementary parts of its masked set M.

    M is split at random into A (a share `demo_ratio`, independently per token) and B. View 0 reveals A, so
    its outputs count on B; view 1 reveals B, so its outputs count on A. No token is predicted by a view that
    shows it.

    Args:
        token_ids: [B, L] clean ids.
        masked: [B, L] bool, M.
        mask_id: the mask token's id.
        demo_ratio: expected share of M in A, in (0, 1).
        generator: a CPU generator.
    Returns:
        views [B, 2, L] int64, and [B, L] int64: the view that predicts each masked token.
    Raises:
        ValueError: demo_ratio is outside (0, 1).
    """
    if not 0 < demo_ratio < 1:
        raise ValueError(
            f"complementary_views: demo_ratio must be in (0, 1); got {demo_ratio}. One half splits "
            "the masked set evenly."
        )
    in_a = (torch.rand(masked.shape, generator=generator) < demo_ratio) & masked
    in_b = masked & ~in_a
    views = torch.stack([token_ids.masked_fill(in_b, mask_id), token_ids.masked_fill(in_a, mask_id)], dim=1)
    return views, in_a.long()
