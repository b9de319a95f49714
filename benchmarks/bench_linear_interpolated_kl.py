"""linear_interpolated_kl: TIDAL from hidden states and heads (variant linear_tidal), and lambda = 1
(linear_forward_kl).

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_linear_interpolated_kl.py

Unavoidable products: both heads forward, 2 N V (d_s + d_t) operations; the gradients of hidden states and of
the student's head, 4 N V d_s. Least bytes, e bytes per number: forward reads hidden states and heads,
(N + V) (d_s + d_t) e; backward reads the student's again and writes their gradients, 2 (N + V) d_s e.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks import official_formulas
from benchmarks._cases import DIVERGENCE_HEADS, Case, linear_cases
from benchmarks._heads import head_pair, liger_jsd, linear_op, logits_of_both
from benchmarks._op import Tensors, backend_contestants
from benchmarks._pairs import TEMPERATURE
from benchmarks._session import report
from tide_kernels import linear_interpolated_kl
from tide_kernels.divergence.reference import interpolated_kl_reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements

FORWARD_KL = "linear_forward_kl"


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    name = "linear_interpolated_kl"
    tidal = linear_cases(name, "linear_tidal", device, DIVERGENCE_HEADS, shapes=shapes)
    if device == "cpu":
        # Forward KL is the same work for our backends; the peers that need it run on a GPU only.
        return tidal
    return tidal + linear_cases(name, FORWARD_KL, device, DIVERGENCE_HEADS, headline_only=True, shapes=shapes)


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors, generator = head_pair(case, device, near)
    if case.variant == FORWARD_KL:
        share = torch.ones(case.rows, device=device)
    else:
        share = 0.1 + 0.8 * torch.rand(case.rows, generator=generator, device=device)
    return {**tensors, "lambda_t": share}


def _of_logits(student: Tensor, teacher: Tensor, tensors: Tensors) -> Tensor:
    kl, _ = interpolated_kl_reference(student, teacher, tensors["lambda_t"], TEMPERATURE)
    return kl * TEMPERATURE**2


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    return _of_logits(*logits_of_both(tensors), tensors)


def _wide(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = logits_of_both(tensors)
    return _of_logits(student.float(), teacher.float(), tensors).mean()


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    share: float | Tensor = 1.0 if case.variant == FORWARD_KL else tensors["lambda_t"]
    result = linear_interpolated_kl(
        tensors["hidden"],
        tensors["weight"],
        tensors["teacher_hidden"],
        tensors["teacher_weight"],
        share,
        temperature=TEMPERATURE,
        backend=backend,
    )
    return result.loss * (TEMPERATURE**2 / case.rows)


def _official(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = logits_of_both(tensors)
    if case.variant == FORWARD_KL:
        return official_formulas.eager_forward_kl(student, teacher, tensors["mask"], TEMPERATURE)
    return official_formulas.eager_tidal(student, teacher, tensors["mask"], tensors["lambda_t"], TEMPERATURE)


def _liger_differs(case: Case) -> str | None:
    return None if case.variant == FORWARD_KL else "its JSD over hidden states has no interpolated target"


OP = linear_op(
    "linear_interpolated_kl",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    wide_loss=_wide,
    official=_official,
    contestants=(
        *liger_jsd(0.0, _liger_differs),
        *backend_contestants(_ours, reference_in_sweeps=False),
    ),
)


def bench_linear_interpolated_kl(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
