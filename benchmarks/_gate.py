"""The correctness gate: a contestant that computes something else gets no time.

Every contestant runs once on the timed inputs and once on near-converged ones, at full size. Its loss is
compared with the definition in fp64 over all rows; its gradients over rows spread from first to last, so that
an offset overflow shows; a head's gradient over entries spread through the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks._cases import BOTH, Case
from benchmarks._op import Contestant, Loss, Op, Tensors, step

if TYPE_CHECKING:
    from torch import Tensor

# Rows per fp64 step, without and with heads; rows whose gradient is compared.
FP64_ROWS = {"cuda": (128, 512), "cpu": (8, 64)}
GRADIENT_ROWS = {"cuda": 64, "cpu": 16}

KINDS = ("near", "ordinary")  # the timed inputs last
# (loss, gradient) bounds. Of contestants that are not ours, on ordinary inputs: the same function in any
# precision.
SAME_FUNCTION = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.2}
# Of ours from logits. Gradient: a multiple of the rounding error of the exact one; in fp32, where arithmetic
# errs more than rounding, at least FP32_GRADIENT.
LOSS = 1e-5
FLOORS = 1.1
FP32_GRADIENT = {"ordinary": 2e-5, "near": 2e-4}
# Of ours from hidden states, where sums over rows and columns err more than the rounding of their result.
# The near bounds allow for the error of products of a few thousand terms beside a difference of 1e-2 nats:
# 1e-6 of a logit on fp32 units, 1e-5 on half-precision units, which round towards 0.
HIDDEN = {
    ("float32", "ordinary"): (1e-5, 2e-5),
    ("float32", "near"): (1e-4, 2e-3),
    ("half", "ordinary"): (1e-4, 5e-3),
    ("half", "near"): (1e-2, 3e-2),
}


class Errors(NamedTuple):
    """Errors against fp64.

    loss is relative; gradient is norm over norm, the largest over the inputs; floor is the error of that
    input's exact gradient rounded to its dtype. gradient and floor are None in mode forward.
    """

    loss: float
    gradient: float | None = None
    floor: float | None = None


class Truth(NamedTuple):
    """Loss over all rows; by input name some rows of its gradient: (indices, fp64 values)."""

    loss: float
    gradients: dict[str, tuple[Tensor, Tensor]]


def truth_of(op: Op, case: Case, tensors: Tensors) -> Truth:
    """Evaluate the definition in fp64 on the same rounded inputs, a few rows at a time."""
    first = tensors[op.trained[0]]
    num_rows, device = first.shape[0], first.device.type
    trained = op.trained if case.mode == BOTH else ()
    at = {name: _spread(tensors[name]) for name in trained}
    of_all = [name for name in trained if name in op.shared]
    of_rows = [name for name in trained if name not in op.shared]
    wide = {name: _wide(tensors[name], name in of_all) for name in op.shared}
    num_at_once = FP64_ROWS[device][bool(op.shared)]
    total = 0.0
    found: Tensors = {}
    with torch.set_grad_enabled(bool(of_all)):
        for start in range(0, num_rows, num_at_once):
            part = _fp64(tensors, slice(start, start + num_at_once), wide, [])
            loss = op.row_losses(case, part).sum()
            total += float(loss.detach())
            if of_all:
                made = torch.autograd.grad(loss / num_rows, [wide[name] for name in of_all])
                for name, gradient in zip(of_all, made, strict=True):
                    found[name] = found.get(name, 0.0) + gradient[at[name]]
    if of_rows:
        part = _fp64(tensors, at[of_rows[0]], wide, of_rows)
        loss = op.row_losses(case, part).sum() / num_rows
        found |= zip(of_rows, torch.autograd.grad(loss, [part[name] for name in of_rows]), strict=True)
    return Truth(total / num_rows, {name: (at[name], found[name]) for name in trained})


def errors_of(op: Op, loss: Loss, case: Case, tensors: Tensors, truth: Truth) -> Errors:
    """Run a contestant once and compare it with ``truth_of`` the same inputs."""
    value, gradients = step(op, loss, tensors, case.mode)
    scale = max(abs(truth.loss), torch.finfo(torch.float64).tiny)
    loss_error = abs(float(value) - truth.loss) / scale
    if not gradients:
        return Errors(loss_error)
    pairs = []
    for gradient, (rows, exact) in zip(gradients, truth.gradients.values(), strict=True):
        norm = float(exact.norm())
        rounded = exact.to(gradient.dtype).double()
        error = float((gradient[rows].double() - exact).norm()) / norm
        pairs.append((error, float((rounded - exact).norm()) / norm))
    # NaN counts as the largest.
    return Errors(loss_error, *max(pairs, key=lambda pair: (pair[0] != pair[0], pair[0])))


def verdict(contestant: Contestant, case: Case, errors: dict[str, Errors]) -> str | None:
    """Return the reason why a contestant is red, or None. errors: by kind."""
    for kind in KINDS if contestant.ours else ("ordinary",):
        if kind not in errors:
            continue
        error = errors[kind]
        loss_bound = gradient_bound = SAME_FUNCTION[case.dtype]
        if contestant.ours:
            loss_bound, gradient_bound = _bounds(case, kind, error.floor or 0.0)
        # `not <=`: NaN is red.
        if not error.loss <= loss_bound:
            return f"loss error {error.loss:.1e} over {loss_bound:.0e} on {kind} inputs"
        if error.gradient is not None and not error.gradient <= gradient_bound:
            return f"gradient error {error.gradient:.1e} over {gradient_bound:.1e} on {kind} inputs"
    return None


def _bounds(case: Case, kind: str, floor: float) -> tuple[float, float]:
    wide = case.dtype == "float32"
    if case.student_hidden:
        return HIDDEN["float32" if wide else "half", kind]
    return LOSS, max(FLOORS * floor, FP32_GRADIENT[kind] if wide else 0.0)


def _spread(x: Tensor) -> Tensor:
    """Indices of rows spread from first to last."""
    count = min(GRADIENT_ROWS[x.device.type], x.shape[0])
    rows: Tensor = torch.linspace(0, x.shape[0] - 1, count, device=x.device).round().long().unique()
    return rows


def _wide(x: Tensor, trained: bool) -> Tensor:
    x = x.detach()
    if x.is_floating_point():
        x = x.double()
    return x.requires_grad_(trained)


def _fp64(tensors: Tensors, rows: slice | Tensor, wide: Tensors, trained: list[str]) -> Tensors:
    """Those rows in fp64, with the inputs that all rows share."""
    return {
        name: wide[name] if name in wide else _wide(x.detach()[rows], name in trained)
        for name, x in tensors.items()
    }
