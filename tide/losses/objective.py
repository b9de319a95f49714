"""The training objective: cross-entropy plus one distillation term, and the paper's methods as names for such
sums.

A term takes the masked rows of both models and returns the weighted loss with the numbers worth logging.
Every term makes the cross-entropy in the same pass over the student's head.

Source: TIDE (arXiv 2604.26951) §2; docs/glossary.md maps its names to the official code's.
Legend: B sequences, L tokens, C chunks, N masked rows, d hidden size, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide.losses.chunk_likelihood import calm_loss, reverse_calm_loss
from tide.losses.cross_entropy import linear_token_log_probs
from tide.losses.reductions import row_weights
from tide.losses.schedules import lambda_schedule, timestep_weight
from tide.methods import METHODS, Method, Term
from tide_kernels import LinearDivergence, linear_interpolated_kl, linear_reverse_kl

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide.batch import HiddenRows, NoisedBatch
    from tide.methods import LambdaAxis, TimestepWeight


class ObjectiveOutput(NamedTuple):
    """loss: fp32 scalar with gradient. metrics: detached scalars on the device, by name, in nats (not times
    T²)."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Objective:
    """A method with its settings. Calling it gives the loss of one noised batch.

    Attributes:
        method: one of `METHODS`.
        temperature: T of token divergences; their loss is scaled by T².
        chunk_temperature: T of chunk likelihoods.
        ce_weight, distill_weight: weights of the two terms.
        lambda_init, lambda_max, lambda_decay: TIDAL's schedule; its axis and the timestep weight are the
            method's.
        chunk_eps: clamp of chunk probabilities.
        chunk_divergence: "bce" (the paper's) or "kl" (Bernoulli KL) for Reverse CALM.
        ce_normalizer: "token", "sequence" or "batch".
        shared_vocab_size: width of the common vocabulary where the two heads differ.
        backend: of the kernels.
    """

    method: Method
    temperature: float = 2.0
    chunk_temperature: float = 2.0
    ce_weight: float = 1.0
    distill_weight: float = 1.0
    lambda_init: float = 0.1
    lambda_max: float = 0.9
    lambda_decay: str = "cosine"
    chunk_eps: float = 1e-7
    chunk_divergence: str = "bce"
    ce_normalizer: str = "token"
    shared_vocab_size: int | None = None
    backend: str = "auto"

    def __call__(
        self, student: HiddenRows, teacher: HiddenRows | None, noised: NoisedBatch, progress: float
    ) -> ObjectiveOutput:
        """The loss of one batch.

        Args:
            student, teacher: masked rows, in the order of `noised.student.rows` and `noised.teacher.rows`.
            noised: the batch, on the models' device.
            progress: share of training done, in [0, 1].
        Raises:
            ValueError: the method distils and no teacher rows are given.
        """
        if self.method.has_teacher and teacher is None:
            raise ValueError(
                "Objective: this method needs a teacher; got none. Name one in the recipe, or use "
                "method none."
            )
        return TERMS[self.method.term](self, student, teacher, noised, progress)

    def ce_row_weights(self, noised: NoisedBatch) -> Float[Tensor, " N"]:
        """Cross-entropy weight of every student row, normaliser included."""
        rows, shape = noised.student.rows, noised.loss_mask.shape
        masked = (
            torch.zeros(shape, dtype=torch.bool, device=rows.device)
            .view(-1)
            .index_fill(0, rows, True)
            .view(shape)
        )
        weights = row_weights(
            masked, noised.loss_mask, noised.diffusion_weight, normalizer=self.ce_normalizer
        )
        return self.ce_weight * weights.view(-1)[rows]

    def sequence_of_rows(self, noised: NoisedBatch) -> Int[Tensor, " N"]:
        """The sequence that every student row belongs to."""
        return noised.student.rows // noised.loss_mask.shape[1]


def _cross_entropy(
    objective: Objective,
    student: HiddenRows,
    teacher: HiddenRows | None,
    noised: NoisedBatch,
    progress: float,
) -> ObjectiveOutput:
    """Block diffusion without distillation."""
    log_p = _student_log_p(objective, student, noised)
    return ObjectiveOutput(
        -(objective.ce_row_weights(noised) * log_p).sum(), {"cross_entropy": _mean(-log_p)}
    )


