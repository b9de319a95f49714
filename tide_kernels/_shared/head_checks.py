"""Argument rules of hidden-in ops: hidden states and the head that makes logits of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import (
    check_constant,
    check_frozen,
    check_matrix,
    check_same_length,
    check_tensor,
)
from tide_kernels._shared.head import HALF_DTYPES, HeadOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def check_head(
    function: str,
    side: str,
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    *,
    frozen: bool,
) -> None:
    """Hidden states and a head that fit together; `side` is the prefix of the arguments' names."""
    check_matrix(function, f"{side}hidden", hidden)
    check_matrix(function, f"{side}weight", weight)
    if hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{function}: {side}hidden [N, d] and {side}weight [V, d] must share d; got "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}. Pass the head as torch.nn.Linear stores it, "
            "one row per token."
        )
    if weight.device != hidden.device:
        raise ValueError(
            f"{function}: {side}weight is on {weight.device}, {side}hidden on {hidden.device}; move one of "
            "them."
        )
    if bias is not None:
        check_tensor(function, f"{side}bias", bias)
        if bias.dim() != 1 or not bias.is_floating_point():
            raise ValueError(
                f"{function}: {side}bias must be floating [V]; got {bias.dtype} {tuple(bias.shape)}."
            )
        check_same_length(function, f"{side}bias", bias, weight.shape[0], hidden.device)
    if frozen:
        for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
            check_frozen(function, f"{side}{name}", tensor)


def check_head_options(function: str, side: str, logit_scale: float, softcap: float | None) -> HeadOptions:
    """Scale and cap of a head's logits."""
    check_constant(function, f"{side}logit_scale", logit_scale)
    check_constant(function, f"{side}softcap", softcap)
    # Comparisons: under torch.compile a number that changed is symbolic, and math.isfinite takes no such.
    if not -math.inf < logit_scale < math.inf or logit_scale == 0.0:
        raise ValueError(
            f"{function}: {side}logit_scale must be finite and not 0; got {logit_scale}. It multiplies the "
            "logits: 1 leaves them as they are."
        )
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise ValueError(
            f"{function}: {side}softcap must be positive and finite; got {softcap}. Logits become "
            "softcap tanh(logits / softcap); None leaves them as they are."
        )
    return HeadOptions(float(logit_scale), float(softcap or 0.0))


def check_logits_dtype(
    function: str, logits_dtype: torch.dtype | None, dtype: torch.dtype, *sides: Float[Tensor, "..."]
) -> torch.dtype:
    """The dtype of the logits in flight: of accumulation, or half where the model is."""
    if logits_dtype is None or logits_dtype == dtype:
        return dtype
    models = {x.dtype for x in sides}
    if logits_dtype not in HALF_DTYPES or models != {logits_dtype}:
        raise ValueError(
            f"{function}: logits_dtype must be {dtype}, or the half type of hidden states and heads alike; "
            f"got {logits_dtype} for {', '.join(sorted(map(str, models)))}. Leave it out for {dtype}."
        )
    return logits_dtype
