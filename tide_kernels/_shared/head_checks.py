"""Argument checks of hidden-in ops: hidden states and output heads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.backends import resolve_backend
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
    """Check that hidden states and head fit together; `side` prefixes the argument names."""
    check_matrix(function, f"{side}hidden", hidden)
    check_matrix(function, f"{side}weight", weight)
    if hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{function}: {side}hidden [N, d] and {side}weight [V, d] must share d; got "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}. Pass the weight of a torch.nn.Linear: one row "
            "per vocabulary entry."
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
    """Check scale and soft-cap of a head's logits."""
    check_constant(function, f"{side}logit_scale", logit_scale)
    check_constant(function, f"{side}softcap", softcap)
    # Comparisons: under torch.compile the number may be symbolic, which math.isfinite does not take.
    if not -math.inf < logit_scale < math.inf or logit_scale == 0.0:
        raise ValueError(
            f"{function}: {side}logit_scale must be finite and not 0; got {logit_scale}. It multiplies the "
            "logits; use 1 for none."
        )
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise ValueError(
            f"{function}: {side}softcap must be positive and finite; got {softcap}. Logits become "
            "softcap tanh(logits / softcap); use None for none."
        )
    return HeadOptions(float(logit_scale), float(softcap or 0.0))


def check_logits_dtype(
    function: str, logits_dtype: torch.dtype | None, dtype: torch.dtype, *sides: Float[Tensor, "..."]
) -> torch.dtype:
    """Check the dtype of the logits: the accumulation dtype, or half if the model is."""
    if logits_dtype is None or logits_dtype == dtype:
        return dtype
    models = {x.dtype for x in sides}
    if logits_dtype not in HALF_DTYPES or models != {logits_dtype}:
        raise ValueError(
            f"{function}: logits_dtype must be {dtype}, or the half dtype of all hidden states and heads; "
            f"got {logits_dtype} for {', '.join(sorted(map(str, models)))}. Omit it for {dtype}."
        )
    return logits_dtype


def autocast_dtype_of(device: torch.device) -> torch.dtype | None:
    """dtype that autocast rounds products to; None if it is off."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


def needed_gradients(*trained: Tensor | None) -> list[bool]:
    """True for each of hidden states, weight and bias that gets a gradient."""
    return [torch.is_grad_enabled() and x is not None and x.requires_grad for x in trained]


def linear_backend(
    function: str, backend: str, device: torch.device, dtype: torch.dtype, *, grouped: bool
) -> str:
    """Resolve the backend of a hidden-in op.

    With a group it is `torch`: the other backends do not exchange partial sums of a row.

    Raises:
        ValueError: the backend cannot run on the device, or not with a group.
    """
    if grouped and backend == "auto":
        return "torch"
    if grouped and backend != "torch":
        raise ValueError(f"{function}: vocab_group needs backend 'torch' or 'auto'; got {backend!r}.")
    return resolve_backend(function, backend, device, dtype)
