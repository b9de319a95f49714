"""The objective of every method against its definition in fp64, chunk by chunk.

Legend: B sequences, L tokens, N masked rows, C chunks, V vocabulary entries.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import tide.losses
from tide.batch import Head, HiddenRows, NoisedBatch, NoisedTokens
from tide.config import ObjectiveConfig
from tide.losses.objective import Objective
from tide.methods import METHODS
from tide_kernels.interpolated_kl.reference import cross_entropy, interpolated_kl_reference
from tide_kernels.reverse_kl.reference import reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

V, TEACHER_V, STUDENT_D, TEACHER_D = 13, 17, 6, 8
MASK_ID = 1
TEMPERATURE, CHUNK_TEMPERATURE, PROGRESS = 2.0, 3.0, 0.25
TIMES = (0.3, 0.8)
# Two sequences of six student and seven teacher tokens. The first begins with prompt; the student's second is
# masked from its first token on and ends in padding.
# Chunk 1 is never whole: all of it is seen in the first sequence, and one token of it in the second.
STUDENT_MASKED = [[0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0]]
STUDENT_MASKABLE = [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
STUDENT_CHUNKS = [[-1, 0, 0, 1, 2, 2], [-1, 0, 1, 1, 2, -1]]
TEACHER_MASKED = [[0, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]
TEACHER_CHUNKS = [[-1, 0, 1, 1, 2, 2, 2], [-1, 0, 0, 1, 1, 2, 2]]
ACTIVE_CHUNKS = [[1, 0, 1], [1, 0, 1]]

SHARED = [name for name, method in METHODS.items() if method.teacher == "shared"]
CHUNKED = [name for name, method in METHODS.items() if method.teacher == "any"]


def noised_tokens(token_ids: Tensor, masked: Tensor) -> NoisedTokens:
    rows = masked.flatten().nonzero().flatten()
    views = token_ids.masked_fill(masked, MASK_ID)[:, None]
    return NoisedTokens(
        token_ids, torch.ones_like(token_ids, dtype=torch.bool), views, rows, torch.zeros_like(rows)
    )


def bools(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def batch(*, across: bool, empty: bool = False) -> NoisedBatch:
    """`across`: the teacher has another tokenization; `empty`: nothing is masked."""
    student_masked = bools(STUDENT_MASKED) & (not empty)
    student_ids = torch.randint(2, V, student_masked.shape)
    teacher_masked = bools(TEACHER_MASKED) & (not empty) if across else student_masked
    teacher_ids = torch.randint(2, TEACHER_V, teacher_masked.shape) if across else student_ids
    chunks = torch.tensor(STUDENT_CHUNKS) if across else torch.full_like(student_ids, -1)
    t = torch.tensor(TIMES)
    return NoisedBatch(
        student=noised_tokens(student_ids, student_masked),
        teacher=noised_tokens(teacher_ids, teacher_masked),
        t=t,
        diffusion_weight=1 / t,
        loss_mask=bools(STUDENT_MASKABLE),
        student_chunks=chunks,
        teacher_chunks=torch.tensor(TEACHER_CHUNKS) if across else chunks,
        chunk_mask=(bools(ACTIVE_CHUNKS) & (not empty)) if across else torch.zeros(2, 0, dtype=torch.bool),
    )


def masked_rows(
    tokens: NoisedTokens, vocab_size: int, width: int, *, trained: bool, **options: float
) -> HiddenRows:
    # Heads this small keep chunk probabilities away from 0 and 1.
    hidden, *head = (
        torch.randn(len(tokens.rows), width),
        torch.randn(vocab_size, width) / 3,
        torch.randn(vocab_size) / 3,
    )
    head = Head(*(x.requires_grad_(trained) for x in head), **options)
    return HiddenRows(hidden.requires_grad_(trained), head)


def trained_tensors(rows: HiddenRows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.hidden, rows.head.weight, rows.head.bias


def _widened(rows: HiddenRows, *, trained: bool) -> HiddenRows:
    """The same rows and head in fp64."""
    hidden, weight, bias = (x.detach().double().requires_grad_(trained) for x in trained_tensors(rows))
    return HiddenRows(hidden, rows.head._replace(weight=weight, bias=bias))


class Case:
    """One batch with the rows of both models, and what the loss should be, in fp64."""

    def __init__(
        self, method: str, *, empty: bool = False, teacher_vocab: int | None = None, **head: float
    ) -> None:
        across = METHODS[method].teacher == "any"
        self.method = method
        self.noised = batch(across=across, empty=empty)
        teacher_vocab = teacher_vocab or (TEACHER_V if across else V)
        self.student = masked_rows(self.noised.student, V, STUDENT_D, trained=True, **head)
        self.teacher = masked_rows(self.noised.teacher, teacher_vocab, TEACHER_D, trained=False, **head)
        self.wide = _widened(self.student, trained=True)
        self.sequence = self.noised.student.rows // self.noised.loss_mask.shape[1]

    def objective(self, *, shared_vocab_size: int | None = None, **settings: object) -> Objective:
        settings = {"temperature": TEMPERATURE, "chunk_temperature": CHUNK_TEMPERATURE} | settings
        return Objective(
            METHODS[self.method], ObjectiveConfig(**settings), shared_vocab_size=shared_vocab_size
        )

    def logits(self, side: str, width: int | None = None) -> Float[Tensor, "N V"]:
        rows = self.wide if side == "student" else _widened(self.teacher, trained=False)
        head = rows.head
        logits = head.logit_scale * (rows.hidden @ head.weight.T + head.bias)
        return (logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh())[:, :width]

    def cross_entropy(self) -> Float[Tensor, " N"]:
        return cross_entropy(self.logits("student"), self.noised.student.labels)

    def weighted_cross_entropy(
        self, normalizer: str = "token", width: int | None = None
    ) -> Float[Tensor, ""]:
        maskable = bools(STUDENT_MASKABLE)
        total = torch.zeros((), dtype=torch.float64)
        for row, ce in enumerate(self.cross_entropy()):
            sequence = int(self.sequence[row])
            count = {
                "token": int(maskable.sum()),
                "sequence": 2 * int(maskable[sequence].sum()),
                "batch": 2,
            }[normalizer]
            total = total + ce / TIMES[sequence] / count
        return total

    def distillation(self, width: int | None = None) -> Float[Tensor, ""]:
        """The method's distillation term, with every factor but `distill_weight`."""
        if self.method in CHUNKED:
            values = self.chunk_values()
            return torch.stack(values).sum() / max(len(values), 1)
        kl = self.kl(width)
        weight = [
            math.exp(-((TIMES[sequence] - 0.5) ** 2) / (2 * 0.15**2)) if self.method == "tide_shared" else 1.0
            for sequence in self.sequence.tolist()
        ]
        return TEMPERATURE**2 * (kl * torch.tensor(weight, dtype=torch.float64)).sum() / max(len(kl), 1)

    def lambda_t(self) -> list[float]:
        """By sequence: λ_train(p) = 0.1 + 0.8 (1 − cos πp) / 2, times 1 − t but for TAID."""
        trained = 0.1 + 0.8 * (1 - math.cos(math.pi * PROGRESS)) / 2
        return [trained * (1.0 if self.method == "taid" else 1 - t) for t in TIMES]

    def kl(self, width: int | None = None) -> Float[Tensor, " N"]:
        student, teacher = self.logits("student", width), self.logits("teacher", width)
        if self.method == "reverse_kl":
            return reverse_kl_reference(student, teacher, TEMPERATURE)[0]
        by_sequence = [1.0, 1.0] if self.method == "kl" else self.lambda_t()
        lambda_t = torch.tensor(by_sequence, dtype=torch.float64)[self.sequence]
        return interpolated_kl_reference(student, teacher, lambda_t, TEMPERATURE)[0]

    def chunk_values(self, eps: float = 1e-7, divergence: str = "bce") -> list[Tensor]:
        """The divergence of every active chunk, one chunk at a time."""
        noised = self.noised
        student_log_p = -self.cross_entropy()
        teacher_log_p = -cross_entropy(self.logits("teacher"), noised.teacher.labels)
        values = []
        for sequence, chunk in noised.chunk_mask.nonzero().tolist():
            p_s, p_t = (
                (log_p[(chunks.flatten()[rows] == chunk) & (rows // chunks.shape[1] == sequence)].sum())
                .div(CHUNK_TEMPERATURE)
                .exp()
                .clamp(eps, 1 - eps)
                for log_p, chunks, rows in (
                    (student_log_p, noised.student_chunks, noised.student.rows),
                    (teacher_log_p, noised.teacher_chunks, noised.teacher.rows),
                )
            )
            if self.method == "calm":
                value = -(p_t * p_s.log() + (1 - p_t) * (1 - p_s).log())
                entropy = -(p_t * p_t.log() + (1 - p_t) * (1 - p_t).log())
            else:
                value = -(p_s * p_t.log() + (1 - p_s) * (1 - p_t).log())
                entropy = -(p_s * p_s.log() + (1 - p_s) * (1 - p_s).log())
            values.append(value - entropy if divergence == "kl" else value)
        return values


def check(case: Case, loss: Tensor, expected: Tensor) -> None:
    """Loss and the gradients of the student's hidden rows and head."""
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    assert loss.dtype == torch.float32 and loss.shape == ()
    actual = torch.autograd.grad(loss, trained_tensors(case.student))
    wanted = torch.autograd.grad(expected, trained_tensors(case.wide))
    for name, gradient, truth in zip(("hidden", "weight", "bias"), actual, wanted, strict=True):
        worst = float((gradient.double() - truth).abs().max() / truth.abs().max())
        assert worst < 5e-6, f"gradient of {name}: {worst:.1e} of its largest entry"


def test_none_is_the_diffusion_cross_entropy() -> None:
    case = Case("none")
    out = case.objective()(case.student, None, case.noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy())
    assert list(out.metrics) == ["cross_entropy"]


@pytest.mark.parametrize("method", [*SHARED, *CHUNKED])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 0.7), (0.3, 2.5)])
def test_loss_is_the_weighted_sum_of_two_terms(method: str, weights: tuple[float, float]) -> None:
    case = Case(method)
    ce_weight, distill_weight = weights
    objective = case.objective(ce_weight=ce_weight, distill_weight=distill_weight)
    out = objective(case.student, case.teacher, case.noised, PROGRESS)
    check(case, out.loss, ce_weight * case.weighted_cross_entropy() + distill_weight * case.distillation())


