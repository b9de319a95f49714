"""chunk_likelihood: span sums and Bernoulli losses of text chunks (variants forward and reverse).

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_chunk_likelihood.py

N tokens in B sequences of L = 512 (fewer if N is smaller), two tokens per chunk, C = L / 2 chunks, fp32
log-probabilities. Least bytes: forward reads a log-probability (4) and an id (8) per token of both sides and
a mask byte per chunk, and writes a loss (4) per chunk: 24 N + 5 C B. Backward reads the upstream gradient (4)
per chunk and the student's ids again, and writes the gradient: 12 N + 4 C B more. Everything fits into cache:
the launches are measured, and every contestant's share of copy bandwidth is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks import official_formulas
from benchmarks._cases import BOTH, TOKENS_PER_SEQUENCE, Case, token_cases
from benchmarks._op import Op, Tensors, backend_contestants, compiled, eager, reference_loss, seeded
from benchmarks._pairs import NEAR_NOISE, TEMPERATURE
from benchmarks._session import report
from tide_kernels import chunk_likelihood
from tide_kernels.chunk_likelihood.reference import chunk_likelihood_reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements

TOKENS_PER_CHUNK = 2
EPS = 1e-7


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    forward = token_cases("chunk_likelihood", "forward", headline_only=False, shapes=shapes)
    return forward + token_cases("chunk_likelihood", "reverse", headline_only=True, shapes=shapes)


def _sizes(case: Case) -> tuple[int, int, int]:
    """(sequences B, tokens L per sequence, chunks C per sequence)."""
    length = min(TOKENS_PER_SEQUENCE, case.rows)
    return case.rows // length, length, length // TOKENS_PER_CHUNK


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    generator = seeded(device)
    batch, length, num_chunks = _sizes(case)
    # Uniform in [-3, -0.01] nats: chunk sums stay inside the clamp and have gradients.
    student, teacher = (
        torch.rand((batch, length), generator=generator, device=device) * -2.99 - 0.01 for _ in range(2)
    )
    if near:
        noise = torch.randn((batch, length), generator=generator, device=device) * NEAR_NOISE
        teacher = (student + noise).clamp(max=-1e-4)
    chunks = (torch.arange(length, device=device) // TOKENS_PER_CHUNK).expand(batch, -1).contiguous()
    return {
        "student": student.requires_grad_(),
        "teacher": teacher,
        "chunks": chunks,
        "mask": torch.ones(batch, num_chunks, dtype=torch.bool, device=device),
        "matrix": chunks[..., None] == torch.arange(num_chunks, device=device),
    }


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    loss = chunk_likelihood_reference(
        tensors["student"],
        tensors["teacher"],
        tensors["chunks"],
        tensors["chunks"],
        tensors["mask"],
        case.variant,
        None,
        TEMPERATURE,
        EPS,
    )
    return loss.mean(-1)


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    loss = chunk_likelihood(
        tensors["student"],
        tensors["teacher"],
        tensors["chunks"],
        tensors["chunks"],
        tensors["mask"],
        objective=case.variant,
        temperature=TEMPERATURE,
        eps=EPS,
        backend=backend,
    )
    return loss.mean()


def _official(case: Case, tensors: Tensors) -> Tensor:
    return official_formulas.eager_chunk_bce(
        tensors["student"],
        tensors["teacher"],
        tensors["matrix"],
        tensors["matrix"],
        tensors["mask"],
        TEMPERATURE,
        reverse=case.variant == "reverse",
    )


def _bytes(case: Case) -> int:
    batch, length, num_chunks = _sizes(case)
    tokens, chunks = batch * length, batch * num_chunks
    forward = 2 * tokens * (4 + 8) + chunks * (1 + 4)
    return forward if case.mode != BOTH else forward + tokens * (8 + 4) + chunks * 4


OP = Op(
    name="chunk_likelihood",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    least_bytes=_bytes,
    contestants=(
        eager(_official),
        compiled("compile", reference_loss(_row_losses)),
        compiled("compile_official", _official, headline_only=True),
        *backend_contestants(_ours),
    ),
)


def bench_chunk_likelihood(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
