"""`native` backend of token_logprob, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.launch import with_unit_columns
from tide_kernels._shared.native import Rows, on_huge_pages, pointer, run
from tide_kernels._shared.native_tokens import tokens_call

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def forward(
    logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"], mask: Bool[Tensor, " N"] | None, vocab: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"]]:
    """(log_p, statistics: the fields of LabelStatistics) of all rows."""
    num_rows, dtype = logits.shape[0], accumulation_dtype(logits)
    log_p, statistics = (torch.zeros(shape, dtype=dtype) for shape in ((num_rows,), (num_rows, 4)))
    read = _as_read(logits, token_ids, mask)
    call = tokens_call(*read, vocab)
    call.log_p, call.statistics = pointer(log_p), pointer(statistics)
    run("tide_token_forward", call, wide=dtype == torch.float64)
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
    if out is None:
        out = on_huge_pages(torch.empty(logits.shape, dtype=logits.dtype))
    target = with_unit_columns(out)
    read = _as_read(logits, token_ids, mask)
    upstream, statistics = d_log_p.to(statistics.dtype).contiguous(), statistics.contiguous()
    call = tokens_call(*read, vocab)
    call.gradient, call.softcap = Rows.of(target), softcap
    call.d_log_p, call.statistics = pointer(upstream), pointer(statistics)
    run("tide_token_backward", call, wide=statistics.dtype == torch.float64)
    return out if target is out else out.copy_(target)


def _as_read(logits: Tensor, token_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments as the library reads them, which must outlive the call."""
    return with_unit_columns(logits), token_ids.contiguous(), None if mask is None else mask.contiguous()