@pytest.mark.parametrize("normalizer", ["sequence", "batch"])
@pytest.mark.parametrize("method", ["none", "tidal", "tide_cross"])
def test_the_normalizer_is_that_of_the_cross_entropy_alone(method: str, normalizer: str) -> None:
    case = Case(method)
    objective = case.objective(ce_normalizer=normalizer)
    out = objective(case.student, case.teacher, case.noised, PROGRESS)
    expected = case.weighted_cross_entropy(normalizer)
    check(case, out.loss, expected if method == "none" else expected + case.distillation())


@pytest.mark.parametrize("method", CHUNKED)
def test_the_bernoulli_kl_subtracts_the_entropy(method: str) -> None:
    case = Case(method)
    out = case.objective(chunk_divergence="kl")(case.student, case.teacher, case.noised, PROGRESS)
    values = torch.stack(case.chunk_values(divergence="kl"))
    assert float(values.detach().min()) > 0
    check(case, out.loss, case.weighted_cross_entropy() + values.mean())


@pytest.mark.parametrize("method", CHUNKED)
def test_chunk_probabilities_are_clamped_at_the_given_eps(method: str) -> None:
    case = Case(method)
    unclamped, clamped = torch.stack(case.chunk_values()), torch.stack(case.chunk_values(eps=0.2))
    changed = (unclamped - clamped).detach().abs() > 1e-6
    assert changed.any() and not changed.all(), "eps lies between the chunks' probabilities"
    out = case.objective(chunk_eps=0.2)(case.student, case.teacher, case.noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy() + clamped.mean())


