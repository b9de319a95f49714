"""reverse_kl: values and gradients against the definition in fp64 or better, and stored vectors.

Mutants that this file kills: the last vocabulary column left out, the sides swapped, T missing from the ratio
or from the gradient, the mean of u missing from the gradient, expm1 not corrected by its mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from tests.kernels.cases import BACKENDS, EPS32, relative, worst_row
from tests.kernels.cases.divergence import call, exact, gradient, make
from tide_kernels import interpolated_kl, reverse_kl
from tide_kernels.divergence import formulas
from tide_kernels.divergence.reference import reverse_kl_gradient, reverse_kl_reference

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "reverse_kl"


def test_reference_and_row_formulas_pass_gradcheck_in_fp64():
    inputs, _ = make(3, 7, torch.float64)
    student, teacher, labels = (inputs[name] for name in ("student_logits", "teacher_logits", "labels"))
    assert torch.autograd.gradcheck(lambda s: reverse_kl_reference(s, teacher, 1.7, labels), student)
    assert torch.autograd.gradcheck(
        lambda s: call(NAME, inputs, 1.7, student_logits=s, backend="torch"), student
    )


def test_a_hand_computed_row():
    # p = (1/2, 1/2), q = (3/4, 1/4).
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[3.0, 1.0]]).log()
    ratio = torch.tensor([2 / 3, 2.0], dtype=torch.float64).log()
    for backend in BACKENDS:
        kl = reverse_kl(student, teacher, backend=backend)
        assert relative(kl, ratio.mean(0, keepdim=True)) < 4 * EPS32
        (d_student,) = torch.autograd.grad(kl.sum(), student)
        assert relative(d_student[0], (ratio - ratio.mean()) / 2) < 4 * EPS32


def test_it_is_forward_kl_with_the_sides_swapped():
    inputs, _ = make(5, 300)
    student, teacher = inputs["student_logits"].detach(), inputs["teacher_logits"]
    for backend in BACKENDS:
        here = reverse_kl(student, teacher, temperature=2.0, backend=backend)
        there = interpolated_kl(teacher, student, 1.0, temperature=2.0, backend=backend)
        assert relative(here, there) < 16 * EPS32
        assert relative(here, reverse_kl(teacher, student, temperature=2.0)) > 0.01


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.1, 3.0])
def test_no_digits_are_lost_where_the_sides_are_close(noise, temperature):
    generator = torch.Generator().manual_seed(1)
    student = 3 * torch.randn(3, 5003, generator=generator)
    teacher = student + noise * torch.randn(3, 5003, generator=generator)
    student.requires_grad_()
    expected, d_expected = exact(NAME, student, teacher, torch.ones(3), temperature)
    kl = reverse_kl(student, teacher, temperature=temperature)
    assert worst_row(kl, expected) < 16 * EPS32
    assert worst_row(gradient((kl,), student, (torch.ones(3),)), d_expected) < 16 * EPS32


def test_a_confident_student_keeps_its_small_divergence():
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 4, 5003, generator=generator)
    student[:, 0] = 40
    teacher[1:, 0] = torch.tensor([20.0, 38.0, 41.0])
    student.requires_grad_()
    expected, d_expected = exact(NAME, student, teacher, torch.ones(4), 1.0)
    kl = reverse_kl(student, teacher)
    assert worst_row(kl, expected) < 32 * EPS32
    assert worst_row(gradient((kl,), student, (torch.ones(4),)), d_expected) < 64 * EPS32


@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
def test_logits_far_apart_neither_overflow_nor_vanish(scale):
    generator = torch.Generator().manual_seed(3)
    student, teacher = scale * torch.randn(2, 3, 1009, generator=generator)
    student.requires_grad_()
    expected, d_expected = exact(NAME, student, teacher, torch.ones(3), 1.0)
    kl = reverse_kl(student, teacher)
    assert bool(((kl - expected).abs() <= EPS32 * expected).all())
    d_student = gradient((kl,), student, (torch.ones(3),))
    assert float((d_student - d_expected).abs().max()) < 4 * EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.0, -400.0])
def test_entries_at_minus_infinity(offset, backend):
    inputs, _ = make(4, 41)
    student, teacher = inputs["student_logits"].detach(), inputs["teacher_logits"] + offset
    student[:, 0] = teacher[:, 0] = -torch.inf  # on both sides: the entry is skipped
    student[1, 1] = -torch.inf  # no student mass: the teacher's does not matter
    teacher[2, 2] = -torch.inf  # student mass where the teacher has none
    student[3, 3], teacher[3, 3] = student[3, -1] - 1000, -torch.inf  # student mass that rounds to 0
    student.requires_grad_()
    kl = reverse_kl(student, teacher, temperature=2.0, backend=backend)
    (d_student,) = torch.autograd.grad(kl.sum(), student)

    assert torch.isposinf(kl).tolist() == [False, False, True, False]
    finite = [0, 1, 3]
    log_p = torch.log_softmax(student.detach().double() / 2, -1)
    log_q = torch.log_softmax(teacher.double() / 2, -1)
    p = torch.where(log_p > -200, log_p.exp(), 0.0)
    log_ratio = torch.where(p > 0, log_p - log_q, 0.0)
    expected = (p * log_ratio).sum(-1)
    d_expected = p * (log_ratio - expected[:, None]) / 2
    bound = (16 + abs(offset)) * EPS32
    assert float((kl.detach() - expected)[finite].abs().max()) < bound
    assert float((d_student - d_expected)[finite].abs().max()) < bound
    assert not d_student[finite, 0].any() and not d_student[1, 1] and not d_student[3, 3]
    assert not d_student[2].isfinite().all()  # no finite gradient exists


@pytest.mark.parametrize("backend", BACKENDS)
def test_teacher_mass_where_the_student_has_none_gives_a_large_finite_kl(backend):
    # The teacher's mass on the other entries is exp(-300), which is 0 in fp32.
    student = torch.tensor([[-torch.inf, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 0.0, 1.0]])
    kl = reverse_kl(student, teacher, backend=backend)
    assert relative(kl, torch.tensor([300 - 0.5 - torch.tensor(2.0).log()])) < EPS32
    (d_student,) = torch.autograd.grad(kl.sum(), student)
    assert relative(d_student, torch.tensor([[0.0, 0.25, -0.25]])) < 64 * EPS32


def test_a_masked_token_in_every_row_stays_on_the_fast_path(monkeypatch):
    def refuse(*_):
        raise AssertionError("a row went through the definition")

    inputs, upstream = make(5, 41)
    inputs["labels"] = torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        inputs["student_logits"][:, 7:9] = -torch.inf
        inputs["teacher_logits"][:, 7] = -torch.inf
    expected = call(NAME, inputs, backend="reference")
    d_expected = gradient(expected, inputs["student_logits"], upstream)
    monkeypatch.setattr(formulas, "reverse_kl_reference", refuse)
    monkeypatch.setattr(formulas, "reverse_kl_gradient", refuse)
    results = call(NAME, inputs)
    assert relative(results[0], expected[0]) < 16 * EPS32
    assert relative(gradient(results, inputs["student_logits"], upstream), d_expected) < 16 * EPS32


def test_the_gradient_formula_equals_autograd():
    inputs, upstream = make(5, 301, torch.float64)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    kl = reverse_kl(student, teacher, temperature=1.3, backend="reference")
    by_autograd = gradient((kl,), student, upstream[:1])
    by_formula = reverse_kl_gradient(student.detach(), teacher, 1.3)
    assert relative(upstream[0].double()[:, None] * by_formula, by_autograd) < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["kl_0", "kl_1", "kl_2"])
def test_stored_vectors_of_both_directions(case, backend):
    with numpy.load(GOLDEN / f"{case}.npz") as file:
        data = {name: file[name] for name in file.files}
    temperature = float(data["temperature"])
    student = torch.from_numpy(data["student_logits"]).requires_grad_()
    options = {
        "temperature": temperature,
        "mask": torch.from_numpy(data["masked_mask"]).flatten(),
        "vocab_size": int(data["shared_vocab_size"]),
        "backend": backend,
    }
    rows = student.flatten(0, 1), torch.from_numpy(data["teacher_logits"]).flatten(0, 1)
    kl = reverse_kl(*rows, **options) if data["reverse"] else interpolated_kl(*rows, 1.0, **options)
    loss = kl.sum() / int(data["masked_mask"].sum()) * temperature**2
    exact_loss = float(data["exact_loss"])
    # kl_2 is nearly converged, where fp32 log-sum-exps have an absolute error.
    assert abs(loss.item() - exact_loss) < 16 * EPS32 * (exact_loss if backend == "torch" else 1 + exact_loss)
    loss.backward()
    bound = 16 * EPS32 if backend == "torch" else 1e-4
    assert relative(student.grad, torch.from_numpy(data["exact_grad"])) < bound