def _token_divergence(kind: str) -> Callable[..., ObjectiveOutput]:
    """Divergence of token distributions over one vocabulary: forward_kl, reverse_kl or tidal."""

    def term(
        objective: Objective, student: HiddenRows, teacher: HiddenRows, noised: NoisedBatch, progress: float
    ) -> ObjectiveOutput:
        vocab_size, ce_weight = objective.shared_vocab_size, objective.ce_row_weights(noised)
        # The divergence may stop at the shared part of the vocabulary; the cross-entropy never does.
        one_pass = vocab_size is None
        sequence = objective.sequence_of_rows(noised)
        weight_t = timestep_weight(noised.t, objective.method.timestep_weight)
        scale = objective.distill_weight * objective.temperature**2 / max(sequence.numel(), 1)
        arguments: dict[str, Any] = {
            "temperature": objective.temperature,
            "labels": noised.student.labels if one_pass else None,
            "weight": scale * weight_t[sequence],
            "ce_weight": ce_weight if one_pass else None,
            "student_bias": student.head.bias,
            "teacher_bias": teacher.head.bias,
            "vocab_size": vocab_size,
            "backend": objective.backend,
        }
        heads = (student.hidden, student.head.weight, teacher.hidden, teacher.head.weight)
        metrics: dict[str, Tensor] = {}
        out: LinearDivergence
        if kind == "reverse_kl":
            out = linear_reverse_kl(*heads, **arguments)
        elif kind == "forward_kl":
            out = linear_interpolated_kl(*heads, 1.0, **arguments)
        else:
            lambda_t = lambda_schedule(
                noised.t,
                progress,
                lambda_init=objective.lambda_init,
                lambda_max=objective.lambda_max,
                decay=objective.lambda_decay,
                axis=objective.method.lambda_axis,
            )
            metrics["lambda"] = _mean(lambda_t)
            out = linear_interpolated_kl(*heads, lambda_t[sequence], **arguments)
        loss, ce = out.loss, out.ce
        if ce is None:
            ce = -_student_log_p(objective, student, noised)
            loss = loss + (ce_weight * ce).sum()
        return ObjectiveOutput(loss, {"cross_entropy": _mean(ce), kind: _mean(out.kl), **metrics})

    return term


def _chunk_likelihood(kind: str) -> Callable[..., ObjectiveOutput]:
    """Divergence of chunk likelihoods across tokenizers: calm or reverse_calm."""

    def term(
        objective: Objective, student: HiddenRows, teacher: HiddenRows, noised: NoisedBatch, progress: float
    ) -> ObjectiveOutput:
        assert noised.teacher is not None and noised.teacher_chunks is not None
        student_log_p = _student_log_p(objective, student, noised)
        with torch.no_grad():
            teacher_log_p = linear_token_log_probs(
                teacher.hidden,
                teacher.head.weight,
                noised.teacher.labels,
                bias=teacher.head.bias,
                backend=objective.backend,
            )
        ce = -(objective.ce_row_weights(noised) * student_log_p).sum()
        loss_of_chunks = calm_loss if kind == "calm" else reverse_calm_loss
        distill = loss_of_chunks(
            _at_rows(student_log_p, noised.student.rows, noised.student_chunks.shape),
            _at_rows(teacher_log_p, noised.teacher.rows, noised.teacher_chunks.shape),
            noised.student_chunks,
            noised.teacher_chunks,
            noised.chunk_mask,
            temperature=objective.chunk_temperature,
            eps=objective.chunk_eps,
            divergence=objective.chunk_divergence,
            backend=objective.backend,
        )
        metrics = {"cross_entropy": _mean(-student_log_p), kind: distill.detach()}
        metrics["active_chunks"] = noised.chunk_mask.float().sum()
        return ObjectiveOutput(ce + objective.distill_weight * distill, metrics)

    return term


TERMS: dict[Term, Callable[..., ObjectiveOutput]] = {
    "cross_entropy": _cross_entropy,
    "forward_kl": _token_divergence("forward_kl"),
    "reverse_kl": _token_divergence("reverse_kl"),
    "tidal": _token_divergence("tidal"),
    "calm": _chunk_likelihood("calm"),
    "reverse_calm": _chunk_likelihood("reverse_calm"),
}


def method_named(
    name: str, *, lambda_axis: LambdaAxis | None = None, timestep_weight: TimestepWeight | None = None
) -> Method:
    """The method of that name, with its λ axis and timestep weight replaced where given.

    Raises:
        ValueError: no such method.
    """
    if name not in METHODS:
        raise ValueError(f"method_named: no method {name!r}. Known methods: {', '.join(METHODS)}.")
    method = METHODS[name]
    return replace(
        method,
        lambda_axis=lambda_axis or method.lambda_axis,
        timestep_weight=timestep_weight or method.timestep_weight,
    )


def _student_log_p(objective: Objective, student: HiddenRows, noised: NoisedBatch) -> Float[Tensor, " N"]:
    """Token log-probabilities that cross-entropy and chunks share: one product with the student's head."""
    return linear_token_log_probs(
        student.hidden,
        student.head.weight,
        noised.student.labels,
        bias=student.head.bias,
        backend=objective.backend,
    )


def _at_rows(values: Float[Tensor, " N"], rows: Int[Tensor, " N"], shape: torch.Size) -> Float[Tensor, "B L"]:
    return (
        torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
        .index_put((rows,), values)
        .view(shape)
    )


def _mean(values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    return values.detach().float().sum() / max(values.numel(), 1)
