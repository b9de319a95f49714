"""`native` backend of token_logprob and token_scores: the call of csrc/cpu/tokens.h."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.launch import with_unit_columns
from tide_kernels._shared.native import Rows, on_huge_pages, pointer, run

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class _Call(ctypes.Structure):
    """`tide_tokens`."""

    _fields_ = (
        *((name, Rows) for name in ("logits", "gradient")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "token_ids",
                "mask",
                "d_log_p",
                "log_p",
                "statistics",
                "best",
                "entropy",
                "margin",
            )
        ),
        *((name, ctypes.c_int64) for name in ("num_rows", "vocab", "width")),
        ("softcap", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("num_threads", "unused")),
    )


def token_logprob_native_forward(
    logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"], mask: Bool[Tensor, " N"] | None, vocab: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"]]:
    """(log_p, statistics: the fields of LabelStatistics) of all rows."""
    num_rows, dtype = logits.shape[0], accumulation_dtype(logits)
    log_p, statistics = (torch.zeros(shape, dtype=dtype) for shape in ((num_rows,), (num_rows, 4)))
    read = _as_read(logits, token_ids, mask)
    call = _call(*read, vocab)
    call.log_p, call.statistics = pointer(log_p), pointer(statistics)
    run("tide_token_forward", call, wide=dtype == torch.float64)
    return log_p, statistics


def token_logprob_native_backward(
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
    call = _call(*read, vocab)
    call.gradient, call.softcap = Rows.of(target), softcap
    call.d_log_p, call.statistics = pointer(upstream), pointer(statistics)
    run("tide_token_backward", call, wide=statistics.dtype == torch.float64)
    return out if target is out else out.copy_(target)


def token_scores_native(
    logits: Float[Tensor, "N V"], vocab: int, dtype: torch.dtype
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Token ids, log_p, entropy and margin of all rows."""
    num_rows, logits = logits.shape[0], with_unit_columns(logits)
    token_ids = torch.empty(num_rows, dtype=torch.int64)
    log_p, entropy, margin = (torch.empty(num_rows, dtype=dtype) for _ in range(3))
    call = _call(logits, None, None, vocab)
    call.best, call.log_p = pointer(token_ids), pointer(log_p)
    call.entropy, call.margin = pointer(entropy), pointer(margin)
    run("tide_token_scores", call, wide=dtype == torch.float64)
    return token_ids, log_p, entropy, margin


def _as_read(logits: Tensor, token_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments as the library reads them, which must outlive the call."""
    return with_unit_columns(logits), token_ids.contiguous(), None if mask is None else mask.contiguous()


def _call(logits: Tensor, token_ids: Tensor | None, mask: Tensor | None, vocab: int) -> _Call:
    """The call; what it points to must outlive it."""
    return _Call(
        logits=Rows.of(logits),
        token_ids=pointer(token_ids),
        mask=pointer(mask),
        num_rows=logits.shape[0],
        vocab=vocab,
        width=logits.shape[1],
        num_threads=torch.get_num_threads(),
    )
