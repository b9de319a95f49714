"""The published losses in the published arithmetic, for runs that continue under ``exact=False``.

Eager, with every [N, V] intermediate, rounded where the official code rounds: logits are divided by T, and
token log-probabilities summed, in the dtype of the logits; fp32 comes only then. No other place outside
``tide_kernels`` reduces the vocabulary axis. Arguments are those of `tide.integrations.dllm`.

Source: TIDE (arXiv 2604.26951) and its official code.
Legend: B sequences, L positions (Ls, Lt: student's, teacher's), V, V2 vocabulary entries, C chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

TARGET_FLOOR = 1e-8  # under the target's probabilities before their logarithm
CHUNK_EPS = 1e-7
BRANCH = -0.6931  # -log 2 to four digits


def published_taid(
    student_logits: Float[Tensor, "B L V"],
    teacher_logits: Float[Tensor, "B L V"],
    mask: Bool[Tensor, "B L"],
    lambda_t: Float[Tensor, " B"],
    weight: Float[Tensor, "B L"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² times the weighted mean over masked rows of KL(r || p_s), r detached."""
    student = (student_logits[mask] / temperature).float()
    teacher = (teacher_logits[mask] / temperature).float()
    share = lambda_t[:, None].expand_as(mask)[mask][:, None]
    target = ((1.0 - share) * student + share * teacher).softmax(dim=-1).detach()
    log_p = student.log_softmax(dim=-1)
    kl = (target * (target.clamp_min(TARGET_FLOOR).log() - log_p)).sum(dim=-1)
    return (kl * weight[mask]).sum() / mask.sum().clamp_min(1) * temperature**2


def published_likelihoods(
    logits: Float[Tensor, "B L V"], ids: Int[Tensor, "B L"], matrix: Bool[Tensor, "B L C"], temperature: float
) -> Float[Tensor, "B C"]:
    """Chunk likelihoods of one side."""
    token_log_p = logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(dim=-1)
    chunk_log_p = torch.bmm(token_log_p[:, None], matrix.to(token_log_p.dtype)).squeeze(1)
    return (chunk_log_p / temperature).float().exp().clamp(CHUNK_EPS, 1.0 - CHUNK_EPS)


def published_bce(
    target: Float[Tensor, "B C"],
    predicted: Float[Tensor, "B C"],
    chunk_mask: Bool[Tensor, "B C"],
    chunk_weights: Float[Tensor, "B C"] | None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of chunk likelihoods, mean over active chunks."""
    bce = -(target * predicted.log() + (1.0 - target) * (1.0 - predicted).log())
    if chunk_weights is not None:
        bce = bce * chunk_weights.to(bce.dtype)
    active = chunk_mask.float()
    return (bce * active).sum() / active.sum().clamp_min(1.0)


def published_log1mexp(x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """log(1 - e^x) for x <= 0, with each form on the side where it loses digits, as published."""
    near = x > BRANCH
    # A harmless argument where the other form is used: an infinity there is a NaN in the gradient.
    close, far = x.masked_fill(~near, -1.0), x.masked_fill(near, -1.0)
    return torch.where(near, torch.log1p(-close.exp()), (-torch.expm1(far)).log())
