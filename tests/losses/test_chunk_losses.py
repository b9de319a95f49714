"""CALM, Reverse CALM and TIDAL on chunks against formulas on probabilities in fp64."""

from __future__ import annotations

import math

import pytest
import torch

from tide.losses import calm_loss, reverse_calm_loss, tidal_chunk_loss

EPS32 = torch.finfo(torch.float32).eps
STUDENT_CHUNKS = torch.tensor([[0, 0, -1, 1, 2, 2, 2], [-1, 0, 1, 1, -1, 3, -1]])
TEACHER_CHUNKS = torch.tensor([[0, 1, 1, 1, 2], [0, 0, 1, 3, -1]])
# Chunk 2 of the second sequence does not exist; chunk 1 of the first exists and does not count.
MASK = torch.tensor([[True, False, True, False], [True, True, False, True]])
LOSSES = {"calm": calm_loss, "reverse_calm": reverse_calm_loss, "tidal": tidal_chunk_loss}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    student = -torch.rand(2, 7, generator=generator) * 2
    teacher = -torch.rand(2, 5, generator=generator) * 2
    return student.requires_grad_(), teacher


def likelihood(log_p, chunks, temperature):
    """P of every chunk, [B, 4], in fp64."""
    log_likelihood = torch.stack([(log_p.double() * (chunks == c)).sum(1) for c in range(4)], 1)
    return (log_likelihood / temperature).exp()


def expected(name, student, teacher, temperature, lambda_t=None):
    p = likelihood(student, STUDENT_CHUNKS, temperature)
    q = likelihood(teacher, TEACHER_CHUNKS, temperature)
    p, q = p.masked_fill(~MASK, 0.5), q.masked_fill(~MASK, 0.5)
    if name == "reverse_calm":
        return -(p * q.log() + (1 - p) * (1 - q).log())
    target = q if name == "calm" else ((1 - lambda_t) * p + lambda_t * q).detach()
    return -(target * p.log() + (1 - target) * (1 - p).log())


def call(name, data, **options):
    if name == "tidal":
        options.setdefault("lambda_t", torch.tensor([0.25, 0.75]))
    return LOSSES[name](*data, STUDENT_CHUNKS, TEACHER_CHUNKS, MASK, **options)


def formula(name, data, temperature=2.0):
    return expected(name, *data, temperature, torch.tensor([[0.25], [0.75]]).double())


def close(actual, wanted, bound=32):
    scale = wanted.detach().abs().max()
    assert float((actual.detach().double() - wanted.detach()).abs().max() / scale) < bound * EPS32


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", LOSSES)
def test_mean_over_active_chunks(name, temperature, backend, data):
    loss = call(name, data, temperature=temperature, backend=backend)
    wanted = formula(name, data, temperature)[MASK].mean()
    assert loss.shape == () and loss.dtype == torch.float32
    close(loss, wanted)
    (actual,) = torch.autograd.grad(loss, [data[0]])
    (gradient,) = torch.autograd.grad(wanted, [data[0]])
    close(actual, gradient)
    outside = (STUDENT_CHUNKS < 0) | ((STUDENT_CHUNKS == 1) & torch.tensor([[True], [False]]))
    assert not actual[outside].any() and actual[~outside].all()


@pytest.mark.parametrize("name", LOSSES)
def test_reductions_and_weights(name, data):
    none = call(name, data, reduction="none")
    assert none.shape == (2, 4) and not none[~MASK].any()
    close(none, formula(name, data) * MASK)
    weights = torch.rand(2, 4, generator=torch.Generator().manual_seed(3)).masked_fill(~MASK, torch.nan)
    weighted = call(name, data, chunk_weights=weights)
    # Divided by the number of active chunks, not by the sum of the weights.
    close(weighted, (formula(name, data) * weights)[MASK].mean())
    per_sequence = torch.tensor([2.0, 0.5])
    close(
        call(name, data, chunk_weights=per_sequence, reduction="sum"),
        (formula(name, data) * per_sequence[:, None])[MASK].sum(),
    )


def test_bernoulli_kl_is_zero_at_equality_and_has_the_right_gradient(data):
    student, teacher = data
    p = likelihood(student, STUDENT_CHUNKS, 2.0).masked_fill(~MASK, 0.5)
    q = likelihood(teacher, TEACHER_CHUNKS, 2.0).masked_fill(~MASK, 0.5)
    for name, wanted in {
        "calm": q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log(),
        "reverse_calm": p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log(),
    }.items():
        loss = call(name, data, divergence="kl")
        close(loss, wanted[MASK].mean())
        (actual,) = torch.autograd.grad(loss, [student])
        (gradient,) = torch.autograd.grad(wanted[MASK].mean(), [student], retain_graph=True)
        close(actual, gradient)
        same = (student, student.detach(), STUDENT_CHUNKS, STUDENT_CHUNKS, MASK)
        equal = LOSSES[name](*same, divergence="kl")
        assert abs(float(equal.detach())) < 4 * EPS32
        (at_optimum,) = torch.autograd.grad(equal, [student])
        assert at_optimum.abs().max() < 4 * EPS32