@pytest.mark.parametrize("method", SHARED)
def test_heads_of_different_width_compare_their_shared_prefix(method: str) -> None:
    case = Case(method, teacher_vocab=TEACHER_V)
    assert int(case.noised.student.labels.max()) >= 10, (
        "a label past the prefix, which the cross-entropy reads"
    )
    out = case.objective(shared_vocab_size=10)(case.student, case.teacher, case.noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy() + case.distillation(width=10))
    torch.testing.assert_close(out.metrics["cross_entropy"].double(), case.cross_entropy().mean())


@pytest.mark.parametrize("method", METHODS)
def test_metrics_are_plain_means_in_nats(method: str) -> None:
    case = Case(method)
    # The weights scale the loss, never the metrics.
    objective = case.objective(ce_weight=0.5, distill_weight=3.0)
    metrics = objective(case.student, case.teacher, case.noised, PROGRESS).metrics
    expected = {"cross_entropy": case.cross_entropy().mean()}
    if method in CHUNKED:
        name = {"calm": "calm", "tide_cross": "reverse_calm"}[method]
        expected |= {name: case.distillation(), "active_chunks": torch.tensor(4.0)}
    elif method in SHARED:
        name = {"kl": "forward_kl", "reverse_kl": "reverse_kl"}.get(method, "tidal")
        expected[name] = case.kl().mean()  # Neither T² nor the timestep weight.
        if name == "tidal":
            expected["lambda"] = torch.tensor(case.lambda_t()).mean()
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value.item(), rel=5e-6), name
        assert metrics[name].shape == () and not metrics[name].requires_grad, name


