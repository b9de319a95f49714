"""`triton` backend of token_logprob: forward, join (if programs share a row), backward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.launch import blocks_for, in_lockstep, on_device, splits_for, with_unit_columns
from tide_kernels.token_logprob.kernels import (
    RECORD,
    STATISTICS,
    token_logprob_bwd_kernel,
    token_logprob_fwd_kernel,
    token_logprob_join_kernel,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def forward(
    logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"], mask: Bool[Tensor, " N"] | None, vocab: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"]]:
    """(log_p, statistics) of all rows."""
    rows = with_unit_columns(logits)
    num_rows, device = rows.shape[0], rows.device
    blocks = blocks_for("token_logprob_fwd", device)
    splits = splits_for(num_rows, vocab, blocks, device)
    log_p = torch.empty(num_rows, dtype=torch.float32, device=device)
    statistics = torch.empty((num_rows, STATISTICS.value), dtype=torch.float32, device=device)
    if num_rows == 0:
        return log_p, statistics
    parts = None
    if splits > 1:
        parts = torch.empty((num_rows, splits, RECORD.value), dtype=torch.float32, device=device)
    arguments = (
        rows,
        token_ids.contiguous(),
        None if mask is None else mask.contiguous(),
        log_p,
        statistics,
        parts,
        rows.stride(0),
        vocab,
    )
    with on_device(device):
        token_logprob_fwd_kernel[(num_rows * splits,)](
            *arguments,
            HAS_MASK=mask is not None,
            LOCKSTEP=in_lockstep(rows),
            SPLITS=splits,
            BLOCK_V=blocks.block_v,
            **blocks.options(),
        )
        if splits > 1:
            token_logprob_join_kernel[(num_rows,)](
                *arguments, HAS_MASK=mask is not None, SPLITS=splits, num_warps=1
            )
    return log_p, statistics


def backward(
    logits: Float[Tensor, "N V"],
    token_ids: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"] | None,
    statistics: Float[Tensor, "N 4"],
    d_log_p: Float[Tensor, " N"],
    vocab: int,
    out: Float[Tensor, "N V"] | None,
    softcap: float = 0.0,
) -> Float[Tensor, "N V"]:
    """Gradient in the logits, written to `out` if given; `out` may be the logits.

    With a softcap, `logits` are the capped ones and the gradient is in the uncapped ones.
    """
    rows = with_unit_columns(logits)
    (num_rows, width), device = rows.shape, rows.device
    d_logits = torch.empty((num_rows, width), dtype=rows.dtype, device=device) if out is None else out
    target = with_unit_columns(d_logits)
    if num_rows > 0:
        blocks = blocks_for("token_logprob_bwd", device)
        splits = splits_for(num_rows, vocab, blocks, device)
        with on_device(device):
            token_logprob_bwd_kernel[(num_rows * splits,)](
                rows,
                token_ids.contiguous(),
                None if mask is None else mask.contiguous(),
                statistics,
                d_log_p.contiguous(),
                target,
                rows.stride(0),
                target.stride(0),
                vocab,
                width,
                1.0 / softcap if softcap else 0.0,
                num_rows,
                HAS_MASK=mask is not None,
                HAS_SOFTCAP=softcap != 0.0,
                LOCKSTEP=in_lockstep(rows, target),
                SPLITS=splits,
                BLOCK_V=blocks.block_v,
                **blocks.options(),
            )
    if target is not d_logits:
        d_logits.copy_(target)
    return d_logits
