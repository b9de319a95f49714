"""From values of rows to a scalar: weights, means over active rows, normalisers of the cross-entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tide.losses.options import check_choice
from tide_kernels import check_tensor, scalar_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float

NORMALIZERS = ("token", "sequence", "batch", "sum")


def check_rows(function: str, leading: torch.Size, **per_row: Tensor | None) -> None:
    """Refuse masks (named so) and token ids that do not fit rows of shape ``leading``."""
    for name, x in per_row.items():
        if x is None:
            continue
        check_tensor(function, name, x)
        if name == "mask" and x.dtype != torch.bool:
            raise ValueError(
                f"{function}: mask must be boolean; got {x.dtype}. Compare it with 0; weights go to weight=."
            )
        if x.shape != leading:
            raise ValueError(
                f"{function}: {name} must have the rows' shape {tuple(leading)}; got {tuple(x.shape)}. "
                "Pass one entry per row, without the vocabulary dimension."
            )


def flat_rows(x: Any, leading: torch.Size) -> Any:
    """A tensor with its leading dimensions merged into one; anything else as it is."""
    return x.reshape(math.prod(leading), *x.shape[len(leading) :]) if isinstance(x, Tensor) else x


def broadcast_rows(
    function: str, name: str, value: float | Tensor, shape: Sequence[int], device: torch.device
) -> Float[Tensor, " ..."]:
    """Spread a number, or a tensor that matches ``shape`` from the left, over rows of that shape.

    [B] on rows of [B, L] is one number per sequence, also where B = L. The result is fp32 (fp64 if the value
    is), an expanded view where possible. ``function`` and ``name`` are for the error.
    """
    dtype = torch.float64 if isinstance(value, Tensor) and value.dtype == torch.float64 else torch.float32
    if isinstance(value, (float, int)):
        spread = scalar_tensor(value, dtype, device)
    else:
        spread = torch.as_tensor(value, dtype=dtype, device=device)
    try:
        return spread.reshape((*spread.shape, *[1] * (len(shape) - spread.ndim))).expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"{function}: {name} must be a number, one per sequence or one per row, matched from the left to "
            f"rows of shape {tuple(shape)}; got {tuple(spread.shape)}. Reshape it, e.g. a [L] tensor to [1, "
            "L]."
        ) from error


def partial_mask(mask: Bool[Tensor, " ..."] | None) -> Bool[Tensor, " ..."] | None:
    """The mask, or None where a CPU mask is all True: then rows are read in place.

    On a GPU the test would stall the step, under torch.compile it would break the graph.
    """
    if mask is None or mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask
    return None if bool(mask.all()) else mask


def row_factors(
    function: str,
    name: str,
    value: float | Tensor | None,
    mask: Bool[Tensor, " ..."] | None,
    like: Tensor,
    reduction: str,
) -> Float[Tensor, " ..."]:
    """The factor of each row in the reduced loss: its weight, for ``mean`` over the number of active rows.

    The mean does not divide by the sum of the weights: a sequence with a small timestep weight counts for
    less, as in the published objective. The result has the shape of ``like``, a floating tensor with a number
    per row, and is fp64 if that or the weight is; an inactive row has exactly 0 even where its weight is NaN.
    """
    check_choice(function, "reduction", reduction, ("mean", "sum", "none"))
    factors = broadcast_rows(function, name, 1.0 if value is None else value, like.shape, like.device)
    if like.dtype == torch.float64:
        factors = factors.double()
    if mask is not None:
        factors = factors.masked_fill(~mask, 0.0)
    if reduction != "mean":
        return factors
    # An empty mask gives 0, not 0 / 0; clamping on the device does not wait for it.
    return factors / (max(like.numel(), 1) if mask is None else mask.sum().clamp_min(1))


def reduce_rows(
    function: str,
    name: str,
    value: float | Tensor | None,
    mask: Bool[Tensor, " ..."] | None,
    rows: Float[Tensor, " ..."],
    reduction: str,
) -> Float[Tensor, " ..."]:
    """Weighted rows, or their mean or sum. Arguments: `row_factors`."""
    rows = rows * row_factors(function, name, value, mask, rows, reduction)
    return rows if reduction == "none" else rows.sum()


def row_weights(
    masked: Bool[Tensor, "B L"],
    loss_mask: Bool[Tensor, "B L"],
    weight: float | Float[Tensor, " ..."] = 1.0,
    *,
    normalizer: str = "token",
    count: float | Tensor | None = None,
) -> Float[Tensor, "B L"]:
    """The factor of each position's negative log-likelihood in the masked-diffusion cross-entropy.

    With m the mask, a the loss mask (positions trained on, masked this time or not), w the weight and B
    sequences: ``token`` w m / sum(a), ``sequence`` w m / (B sum_L(a)), ``batch`` w m / B, ``sum`` w m. The
    denominators count a and not m: with w = 1/t the expected sum of w m is sum(a), so dividing by sum(m)
    would apply 1/t twice.

    Args:
        masked: True where the student's input was masked.
        loss_mask: True on the positions trained on; holds ``masked``.
        weight: one number, [B] or [B, L]; -alpha'(t) / (1 - alpha(t)), which is 1/t for the linear schedule.
        normalizer: ``token``, ``sequence``, ``batch`` or ``sum``.
        count: denominator over a larger batch (accumulation, several devices) in place of this batch's own:
            tokens of the loss mask for ``token``, sequences for ``sequence`` and ``batch``.

    Returns:
        [B, L] fp32 (fp64 if weight is), exactly 0 where not masked.

    Raises:
        ValueError: an unknown normalizer, shapes that differ, or masks that are not boolean.
    """
    check_choice("row_weights", "normalizer", normalizer, NORMALIZERS)
    check_tensor("row_weights", "masked", masked)
    check_tensor("row_weights", "loss_mask", loss_mask)
    if masked.dtype != torch.bool or loss_mask.dtype != torch.bool:
        raise ValueError(
            f"row_weights: masked and loss_mask must be boolean; got {masked.dtype} and {loss_mask.dtype}. "
            "Compare with the mask id or with 0 first."
        )
    if masked.shape != loss_mask.shape or (masked.ndim < 2 and normalizer in ("sequence", "batch")):
        raise ValueError(
            f"row_weights: masked and loss_mask must share [B, L]; got {tuple(masked.shape)} and "
            f"{tuple(loss_mask.shape)} with normalizer {normalizer!r}. Flattened rows: use 'token'."
        )
    weights = broadcast_rows("row_weights", "weight", weight, masked.shape, masked.device)
    weights = weights.masked_fill(~masked, 0.0)
    if normalizer == "sum":
        return weights
    if normalizer == "token":
        return weights / (loss_mask.sum().clamp_min(1) if count is None else count)
    sequences = max(masked.shape[0], 1) if count is None else count
    if normalizer == "batch":
        return weights / sequences
    per_sequence = loss_mask.sum(dim=tuple(range(1, loss_mask.ndim)), keepdim=True).clamp_min(1)
    return weights / (per_sequence * sequences)
