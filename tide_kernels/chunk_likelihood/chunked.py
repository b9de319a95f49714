"""`torch` backend of chunk_likelihood: span sums, one saved slope per chunk, no graph.

Chunks number in the hundreds, so the arithmetic is fp64, where 1 - P is accurate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels.chunk_likelihood.reference import chunk_objective, clamp_bounds, log1mexp, span_sums

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def chunk_slope(
    student_log_p: Float[Tensor, "B C"],
    teacher_log_p: Float[Tensor, "B C"],
    objective: str,
    lambda_t: Float[Tensor, " B"] | None,
    eps: float,
) -> Float[Tensor, "B C"]:
    """Derivative of `chunk_objective` in the student's log P; 0 where log P is clamped."""
    low, high = clamp_bounds(eps, student_log_p.device)
    inside = (student_log_p >= low) & (student_log_p <= high)
    log_s, log_t = student_log_p.clamp(low, high), teacher_log_p.clamp(low, high)
    log_not_s, log_not_t = log1mexp(log_s), log1mexp(log_t)
    if objective == "reverse":
        slope = log_s.exp() * (log_not_t - log_t)
    elif objective == "kl":
        slope = log_s.exp() * ((log_s - log_t) - (log_not_s - log_not_t))
    else:
        # s (1 - t) / (1 - s) - t
        slope = log_s.exp() * (log_not_t - log_not_s).exp() - log_t.exp()
        if lambda_t is not None:
            # The student's share of the target is held constant and equals s: it cancels.
            slope = lambda_t[:, None] * slope
    return torch.where(inside, slope, 0.0)


def forward(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    lambda_t: Float[Tensor, " B"] | None,
    objective: str,
    temperature: float,
    eps: float,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """(loss, slope) per chunk; slope: fp64 derivative in the sum of the student's log-probabilities."""
    dtype = accumulation_dtype(student_token_log_probs, teacher_token_log_probs)
    student_log_p = span_sums(student_token_log_probs.double(), student_chunks, chunk_mask) / temperature
    teacher_log_p = span_sums(teacher_token_log_probs.double(), teacher_chunks, chunk_mask) / temperature
    loss = chunk_objective(student_log_p, teacher_log_p, objective, lambda_t, eps)
    slope = chunk_slope(student_log_p, teacher_log_p, objective, lambda_t, eps)
    inactive = ~chunk_mask
    return (
        loss.masked_fill(inactive, 0.0).to(dtype),
        slope.div(temperature).masked_fill(inactive, 0.0),
    )


def backward(
    student_token_log_probs: Float[Tensor, "B L"],
    student_chunks: Int[Tensor, "B L"],
    slope: Float[Tensor, "B C"],
    d_loss: Float[Tensor, "B C"],
) -> Float[Tensor, "B L"]:
    """Gradient in the student's token log-probabilities, in their dtype."""
    # Drops an upstream NaN of an inactive chunk.
    per_chunk = torch.where(slope != 0, slope * d_loss, 0.0)
    d_student = per_chunk.gather(1, student_chunks.clamp(min=0)).masked_fill_(student_chunks < 0, 0.0)
    return d_student.to(student_token_log_probs.dtype)
