"""CALM, Reverse CALM and TIDAL on chunks: losses on the likelihood of text spans, across tokenizers.

A chunk is a minimal text span that is whole in both tokenizations. Its likelihood under a model is
P = exp(sum of token log-probabilities / T), clamped to [eps, 1 - eps]: P_s under the student, P_t under the
teacher. `calm_loss` documents the shared arguments.

Source: TIDE (arXiv 2604.26951), CALM and Reverse CALM; after cross-tokenizer likelihood matching
(arXiv 2503.20083).
Legend: B sequences, C chunks, Ls and Lt positions of student and teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from tide.losses.options import check_choice
from tide.losses.reductions import broadcast_rows, reduce_rows
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
    """Forward chunk loss: P_t is the target of P_s.

    ``bce`` is -[P_t log P_s + (1 - P_t) log(1 - P_s)]. ``kl`` subtracts the entropy of P_t, which changes the
    value (0 at P_s = P_t) and not the gradient. A chunk clamped on the student's side has no gradient.

    Args:
        student_token_log_probs: [B, Ls] log-probabilities of the student's tokens; see ``token_log_probs``.
        teacher_token_log_probs: [B, Lt], frozen.
        student_chunks: [B, Ls] chunk id of each token, -1 for none.
        teacher_chunks: [B, Lt], likewise.
        chunk_mask: [B, C], True on the chunks that count; C is at least the largest id + 1.
        temperature: T > 0, divides the chunk's log-probability.
        eps: clamp of chunk probabilities, in (0, 1/2).
        divergence: ``bce`` or ``kl``.
        chunk_weights: factor of each chunk, [B] or [B, C]; see ``timestep_weight``.
        reduction: ``mean`` (sum over active chunks / their number), ``sum``, or ``none`` ([B, C]).
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.

    Returns:
        fp32 loss in nats, not scaled by T². No active chunk: 0 with a connected graph.

    Raises:
        ValueError: types or shapes that do not fit, a value outside its range, an unknown name, or a teacher
            that requires grad.
    """
    check_choice("calm_loss", "divergence", divergence, DIVERGENCES)
    tensors = (student_token_log_probs, teacher_token_log_probs, student_chunks, teacher_chunks, chunk_mask)
    options: dict[str, Any] = {"temperature": temperature, "eps": eps, "backend": backend}
    values = chunk_likelihood(*tensors, objective="forward", **options)
    if divergence == "kl":
        # The cross-entropy of P_t with itself is its entropy, under the same clamp.
        teacher = (teacher_token_log_probs, teacher_token_log_probs, teacher_chunks, teacher_chunks)
        values = values - chunk_likelihood(*teacher, chunk_mask, objective="forward", **options)
    return reduce_rows("calm_loss", "chunk_weights", chunk_weights, chunk_mask, values, reduction)


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
    """Reverse chunk loss: P_s weighs the teacher's log-odds. Arguments: `calm_loss`.

    ``bce`` is -[P_s log P_t + (1 - P_s) log(1 - P_t)], linear in P_s with slope -log(P_t / (1 - P_t)):
    bounded by the teacher alone, and lowest at P_s = 1 wherever P_t > 1/2. ``kl`` is the Bernoulli
    KL(P_s || P_t), which subtracts the student's entropy and is lowest at P_s = P_t.
    """
    check_choice("reverse_calm_loss", "divergence", divergence, DIVERGENCES)
    tensors = (student_token_log_probs, teacher_token_log_probs, student_chunks, teacher_chunks, chunk_mask)
    options: dict[str, Any] = {"temperature": temperature, "eps": eps, "backend": backend}
    values = chunk_likelihood(*tensors, objective="reverse" if divergence == "bce" else "kl", **options)
    return reduce_rows("reverse_calm_loss", "chunk_weights", chunk_weights, chunk_mask, values, reduction)


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
    """TIDAL on chunks: the forward ``bce`` with the detached target (1 - λ) P_s + λ P_t.

    The target's entropy is not subtracted. Arguments: `calm_loss`, and ``lambda_t``, the teacher's share of
    the target, in [0, 1]: a number or [B]; see ``lambda_schedule``.
    """
    check_tensor("tidal_chunk_loss", "chunk_mask", chunk_mask)
    if isinstance(lambda_t, Tensor):
        lambda_t = broadcast_rows(
            "tidal_chunk_loss", "lambda_t", lambda_t.detach(), chunk_mask.shape[:1], chunk_mask.device
        )
    tensors = (student_token_log_probs, teacher_token_log_probs, student_chunks, teacher_chunks, chunk_mask)
    options: dict[str, Any] = {"temperature": temperature, "eps": eps, "backend": backend}
    values = chunk_likelihood(*tensors, objective="interpolated", lambda_t=lambda_t, **options)
    return reduce_rows("tidal_chunk_loss", "chunk_weights", chunk_weights, chunk_mask, values, reduction)
