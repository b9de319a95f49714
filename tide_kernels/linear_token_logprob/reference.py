"""Definition of linear_token_logprob: the head in full, then the definition of token_logprob."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.head import head_logits
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide_kernels._shared.head import HeadOptions


def linear_token_logprob_reference(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    token_ids: Int[Tensor, " N"],
    options: HeadOptions,
    logits_dtype: torch.dtype,
    dtype: torch.dtype,
) -> Float[Tensor, " N"]:
    """log softmax of the head's logits at the token of every row, in `dtype`."""
    logits = head_logits(hidden, weight, bias, options, dtype).to(logits_dtype).to(dtype)
    return token_logprob_reference(logits, token_ids)
