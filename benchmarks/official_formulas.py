"""The published objectives in plain eager PyTorch, the baseline of the benchmarks.

Written from the paper's formulas (TIDE, arXiv 2604.26951), operation by operation, like an eager training
step: every line that yields [N, V] allocates it, and autograd keeps what it needs. Only benchmarks and tests
import this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# Floor under the target's probabilities before their logarithm, as published.
TARGET_FLOOR = 1e-8
# Clamp of chunk probabilities, as published.
CHUNK_EPS = 1e-7


def eager_tidal(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    mask: Bool[Tensor, " N"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
    weight: float | Float[Tensor, " N"] = 1.0,
) -> Float[Tensor, ""]:
    """T² times the mean over masked rows of weight KL(r || p_s); r = softmax of the interpolated logits,
    detached.

    The formula runs on all rows and discards the others at the end.
    """
    share = lambda_t[:, None]
    interpolated = (1.0 - share) * student_logits.detach() + share * teacher_logits
    target = (interpolated / temperature).softmax(dim=-1)
    log_p = functional.log_softmax(student_logits / temperature, dim=-1)
    kl = (target * (target.clamp_min(TARGET_FLOOR).log() - log_p)).sum(dim=-1)
    return (kl * weight * mask).sum() / mask.sum().clamp_min(1) * temperature**2


def eager_forward_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    mask: Bool[Tensor, " N"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² times the mean over masked rows of KL(p_t || p_s). Selects the rows first, on both sides."""
    student_rows, teacher_rows = student_logits[mask], teacher_logits[mask]
    log_p = functional.log_softmax(student_rows / temperature, dim=-1)
    log_q = functional.log_softmax(teacher_rows / temperature, dim=-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(dim=-1)
    return kl.mean() * temperature**2


def eager_reverse_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    mask: Bool[Tensor, " N"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² times the mean over masked rows of KL(p_s || p_t). Selects the rows first, on both sides."""
    student_rows, teacher_rows = student_logits[mask], teacher_logits[mask]
    log_p = functional.log_softmax(student_rows / temperature, dim=-1)
    log_q = functional.log_softmax(teacher_rows / temperature, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return kl.mean() * temperature**2


def eager_calm(
    student_logits: Float[Tensor, "B Ls V"],
    teacher_logits: Float[Tensor, "B Lt V2"],
    student_ids: Int[Tensor, "B Ls"],
    teacher_ids: Int[Tensor, "B Lt"],
    student_matrix: Bool[Tensor, "B Ls C"],
    teacher_matrix: Bool[Tensor, "B Lt C"],
    chunk_mask: Bool[Tensor, "B C"],
    temperature: float,
    *,
    reverse: bool = False,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of chunk likelihoods, mean over active chunks, from logits.

    Matrices are the dense alignment, True where a token belongs to a chunk. reverse: weigh the teacher's
    log-odds by the student (Reverse CALM) instead of the reverse.
    """
    return eager_chunk_bce(
        eager_token_log_probs(student_logits, student_ids),
        eager_token_log_probs(teacher_logits, teacher_ids),
        student_matrix,
        teacher_matrix,
        chunk_mask,
        temperature,
        reverse=reverse,
    )


def eager_token_log_probs(
    logits: Float[Tensor, "*B V"], token_ids: Int[Tensor, " *B"]
) -> Float[Tensor, " *B"]:
    """log softmax at one entry per position, in the logits' dtype."""
    return functional.log_softmax(logits, dim=-1).gather(-1, token_ids[..., None]).squeeze(-1)


def eager_chunk_bce(
    student_log_p: Float[Tensor, "B Ls"],
    teacher_log_p: Float[Tensor, "B Lt"],
    student_matrix: Bool[Tensor, "B Ls C"],
    teacher_matrix: Bool[Tensor, "B Lt C"],
    chunk_mask: Bool[Tensor, "B C"],
    temperature: float,
    *,
    reverse: bool = False,
) -> Float[Tensor, ""]:
    """`eager_calm` from token log-probabilities."""
    sides = (
        _chunk_probability(student_log_p, student_matrix, temperature),
        _chunk_probability(teacher_log_p, teacher_matrix, temperature),
    )
    weight, other = sides if reverse else sides[::-1]
    bce = -(weight * other.log() + (1.0 - weight) * torch.log1p(-other))
    return (bce * chunk_mask).sum() / chunk_mask.sum().clamp_min(1)


def _chunk_probability(log_p: Tensor, matrix: Tensor, temperature: float) -> Tensor:
    log_likelihood = torch.einsum("bl,blc->bc", log_p, matrix.to(log_p.dtype))
    return (log_likelihood / temperature).exp().clamp(CHUNK_EPS, 1.0 - CHUNK_EPS)
