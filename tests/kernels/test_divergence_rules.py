"""Rules that interpolated_kl and reverse_kl share: dtypes, masks, layouts, autograd, errors.

Mutants that this file kills: the last vocabulary column left out, a gradient of the other sign, T missing
from it, a row's upstream gradient used for its neighbour, a masked row multiplied by 0 instead of skipped,
cross-entropy at T instead of 1, statistics of one row block used for another in backward.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.cases import BACKENDS, DIVERGENCES, EPS32, relative
from tests.kernels.cases.divergence import call, gradient, make, truth

both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)
both_backends = pytest.mark.parametrize("backend", BACKENDS)


@both_backends
@both_divergences
@pytest.mark.parametrize(("vocab", "rows"), [(1, 13), (7, 1), (1000, 13), (4096, 1), (5003, 3)])
def test_fp32_equals_the_definition_in_fp64(vocab, rows, divergence, backend, few_rows_at_a_time):
    inputs, upstream = make(rows, vocab)
    for temperature in (1.0, 2.5):
        kl, ce, d_student = truth(divergence, inputs, upstream, temperature=temperature)
        results = call(divergence, inputs, temperature, backend=backend)
        assert [x.dtype for x in results] == [torch.float32] * 2
        # The definition in fp32 subtracts log-sum-exps of this size.
        floor = 10 * EPS32 if backend == "reference" else 0.0
        assert float(((results[0].detach() - kl).abs() - 32 * EPS32 * kl.abs()).max()) <= floor + 1e-30
        # Kernels take logarithms to base 2: two more roundings of the value.
        assert float(((results[1].detach() - ce).abs() - EPS32 * ce).max()) <= 8 * EPS32
        assert relative(gradient(results, inputs["student_logits"], upstream), d_student) < 16 * EPS32


@both_divergences
@pytest.mark.parametrize(
    ("student_dtype", "teacher_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_half_inputs_lose_nothing_but_the_rounding_of_the_gradient(
    student_dtype, teacher_dtype, divergence, few_rows_at_a_time
):
    inputs, upstream = make(13, 1000, student_dtype, teacher_dtype)
    kl, ce, d_student = truth(divergence, inputs, upstream)
    for backend in BACKENDS:
        results = call(divergence, inputs, backend=backend)
        assert [x.dtype for x in results] == [torch.float32] * 2
        assert relative(results[0], kl) < 16 * EPS32
        assert relative(results[1], ce) < 16 * EPS32
        actual = gradient(results, inputs["student_logits"], upstream)
        assert actual.dtype == student_dtype
        # Half a unit in the last place of each entry; fp16 has subnormals of 6e-8.
        # The interpreter truncates to bf16 where a GPU rounds.
        step = torch.finfo(student_dtype).eps / (1 if backend == "triton" else 2)
        error = (actual.double() - d_student).abs() - step * d_student.abs()
        assert float(error.max()) < 16 * EPS32 * float(d_student.abs().max()) + (
            3e-8 if student_dtype == torch.float16 else 0
        )


@both_backends
@both_divergences
@pytest.mark.parametrize("which", ["some", "one", "none"])
def test_rows_outside_the_mask_are_not_read(which, divergence, backend, few_rows_at_a_time):
    inputs, upstream = make(13, 1000)
    mask = torch.zeros(13, dtype=torch.bool)
    mask[{"some": [0, 2, 3, 7, 8, 9, 12], "one": [5], "none": []}[which]] = True
    kept = {name: x.detach()[mask] for name, x in inputs.items()}
    kept["student_logits"].requires_grad_()
    expected = call(divergence, kept, backend=backend)
    d_expected = gradient(expected, kept["student_logits"], [d[mask] for d in upstream])
    with torch.no_grad():
        inputs["student_logits"][~mask] = torch.nan
        inputs["teacher_logits"][~mask] = torch.nan
        inputs["lambda_t"][~mask] = torch.nan
        inputs["labels"][~mask] = -100
    results = call(divergence, inputs, mask=mask, backend=backend)
    d_student = gradient(results, inputs["student_logits"], upstream)
    for actual, wanted in zip((*results, d_student), (*expected, d_expected), strict=True):
        assert not actual[~mask].any()
        # Row blocks cut the active rows alike, so results agree to the last bit.
        assert torch.equal(actual[mask], wanted)


@both_backends
@both_divergences
def test_a_nan_stays_in_its_row(divergence, backend, few_rows_at_a_time):
    inputs, upstream = make(7, 300)
    with torch.no_grad():
        inputs["student_logits"][1, 5] = torch.nan
        inputs["teacher_logits"][4, 6] = torch.nan
        inputs["teacher_logits"][5] = torch.nan
    inputs["lambda_t"] = 0.4
    kl, ce = call(divergence, inputs, backend=backend)
    assert kl.isnan().tolist() == [False, True, False, False, True, True, False]
    assert ce.isnan().tolist() == [False, True, False, False, False, False, False]
    d_student = gradient((kl, ce), inputs["student_logits"], upstream)
    assert d_student.isfinite().all(1).tolist() == [True, False, True, True, False, False, True]


@both_backends
@both_divergences
def test_no_rows_give_empty_results_with_a_graph(divergence, backend):
    inputs, _ = make(0, 11)
    kl, ce = call(divergence, inputs, backend=backend)
    assert kl.shape == ce.shape == (0,)
    (kl.sum() + ce.sum()).backward()
    assert inputs["student_logits"].grad.shape == (0, 11)


@both_backends
@both_divergences
def test_vocab_size_reads_a_common_prefix(divergence, backend, few_rows_at_a_time):
    inputs, upstream = make(9, 500)
    wide = dict(inputs)
    wide["student_logits"] = torch.cat(
        [inputs["student_logits"].detach(), torch.full((9, 20), torch.nan)], 1
    ).requires_grad_()
    wide["teacher_logits"] = torch.cat([inputs["teacher_logits"], torch.full((9, 3), torch.nan)], 1)
    expected = call(divergence, inputs, backend=backend)
    results = call(divergence, wide, vocab_size=500, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    d_student = gradient(results, wide["student_logits"], upstream)
    assert torch.equal(d_student[:, :500], gradient(expected, inputs["student_logits"], upstream))
    assert not d_student[:, 500:].any()


@both_divergences
@pytest.mark.parametrize("constant", [1.0, 16.0])
def test_a_constant_added_to_either_side_changes_nothing(constant, divergence):
    inputs, upstream = make(9, 500)
    kl, ce, d_student = truth(divergence, inputs, upstream)
    for side in ("student_logits", "teacher_logits"):
        shifted = dict(inputs)
        shifted[side] = (inputs[side].detach() + constant).requires_grad_(side == "student_logits")
        results = call(divergence, shifted)
        # The sum itself rounds, by eps times the constant.
        assert relative(results[0], kl) < (16 + 4 * constant) * EPS32
        assert relative(results[1], ce) < (16 + 4 * constant) * EPS32
        assert (
            relative(gradient(results, shifted["student_logits"], upstream), d_student)
            < (16 + 4 * constant) * EPS32
        )


@both_divergences
def test_results_do_not_depend_on_the_layout(divergence, few_rows_at_a_time):
    inputs, upstream = make(13, 300)
    expected = call(divergence, inputs)
    d_expected = gradient(expected, inputs["student_logits"], upstream)
    student, teacher = inputs["student_logits"].detach(), inputs["teacher_logits"]
    padded = torch.full((26, 400), torch.nan)
    padded[::2, 50:350] = student
    layouts = {
        "transposed": (student.T.contiguous().T, teacher.T.contiguous().T),
        "every second row of a wider one": (padded[::2, 50:350], teacher),
        "one side transposed": (student, teacher.T.contiguous().T),
    }
    for student_layout, teacher_layout in layouts.values():
        changed = dict(inputs)
        changed["student_logits"] = student_layout.detach().requires_grad_()
        changed["teacher_logits"] = teacher_layout
        results = call(divergence, changed)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        assert torch.equal(gradient(results, changed["student_logits"], upstream), d_expected)
    same_for_all_rows = [torch.tensor(0.7), torch.tensor(-0.3)]
    results = call(divergence, inputs)
    by_stride, by_copy = (
        gradient(results, inputs["student_logits"], [form(x) for x in same_for_all_rows], retain_graph=True)
        for form in (lambda x: x.expand(13), lambda x: x.repeat(13))
    )
    assert torch.equal(by_stride, by_copy)


@both_divergences
def test_runs_are_bit_identical_and_do_not_write_to_inputs(divergence, few_rows_at_a_time):
    inputs, upstream = make(13, 1000)
    before = {name: x.detach().clone() for name, x in inputs.items()}
    runs = []
    for _ in range(2):
        results = call(divergence, inputs)
        runs.append((*results, gradient(results, inputs["student_logits"], upstream)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(inputs[name], x) for name, x in before.items())
    assert inputs["student_logits"]._version == 0 and inputs["teacher_logits"]._version == 0


@both_divergences
def test_results_do_not_depend_on_the_number_of_threads(divergence, few_rows_at_a_time):
    inputs, upstream = make(60, 1000)
    threads = torch.get_num_threads()
    runs = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            results = call(divergence, inputs)
            runs.append((*results, gradient(results, inputs["student_logits"], upstream)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@both_divergences
def test_no_buffer_is_read_before_it_is_written(divergence, few_rows_at_a_time):
    # This mode fills torch.empty with NaN.
    inputs, upstream = make(13, 1000)
    inputs["student_logits"].data[3, 4] = -torch.inf
    mask = torch.arange(13) % 3 > 0
    inputs["lambda_t"] = 0.3
    inputs["labels"] = torch.zeros(13, dtype=torch.long)
    torch.use_deterministic_algorithms(True)
    try:
        for options in ({}, {"mask": mask}, {"vocab_size": 900}):
            results = call(divergence, inputs, **options)
            d_student = gradient(results, inputs["student_logits"], upstream)
            assert all(bool(x.isfinite().all()) for x in (*results, d_student))
    finally:
        torch.use_deterministic_algorithms(False)


@both_divergences
def test_a_second_backward_repeats_the_first_and_a_second_derivative_raises(divergence):
    inputs, upstream = make(5, 100)
    student = inputs["student_logits"]
    results = call(divergence, inputs)
    first = gradient(results, student, upstream, retain_graph=True)
    assert torch.equal(first, gradient(results, student, upstream, retain_graph=True))
    assert torch.equal(-2 * first, gradient(results, student, [-2 * d for d in upstream], retain_graph=True))
    differentiable = gradient(results, student, upstream, create_graph=True)
    # As a penalty beside the loss, where a gradient without a graph would go unnoticed.
    with pytest.raises(RuntimeError, match="once"):
        (results[0].sum() + differentiable.square().sum()).backward()


@both_divergences
def test_either_result_can_be_left_out_of_the_loss(divergence):
    inputs, upstream = make(5, 100)
    student = inputs["student_logits"]
    kl, ce = call(divergence, inputs)
    d_kl = gradient((kl,), student, upstream[:1], retain_graph=True)
    d_ce = gradient((ce,), student, upstream[1:], retain_graph=True)
    assert relative(d_kl + d_ce, gradient((kl, ce), student, upstream)) < 4 * EPS32
    without_labels, _ = call(divergence, inputs | {"labels": None})
    assert torch.equal(without_labels, kl)
    assert torch.equal(gradient((without_labels,), student, upstream[:1]), d_kl)
    onehot = torch.nn.functional.one_hot(inputs["labels"], 100)
    expected = upstream[1][:, None] * (torch.softmax(student.detach().double(), 1) - onehot)
    assert relative(d_ce, expected) < 8 * EPS32


@both_divergences
def test_frozen_students_need_no_graph_and_autocast_changes_nothing(divergence):
    inputs, upstream = make(5, 100)
    expected = call(divergence, inputs)
    frozen = call(divergence, inputs | {"student_logits": inputs["student_logits"].detach()})
    assert not frozen[0].requires_grad and torch.equal(frozen[0], expected[0].detach())
    with torch.autocast("cpu", torch.bfloat16):
        for backend in BACKENDS:
            results = call(divergence, inputs, backend=backend)
            assert results[0].dtype == torch.float32
            assert relative(results[0], expected[0]) < 32 * EPS32
            assert (
                relative(
                    gradient(results, inputs["student_logits"], upstream),
                    gradient(expected, inputs["student_logits"], upstream, retain_graph=True),
                )
                < 16 * EPS32
            )


@both_divergences
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_logits": torch.zeros(5, 12)}, r"widths 11 and 12.*vocab_size"),
        ({"teacher_logits": torch.zeros(4, 11)}, r"teacher_logits.*each of the 5 rows.*\(4, 11\)"),
        ({"teacher_logits": torch.zeros(5, 11, requires_grad=True)}, r"teacher_logits\.detach\(\)"),
        ({"teacher_logits": torch.zeros(5, 11, dtype=torch.long)}, "teacher_logits.*int64.*Cast"),
        ({"student_logits": torch.zeros(5, 1, 11)}, r"student_logits.*\(5, 1, 11\).*flatten"),
        ({"student_logits": torch.zeros(5, 0), "teacher_logits": torch.zeros(5, 0)}, "no columns"),
        ({"vocab_size": 12}, r"vocab_size.*\[1, 11\].*12"),
        ({"vocab_size": 0}, r"vocab_size.*\[1, 11\].*0"),
        ({"temperature": 0.0}, "temperature.*positive.*0"),
        ({"temperature": float("nan")}, "temperature.*nan"),
        ({"labels": torch.tensor([0, 1, 2, 3, 11])}, r"labels.*\[0, 11\).*11.*mask"),
        ({"labels": torch.tensor([0, 1, 2, 3, -100])}, r"labels.*-100"),
        ({"labels": torch.zeros(4, dtype=torch.long)}, "labels.*5 rows"),
        ({"labels": torch.zeros(5)}, "labels.*integers.*float32"),
        ({"mask": torch.ones(5)}, r"mask.*bool.*float32.*\.bool\(\)"),
        ({"mask": torch.ones(6, dtype=torch.bool)}, "mask.*5 rows"),
        ({"mask": torch.ones(5, 1, dtype=torch.bool)}, r"mask.*\(5, 1\)"),
        (
            {"student_logits": np.zeros((5, 11))},
            "student_logits.*ndarray.*as_tensor",
        ),
        (
            {"teacher_logits": torch.nn.Linear(3, 11)},
            "teacher_logits.*Linear.*output",
        ),
        ({"labels": [0] * 5}, "labels.*tensor.*list"),
        ({"mask": np.ones(5, dtype=bool)}, "mask.*tensor.*ndarray"),
        ({"vocab_size": 7.0}, r"vocab_size.*integer.*7\.0"),
        ({"backend": "cudnn"}, "backend 'cudnn'.*triton"),
        ({"teacher_logits": torch.zeros(5, 11, device="meta")}, "teacher_logits.*meta.*cpu"),
    ],
)
def test_errors_name_function_argument_and_value(divergence, changes, message):
    inputs, _ = make(5, 11)
    options = {"temperature": 2.0} | changes
    with pytest.raises(ValueError, match=f"{divergence}.*{message}"):
        call(divergence, inputs, **options)


@pytest.mark.parametrize(
    ("lambda_t", "message"),
    [
        (1.5, r"\[0, 1\].*1\.5.*forward KL"),
        (-0.1, r"\[0, 1\]"),
        (float("nan"), r"\[0, 1\].*nan"),
        (torch.tensor([0.0, 0.5, 1.0, 1.25, 0.0]), r"\[0, 1\].*1\.25"),
        (torch.tensor([0.0, 0.5, 1.0, float("nan"), 0.0]), "nan"),
        (torch.zeros(4), "lambda_t.*5 rows"),
        ([0.5] * 5, "lambda_t.*number.*list"),
        (torch.zeros(5, 1), r"number or \[N\].*\(5, 1\)"),
        (torch.zeros(5, requires_grad=True), r"lambda_t\.detach\(\)"),
    ],
)
def test_errors_about_lambda(lambda_t, message):
    inputs, _ = make(5, 11)
    with pytest.raises(ValueError, match=f"interpolated_kl.*{message}"):
        call("interpolated_kl", inputs, lambda_t=lambda_t)
