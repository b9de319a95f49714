"""Definition of linear_token_logprob: the head in full, then log softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def linear_token_logprob_reference(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    token_ids: Int[Tensor, " N"],
    dtype: torch.dtype,
) -> Float[Tensor, " N"]:
    """log softmax(hidden @ weight.T + bias) at the token of every row, in ``dtype``."""
    # Autocast would round the product to a half type.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(
            hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )
    return torch.log_softmax(logits, dim=-1).gather(1, token_ids[:, None]).squeeze(1)
