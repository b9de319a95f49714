"""The attention mask of block diffusion, as one boolean function of positions.

Input layout `[x_t | x_0]`, with K noised views before the clean text: `[x_t^1 | ... | x_t^K | x_0]`.
Positions repeat. A noised block sees itself and the clean blocks before it; a clean block sees itself and the
clean blocks before it. x_0 attends to x_0 only, so sharing it between views changes nothing.

Source: Block Diffusion (arXiv 2503.09573) §3.1 and its appendix on the specialised attention mask.
Legend: B sequences, L tokens, K views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor


def block_diffusion_mask(
    valid: Bool[Tensor, "B L"], *, block_size: int, num_views: int = 1
) -> Bool[Tensor, "B 1 (K+1)L (K+1)L"]:
    """Which query (second to last axis) may attend to which key (last axis).

    Args:
        valid: [B, L] bool, False on padding. Padding is seen by nobody but itself (a row of −inf would be
            NaN).
        block_size: tokens per block; the last block may be shorter.
        num_views: K.
    Returns:
        [B, 1, (K+1)L, (K+1)L] bool.
    Raises:
        ValueError: block_size or num_views is below 1.
    """
    if block_size < 1 or num_views < 1:
        raise ValueError(
            f"block_diffusion_mask: block_size and num_views must be at least 1; got {block_size} and "
            f"{num_views}. The paper's models use blocks of 32 and one view (two under CompDemo)."
        )
    length = valid.shape[1]
    device = valid.device
    segment = torch.arange(num_views + 1, device=device).repeat_interleave(length)  # K is the clean text.
    block = (torch.arange(length, device=device) // block_size).repeat(num_views + 1)
    query_clean, key_clean = segment[:, None] == num_views, segment[None, :] == num_views
    same_view = (segment[:, None] == segment[None, :]) & (block[:, None] == block[None, :])
    earlier_clean = key_clean & (block[:, None] > block[None, :])
    clean_causal = query_clean & key_clean & (block[:, None] >= block[None, :])
    allowed = same_view | earlier_clean | clean_causal
    own = torch.eye(segment.numel(), dtype=torch.bool, device=device)
    key_valid = valid.repeat(1, num_views + 1)[:, None, None, :]
    return (allowed & key_valid) | own


def block_causal_mask(valid: Bool[Tensor, "B L"], *, block_size: int) -> Bool[Tensor, "B 1 L L"]:
    """The mask of one text on its own: a token sees its own block and the blocks before it (decoding)."""
    block = torch.arange(valid.shape[1], device=valid.device) // block_size
    allowed = block[:, None] >= block[None, :]
    own = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return (allowed & valid[:, None, None, :]) | own
