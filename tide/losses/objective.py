"""The training objective: ``ce_weight * cross-entropy + distill_weight * distillation term``.

`TERMS` defines the terms that the methods of `tide.methods` name. Cross-entropy and term share one product
with the student's head.

Source: TIDE (arXiv 2604.26951) §2; docs/glossary.md maps its names to the official code's.
Legend: B sequences, L tokens, C chunks, N masked rows, d hidden size, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tide.losses.chunk_likelihood import calm_loss, reverse_calm_loss, tidal_chunk_loss
from tide.losses.cross_entropy import linear_token_log_probs
from tide.losses.reductions import reduce_rows, row_weights
from tide.losses.schedules import lambda_schedule, timestep_weight
from tide_kernels import LinearDivergence, linear_interpolated_kl, linear_reverse_kl

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from tide.batch import HiddenRows, NoisedBatch
    from tide.config import ObjectiveConfig
    from tide.methods import Method, Term


class ObjectiveOutput(NamedTuple):
    """A loss and what to log of it.

    Attributes:
        loss: fp32 scalar with gradient: ce_weight * cross_entropy + distill_weight * term.
        metrics: detached scalars on the device, in nats: those two under their names, and means.
        finite: False where a row of the sequence is NaN or infinite.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]
    finite: Bool[Tensor, " B"]


@dataclass(frozen=True)
class Objective:
    """A method with the recipe's `objective:` section. Call it for the loss of a noised batch.

    Attributes:
        method: one of `tide.methods.METHODS`.
        settings: weights, temperatures and schedules; null leaves a choice to the method.
        shared_vocab_size: width of the common vocabulary where the two heads differ.
        backend: of the kernels.
    """

    method: Method
    settings: ObjectiveConfig
    _: KW_ONLY
    shared_vocab_size: int | None = None
    backend: str = "auto"

    def __call__(
        self, student: HiddenRows, teacher: HiddenRows | None, noised: NoisedBatch, progress: float
    ) -> ObjectiveOutput:
        """The loss of one batch.

        Args:
            student, teacher: masked rows, in the order of `noised.student.rows` and `noised.teacher.rows`.
                Within one vocabulary, a row that only the student has is not distilled.
            noised: the batch, on the models' device.
            progress: share of training done, in [0, 1].
        Raises:
            ValueError: the method distils, and there are no teacher rows.
        """
        if self.method.has_teacher and teacher is None:
            raise ValueError(
                "Objective: this method needs a teacher; got none. Name one in the recipe, or use "
                "method none."
            )
        return TERMS[self.method.term](_Step(self, student, teacher, noised, progress))


