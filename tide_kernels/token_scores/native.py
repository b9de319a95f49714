"""`native` backend of token_scores, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.launch import with_unit_columns
from tide_kernels._shared.native import pointer, run
from tide_kernels._shared.native_tokens import tokens_call

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def forward(
    logits: Float[Tensor, "N V"], vocab: int
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Token ids, log_p, entropy and margin of all rows."""
    num_rows, dtype, logits = logits.shape[0], accumulation_dtype(logits), with_unit_columns(logits)
    token_ids = torch.empty(num_rows, dtype=torch.int64)
    log_p, entropy, margin = (torch.empty(num_rows, dtype=dtype) for _ in range(3))
    call = tokens_call(logits, None, None, vocab)
    call.best, call.log_p = pointer(token_ids), pointer(log_p)
    call.entropy, call.margin = pointer(entropy), pointer(margin)
    run("tide_token_scores", call, wide=dtype == torch.float64)
    return token_ids, log_p, entropy, margin
