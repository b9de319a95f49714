"""Definition of token_logprob in plain torch: differentiable, exact in fp64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def token_logprob_reference(
    logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """log softmax(logits) at one entry per row, in the dtype of the logits."""
    return torch.log_softmax(logits, dim=-1).gather(-1, token_ids[:, None]).squeeze(-1)
