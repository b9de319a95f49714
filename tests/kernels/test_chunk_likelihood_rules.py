"""chunk_likelihood: errors, unread tokens, and the ends of the range.

Mutants that this file kills: a clamp without its zero slope, tokens of inactive chunks multiplied by 0
instead of skipped, the last token of a row left out.
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.cases import EPS32, relative
from tests.kernels.cases.chunks import BACKENDS, BOUND, FAST, by_hand, gradient, make, options_of
from tide_kernels import chunk_likelihood, scalar_tensor
from tide_kernels.chunk_likelihood.reference import OBJECTIVES


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("eps", [1e-7, 1e-3])
def test_clamps_at_both_ends(eps, objective, backend):
    """Outside [eps, 1 - eps] the student has slope 0, and everything is finite, also for -inf tokens."""
    ends = [-math.inf, -80.0, math.log(eps) - 0.01, -eps / 100, 0.0]
    inner = [math.log(eps) + 0.01, -0.3, -2 * eps]
    pairs = [(x, y) for x in ends + inner for y in ends + inner]
    student = torch.tensor([[x for x, _ in pairs] + [-3.0]], requires_grad=True)
    teacher = torch.tensor([[-3.0] + [y for _, y in pairs]])
    chunks = torch.arange(len(pairs))
    none = torch.tensor([-1])
    mask = torch.ones(1, len(pairs), dtype=torch.bool)
    inputs = (student, teacher, torch.cat([chunks, none])[None], torch.cat([none, chunks])[None], mask)
    options = options_of(objective, 1) | {"eps": eps}
    upstream = torch.linspace(1, 2, len(pairs))[None]
    expected, d_expected = by_hand(inputs, upstream, **options)
    loss = chunk_likelihood(*inputs, backend=backend, **options)
    d_student = gradient(loss, student, upstream)
    assert relative(loss, expected) < BOUND[backend]
    assert relative(d_student, d_expected) < BOUND[backend]
    clamped = torch.tensor([x in ends for x, _ in pairs] + [True])
    assert not d_student[0, clamped].any()
    assert ((d_student[0, ~clamped] != 0) | (d_expected[0, ~clamped].abs() < EPS32)).all()
    assert (d_expected[0, ~clamped].abs() > 0.01).sum() >= 3


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("triton", torch.float32),
        ("torch", torch.float32),
        ("torch", torch.float64),
        ("reference", torch.float64),
    ],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_small_eps_leaves_a_finite_gradient(objective, backend, dtype):
    student = torch.tensor([[-0.5, -1e-8, -0.0, -30.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-0.0, -0.7, -30.0, -1e-8]], dtype=dtype)
    chunks = torch.arange(4)[None]
    inputs = (student, teacher, chunks, chunks, torch.ones(1, 4, dtype=torch.bool))
    options = options_of(objective, 1) | {"eps": 1e-10}
    upstream = torch.ones(1, 4)
    expected, d_expected = by_hand(inputs, upstream, **options)
    loss = chunk_likelihood(*inputs, backend=backend, **options)
    assert relative(loss, expected) < EPS32
    d_student = gradient(loss, student, upstream)
    assert d_student[0, 2] == 0 and bool((d_student[0, [0, 1, 3]] != 0).any())
    # In fp64, 1 - P of 1e-8 is accurate to 1e-8.
    assert relative(d_student, d_expected) < EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tokens_outside_active_chunks_are_not_read(objective, backend):
    (student, teacher, student_chunks, teacher_chunks, mask), upstream = make()
    expected, d_expected = by_hand(
        (student, teacher, student_chunks, teacher_chunks, mask), upstream, **options_of(objective)
    )
    idle = []
    for log_p, chunks in ((student, student_chunks), (teacher, teacher_chunks)):
        read = (chunks >= 0) & mask.gather(1, chunks.clamp(min=0))
        assert (chunks < 0).any() and ((chunks >= 0) & ~read).any()
        with torch.no_grad():
            log_p[~read] = torch.nan
        idle.append(~read)
    upstream[~mask] = torch.nan
    loss = chunk_likelihood(
        student, teacher, student_chunks, teacher_chunks, mask, backend=backend, **options_of(objective)
    )
    assert not loss[~mask].any()
    assert relative(loss, expected) < BOUND[backend]
    d_student = gradient(loss, student, upstream)
    assert not d_student[idle[0]].any()
    assert relative(d_student, d_expected) < BOUND[backend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inactive_chunks_need_no_tokens(objective, backend):
    student = torch.tensor([[-0.5, -0.2]], requires_grad=True)
    teacher = torch.tensor([[-0.4, -0.9]])
    ids = (torch.tensor([[1, 2]]), torch.tensor([[3, 2]]), torch.tensor([[False, False, True, False]]))
    loss = chunk_likelihood(student, teacher, *ids, backend=backend, **options_of(objective, 1))
    expected, d_expected = by_hand((student, teacher, *ids), torch.ones(1, 4), **options_of(objective, 1))
    assert (loss != 0).tolist() == [[False, False, True, False]]
    assert relative(loss, expected) < BOUND[backend]
    d_student = gradient(loss, student, torch.ones(1, 4))
    assert d_student[0, 0] == 0
    assert relative(d_student, d_expected) < BOUND[backend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 7, True), (3, 7, False), (0, 7, True), (3, 0, True), (0, 0, True)])
def test_empty_inputs_give_zeros_with_a_graph(shape, backend):
    batch, num_chunks, tokens = shape
    length = 5 if tokens else 0
    student = torch.full((batch, length), torch.nan, requires_grad=True)
    teacher = torch.full((batch, length), torch.nan)
    chunks = torch.full((batch, length), -1)
    mask = torch.zeros(batch, num_chunks, dtype=torch.bool)
    loss = chunk_likelihood(student, teacher, chunks, chunks, mask, backend=backend)
    assert loss.shape == (batch, num_chunks) and loss.dtype == torch.float32 and not loss.any()
    d_student = gradient(loss, student, torch.ones(batch, num_chunks))
    assert d_student.shape == (batch, length) and not d_student.any()


@pytest.mark.parametrize("backend", FAST)
def test_tokens_of_a_chunk_need_not_be_adjacent(backend):
    inputs, upstream = make()
    order = [torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2)) for x in inputs[:2]]
    mixed = (
        inputs[0].detach()[:, order[0]].requires_grad_(),
        inputs[1][:, order[1]],
        inputs[2][:, order[0]],
        inputs[3][:, order[1]],
        inputs[4],
    )
    expected, d_expected = by_hand(mixed, upstream, "reverse", temperature=2.0)
    loss = chunk_likelihood(*mixed, backend=backend, objective="reverse", temperature=2.0)
    assert relative(loss, expected) < EPS32
    assert relative(gradient(loss, mixed[0], upstream), d_expected) < EPS32


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8])
@pytest.mark.parametrize("backend", FAST)
def test_chunk_ids_of_any_integer_type(dtype, backend):
    (*log_p, student_chunks, teacher_chunks, mask), _ = make()
    other = chunk_likelihood(
        *log_p, student_chunks.to(dtype), teacher_chunks.to(dtype), mask, backend=backend
    )
    assert torch.equal(other, chunk_likelihood(*log_p, student_chunks, teacher_chunks, mask, backend=backend))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backend", FAST)
def test_backward_again_gives_the_same(objective, backend):
    inputs, upstream = make(dtype=torch.bfloat16)
    loss = chunk_likelihood(*inputs, backend=backend, **options_of(objective))
    first = gradient(loss, inputs[0], upstream, retain_graph=True)
    second = gradient(loss, inputs[0], 2 * upstream)
    _, d_expected = by_hand(inputs, upstream, **options_of(objective))
    assert relative(first, d_expected) < torch.finfo(torch.bfloat16).eps
    assert torch.equal(2 * first, second)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backend", FAST)
def test_double_backward_raises(objective, backend):
    inputs, upstream = make()
    loss = chunk_likelihood(*inputs, backend=backend, **options_of(objective))
    d_student = gradient(loss, inputs[0], upstream, create_graph=True)
    penalty = d_student.square().sum() + inputs[0].square().sum()
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(penalty, [inputs[0]])


@pytest.mark.parametrize("backend", FAST)
def test_forward_mode_raises(backend):
    (student, *rest), _ = make()
    student = student.detach()
    with pytest.raises(ValueError, match="chunk_likelihood: student_token_log_probs carries a tangent"):
        torch.func.jvp(lambda x: chunk_likelihood(x, *rest, backend=backend), (student,), (student,))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backend", FAST)
def test_inputs_are_read_only_and_need_not_be_contiguous(objective, backend):
    inputs, upstream = make()
    options = options_of(objective)
    expected, d_expected = by_hand(inputs, upstream, **options)
    spread = [x.detach().T.contiguous().T for x in inputs]
    assert not any(x.is_contiguous() for x in spread)
    spread[0].requires_grad_()
    loss = chunk_likelihood(*spread, backend=backend, **options)
    d_student = gradient(loss, spread[0], upstream.T.contiguous().T)
    assert relative(loss, expected) < EPS32
    assert relative(d_student, d_expected) < EPS32
    for one, two in zip(spread, inputs, strict=True):
        assert torch.equal(one, two)
    if objective == "interpolated":
        assert torch.equal(options["lambda_t"], options_of(objective)["lambda_t"])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backend", FAST)
def test_runs_are_bit_identical_and_no_buffer_is_read_before_it_is_written(objective, backend):
    inputs, upstream = make(33)
    first = chunk_likelihood(*inputs, backend=backend, **options_of(objective))
    d_first = gradient(first, inputs[0], upstream)
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    try:
        second = chunk_likelihood(*inputs, backend=backend, **options_of(objective))
        d_second = gradient(second, inputs[0], upstream)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second) and torch.equal(d_first, d_second)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reference_passes_gradcheck(objective):
    (student, teacher, *rest), _ = make(4, dtype=torch.float64)
    # Away from the clamps, where the loss has a kink, and at lambda = 1, where the target is constant.
    student = student.detach().clamp(-2.0, -0.05).requires_grad_()
    options = {"lambda_t": 1.0} if objective == "interpolated" else {}

    def function(x):
        return chunk_likelihood(
            x, teacher, *rest, objective=objective, temperature=2.5, backend="reference", **options
        )

    assert torch.autograd.gradcheck(function, [student])


@pytest.mark.parametrize("backend", FAST)
def test_lambda_of_any_form(backend):
    inputs, _ = make()
    number = chunk_likelihood(*inputs, objective="interpolated", backend=backend, lambda_t=0.375)
    for other in (torch.tensor(0.375), torch.full((3,), 0.375, dtype=torch.bfloat16)):
        assert torch.equal(
            chunk_likelihood(*inputs, objective="interpolated", backend=backend, lambda_t=other), number
        )


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_compiles_to_one_graph_and_ignores_autocast(objective, backend):
    torch.compiler.reset()  # each case compiles the same function anew
    inputs, upstream = make()
    options = options_of(objective) | {"backend": backend}
    expected = chunk_likelihood(*inputs, **options)
    d_expected = gradient(expected, inputs[0], upstream)
    compiled = torch.compile(lambda *x: chunk_likelihood(*x, **options), fullgraph=True, backend="aot_eager")
    loss = compiled(*inputs)
    assert torch.equal(loss, expected) and torch.equal(gradient(loss, inputs[0], upstream), d_expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunk_likelihood(*inputs, **options)
        d_student = gradient(loss, inputs[0], upstream)
    assert torch.equal(loss, expected) and torch.equal(d_student, d_expected)


@pytest.mark.parametrize("backend", FAST)
def test_opcheck_passes(backend):
    inputs, _ = make()
    arguments = (*inputs, torch.full((3,), 0.3, dtype=torch.float64), "interpolated")
    arguments += (scalar_tensor(2.0), scalar_tensor(1e-7), backend)
    torch.library.opcheck(torch.ops.tide_kernels.chunk_likelihood.default, arguments)


IDS = torch.tensor([[0, 1, 2], [0, 1, -1]])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"mask": torch.ones(2, 3)}, {}, r"chunk_mask.*bool.*float32"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, {}, r"chunk_mask.*\[B, C\].*\(2,\)"),
        ({"student": IDS}, {}, r"student_token_log_probs.*floating.*int64"),
        ({"teacher": -torch.ones(6)}, {}, r"teacher_token_log_probs.*\[B, L\].*\(6,\)"),
        (
            {"teacher": -torch.ones(2, 3, requires_grad=True)},
            {},
            r"teacher_token_log_probs.*detach",
        ),
        (
            {"student_chunks": IDS.float()},
            {},
            r"student_chunks.*integers.*float32",
        ),
        (
            {"teacher_chunks": IDS[:, :2]},
            {},
            r"teacher_chunks.*\(2, 3\).*\(2, 2\)",
        ),
        ({"student": -torch.ones(1, 3), "student_chunks": IDS[:1]}, {}, "student_token_log_probs.*2 rows"),
        ({"student_chunks": IDS + 1}, {}, r"student_chunks.*\[-1, 3\).*3"),
        ({"teacher_chunks": IDS - 1}, {}, r"teacher_chunks.*\[-1, 3\).*-2"),
        (
            {"mask": torch.ones(2, 3, dtype=torch.bool)},
            {},
            "chunk 2 of sequence 1.*student token.*chunk_mask",
        ),
        ({"teacher_chunks": IDS.clamp(max=0)}, {}, "chunk 1 of sequence 0.*teacher token"),
        ({}, {"objective": "js"}, "objective 'js'.*interpolated"),
        ({}, {"objective": "interpolated"}, "'interpolated' needs lambda_t"),
        ({}, {"objective": "kl", "lambda_t": 0.5}, "'kl' takes no lambda_t"),
        ({}, {"objective": "interpolated", "lambda_t": 1.5}, r"lambda_t.*\[0, 1\].*1.5"),
        (
            {},
            {"objective": "interpolated", "lambda_t": torch.tensor([0.5, math.nan])},
            "lambda_t.*nan",
        ),
        (
            {},
            {"objective": "interpolated", "lambda_t": torch.ones(3)},
            "lambda_t.*2 rows",
        ),
        ({}, {"temperature": 0.0}, "temperature.*positive.*0.0"),
        ({}, {"temperature": math.inf}, "temperature.*finite.*inf"),
        ({}, {"eps": 0.0}, r"eps.*\(0, 0.5\).*0.0"),
        ({}, {"eps": 0.5}, r"eps.*\(0, 0.5\); got 0.5"),
        ({}, {"backend": "cuda"}, "backend 'cuda'.*triton"),
    ],
)
def test_errors_name_function_argument_and_value(change, options, message):
    arguments = {
        "student": -torch.ones(2, 3),
        "teacher": -torch.ones(2, 3),
        "student_chunks": IDS,
        "teacher_chunks": IDS,
        "mask": torch.tensor([[True, True, True], [True, True, False]]),
        **change,
    }
    with pytest.raises(ValueError, match=f"chunk_likelihood: .*{message}"):
        chunk_likelihood(*arguments.values(), **options)