@pytest.mark.parametrize("method", METHODS)
def test_nothing_masked_is_zero_with_a_connected_graph(method: str) -> None:
    case = Case(method, empty=True)
    out = case.objective()(case.student, case.teacher, case.noised, PROGRESS)
    assert float(out.loss.detach()) == 0.0
    for gradient in torch.autograd.grad(out.loss, trained_tensors(case.student)):
        assert not gradient.any()
    assert all(float(value) == 0.0 for name, value in out.metrics.items() if name != "lambda")


@pytest.mark.parametrize("method", CHUNKED)
def test_without_an_active_chunk_the_cross_entropy_stays(method: str) -> None:
    case = Case(method)
    case.noised = replace(case.noised, chunk_mask=torch.zeros_like(case.noised.chunk_mask))
    out = case.objective()(case.student, case.teacher, case.noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy())
    assert float(out.metrics["active_chunks"]) == 0.0


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_distillation_needs_a_teacher(method: str) -> None:
    case = Case(method)
    with pytest.raises(ValueError, match="Objective: this method needs a teacher; got none"):
        case.objective()(case.student, None, case.noised, PROGRESS)


def test_method_none_ignores_the_teacher() -> None:
    case = Case("none")
    with_teacher = case.objective()(case.student, case.teacher, case.noised, PROGRESS).loss
    assert torch.equal(with_teacher, case.objective()(case.student, None, case.noised, PROGRESS).loss)


