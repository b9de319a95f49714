"""chunk_likelihood: span sums and Bernoulli losses of text chunks (variants forward and reverse).

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
from benchmarks._cases import BOTH, TOKEN_SWEEP, Case, Layout, cases_of
from benchmarks._op import Op, Tensors, contestants
from benchmarks.ops._vocabulary import NEAR_NOISE, TEMPERATURE
from tide_kernels import chunk_likelihood
from tide_kernels.chunk_likelihood.reference import chunk_likelihood_reference

if TYPE_CHECKING:
    from torch import Tensor

NAME = "chunk_likelihood"
TOKENS_PER_SEQUENCE = 512
TOKENS_PER_CHUNK = 2


def _cases(device: str, shape: tuple[int, int] | None) -> list[Case]:
    return [
        case
        for variant in ("forward", "reverse")
        for case in cases_of(
            NAME, variant, TOKEN_SWEEP, (Layout(0, 0),), shape, headline_only=variant == "reverse"
        )
    ]


def _sizes(case: Case) -> tuple[int, int, int]:
    """(sequences B, tokens L per sequence, chunks C per sequence)."""
    length = min(TOKENS_PER_SEQUENCE, case.rows)
    return case.rows // length, length, length // TOKENS_PER_CHUNK


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    generator = torch.Generator(device).manual_seed(0)
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


def _sides(tensors: Tensors, chunks: str = "chunks") -> tuple[Tensor, ...]:
    return tuple(tensors[name] for name in ("student", "teacher", chunks, chunks, "mask"))


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    student, teacher, chunks, _, mask = _sides(tensors)
    loss = chunk_likelihood_reference(
        student, teacher, chunks, chunks, mask, case.variant, None, TEMPERATURE, official_formulas.CHUNK_EPS
    )
    return loss.mean(-1)


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    loss = chunk_likelihood(
        *_sides(tensors),
        objective=case.variant,
        temperature=TEMPERATURE,
        eps=official_formulas.CHUNK_EPS,
        backend=backend,
    )
    return loss.mean()


def _official(case: Case, tensors: Tensors) -> Tensor:
    student, teacher, matrix, _, mask = _sides(tensors, "matrix")
    reverse = case.variant == "reverse"
    return official_formulas.eager_chunk_bce(
        student, teacher, matrix, matrix, mask, TEMPERATURE, reverse=reverse
    )


def _bytes(case: Case) -> int:
    batch, length, num_chunks = _sizes(case)
    tokens, chunks = batch * length, batch * num_chunks
    forward = 2 * tokens * (4 + 8) + chunks * (1 + 4)
    return forward if case.mode != BOTH else forward + tokens * (8 + 4) + chunks * 4


OPS = (
    Op(
        name=NAME,
        cases=_cases,
        inputs=_inputs,
        row_losses=_row_losses,
        least_bytes=_bytes,
        contestants=contestants(NAME, _official, ours=_ours),
    ),
)