class _Step(NamedTuple):
    """One call of an objective."""

    objective: Objective
    student: HiddenRows
    teacher: HiddenRows | None
    noised: NoisedBatch
    progress: float

    @property
    def sequence(self) -> Int[Tensor, " N"]:
        """The sequence of each student row."""
        return self.noised.student.rows // self.noised.loss_mask.shape[1]

    def lambda_t(self) -> Float[Tensor, " B"]:
        """λ(t, p) of each sequence."""
        settings = self.objective.settings
        return lambda_schedule(
            self.noised.t,
            self.progress,
            lambda_init=settings.lambda_init,
            lambda_max=settings.lambda_max,
            decay=settings.lambda_decay,
            axis=settings.lambda_axis or self.objective.method.lambda_axis,
        )

    def weight_t(self) -> Float[Tensor, " B"]:
        """Weight of each sequence's timestep in the distillation term."""
        objective = self.objective
        kind = objective.settings.timestep_weight or objective.method.timestep_weight
        return timestep_weight(self.noised.t, kind)

    def ce_weights(self) -> Float[Tensor, " N"]:
        """Weight of each student row in the cross-entropy, normaliser included, without `ce_weight`."""
        settings, rows, loss_mask = self.objective.settings, self.noised.student.rows, self.noised.loss_mask
        masked = torch.zeros_like(loss_mask).flatten().index_fill(0, rows, True).view_as(loss_mask)
        weights = row_weights(
            masked, loss_mask, self.noised.diffusion_weight, normalizer=settings.ce_normalizer
        )
        return weights.flatten()[rows]

    def finite(self, *values: Float[Tensor, " N"]) -> Bool[Tensor, " B"]:
        """Whether all rows of each sequence are finite, in all of the values."""
        bad = ~torch.stack(values).isfinite().all(0)
        return self.noised.t.new_zeros(len(self.noised.t)).index_add(0, self.sequence, bad.float()) == 0

    def log_p(self, side: HiddenRows, labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Token log-probabilities of one side at T = 1."""
        return linear_token_log_probs(
            side.hidden, token_ids=labels, **side.head._asdict(), backend=self.objective.backend
        )


def _cross_entropy(step: _Step) -> ObjectiveOutput:
    log_p = step.log_p(step.student, step.noised.student.labels)
    ce = -(step.ce_weights() * log_p).sum()
    loss = step.objective.settings.ce_weight * ce
    return ObjectiveOutput(loss, {"cross_entropy": ce.detach()}, step.finite(log_p.detach()))


def _token_divergence(
    step: _Step, op: Callable[..., LinearDivergence], lambda_t: float | Float[Tensor, " B"] | None = None
) -> ObjectiveOutput:
    """T² times a divergence of token distributions over one vocabulary, mean over the distilled rows."""
    objective, student, teacher, noised = step.objective, step.student, step.teacher, step.noised
    assert teacher is not None and noised.teacher is not None
    settings, num_rows, num_distilled = objective.settings, len(student.hidden), len(teacher.hidden)
    scale = settings.temperature**2 / max(num_distilled, 1)
    weight, teacher_hidden, distilled = scale * step.weight_t()[step.sequence], teacher.hidden, None
    if num_distilled < num_rows:
        # The other rows have a cross-entropy alone: a weight of 0, and any finite teacher.
        distilled = torch.searchsorted(noised.student.rows, noised.teacher.rows)
        weight = torch.zeros_like(weight).index_copy(0, distilled, weight[distilled])
        everywhere = teacher.hidden.new_zeros(num_rows, teacher.hidden.shape[1])
        teacher_hidden = everywhere.index_copy(0, distilled, teacher.hidden)
    # The divergence may stop at the shared part of the vocabulary; the cross-entropy never does.
    one_pass = objective.shared_vocab_size is None
    ce_weights = step.ce_weights()
    arguments: dict[str, Any] = {
        "temperature": settings.temperature,
        "weight": settings.distill_weight * weight,
        "labels": noised.student.labels if one_pass else None,
        "ce_weight": settings.ce_weight * ce_weights if one_pass else None,
        "vocab_size": objective.shared_vocab_size,
        "backend": objective.backend,
    }
    for side, rows in (("student", student), ("teacher", teacher)):
        arguments |= {f"{side}_{name}": value for name, value in rows.head._asdict().items()}
    metrics = {}
    if isinstance(lambda_t, Tensor):
        metrics["lambda"] = _mean(lambda_t)
        lambda_t = lambda_t[step.sequence]
    if lambda_t is not None:
        arguments["lambda_t"] = lambda_t
    loss, kl, ce = op(student_hidden=student.hidden, teacher_hidden=teacher_hidden, **arguments)
    if ce is None:
        ce = -step.log_p(student, noised.student.labels)
        loss = loss + settings.ce_weight * (ce_weights * ce).sum()
    ce = ce.detach()
    terms = {"cross_entropy": (ce_weights * ce).sum(), objective.method.term: (weight * kl).sum()}
    return ObjectiveOutput(loss, terms | metrics, step.finite(ce, kl))


def _chunk_likelihood(
    step: _Step, loss: Callable[..., Float[Tensor, "B C"]], lambda_t: Float[Tensor, " B"] | None = None
) -> ObjectiveOutput:
    """A divergence of chunk likelihoods across tokenizers, mean over active chunks."""
    objective, noised = step.objective, step.noised
    settings = objective.settings
    assert step.teacher is not None and noised.teacher is not None and noised.teacher_chunks is not None
    student_log_p = step.log_p(step.student, noised.student.labels)
    with torch.no_grad():
        teacher_log_p = step.log_p(step.teacher, noised.teacher.labels)
    options: dict[str, Any] = {"divergence": settings.chunk_divergence}
    weight, metrics = None, {}
    if lambda_t is not None:
        options, weight, metrics = {"lambda_t": lambda_t}, step.weight_t(), {"lambda": _mean(lambda_t)}
    values = loss(
        _on_grid(student_log_p, noised.student.rows, noised.student_chunks.shape),
        _on_grid(teacher_log_p, noised.teacher.rows, noised.teacher_chunks.shape),
        noised.student_chunks,
        noised.teacher_chunks,
        noised.chunk_mask,
        temperature=settings.chunk_temperature,
        eps=settings.chunk_eps,
        reduction="none",
        backend=objective.backend,
        **options,
    )

    ce = -(step.ce_weights() * student_log_p).sum()
    term = reduce_rows("Objective", "weight", weight, noised.chunk_mask, values, "mean")
    metrics |= {
        "cross_entropy": ce.detach(),
        objective.method.term: term.detach(),
        "active_chunks": noised.chunk_mask.float().sum(),
    }
    finite = step.finite(student_log_p.detach()) & values.detach().sum(1).isfinite()
    return ObjectiveOutput(settings.ce_weight * ce + settings.distill_weight * term, metrics, finite)


# s, z: logits of student and teacher; p_s, p_t: their softmax at T; P_s, P_t: chunk likelihoods.
TERMS: dict[Term, Callable[[_Step], ObjectiveOutput]] = {
    # No distillation.
    "cross_entropy": _cross_entropy,
    # T² KL(p_t || p_s)
    "forward_kl": lambda step: _token_divergence(step, linear_interpolated_kl, 1.0),
    # T² KL(p_s || p_t)
    "reverse_kl": lambda step: _token_divergence(step, linear_reverse_kl),
    # T² KL(r || p_s), r = softmax(((1 - λ(t, p)) s + λ(t, p) z) / T)
    "tidal": lambda step: _token_divergence(step, linear_interpolated_kl, step.lambda_t()),
    # -[P_t log P_s + (1 - P_t) log(1 - P_s)]
    "calm": lambda step: _chunk_likelihood(step, calm_loss),
    # -[P_s log P_t + (1 - P_s) log(1 - P_t)]
    "reverse_calm": lambda step: _chunk_likelihood(step, reverse_calm_loss),
    # -[P log P_s + (1 - P) log(1 - P_s)], P = (1 - λ(t, p)) P_s + λ(t, p) P_t held constant
    "tidal_chunks": lambda step: _chunk_likelihood(step, tidal_chunk_loss, step.lambda_t()),
}


def _on_grid(values: Float[Tensor, " N"], rows: Int[Tensor, " N"], shape: torch.Size) -> Float[Tensor, "B L"]:
    """Values of rows at their places in [B, L]; 0 elsewhere."""
    return values.new_zeros(shape.numel()).index_put((rows,), values).view(shape)


def _mean(values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    return values.detach().float().sum() / max(values.numel(), 1)
