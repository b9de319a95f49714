"""Definition of chunk_likelihood in plain torch: differentiable, exact in fp64.

A chunk is a text span that is whole in both tokenizations. Its likelihood P = exp(sum of token
log-probabilities / T) parametrises a Bernoulli variable, "this text or not", on which student and teacher are
compared. The formulas work on log P: in fp32, 1 - P of a likely chunk is inaccurate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import scalar_tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

OBJECTIVES = ("forward", "reverse", "kl", "interpolated")


def log1mexp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 - e^x) for x < 0; each of two forms is accurate on its side of -log 2."""
    near = x > -math.log(2)
    # Each form gets a dummy argument where the other is used: an infinity would give a NaN gradient.
    small, large = x.masked_fill(~near, -1.0), x.masked_fill(near, -1.0)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


def tokens_read(chunks: Int[Tensor, "B L"], chunk_mask: Bool[Tensor, "B C"]) -> Bool[Tensor, "B L"]:
    """Tokens that belong to an active chunk."""
    return (chunks >= 0) & chunk_mask.gather(1, chunks.clamp(min=0))


def span_sums(
    token_log_p: Float[Tensor, "B L"], chunks: Int[Tensor, "B L"], chunk_mask: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Sum of the token log-probabilities of each active chunk; 0 for the rest, whose tokens are not read."""
    values = token_log_p.masked_fill(~tokens_read(chunks, chunk_mask), 0.0)
    ids = chunks.clamp(min=0)
    sums = values.new_zeros(chunk_mask.shape)
    if values.is_cuda:
        # scatter_add uses float atomics on a GPU, in an order that changes from run to run; this form sorts.
        sequence = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        return sums.index_put((sequence, ids), values, accumulate=True)
    return sums.scatter_add(1, ids, values)


def clamp_bounds(eps: float, device: torch.device) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The logarithms of eps and 1 - eps."""
    clamp = scalar_tensor(eps, device=device)
    return clamp.log(), torch.log1p(-clamp)


def chunk_objective(
    student_log_p: Float[Tensor, "B C"],
    teacher_log_p: Float[Tensor, "B C"],
    objective: str,
    lambda_t: Float[Tensor, " B"] | None,
    eps: float,
) -> Float[Tensor, "B C"]:
    """Loss per chunk from log P of both sides, clamped to [eps, 1 - eps]; a clamped student has slope 0."""
    low, high = clamp_bounds(eps, student_log_p.device)
    log_s, log_t = student_log_p.clamp(low, high), teacher_log_p.clamp(low, high)
    log_not_s, log_not_t = log1mexp(log_s), log1mexp(log_t)
    if objective == "reverse":
        return -(log_s.exp() * log_t + log_not_s.exp() * log_not_t)
    if objective == "kl":
        return log_s.exp() * (log_s - log_t) + log_not_s.exp() * (log_not_s - log_not_t)
    target, target_not = log_t.exp(), log_not_t.exp()
    if lambda_t is not None:
        share = lambda_t[:, None]
        target = (share * target + (1 - share) * log_s.exp()).detach()
        target_not = (share * target_not + (1 - share) * log_not_s.exp()).detach()
    return -(target * log_s + target_not * log_not_s)


def chunk_likelihood_reference(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    objective: str,
    lambda_t: Float[Tensor, " B"] | None,
    temperature: float,
    eps: float,
) -> Float[Tensor, "B C"]:
    """Loss per active chunk, 0 for the others, in the dtype of the log-probabilities."""
    student_log_p = span_sums(student_token_log_probs, student_chunks, chunk_mask) / temperature
    teacher_log_p = span_sums(teacher_token_log_probs, teacher_chunks, chunk_mask) / temperature
    loss = chunk_objective(student_log_p, teacher_log_p, objective, lambda_t, eps)
    return loss.masked_fill(~chunk_mask, 0.0)
