"""Layouts of block diffusion: noised views beside their clean text, and one text that is being decoded.

Legend: B sequences, L tokens of a text (padded), K noised views, N rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.batch import Layout
from tide.layouts.mask import CLEAN, block_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from tide.batch import NoisedTokens
    from tide.contract import Contract


def block_diffusion_layout(noised: NoisedTokens, contract: Contract) -> Layout:
    """`[x_t^1 | ... | x_t^K | x_0]` with repeated positions; counts every row in its own view.

    Row i is read from view `noised.row_views[i]`, which merges CompDemo's two passes as hidden rows.
    """
    _, num_views, length = noised.views.shape
    device = noised.token_ids.device
    position = torch.arange(length, device=device)
    segment = torch.tensor([*range(1, num_views + 1), CLEAN], device=device)
    num_copies = num_views + 1
    sequence, offset = noised.rows // length, noised.rows % length
    token_ids = torch.cat([noised.views.flatten(1), noised.token_ids], dim=1)
    return Layout(
        token_ids=token_ids,
        positions=position.repeat(num_copies).expand_as(token_ids),
        attends=block_mask(
            segment.repeat_interleave(length),
            (position // contract.block_size).repeat(num_copies),
            noised.valid.repeat(1, num_copies),
        ),
        rows=sequence * num_copies * length + noised.row_views * length + offset,
    )


def text_layout(
    token_ids: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    counted: Bool[Tensor, "B L"],
    contract: Contract,
) -> Layout:
    """One text, finished blocks before the one that is being denoised.

    Args:
        token_ids: texts start at position 0.
        valid: False on what is not part of the text, or not yet.
        counted: tokens whose hidden rows count.
        contract: of the model that decodes.
    """
    position = torch.arange(token_ids.shape[1], device=token_ids.device)
    return Layout(
        token_ids=token_ids,
        positions=position.expand_as(token_ids),
        attends=block_mask(torch.full_like(position, CLEAN), position // contract.block_size, valid),
        rows=counted.flatten().nonzero().flatten(),
    )
