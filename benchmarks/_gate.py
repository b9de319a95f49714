"""The correctness gate: no time for a contestant that computes something else.

Every contestant runs once on the inputs that will be timed and once on near-converged ones, at full size. Its
loss is compared with the definition in fp64 over all rows, its gradient over rows spread from the first to
the last, so that an offset that overflows shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks._cases import BOTH, Case
from benchmarks._op import Contestant, Loss, Op, Tensors, step

if TYPE_CHECKING:
    from torch import Tensor

# Rows at a time in fp64, and rows whose gradient is compared.
FP64_ROWS = {"cuda": 128, "cpu": 8}
GRADIENT_ROWS = {"cuda": 64, "cpu": 16}

# Bounds of the strict: relative loss; norm of the gradient's error over the gradient's, as a multiple of
# what rounding the exact gradient to its dtype costs, and in fp32, where arithmetic costs more than that,
# at least FP32_GRADIENT.
STRICT_LOSS = 1e-5
STRICT_FLOORS = 1.1
FP32_GRADIENT = {"ordinary": 2e-5, "near": 2e-4}
# Bounds of the others, on ordinary inputs: the same function, in whatever precision.
SAME_FUNCTION = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.2}


class Truth(NamedTuple):
    """Loss over all rows, and the gradient [k, width] of some, in fp64."""

    loss: float
    rows: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Errors:
    """Against fp64. loss: relative; gradient: norm over norm; floor: the same of the exact gradient, rounded.

    gradient and floor are None in mode forward.
    """

    loss: float
    gradient: float | None = None
    floor: float | None = None


def truth_of(op: Op, case: Case, tensors: Tensors) -> Truth:
    """The definition in fp64 on the same rounded inputs, a few rows at a time.

    Args:
        op: the operation.
        case: shape and mode.
        tensors: its inputs.
    """
    student = tensors["student"]
    num_rows, kind = student.shape[0], student.device.type
    total = 0.0
    with torch.no_grad():
        for start in range(0, num_rows, FP64_ROWS[kind]):
            part = _fp64(tensors, slice(start, start + FP64_ROWS[kind]))
            total += float(op.row_losses(case, part).sum())
    rows = torch.linspace(0, num_rows - 1, min(GRADIENT_ROWS[kind], num_rows), device=student.device)
    rows = rows.round().long().unique()
    if case.mode != BOTH:
        return Truth(total / num_rows, rows[:0], student.new_empty(0, dtype=torch.float64))
    part = _fp64(tensors, rows)
    (gradient,) = torch.autograd.grad(op.row_losses(case, part).sum() / num_rows, part["student"])
    return Truth(total / num_rows, rows, gradient)


def errors_of(loss: Loss, case: Case, tensors: Tensors, truth: Truth) -> Errors:
    """One run of a contestant, compared.

    Args:
        loss: of the inputs, scalar.
        case: for its mode.
        tensors: the inputs that truth is of.
        truth: from ``truth_of``.
    """
    value, gradient = step(loss, tensors, case.mode)
    scale = max(abs(truth.loss), torch.finfo(torch.float64).tiny)
    loss_error = abs(float(value) - truth.loss) / scale
    if gradient is None:
        return Errors(loss_error)
    exact = truth.gradient
    norm = float(exact.norm())
    rounded = exact.to(gradient.dtype).double()
    return Errors(
        loss_error,
        float((gradient[truth.rows].double() - exact).norm()) / norm,
        float((rounded - exact).norm()) / norm,
    )


def verdict(contestant: Contestant, dtype: str, errors: dict[str, Errors]) -> str | None:
    """Why the contestant is red, or None.

    Args:
        contestant: strict or not.
        dtype: of the inputs.
        errors: by ``ordinary`` and ``near``.
    """
    for name, error in errors.items():
        if contestant.strict:
            loss_bound = STRICT_LOSS
            gradient_bound = STRICT_FLOORS * (error.floor or 0.0)
            if dtype == "float32":
                gradient_bound = max(gradient_bound, FP32_GRADIENT[name])
        elif name == "ordinary":
            loss_bound = gradient_bound = SAME_FUNCTION[dtype]
        else:
            continue
        # Written so that NaN is red.
        if not error.loss <= loss_bound:
            return f"loss error {error.loss:.1e} over {loss_bound:.0e} on {name} inputs"
        if error.gradient is not None and not error.gradient <= gradient_bound:
            return f"gradient error {error.gradient:.1e} over {gradient_bound:.1e} on {name} inputs"
    return None


def _fp64(tensors: Tensors, rows: slice | Tensor) -> Tensors:
    part = {name: x.detach()[rows] for name, x in tensors.items()}
    part = {name: x.double() if x.is_floating_point() else x for name, x in part.items()}
    part["student"].requires_grad_()
    return part
