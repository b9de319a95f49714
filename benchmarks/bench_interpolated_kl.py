"""interpolated_kl: TIDAL with one lambda per row (variant tidal), and lambda = 1 (variant forward_kl).

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_interpolated_kl.py

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
from tide_kernels import interpolated_kl
from tide_kernels.divergence.reference import interpolated_kl_reference, interpolated_target

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    return logits_cases("interpolated_kl", "tidal", device, shapes=shapes) + logits_cases(
        "interpolated_kl", "forward_kl", device, headline_only=True, shapes=shapes
    )


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors, generator = logits_pair(case, device, near)
    if case.variant == "forward_kl":
        share = torch.ones(case.rows, device=device)
    else:
        share = 0.1 + 0.8 * torch.rand(case.rows, generator=generator, device=device)
    return {**tensors, "lambda_t": share}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    kl, _ = interpolated_kl_reference(
        cut(case, tensors["student"]), cut(case, tensors["teacher"]), tensors["lambda_t"], TEMPERATURE
    )
    return kl * TEMPERATURE**2


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    share: float | Tensor = 1.0 if case.variant == "forward_kl" else tensors["lambda_t"]
    kl = interpolated_kl(
        tensors["student"],
        tensors["teacher"],
        share,
        temperature=TEMPERATURE,
        backend=backend,
        vocab_size=prefix(case),
    )
    return kl.mean() * TEMPERATURE**2


def _official(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = cut(case, tensors["student"]), cut(case, tensors["teacher"])
    if case.variant == "forward_kl":
        return official_formulas.eager_forward_kl(student, teacher, tensors["mask"], TEMPERATURE)
    return official_formulas.eager_tidal(student, teacher, tensors["mask"], tensors["lambda_t"], TEMPERATURE)


def _target(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = cut(case, tensors["student"]).detach(), cut(case, tensors["teacher"])
    if case.variant == "forward_kl":
        return torch.log_softmax(teacher / TEMPERATURE, dim=-1)
    return interpolated_target(student, teacher, tensors["lambda_t"], TEMPERATURE).to(student.dtype)


OP = Op(
    name="interpolated_kl",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    least_bytes=pair_bytes,
    contestants=(
        eager(_official),
        compiled("compile", reference_loss(_row_losses)),
        compiled("compile_official", _official, headline_only=True),
        liger("liger_kl_div", lambda case: liger_divergence("kl_div", case, _target)),
        liger("liger_jsd", lambda case: liger_divergence("jsd", case, _target), headline_only=True),
        *backend_contestants(_ours),
    ),
)


def bench_interpolated_kl(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
