"""reverse_kl: KL of the student's distribution from the teacher's.

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_reverse_kl.py

Least bytes, e bytes per logit: forward reads both sides, 2 N V e; backward reads both again and writes the
gradient over its whole width, 2 N V e + N width e. In bf16 at width = V: 4 and 10 bytes per element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks import official_formulas
from benchmarks._cases import Case, logits_cases
from benchmarks._op import (
    Op,
    Tensors,
    backend_contestants,
    compiled,
    cut,
    eager,
    liger,
    prefix,
    reference_loss,
)
from benchmarks._pairs import TEMPERATURE, liger_divergence, logits_pair, pair_bytes
from benchmarks._session import report
from tide_kernels import reverse_kl
from tide_kernels.divergence.reference import reverse_kl_reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    return logits_cases("reverse_kl", "reverse_kl", device, shapes=shapes)


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    return logits_pair(case, device, near)[0]


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = cut(case, tensors["student"]), cut(case, tensors["teacher"])
    kl, _ = reverse_kl_reference(student, teacher, TEMPERATURE)
    return kl * TEMPERATURE**2


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    kl = reverse_kl(
        tensors["student"],
        tensors["teacher"],
        temperature=TEMPERATURE,
        backend=backend,
        vocab_size=prefix(case),
    )
    return kl.mean() * TEMPERATURE**2


def _official(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = cut(case, tensors["student"]), cut(case, tensors["teacher"])
    return official_formulas.eager_reverse_kl(student, teacher, tensors["mask"], TEMPERATURE)


def _target(case: Case, tensors: Tensors) -> Tensor:
    return torch.log_softmax(cut(case, tensors["teacher"]) / TEMPERATURE, dim=-1)


OP = Op(
    name="reverse_kl",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    least_bytes=pair_bytes,
    contestants=(
        eager(_official),
        compiled("compile", reference_loss(_row_losses)),
        compiled("compile_official", _official, headline_only=True),
        liger("liger_jsd", lambda case: liger_divergence("jsd_reverse", case, _target)),
        *backend_contestants(_ours),
    ),
)


def bench_reverse_kl(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
