"""Triton kernels of the divergences in the interpreter: tiles, splits of a row, alignment, guards.

Mutants that this file kills: a split whose tail is dropped, records joined without rescaling, tiles summed
plainly however close the target, a mass that underflows where the target's does not.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.cases import DIVERGENCES, EPS32, relative, worst_row
from tests.kernels.cases.divergence import call, exact, gradient, laid_out, make, truth
from tests.kernels.cases.strategies import divergence_calls
from tide_kernels._shared import launch
from tide_kernels.divergence import launch as divergence_launch

both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)


@pytest.fixture
def tiles(monkeypatch):
    """Return a function that sets the tile width and the programs per row."""

    def choose(block_v, splits=1):
        monkeypatch.setattr(divergence_launch, "blocks_for", lambda *_: launch.Blocks(block_v, 1))
        monkeypatch.setattr(divergence_launch, "splits_for", lambda *_: splits)

    return choose


@both_divergences
@pytest.mark.parametrize("splits", [1, 2, 8])
@pytest.mark.parametrize("vocab", [63, 64, 65, 331])
def test_every_column_is_read_once_however_a_row_is_cut(vocab, splits, divergence, tiles):
    tiles(64, splits)
    inputs, upstream = make(3, vocab)
    kl, ce, d_student = truth(divergence, inputs, upstream)
    results = call(divergence, inputs, backend="triton")
    assert relative(results[0], kl) < 16 * EPS32
    assert relative(results[1], ce) < 16 * EPS32
    assert relative(gradient(results, inputs["student_logits"], upstream), d_student) < 16 * EPS32


@both_divergences
@pytest.mark.parametrize("splits", [1, 3])
def test_rows_that_begin_anywhere(divergence, splits, tiles):
    # Rows of 71 fp32 entries start at every multiple of 4 bytes; tiles are 16-byte aligned.
    tiles(32, splits)
    inputs, upstream = make(8, 71)
    wide_student = torch.full((8, 79), torch.nan)
    wide_student[:, :71] = inputs["student_logits"].detach()
    same = {"teacher_logits": inputs["teacher_logits"]}
    other = {
        "teacher_logits": torch.cat([inputs["teacher_logits"], torch.full((8, 3), torch.nan)], 1)[:, :71]
    }
    kl, ce, d_student = truth(divergence, inputs, upstream)
    for student, teacher in (
        (inputs["student_logits"], same),  # in lockstep
        (wide_student[:, :71].requires_grad_(), same),  # 8 entries further apart: still in lockstep
        (inputs["student_logits"], other),  # not
    ):
        results = call(divergence, inputs | teacher, student_logits=student, backend="triton")
        assert relative(results[0], kl) < 16 * EPS32
        assert relative(results[1], ce) < 16 * EPS32
        assert relative(gradient(results, student, upstream), d_student) < 16 * EPS32


@both_divergences
@pytest.mark.parametrize("distance", [1e-5, 1e-3, 0.3, 3.0])
@pytest.mark.parametrize(("splits", "temperature"), [(1, 2.0), (4, 1.0)])
def test_no_digits_are_lost_between_tiles(splits, temperature, distance, divergence, tiles):
    # The entry that dominates the row comes in the fourth tile, with its own difference.
    tiles(64, splits)
    generator = torch.Generator().manual_seed(4)
    student = 2 * torch.randn(6, 323, generator=generator)
    student[:, 200] += torch.tensor([0.0, 5.0, 9.0, 14.0, 18.0, 22.0])
    teacher = student + distance * torch.randn(6, 323, generator=generator)
    if distance >= 0.3:
        # The offset costs z - s its last digits.
        teacher[::2] += 30
    student.requires_grad_()
    lambdas = torch.tensor([0.01, 0.3, 1.0, 0.01, 0.3, 1.0])
    inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": lambdas}
    expected, d_expected = exact(divergence, student, teacher, lambdas, temperature)
    kl, _ = call(divergence, inputs, temperature, backend="triton")
    bound = 1e-5 / distance if distance >= 0.3 else 64 * EPS32
    assert worst_row(kl, expected) < bound
    d_student = gradient((kl,), student, (torch.ones(6),))
    assert worst_row(d_student, d_expected) < 2 * bound


@both_divergences
@pytest.mark.parametrize("gap", [50.0, 120.0, 1000.0])
def test_targets_beyond_the_range_of_exponentials(gap, divergence, tiles):
    # The target sits where p underflows: within a tile, and in a tile of its own.
    tiles(64)
    generator = torch.Generator().manual_seed(5)
    student = torch.randn(2, 200, generator=generator)
    student[0, 70:], student[1, 10:20] = student[0, 70:] - gap, student[1, 10:20] - gap
    teacher = torch.randn(2, 200, generator=generator)
    teacher[0, 100:110] += 2 * gap
    teacher[1, 12] += 2 * gap
    student.requires_grad_()
    for lambda_t in (0.7, 1.0) if divergence == "interpolated_kl" else (1.0,):
        lambdas = torch.full((2,), lambda_t)
        inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": lambdas}
        expected, d_expected = exact(divergence, student, teacher, lambdas, 1.0)
        kl, _ = call(divergence, inputs, 1.0, backend="triton")
        assert worst_row(kl, expected) < 16 * EPS32
        assert worst_row(gradient((kl,), student, (torch.ones(2),)), d_expected) < 64 * EPS32 * gap


@both_divergences
@pytest.mark.parametrize(
    ("value", "splits"), [(-30.0, 1), (-100.0, 3), (-1e4, 1), (-1e4, 3), (-1e9, 1), (-3e38, 3)]
)
@pytest.mark.parametrize("side", ["teacher", "both", "student"])
def test_finite_stand_ins_for_minus_infinity_do_not_move_the_centre(side, value, splits, divergence, tiles):
    # Many programs exclude a token by -1e4 or the dtype's least number.
    tiles(64, splits)
    generator = torch.Generator().manual_seed(6)
    student = 2 * torch.randn(3, 200, generator=generator)
    teacher = student + 0.3 * torch.randn(3, 200, generator=generator)
    if side != "student":
        teacher[:, 150] = value
    if side != "teacher":
        student[:, 150] = value
    student.requires_grad_()
    lambdas = torch.tensor([0.05, 0.5, 1.0])
    inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": lambdas}
    expected, d_expected = exact(divergence, student, teacher, lambdas, 2.0)
    kl, _ = call(divergence, inputs, 2.0, backend="triton")
    d_student = gradient((kl,), student, (torch.ones(3),))
    for row in range(3):
        # If the teacher has mass on what the student excludes, log-sum-exps are used: an absolute error.
        alone = side == "student" and (row == 2 or divergence == "reverse_kl")
        error = (kl[row] - expected[row]).abs() - 64 * EPS32 * expected[row]
        assert float(error) < (16 * EPS32 if alone else 1e-12)
        assert relative(d_student[row], d_expected[row]) < (1e-4 if alone else 64 * EPS32)


@both_divergences
def test_target_mass_where_the_student_vanishes_is_not_lost_between_tiles(divergence, tiles):
    tiles(64)
    for gap, temperature in ((110.0, 1.0), (55.0, 0.5), (85.0, 1.0)):
        student, teacher = torch.zeros(2, 1, 128)
        student[:, 64:], student[:, 80] = -gap, -gap - 30 * temperature
        teacher[:, 64:], teacher[:, 80] = -gap + 40 * temperature, 60 * temperature
        inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": torch.ones(1)}
        expected, _ = exact(divergence, student, teacher, torch.ones(1), temperature)
        assert worst_row(call(divergence, inputs, temperature, backend="triton")[0], expected) < 8 * EPS32


def test_lambda_0_does_not_read_the_teacher():
    student = torch.randn(3, 100, requires_grad=True)
    for value in (torch.nan, torch.inf, -torch.inf, 3e38):
        teacher = torch.full((3, 100), value)
        inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": 0.0}
        kl, _ = call("interpolated_kl", inputs, backend="triton")
        assert not kl.any() and not gradient((kl,), student, (torch.ones(3),)).any()


def test_rows_without_any_entry_are_nan():
    empty = torch.full((2, 100), -torch.inf)
    inputs = {"student_logits": empty, "teacher_logits": empty, "lambda_t": 0.5}
    for divergence in DIVERGENCES:
        assert call(divergence, inputs, backend="triton")[0].isnan().all()


@both_divergences
def test_a_label_outside_the_vocabulary_gives_nan_where_ids_are_not_checked(divergence, monkeypatch):
    # On a GPU ids are not checked; memory before and after the row must not be read as a logit.
    monkeypatch.setattr("tide_kernels.divergence.op.check_id_values", lambda *_: None)
    inputs, _ = make(3, 50)
    inputs["labels"] = torch.tensor([-100, 3, 50])
    ce = call(divergence, inputs, backend="triton")[1]
    assert ce.isnan().tolist() == [True, False, True]


@both_divergences
@settings(max_examples=15)
@given(case=divergence_calls())
def test_any_call_equals_the_definition(case, divergence):
    generator = torch.Generator().manual_seed(case["seed"])
    rows, vocab = case["rows"], case["vocab"]

    def side(index):
        values = 3 * torch.randn(rows, vocab + case["extra"][index], generator=generator)
        values = laid_out(values.to(case["dtypes"][index]), case["strides"][index], case["transposed"][index])
        return values

    student, teacher = side(0).requires_grad_(), side(1)
    inputs = {
        "student_logits": student,
        "teacher_logits": teacher,
        "lambda_t": torch.rand(rows, generator=generator),
        "vocab_size": vocab,
    }
    if case["labels"]:
        inputs["labels"] = torch.randint(vocab, (rows,), generator=generator)
    if case["mask"] is not None:
        inputs["mask"] = torch.tensor(case["mask"][:rows], dtype=torch.bool)
    upstream = (torch.randn(rows, generator=generator), torch.randn(rows, generator=generator))
    kl, ce, d_student = truth(divergence, inputs, upstream, temperature=case["temperature"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergence_launch, "blocks_for", lambda *_: launch.Blocks(32, 1))
        patch.setattr(divergence_launch, "splits_for", lambda *_: case["splits"])
        results = call(divergence, inputs, case["temperature"], backend="triton")
        actual = gradient(results, student, upstream)
    if rows == 0:
        assert results[0].shape == (0,) and actual.shape == student.shape
        return
    assert relative(results[0], kl) < 64 * EPS32
    if ce is not None:
        assert relative(results[1], ce) < 16 * EPS32
    error = (actual.double() - d_student).abs()
    step = 0.0 if student.dtype == torch.float32 else float(torch.finfo(student.dtype).eps)
    smallest = 6e-8 if student.dtype == torch.float16 else 0.0
    bound = step * d_student.abs() + 64 * EPS32 * d_student.abs().max() + smallest
    assert bool((error <= bound).all())
    assert not actual[:, vocab:].any()


@both_divergences
def test_runs_are_bit_identical(divergence, tiles):
    tiles(64, 3)
    inputs, upstream = make(5, 400)
    first, second = (
        [*results, gradient(results, inputs["student_logits"], upstream)]
        for results in (call(divergence, inputs, backend="triton") for _ in range(2))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
