"""The objective of every method against its definition in fp64, chunk by chunk."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import tide.losses
from tests.losses.objective_case import (
    CALM,
    CHUNKED,
    PROGRESS,
    SHARED,
    TEACHER_V,
    TIMES,
    Case,
    check,
    trained_tensors,
)
from tide.config import ObjectiveConfig
from tide.methods import METHODS

if TYPE_CHECKING:
    from torch import Tensor


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


@pytest.mark.parametrize("method", CALM)
def test_the_bernoulli_kl_subtracts_the_entropy(method: str) -> None:
    case = Case(method)
    out = case.objective(chunk_divergence="kl")(case.student, case.teacher, case.noised, PROGRESS)
    values = torch.stack(case.chunk_values(divergence="kl"))
    assert float(values.detach().min()) > 0
    check(case, out.loss, case.weighted_cross_entropy() + values.mean())


@pytest.mark.parametrize("method", CHUNKED)
def test_chunk_probabilities_are_clamped_at_the_given_eps(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(method)
    unclamped, clamped = torch.stack(case.chunk_values()), torch.stack(case.chunk_values(eps=0.2))
    changed = (unclamped - clamped).detach().abs() > 1e-6
    assert changed.any() and not changed.all(), "eps lies between the chunks' probabilities"
    out = case.objective(chunk_eps=0.2)(case.student, case.teacher, case.noised, PROGRESS)
    monkeypatch.setattr(case, "chunk_values", lambda: list(clamped))
    check(case, out.loss, case.weighted_cross_entropy() + case.distillation())


@pytest.mark.parametrize("method", SHARED)
def test_heads_of_different_width_compare_their_shared_prefix(method: str) -> None:
    case = Case(method, teacher_vocab=TEACHER_V)
    assert int(case.noised.student.labels.max()) >= 10, (
        "a label past the prefix, which the cross-entropy reads"
    )
    out = case.objective(shared_vocab_size=10)(case.student, case.teacher, case.noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy() + case.distillation(width=10))
    torch.testing.assert_close(out.metrics["cross_entropy"].double(), case.weighted_cross_entropy().detach())


@pytest.mark.parametrize("method", METHODS)
def test_metrics_are_the_terms_that_the_loss_weighs(method: str) -> None:
    case = Case(method)
    # These weights scale the loss, never the metrics.
    objective = case.objective(ce_weight=0.5, distill_weight=3.0)
    metrics = objective(case.student, case.teacher, case.noised, PROGRESS).metrics
    expected = {"cross_entropy": case.weighted_cross_entropy()}
    if method in CHUNKED:
        expected |= {METHODS[method].term: case.distillation(), "active_chunks": torch.tensor(4.0)}
    elif method in SHARED:
        name = {"kl": "forward_kl", "reverse_kl": "reverse_kl"}.get(method, "tidal")
        expected[name] = case.distillation()
    if METHODS[method].term.startswith("tidal"):
        expected["lambda"] = torch.tensor(case.lambda_t()).mean()
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value.item(), rel=5e-6), name
        assert metrics[name].shape == () and not metrics[name].requires_grad, name


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("method", ["none", "tidal", "reverse_kl", "calm"])
def test_sequences_with_a_row_that_is_not_finite_are_named(method: str, side: str) -> None:
    case = Case(method)
    output = case.objective()(case.student, case.teacher, case.noised, PROGRESS)
    assert output.finite.tolist() == [True, True]
    rows = getattr(case, side)
    with torch.no_grad():
        # The last masked row is of the last sequence, and of a chunk across tokenizers.
        rows.hidden[-1] = math.nan
    output = case.objective()(case.student, case.teacher, case.noised, PROGRESS)
    read = side == "student" or method != "none"
    assert output.finite.tolist() == [True, not read]


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


@pytest.mark.parametrize("shared_vocab_size", [None, 10])
@pytest.mark.parametrize("distilled", [[0, 1, 3, 6], [5], []])
@pytest.mark.parametrize("method", SHARED)
def test_rows_that_the_teacher_lacks_keep_their_cross_entropy(
    method: str, distilled: list[int], shared_vocab_size: int | None
) -> None:
    case = Case(method)
    case.distilled = torch.tensor(distilled, dtype=torch.long)
    tokens = case.noised.teacher
    fewer = replace(tokens, rows=tokens.rows[case.distilled], row_views=tokens.row_views[case.distilled])
    noised = replace(case.noised, teacher=fewer)
    teacher = case.teacher._replace(hidden=case.teacher.hidden[case.distilled])
    objective = case.objective(shared_vocab_size=shared_vocab_size)
    out = objective(case.student, teacher, noised, PROGRESS)
    check(case, out.loss, case.weighted_cross_entropy() + case.distillation(shared_vocab_size))
    term = case.distillation(shared_vocab_size).detach()
    torch.testing.assert_close(out.metrics[METHODS[method].term].double(), term, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["none", "tidal", "calm"])
def test_a_weight_per_token_weighs_its_row(method: str) -> None:
    case = Case(method)
    weight = torch.rand(case.noised.loss_mask.shape)
    noised = replace(case.noised, diffusion_weight=weight)
    out = case.objective(distill_weight=0.0)(case.student, case.teacher, noised, PROGRESS)
    by_row = weight.flatten()[noised.student.rows].double()
    check(case, out.loss, (by_row * case.cross_entropy()).sum() / noised.loss_mask.sum())


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
