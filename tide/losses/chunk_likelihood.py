"""CALM, Reverse CALM and TIDAL on chunks: objectives on the likelihood of text spans, for tokenizers that
differ.

A chunk is a minimal text span that is whole in both tokenizations; its likelihood under each side is the
product of its tokens' probabilities there. Everything below is [B, C] or smaller: the vocabulary is gone
before it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from tide.losses.reductions import broadcast_rows, check_reduction, row_factors
from tide_kernels import check_tensor, chunk_likelihood

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

DIVERGENCES = ("bce", "kl")


def calm_loss(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    *,
    temperature: float = 2.0,
    eps: float = 1e-7,
    divergence: str = "bce",
    chunk_weights: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Float[Tensor, " ..."]:
    """Forward chunk objective: the teacher's chunk probability P_t is the target of the student's P_s.

    ``bce``: -[P_t log P_s + (1 - P_t) log(1 - P_s)]; ``kl`` subtracts the entropy of P_t, which changes the
    value (0 at P_s = P_t) and not the gradient. P = exp(sum of token log-probabilities / T), clamped to [eps,
    1 - eps]; a chunk clamped on the student's side has no gradient.

    Args:
        student_token_log_probs: [B, Ls] log-probabilities of the student's tokens; see ``token_log_probs``.
        teacher_token_log_probs: [B, Lt], frozen.
        student_chunks: [B, Ls] chunk id of every token, -1 for none.
        teacher_chunks: [B, Lt] the same for the teacher's tokens.
        chunk_mask: [B, C], True on the chunks that count, C at least the largest id + 1.
        temperature: T > 0, divides the chunk's log-probability.
        eps: clamp of chunk probabilities, in (0, 1/2).
        divergence: ``bce`` or ``kl``.
        chunk_weights: factor of every chunk, [B] or [B, C].
        reduction: ``mean`` (sum over active chunks / their number), ``sum``, or ``none`` ([B, C]).
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.

    Returns:
        fp32 loss in nats, not scaled by T². No active chunk: 0 with a connected graph.

    Raises:
        ValueError: types or shapes that do not fit, a value outside its range, an unknown name, or a teacher
            that requires grad.

    Source: TIDE (arXiv 2604.26951), CALM; after cross-tokenizer likelihood matching (arXiv 2503.20083).
    """
    _check_divergence("calm_loss", divergence)
    values = chunk_likelihood(
        student_token_log_probs,
        teacher_token_log_probs,
        student_chunks,
        teacher_chunks,
        chunk_mask,
        objective="forward",
        temperature=temperature,
        eps=eps,
        backend=backend,
    )
    if divergence == "kl":
        # The cross-entropy of the teacher with itself is its entropy, clamped as in the first term.
        values = values - chunk_likelihood(
            teacher_token_log_probs,
            teacher_token_log_probs,
            teacher_chunks,
            teacher_chunks,
            chunk_mask,
            objective="forward",
            temperature=temperature,
            eps=eps,
            backend=backend,
        )
    return _reduce("calm_loss", values, chunk_mask, chunk_weights, reduction)


def reverse_calm_loss(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    *,
    temperature: float = 2.0,
    eps: float = 1e-7,
    divergence: str = "bce",
    chunk_weights: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Float[Tensor, " ..."]:
    """Reverse chunk objective: the student's chunk probability P_s weighs the teacher's log-odds.

    ``bce``: -[P_s log P_t + (1 - P_s) log(1 - P_t)], linear in P_s with slope -log(P_t / (1 - P_t)): bounded
    by the teacher alone, and lowest at P_s = 1 wherever P_t > 1/2. ``kl`` is the Bernoulli KL(P_s || P_t),
    which subtracts the student's entropy and is lowest at P_s = P_t.

    Args:
        student_token_log_probs: [B, Ls]; the arguments are those of ``calm_loss``.
        teacher_token_log_probs: [B, Lt], frozen.
        student_chunks: [B, Ls], -1 for none.
        teacher_chunks: [B, Lt], -1 for none.
        chunk_mask: [B, C].
        temperature: T > 0.
        eps: clamp of chunk probabilities, in (0, 1/2).
        divergence: ``bce`` or ``kl``.
        chunk_weights: factor of every chunk, [B] or [B, C].
        reduction: ``mean``, ``sum`` or ``none``.
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.

    Returns:
        fp32 loss in nats, not scaled by T². No active chunk: 0 with a connected graph.

    Raises:
        ValueError: as ``calm_loss``.

    Source: TIDE (arXiv 2604.26951), Reverse CALM.
    """
    _check_divergence("reverse_calm_loss", divergence)
    values = chunk_likelihood(
        student_token_log_probs,
        teacher_token_log_probs,
        student_chunks,
        teacher_chunks,
        chunk_mask,
        objective="reverse" if divergence == "bce" else "kl",
        temperature=temperature,
        eps=eps,
        backend=backend,
    )
    return _reduce("reverse_calm_loss", values, chunk_mask, chunk_weights, reduction)


def tidal_chunk_loss(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    *,
    lambda_t: float | Tensor,
    temperature: float = 2.0,
    eps: float = 1e-7,
    chunk_weights: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Float[Tensor, " ..."]:
    """TIDAL on chunks: the forward objective with the detached target (1 - lambda) P_s + lambda P_t.

    Args:
        student_token_log_probs: [B, Ls]; the arguments are those of ``calm_loss``.
        teacher_token_log_probs: [B, Lt], frozen.
        student_chunks: [B, Ls], -1 for none.
        teacher_chunks: [B, Lt], -1 for none.
        chunk_mask: [B, C].
        lambda_t: share of the teacher in the target, in [0, 1]: a number or [B]; see ``lambda_schedule``.
        temperature: T > 0.
        eps: clamp of chunk probabilities, in (0, 1/2).
        chunk_weights: factor of every chunk, [B] or [B, C]; see ``timestep_weight``.
        reduction: ``mean``, ``sum`` or ``none``.
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.

    Returns:
        fp32 loss in nats, a cross-entropy (the target's entropy is not subtracted), not scaled by T².

    Raises:
        ValueError: as ``calm_loss``, or lambda_t outside [0, 1].

    Source: TIDE (arXiv 2604.26951), TIDAL across tokenizers.
    """
    check_tensor("tidal_chunk_loss", "chunk_mask", chunk_mask)
    if isinstance(lambda_t, Tensor):
        lambda_t = broadcast_rows(
            "tidal_chunk_loss", "lambda_t", lambda_t.detach(), chunk_mask.shape[:1], chunk_mask.device
        )
    values = chunk_likelihood(
        student_token_log_probs,
        teacher_token_log_probs,
        student_chunks,
        teacher_chunks,
        chunk_mask,
        objective="interpolated",
        lambda_t=lambda_t,
        temperature=temperature,
        eps=eps,
        backend=backend,
    )
    return _reduce("tidal_chunk_loss", values, chunk_mask, chunk_weights, reduction)


def _check_divergence(function: str, divergence: str) -> None:
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"{function}: divergence must be one of {', '.join(DIVERGENCES)}; got {divergence!r}."
        )


def _reduce(
    function: str, values: Tensor, chunk_mask: Tensor, chunk_weights: Tensor | None, reduction: str
) -> Tensor:
    check_reduction(function, reduction)
    values = values * row_factors(function, "chunk_weights", chunk_weights, chunk_mask, values, reduction)
    return values if reduction == "none" else values.sum()