def test_tidal_at_lambda_one_is_forward_kl() -> None:
    case = Case("kl")
    kl = case.objective()(case.student, case.teacher, case.noised, PROGRESS).loss
    case.method = "taid"
    taid = case.objective(lambda_init=1.0, lambda_max=1.0)(
        case.student, case.teacher, case.noised, PROGRESS
    ).loss
    torch.testing.assert_close(taid, kl)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("axis", "decay", "value"),
    [
        ("both", "linear", lambda p, t: (0.2 + 0.4 * p) * (1 - t)),
        ("training", "linear", lambda p, t: 0.2 + 0.4 * p),
        ("timestep", "linear", lambda p, t: 0.6 * (1 - t)),
        ("both", "cosine", lambda p, t: (0.2 + 0.4 * (1 - math.cos(math.pi * p)) / 2) * (1 - t)),
    ],
)
def test_settings_override_the_lambda_schedule(axis: str, decay: str, value: object, progress: float) -> None:
    case = Case("tidal")
    objective = case.objective(lambda_init=0.2, lambda_max=0.6, lambda_decay=decay, lambda_axis=axis)
    out = objective(case.student, case.teacher, case.noised, progress)
    expected = sum(value(progress, t) for t in TIMES) / len(TIMES)
    assert float(out.metrics["lambda"]) == pytest.approx(expected, abs=1e-6)


def test_settings_override_the_timestep_weight_of_the_method() -> None:
    plain, tide_shared = Case("tidal"), Case("tide_shared")

    def loss(case: Case, **settings: object) -> Tensor:
        return case.objective(**settings)(case.student, case.teacher, case.noised, PROGRESS).loss

    tide_shared.student, tide_shared.teacher, tide_shared.noised = plain.student, plain.teacher, plain.noised
    assert torch.equal(loss(tide_shared, timestep_weight="uniform"), loss(plain))
    assert torch.equal(loss(plain, timestep_weight="midrange"), loss(tide_shared))
    assert not torch.equal(loss(plain), loss(tide_shared))


@pytest.mark.parametrize(
    ("method", "shared_vocab_size"), [*((name, None) for name in METHODS), *((name, 10) for name in SHARED)]
)
def test_scale_and_softcap_of_both_heads_change_the_loss(method: str, shared_vocab_size: int | None) -> None:
    case = Case(method, logit_scale=1.7, softcap=0.9)
    objective = case.objective(shared_vocab_size=shared_vocab_size)
    out = objective(case.student, case.teacher, case.noised, PROGRESS)
    expected = case.weighted_cross_entropy()
    if method != "none":
        expected = expected + case.distillation(width=shared_vocab_size)
    check(case, out.loss, expected)
    for side in ("student",) if method == "none" else ("student", "teacher"):
        for option in ({"logit_scale": 1.0}, {"softcap": None}):
            rows = {"student": case.student, "teacher": case.teacher}
            rows[side] = rows[side]._replace(head=rows[side].head._replace(**option))
            other = objective(rows["student"], rows["teacher"], case.noised, PROGRESS).loss
            assert abs(float((other - out.loss).detach())) > 1e-4, (side, option)


def test_defaults_of_the_functions_are_those_of_the_recipe() -> None:
    settings, losses = ObjectiveConfig(), tide.losses
    divergences = [
        getattr(losses, f"{prefix}{name}_loss")
        for prefix in ("", "linear_")
        for name in ("tidal", "forward_kl", "reverse_kl")
    ]
    calm = [losses.calm_loss, losses.reverse_calm_loss]
    same = {
        "temperature": [(loss, "temperature") for loss in divergences],
        "chunk_temperature": [(loss, "temperature") for loss in (*calm, losses.tidal_chunk_loss)],
        "chunk_eps": [(loss, "eps") for loss in (*calm, losses.tidal_chunk_loss)],
        "chunk_divergence": [(loss, "divergence") for loss in calm],
        "lambda_init": [(losses.lambda_schedule, "lambda_init")],
        "lambda_max": [(losses.lambda_schedule, "lambda_max")],
        "lambda_decay": [(losses.lambda_schedule, "decay")],
        "ce_normalizer": [(f, "normalizer") for f in (losses.row_weights, losses.cross_entropy_loss)],
    }
    for setting, parameters in same.items():
        for function, name in parameters:
            default = inspect.signature(function).parameters[name].default
            assert default == getattr(settings, setting), f"{function.__name__}: {name}"
