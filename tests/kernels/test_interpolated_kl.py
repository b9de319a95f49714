"""interpolated_kl: values and gradients against the definition in fp64 or better, and stored vectors.

Mutants that this file kills: the last vocabulary column left out, lambda and 1 - lambda swapped, T missing
from u or from the gradient, the rounding of the mean missing from D, h(w) without its linear term, exp - 1
where expm1 is needed, excluded entries kept in the sums.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch

from tests.kernels.cases import BACKENDS, EPS32, relative, worst_row
from tests.kernels.cases.divergence import call, exact, gradient, make, truth
from tide_kernels import interpolated_kl
from tide_kernels.divergence import formulas
from tide_kernels.divergence.reference import (
    interpolated_kl_gradient,
    interpolated_target,
    kl_to_student,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "interpolated_kl"


@pytest.mark.parametrize("lambda_t", [0.3, 1.0])
def test_reference_passes_gradcheck_with_a_constant_target(lambda_t):
    inputs, _ = make(3, 7, torch.float64)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    target = interpolated_target(student, teacher, torch.full((3,), lambda_t).double(), 1.7)
    assert torch.autograd.gradcheck(lambda s: kl_to_student(target, s, 1.7), student)


def test_row_formulas_pass_gradcheck_in_fp64():
    # At lambda = 1 the target does not depend on the student, so finite differences give the gradient.
    inputs, _ = make(3, 7, torch.float64)
    inputs["lambda_t"] = 1.0
    assert torch.autograd.gradcheck(
        lambda s: call(NAME, inputs, 1.7, student_logits=s, backend="torch"), inputs["student_logits"]
    )


def test_a_hand_computed_row():
    # p = (1/2, 1/2); teacher (3/4, 1/4). Mixing logits half and half: r = (sqrt 3, 1) / (1 + sqrt 3).
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[3.0, 1.0]]).log()
    r = torch.tensor([3.0**0.5, 1.0], dtype=torch.float64) / (1 + 3.0**0.5)
    for backend in BACKENDS:
        kl = interpolated_kl(student, teacher, 0.5, backend=backend)
        assert abs(kl.item() - (r * (2 * r).log()).sum().item()) < 4 * EPS32
        (d_student,) = torch.autograd.grad(kl.sum(), student)
        assert relative(d_student[0], 0.5 - r) < 4 * EPS32


def test_lambda_one_is_forward_kl_and_lambda_zero_is_nothing():
    inputs, upstream = make(vocab=501)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    wide = student.detach().double().requires_grad_()
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(wide / 2, -1), torch.softmax(teacher.double() / 2, -1), reduction="none"
    ).sum(-1)
    for backend in BACKENDS:
        kl = interpolated_kl(student, teacher, 1.0, temperature=2.0, backend=backend)
        assert relative(kl, expected) < 16 * EPS32
        assert (
            relative(
                gradient((kl,), student, upstream[:1]),
                gradient((expected,), wide, upstream[:1], retain_graph=True),
            )
            < 16 * EPS32
        )
        kl = interpolated_kl(student, teacher, 0.0, temperature=2.0, backend=backend)
        assert not kl.any()
        # Exactly: the student's own distribution less itself.
        assert float(gradient((kl,), student, upstream[:1]).abs().max()) <= (
            0 if backend == "torch" else EPS32
        )


@pytest.mark.parametrize("teacher_is", ["near", "far", "shifted"])
@pytest.mark.parametrize(
    ("lambda_t", "temperature"), [(0.001, 2.0), (0.01, 2.0), (0.1, 1.0), (0.5, 1.0), (1.0, 2.0)]
)
def test_no_digits_are_lost_where_the_target_is_close(lambda_t, temperature, teacher_is):
    # Down to KL = 1e-13; a difference of log-sum-exps has no correct digit below 1e-6.
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, 5003, generator=generator)
    student = 3 * torch.randn(3, 5003, generator=generator)
    teacher = {
        "near": student + 1e-3 * noise,
        "far": 3 * noise,
        "shifted": 3 * noise + 50,
    }[teacher_is]
    student.requires_grad_()
    lambdas = torch.full((3,), lambda_t)
    expected, d_expected = exact(NAME, student, teacher, lambdas, temperature)
    kl = interpolated_kl(student, teacher, lambda_t, temperature=temperature)
    # An offset of 50 costs z - s its last digits.
    bound = 100 if teacher_is == "shifted" else 16
    assert worst_row(kl, expected) < bound * EPS32
    assert worst_row(gradient((kl,), student, (torch.ones(3),)), d_expected) < bound * EPS32


@pytest.mark.parametrize("lambda_t", [0.2, 1.0])
def test_a_confident_student_keeps_its_small_divergence(lambda_t):
    # p of the first entry rounds to 1, so its u is the mean and the residual after centring decides.
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 4, 5003, generator=generator)
    student[:, 0] = 40
    teacher[1:, 0] = torch.tensor([20.0, 38.0, 41.0])
    student.requires_grad_()
    expected, d_expected = exact(NAME, student, teacher, torch.full((4,), lambda_t), 1.0)
    kl = interpolated_kl(student, teacher, lambda_t)
    assert worst_row(kl, expected) < 32 * EPS32
    assert worst_row(gradient((kl,), student, (torch.ones(4),)), d_expected) < 64 * EPS32


@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
def test_logits_far_apart_neither_overflow_nor_vanish(scale):
    # p underflows where r is largest: the definition in fp64 evaluates these rows.
    generator = torch.Generator().manual_seed(3)
    student, teacher = scale * torch.randn(2, 3, 1009, generator=generator)
    student.requires_grad_()
    for lambda_t in (0.5, 1.0):
        expected, d_expected = exact(NAME, student, teacher, torch.full((3,), lambda_t), 1.0)
        kl = interpolated_kl(student, teacher, lambda_t)
        assert bool(((kl - expected).abs() <= EPS32 * expected + 1e-30).all())
        d_student = gradient((kl,), student, (torch.ones(3),))
        assert float((d_student - d_expected).abs().max()) < 4 * EPS32


def test_mass_that_underflows_in_the_student_is_still_the_teachers():
    # p = exp(-103.97) is 0 or one bit in fp32, e^w = exp(87) is finite, and 5002 such products make 2e-4.
    student, teacher = torch.zeros(2, 1, 5003)
    student[0, 1:] = -103.97
    teacher[0, 1:] = -16.97
    student.requires_grad_()
    expected, d_expected = exact(NAME, student, teacher, torch.ones(1), 1.0)
    kl = interpolated_kl(student, teacher, 1.0)
    assert relative(kl, expected) < 16 * EPS32
    assert relative(gradient((kl,), student, (torch.ones(1),)), d_expected) < 16 * EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.0, -400.0])
@pytest.mark.parametrize("lambda_t", [0.0, 0.3, 1.0])
def test_entries_at_minus_infinity(lambda_t, offset, backend):
    # With an offset between the sides, excluded entries must not overflow.
    inputs, _ = make(5, 41)
    student, teacher = inputs["student_logits"].detach(), inputs["teacher_logits"] + offset
    student[:, 0] = teacher[:, 0] = -torch.inf  # on both sides: the entry is skipped
    teacher[1, 1] = teacher[4, 1] = -torch.inf
    student[2, 2] = -torch.inf
    student.requires_grad_()
    kl = interpolated_kl(student, teacher, lambda_t, temperature=2.0, backend=backend)
    (d_student,) = torch.autograd.grad(kl.sum(), student)

    wide, wide_teacher = student.detach().double(), teacher.double()
    p = torch.softmax(wide / 2, -1)
    mixed = {0.0: wide, 1.0: wide_teacher}.get(lambda_t, (1 - lambda_t) * wide + lambda_t * wide_teacher)
    r = torch.softmax(mixed / 2, -1)
    terms = torch.where(r > 0, r * (r / p).log(), 0.0).sum(-1)
    # At lambda = 1, r is the teacher's, and row 2 has teacher mass where the student has none.
    assert torch.isposinf(kl).tolist() == [False, False, lambda_t == 1, False, False]
    finite = kl.isfinite()
    # z - s has an error of eps times the offset.
    bound = (16 + abs(offset)) * EPS32
    assert float((kl.detach() - terms)[finite].abs().max()) < bound
    assert float((d_student - (p - r) / 2).abs().max()) < bound
    assert not d_student[:, 0].any()
    # An entry with r = 0 has gradient p / T.
    if lambda_t > 0:
        assert relative(d_student[1, 1], p[1, 1] / 2) < 8 * EPS32


def test_a_masked_token_in_every_row_stays_on_the_fast_path(monkeypatch):
    # Samplers and teachers exclude the mask token this way; fp64 rows are ten times slower.
    def refuse(*_):
        raise AssertionError("a row went through the definition")

    monkeypatch.setattr(formulas, "interpolated_kl_reference", refuse)
    monkeypatch.setattr(formulas, "interpolated_kl_gradient", refuse)
    inputs, upstream = make(5, 41)
    with torch.no_grad():
        inputs["student_logits"][:, 7] = -torch.inf
        inputs["teacher_logits"][:, 7:9] = -torch.inf
    kl, ce = call(NAME, inputs, labels=torch.zeros(5, dtype=torch.long))
    expected = truth(NAME, inputs | {"labels": torch.zeros(5, dtype=torch.long)}, upstream)
    assert relative(kl, expected[0]) < 16 * EPS32
    assert relative(gradient((kl, ce), inputs["student_logits"], upstream), expected[2]) < 16 * EPS32


def test_a_row_without_a_common_entry_is_nan_and_changes_no_other():
    student, teacher = torch.zeros(2, 3, 4)
    student[1, :2], teacher[1, 2:] = -torch.inf, -torch.inf
    kl = interpolated_kl(student, teacher, 0.5)
    assert kl.isnan().tolist() == [False, True, False]


def test_each_row_has_its_own_lambda():
    inputs, upstream = make(13, 700)
    inputs["lambda_t"] = torch.linspace(0, 1, 13)
    kl, ce = call(NAME, inputs)
    d_student = gradient((kl, ce), inputs["student_logits"], upstream, retain_graph=True)
    for row in range(13):
        alone = {name: x.detach()[row : row + 1] for name, x in inputs.items()}
        alone["student_logits"].requires_grad_()
        alone["lambda_t"] = row / 12
        kl_alone, ce_alone = call(NAME, alone)
        # Not bit for bit: exp or expm1 is chosen per row block.
        assert relative(kl[row], kl_alone) < 32 * EPS32
        d_alone = gradient(
            (kl_alone, ce_alone), alone["student_logits"], [d[row : row + 1] for d in upstream]
        )
        assert relative(d_student[row], d_alone[0]) < 32 * EPS32


def test_the_gradient_formula_equals_autograd():
    inputs, upstream = make(5, 301, torch.float64)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    share = inputs["lambda_t"].double()
    kl, _ = call(NAME, inputs, 1.3, backend="reference")
    by_autograd = gradient((kl,), student, upstream[:1])
    by_formula = interpolated_kl_gradient(student.detach(), teacher, share, 1.3)
    assert relative(upstream[0].double()[:, None] * by_formula, by_autograd) < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["taid_0", "taid_1", "taid_2", "taid_3"])
def test_stored_vectors_of_tidal(case, backend):
    with numpy.load(GOLDEN / f"{case}.npz") as file:
        data = {name: file[name] for name in file.files}
    config = json.loads(str(data["config"]))
    t = torch.from_numpy(data["t"])
    progress = float(data["global_step"]) / float(data["max_steps"])
    rise = (1 - numpy.cos(numpy.pi * progress)) / 2 if config["lambda_decay"] == "cosine" else progress
    span = config["lambda_max"] - config["lambda_init"]
    lambda_t = {
        "both": (config["lambda_init"] + span * rise) * (1 - t),
        "training_only": torch.full_like(t, config["lambda_init"] + span * rise),
        "timestep_only": config["lambda_max"] * (1 - t),
    }[config["axis_mode"]]
    weight = torch.ones_like(t)
    if config["timestep_weight"] == "midrange":
        weight = torch.exp(-((t - 0.5) ** 2) / (2 * 0.15**2))
    mask = torch.from_numpy(data["masked_mask"])
    weight = weight[:, None].expand(mask.shape)
    if "entropy_weights" in data:
        weight = weight * torch.from_numpy(data["entropy_weights"])

    temperature = config["temperature"]
    student = torch.from_numpy(data["student_logits"]).requires_grad_()
    kl = interpolated_kl(
        student.flatten(0, 1),
        torch.from_numpy(data["teacher_logits"]).flatten(0, 1),
        lambda_t[:, None].expand(mask.shape).flatten(),
        temperature=temperature,
        mask=mask.flatten(),
        vocab_size=config["shared_vocab_size"],
        backend=backend,
    )
    loss = (kl * weight.flatten()).sum() / mask.sum() * temperature**2
    # For small lambda the loss is 1e-4, and fp32 log-sum-exps have an absolute error.
    bound = 32 * EPS32 * float(data["exact_loss"]) if backend == "torch" else 32 * EPS32
    assert abs(loss.item() - float(data["exact_loss"])) < bound
    loss.backward()
    d_bound = 16 * EPS32 if backend == "torch" else 1e-4
    assert relative(student.grad, torch.from_numpy(data["exact_grad"])) < d_bound
