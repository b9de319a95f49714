"""interpolated_kl: TIDAL with one lambda per row (variant tidal), and lambda = 1 (variant forward_kl)."""

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
    vocabulary_ops,
)
from tide_kernels import interpolated_kl, linear_interpolated_kl
from tide_kernels.divergence.reference import interpolated_kl_reference, interpolated_target

if TYPE_CHECKING:
    from torch import Tensor


def _is_tidal(case: Case) -> bool:
    return case.variant.endswith("tidal")


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors = inputs_of(case, device, near)
    return tensors if _is_tidal(case) else tensors | {"lambda_t": torch.ones_like(tensors["lambda_t"])}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    kl, _ = interpolated_kl_reference(*logits(case, tensors), tensors["lambda_t"], TEMPERATURE)
    return kl * TEMPERATURE**2


def _official(case: Case, tensors: Tensors) -> Tensor:
    both, mask = logits(case, tensors), tensors["mask"]
    if _is_tidal(case):
        return official_formulas.eager_tidal(*both, mask, tensors["lambda_t"], TEMPERATURE)
    return official_formulas.eager_forward_kl(*both, mask, TEMPERATURE)


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    share: float | Tensor = tensors["lambda_t"] if _is_tidal(case) else 1.0
    options: dict[str, Any] = {"temperature": TEMPERATURE, "backend": backend, **prefix(case)}
    op: Any = linear_interpolated_kl if case.student_hidden else interpolated_kl
    result = op(*sides(case, tensors), share, **options)
    mean: Tensor = result.loss / case.rows if case.student_hidden else result.mean()
    return mean * TEMPERATURE**2


def _target(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = logits(case, tensors)
    if _is_tidal(case):
        return interpolated_target(student.detach(), teacher, tensors["lambda_t"], TEMPERATURE)
    return torch.log_softmax(teacher / TEMPERATURE, dim=-1)


def _differs(case: Case) -> str | None:
    return "it has no interpolated target" if _is_tidal(case) else None


OPS = vocabulary_ops(
    "interpolated_kl",
    ("tidal", "forward_kl"),
    inputs=_inputs,
    row_losses=_row_losses,
    official=_official,
    ours=_ours,
    tide=divergence_loss,
    peers=(
        log_p_peer(
            "liger_kl_div", lambda x: x.LigerKLDIVLoss(reduction="batchmean", log_target=True), _target
        ),
        log_p_peer("liger_jsd", lambda x: x.LigerJSD(beta=0.0), _target),
    ),
    hidden_peers=divergence_peers(0.0, _differs),
)
