"""token_logprob: log softmax at one entry per row; its mean, negated, is the cross-entropy.

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_token_logprob.py

Least bytes, e bytes per logit: forward reads the logits, N V e; backward reads them again and writes the
gradient over its whole width, N V e + N width e. In bf16 at width = V: 2 and 6 bytes per element.
Near-converged inputs: without a teacher, a student that is certain of its tokens.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import official_formulas
from benchmarks._cases import BOTH, Case, logits_cases
from benchmarks._op import (
    Loss,
    Op,
    Tensors,
    backend_contestants,
    compiled,
    cut,
    eager,
    liger,
    normal,
    prefix,
    reference_loss,
    seeded,
)
from benchmarks._session import report
from tide_kernels import token_logprob
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements

# At V = 152k and logits of deviation 2 the other entries then share about 1e-8 of the mass.
SURE_LOGIT = 32.0


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    return logits_cases("token_logprob", "token_logprob", device, shapes=shapes)


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    generator = seeded(device)
    logits = normal(case.rows, case.width, case.dtype, generator)
    ids = torch.randint(case.vocab, (case.rows,), generator=generator, device=device)
    if near:
        logits.scatter_(1, ids[:, None], SURE_LOGIT)
    return {"student": logits.requires_grad_(), "ids": ids}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    return -token_logprob_reference(cut(case, tensors["student"]), tensors["ids"])


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    return -token_logprob(tensors["student"], tensors["ids"], backend=backend, vocab_size=prefix(case)).mean()


def _official(case: Case, tensors: Tensors) -> Tensor:
    student = cut(case, tensors["student"])
    return -official_formulas.eager_token_log_probs(student, tensors["ids"]).mean()


def _liger(case: Case) -> Loss:
    package: Any = importlib.import_module("liger_kernel.transformers")
    cross_entropy = package.LigerCrossEntropyLoss()

    def loss(tensors: Tensors) -> Tensor:
        value: Tensor = cross_entropy(cut(case, tensors["student"]), tensors["ids"])
        return value

    return loss


def _bytes(case: Case) -> int:
    size: int = getattr(torch, case.dtype).itemsize
    read = case.rows * case.vocab * size
    return read if case.mode != BOTH else 2 * read + case.rows * case.width * size


OP = Op(
    name="token_logprob",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    least_bytes=_bytes,
    contestants=(
        eager(_official),
        compiled("compile", reference_loss(_row_losses)),
        compiled("compile_official", _official, headline_only=True),
        liger("liger_cross_entropy", _liger, overwrites=True),
        *backend_contestants(_ours),
    ),
)


def bench_token_logprob(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
