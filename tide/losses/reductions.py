"""From values of rows to a scalar: weights, means over active rows, normalisers of the cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tide_kernels import check_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float

REDUCTIONS = ("mean", "sum", "none")
NORMALIZERS = ("token", "sequence", "batch", "sum")


def check_reduction(function: str, reduction: str, *, rows_available: bool = True) -> None:
    """Refuse an unknown reduction, and ``none`` where losses of rows do not exist."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{function}: reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}.")
    if reduction == "none" and not rows_available:
        raise ValueError(
            f"{function}: reduction 'none' is not available: the gradient is made in the forward pass, which "
            "needs the weight of every row. Pass weight= (and ce_weight=) with reduction='sum', or use the "
            "loss that takes logits."
        )


def check_normalizer(function: str, normalizer: str) -> None:
    """Refuse an unknown normalizer of the cross-entropy."""
    if normalizer not in NORMALIZERS:
        raise ValueError(
            f"{function}: normalizer must be one of {', '.join(NORMALIZERS)}; got {normalizer!r}."
        )


def broadcast_rows(
    function: str, name: str, value: float | Tensor, shape: Sequence[int], device: torch.device
) -> Float[Tensor, " ..."]:
    """Spread a number, or a tensor that matches ``shape`` from the left, over rows of that shape.

    [B] on rows of [B, L] is one number per sequence, also where B = L. The result is fp32 (fp64 if the value
    is), an expanded view where possible. ``function`` and ``name`` are for the error.
    """
    dtype = torch.float64 if isinstance(value, Tensor) and value.dtype == torch.float64 else torch.float32
    spread = torch.as_tensor(value, dtype=dtype, device=device)
    fits = spread.ndim <= len(shape) and all(
        size in (1, rows) for size, rows in zip(spread.shape, shape, strict=False)
    )
    if not fits:
        raise ValueError(
            f"{function}: {name} must be a number, one per sequence or one per row, matched from the left to "
            f"rows of shape {tuple(shape)}; got {tuple(spread.shape)}. Reshape it, e.g. a [L] tensor to [1, "
            "L]."
        )
    return spread.reshape((*spread.shape, *[1] * (len(shape) - spread.ndim))).expand(shape)


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
    less, as in the published objective.

    Args:
        function, name: caller and weight argument, for the error.
        value: the weight, as `broadcast_rows` takes it, or None for 1.
        mask: shape of ``like``, True where a row counts, or None for all.
        like: any floating tensor of the rows' shape, on their device.
        reduction: ``none`` gives the factors of ``sum``.

    Returns:
        Shape of ``like``, fp32 (fp64 if weight or ``like`` is). An inactive row has exactly 0 even where its
        weight is NaN.
    """
    factors = broadcast_rows(function, name, 1.0 if value is None else value, like.shape, like.device)
    if like.dtype == torch.float64:
        factors = factors.double()
    if mask is not None:
        factors = factors.masked_fill(~mask, 0.0)
    if reduction != "mean":
        return factors
    # An empty mask gives 0, not 0 / 0; clamping on the device does not wait for it.
    return factors / (max(like.numel(), 1) if mask is None else mask.sum().clamp_min(1))


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
    check_normalizer("row_weights", normalizer)
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
