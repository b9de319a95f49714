"""linear_reverse_kl: KL of the student's distribution from the teacher's, from hidden states and heads.

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_linear_reverse_kl.py

Products and least bytes are those of `bench_linear_interpolated_kl.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import official_formulas
from benchmarks._cases import DIVERGENCE_HEADS, Case, linear_cases
from benchmarks._heads import head_pair, liger_jsd, linear_op, logits_of_both
from benchmarks._op import Tensors, backend_contestants
from benchmarks._pairs import TEMPERATURE
from benchmarks._session import report
from tide_kernels import linear_reverse_kl
from tide_kernels.divergence.reference import reverse_kl_reference

if TYPE_CHECKING:
    import torch
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    return linear_cases("linear_reverse_kl", "linear_reverse_kl", device, DIVERGENCE_HEADS, shapes=shapes)


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    return head_pair(case, device, near)[0]


def _of_logits(student: Tensor, teacher: Tensor) -> Tensor:
    kl, _ = reverse_kl_reference(student, teacher, TEMPERATURE)
    return kl * TEMPERATURE**2


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    return _of_logits(*logits_of_both(tensors))


def _wide(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = logits_of_both(tensors)
    return _of_logits(student.float(), teacher.float()).mean()


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    result = linear_reverse_kl(
        tensors["hidden"],
        tensors["weight"],
        tensors["teacher_hidden"],
        tensors["teacher_weight"],
        temperature=TEMPERATURE,
        backend=backend,
    )
    return result.loss * (TEMPERATURE**2 / case.rows)


def _official(case: Case, tensors: Tensors) -> Tensor:
    return official_formulas.eager_reverse_kl(*logits_of_both(tensors), tensors["mask"], TEMPERATURE)


OP = linear_op(
    "linear_reverse_kl",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    wide_loss=_wide,
    official=_official,
    contestants=(*liger_jsd(1.0), *backend_contestants(_ours, reference_in_sweeps=False)),
)


def bench_linear_reverse_kl(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