def test_forward_kl_and_bce_have_one_gradient_and_reverse_have_two(data):
    def gradient(name, divergence):
        return torch.autograd.grad(call(name, data, divergence=divergence), [data[0]])[0]

    assert torch.equal(gradient("calm", "bce"), gradient("calm", "kl"))
    assert (gradient("reverse_calm", "bce") - gradient("reverse_calm", "kl")).abs().max() > 1e-2


def test_reverse_slope_is_the_log_odds_of_the_teacher(data):
    """d/dP_s of -[P_s log P_t + (1 - P_s) log(1 - P_t)] is -log(P_t / (1 - P_t)), whatever P_s is."""
    teacher = torch.tensor([[math.log(0.8)]])
    chunk = torch.zeros(1, 1, dtype=torch.int64)
    active = torch.ones(1, 1, dtype=torch.bool)
    for p in (0.01, 0.5, 0.99):
        student = torch.tensor([[math.log(p)]], requires_grad=True)
        reverse_calm_loss(student, teacher, chunk, chunk, active, temperature=1.0).backward()
        assert float(student.grad) == pytest.approx(-math.log(4) * p, rel=1e-5)


def test_likelihoods_are_clamped_and_a_clamped_student_has_no_gradient():
    chunk = torch.zeros(1, 1, dtype=torch.int64)
    active = torch.ones(1, 1, dtype=torch.bool)
    student = torch.tensor([[-60.0]], requires_grad=True)
    teacher = torch.tensor([[math.log(0.5)]])
    loss = calm_loss(student, teacher, chunk, chunk, active, temperature=2.0, eps=1e-4)
    wanted = -(math.sqrt(0.5) * math.log(1e-4) + (1 - math.sqrt(0.5)) * math.log1p(-1e-4))
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-6)
    loss.backward()
    assert student.grad == 0


@pytest.mark.parametrize("name", LOSSES)
def test_no_active_chunk_is_zero_with_a_graph(name, data):
    options = {"lambda_t": 0.5} if name == "tidal" else {}
    for chunks in (4, 0):
        empty = torch.zeros(2, chunks, dtype=torch.bool)
        ids = [torch.full_like(c, -1) if chunks == 0 else c for c in (STUDENT_CHUNKS, TEACHER_CHUNKS)]
        loss = LOSSES[name](*data, *ids, empty, **options)
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, [data[0]])
        assert gradient.shape == (2, 7) and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_unread_rows_stays_there(name, data):
    student, teacher = data
    wanted = call(name, data)
    (expected_gradient,) = torch.autograd.grad(wanted, [student])
    unread = (STUDENT_CHUNKS < 0) | ((STUDENT_CHUNKS == 1) & torch.tensor([[True], [False]]))
    spoiled = student.detach().masked_fill(unread, torch.nan).requires_grad_()
    loss = call(name, (spoiled, teacher.masked_fill(TEACHER_CHUNKS < 0, torch.nan)))
    assert torch.equal(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, [spoiled])
    assert torch.equal(gradient, expected_gradient)


def test_lambda_per_sequence_and_as_a_number(data):
    number = call("tidal", data, lambda_t=0.25)
    assert torch.equal(number, call("tidal", data, lambda_t=torch.tensor([0.25, 0.25])))
    close(call("tidal", data, lambda_t=1.0), call("calm", data).double())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("calm", {"divergence": "js"}, "^calm_loss: divergence must be one of bce, kl; got 'js'"),
        ("reverse_calm", {"divergence": "js"}, "^reverse_calm_loss: divergence must be one of bce, kl"),
        ("calm", {"reduction": "avg"}, "^calm_loss: reduction must be one of mean, sum, none; got 'avg'"),
        (
            "calm",
            {"chunk_weights": torch.ones(3)},
            "^calm_loss: chunk_weights must be a number, one per sequence",
        ),
        ("calm", {"temperature": 0.0}, "temperature must be positive"),
        ("calm", {"eps": 0.5}, "eps must"),
        ("tidal", {"lambda_t": 1.5}, r"lambda_t must lie in \[0, 1\]"),
        (
            "tidal",
            {"lambda_t": torch.rand(3)},
            "^tidal_chunk_loss: lambda_t must be a number, one per sequence",
        ),
    ],
)
def test_errors_name_function_rule_values_and_remedy(name, change, message, data):
    with pytest.raises(ValueError, match=message):
        call(name, data, **change)


def test_trainable_teacher_is_an_error(data):
    student, teacher = data
    for name in LOSSES:
        with pytest.raises(ValueError, match="requires grad"):
            call(name, (student, teacher.clone().requires_grad_()))
