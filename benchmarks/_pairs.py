"""Code shared by the benchmarks on student and teacher logits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._cases import BOTH, Case
from benchmarks._op import Loss, Tensors, cut, normal, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TEMPERATURE = 2.0
# Standard deviation of teacher - student, nats, near convergence.
NEAR_NOISE = 1e-3


def logits_pair(case: Case, device: torch.device, near: bool) -> tuple[Tensors, torch.Generator]:
    """({student, teacher [N, width], all-true mask [N]}, the generator for further inputs).

    With `near` the teacher is the student plus noise of NEAR_NOISE, rounded to the dtype.
    """
    generator = seeded(device)
    student = normal(case.rows, case.width, case.dtype, generator)
    if near:
        teacher = normal(case.rows, case.width, case.dtype, generator, NEAR_NOISE).add_(student)
    else:
        teacher = normal(case.rows, case.width, case.dtype, generator)
    mask = torch.ones(case.rows, dtype=torch.bool, device=device)
    return {"student": student.requires_grad_(), "teacher": teacher, "mask": mask}, generator


def pair_bytes(case: Case) -> int:
    """Least bytes: 2 N V e forward; 2 N V e + N width e more backward, e bytes per logit."""
    size: int = getattr(torch, case.dtype).itemsize
    read = 2 * case.rows * case.vocab * size
    return read if case.mode != BOTH else 2 * read + case.rows * case.width * size


def liger_divergence(name: str, case: Case, target: Callable[[Case, Tensors], Tensor]) -> Loss:
    """A divergence of liger-kernel on log-probabilities in the logits' dtype, as documented.

    Args:
        name: ``kl_div`` (forward KL), ``jsd`` (beta = 0, forward KL) or ``jsd_reverse`` (beta = 1).
        case: shape.
        target: (case, inputs) to the target's log-probabilities [N, V].
    """
    package: Any = importlib.import_module("liger_kernel.transformers")
    if name == "kl_div":
        divergence = package.LigerKLDIVLoss(reduction="batchmean", log_target=True)
    else:
        divergence = package.LigerJSD(beta=1.0 if name == "jsd_reverse" else 0.0)

    def loss(tensors: Tensors) -> Tensor:
        log_p = torch.log_softmax(cut(case, tensors["student"]) / TEMPERATURE, dim=-1)
        value: Tensor = divergence(log_p, target(case, tensors)) * TEMPERATURE**2
        return value

    return loss
