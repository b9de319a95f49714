"""reverse_kl: KL of the student's distribution from the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks import official_formulas
from benchmarks._cases import Case
from benchmarks._op import Tensors
from benchmarks.ops._vocabulary import (
    TEMPERATURE,
    divergence_loss,
    divergence_peers,
    inputs_of,
    log_p_peer,
    logits,
    prefix,
    sides,
    teacher_logits,
    vocabulary_ops,
)
from tide_kernels import linear_reverse_kl, reverse_kl
from tide_kernels.divergence.reference import reverse_kl_reference

if TYPE_CHECKING:
    from torch import Tensor


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    kl, _ = reverse_kl_reference(*logits(case, tensors), TEMPERATURE)
    return kl * TEMPERATURE**2


def _official(case: Case, tensors: Tensors) -> Tensor:
    return official_formulas.eager_reverse_kl(*logits(case, tensors), tensors["mask"], TEMPERATURE)


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    options: dict[str, Any] = {"temperature": TEMPERATURE, "backend": backend, **prefix(case)}
    op: Any = linear_reverse_kl if case.student_hidden else reverse_kl
    result = op(*sides(case, tensors), **options)
    mean: Tensor = result.loss / case.rows if case.student_hidden else result.mean()
    return mean * TEMPERATURE**2


def _target(case: Case, tensors: Tensors) -> Tensor:
    return torch.log_softmax(teacher_logits(case, tensors) / TEMPERATURE, dim=-1)


OPS = vocabulary_ops(
    "reverse_kl",
    ("reverse_kl",),
    inputs=inputs_of,
    row_losses=_row_losses,
    official=_official,
    ours=_ours,
    tide=divergence_loss,
    peers=(log_p_peer("liger_jsd", lambda package: package.LigerJSD(beta=1.0), _target),),
    hidden_peers=divergence_peers(1.0),
)
