"""chunk_likelihood: loss and slope of every chunk, held to arithmetic on plain numbers and to stored vectors.

Mutants that this file kills: the last chunk or the last token of a row left out, the two sides swapped in the
reverse divergence, T missing from the likelihood or from the slope, a clamp without its zero slope.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import torch

from tide_kernels import chunk_likelihood
from tide_kernels.chunk_likelihood.reference import OBJECTIVES

GOLDEN = Path(__file__).parents[1] / "golden"
EPS32 = torch.finfo(torch.float32).eps
BACKENDS = ["torch", "reference"]
HALF = [torch.bfloat16, torch.float16]
# Above the definition's fp32 sums; the torch backend works in fp64 and rounds once.
BOUND = {"torch": 1, "reference": 64}


def make(num_chunks=7, batch=3, dtype=torch.float32, seed=0):
    """Chunks of one to three tokens a side, in order, with tokens of no chunk between them.

    Likelihoods reach from 1e-12 to nearly 1, so that both ends of the clamp are met at T = 1.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, num_chunks, generator=generator) < 0.8
    mask[:, -1] = True  # an op that stops before the last chunk must fail
    sides = []
    for _ in range(2):
        length = 4 * num_chunks + 1
        log_p = -(10 ** (torch.rand(batch, length, generator=generator, dtype=torch.float64) * 5 - 4))
        chunks = torch.full((batch, length), -1)
        for row in chunks:
            sizes = torch.randint(1, 4, (num_chunks,), generator=generator)
            ids = [[c] * int(size) + [-1] * (c % 2) for c, size in enumerate(sizes)]
            flat = torch.tensor([c for group in ids for c in group])
            row[len(row) - len(flat) :] = flat[: len(row)]
        for chunk, value in ((0, -40.0), (1, -1e-9)):
            log_p[0, chunks[0] == chunk] = value
        sides.append((log_p.to(dtype), chunks))
    (student, student_chunks), (teacher, teacher_chunks) = sides
    upstream = torch.randn(batch, num_chunks, generator=generator)
    return (student.requires_grad_(), teacher, student_chunks, teacher_chunks, mask), upstream


def options_of(objective, batch=3):
    shares = torch.linspace(0.1, 0.9, batch)
    return {"objective": objective} | ({"lambda_t": shares} if objective == "interpolated" else {})


def gradient(loss, student, upstream, **options):
    (d_student,) = torch.autograd.grad(loss, [student], upstream.to(loss.dtype), **options)
    return d_student


def loss_and_slope(objective, log_s, log_t, share, temperature, eps):
    """Loss of one chunk and its slope in the sum of the student's log-probabilities, from two numbers."""

    def likelihood(log_p):
        p = math.exp(log_p / temperature)
        rest = -math.expm1(log_p / temperature)
        if p < eps or rest < eps:
            return (eps, 1 - eps, False) if p < eps else (1 - eps, eps, False)
        return p, rest, True

    (s, not_s, free), (t, not_t, _) = likelihood(log_s), likelihood(log_t)
    if objective == "interpolated":
        t, not_t = share * t + (1 - share) * s, share * not_t + (1 - share) * not_s
    if objective in ("forward", "interpolated"):
        loss = -(t * math.log(s) + not_t * math.log(not_s))
        slope = not_t / not_s - t / s
    elif objective == "reverse":
        loss = -(s * math.log(t) + not_s * math.log(not_t))
        slope = math.log(not_t / t)
    else:
        loss = s * math.log(s / t) + not_s * math.log(not_s / not_t)
        slope = math.log(s / not_s) - math.log(t / not_t)
    return loss, slope * s / temperature * free


def by_hand(inputs, upstream, objective, lambda_t=None, temperature=1.0, eps=1e-7):
    """Loss [B, C] and gradient [B, Ls], one chunk and one token at a time, in Python's fp64."""
    student, teacher, student_chunks, teacher_chunks, mask = (x.detach().tolist() for x in inputs)
    loss = torch.zeros(inputs[4].shape, dtype=torch.float64)
    d_student = torch.zeros(inputs[0].shape, dtype=torch.float64)
    for b, c in inputs[4].nonzero().tolist():
        log_s = math.fsum(x for x, chunk in zip(student[b], student_chunks[b], strict=True) if chunk == c)
        log_t = math.fsum(x for x, chunk in zip(teacher[b], teacher_chunks[b], strict=True) if chunk == c)
        share = None if lambda_t is None else float(lambda_t[b])
        loss[b, c], slope = loss_and_slope(objective, log_s, log_t, share, temperature, eps)
        for i, chunk in enumerate(student_chunks[b]):
            if chunk == c:
                d_student[b, i] = slope * float(upstream[b, c])
    return loss, d_student


def relative(actual, expected):
    scale = expected.detach().abs().max().clamp_min(1e-30)
    return float((actual.detach().double() - expected.detach()).abs().max() / scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("num_chunks", [1, 7, 101])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fp32_equals_arithmetic_on_plain_numbers(objective, num_chunks, temperature, backend):
    inputs, upstream = make(num_chunks)
    options = options_of(objective) | {"temperature": temperature}
    expected, d_expected = by_hand(inputs, upstream, **options)
    assert d_expected.any() or num_chunks == 1
    loss = chunk_likelihood(*inputs, backend=backend, **options)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < BOUND[backend] * EPS32
    d_student = gradient(loss, inputs[0], upstream)
    assert d_student.dtype == torch.float32
    assert relative(d_student, d_expected) < BOUND[backend] * EPS32
    if backend == "torch":  # entry by entry, where the largest does not speak for the rest
        for actual, wanted in ((loss, expected), (d_student, d_expected)):
            error = (actual.detach().double() - wanted).abs()
            assert bool((error <= EPS32 * wanted.abs() + 1e-9 * wanted.abs().max()).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_definition_in_fp64_is_the_arithmetic(objective):
    inputs, upstream = make(dtype=torch.float64)
    options = options_of(objective) | {"temperature": 2.5}
    options |= {"lambda_t": options["lambda_t"].double()} if "lambda_t" in options else {}
    expected, d_expected = by_hand(inputs, upstream, **options)
    for backend in BACKENDS:
        loss = chunk_likelihood(*inputs, backend=backend, **options)
        assert loss.dtype == torch.float64
        assert relative(loss, expected) < 1e-9
        assert relative(gradient(loss, inputs[0], upstream), d_expected) < 1e-9


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_types_round_the_gradient_once(objective, dtype):
    inputs, upstream = make(dtype=dtype)
    options = options_of(objective) | {"temperature": 2.5}
    expected, d_expected = by_hand(inputs, upstream, **options)
    loss = chunk_likelihood(*inputs, **options)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < EPS32
    d_student = gradient(loss, inputs[0], upstream)
    assert d_student.dtype == dtype
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    error = (d_student.double() - d_expected).abs()
    bound = (0.5 * torch.finfo(dtype).eps + EPS32) * d_expected.abs() + 0.5 * subnormal
    assert bool((error <= bound + 1e-9 * d_expected.abs().max()).all())


def test_sides_may_differ_in_dtype():
    (student, teacher, *rest), upstream = make(dtype=torch.bfloat16)
    mixed = (student, teacher.float() - 1e-3, *rest)
    loss = chunk_likelihood(*mixed)
    expected, d_expected = by_hand(mixed, upstream, "forward")
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < EPS32
    assert relative(gradient(loss, student, upstream), d_expected) < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_s", [-math.inf, -80.0, -0.3, -1e-12, 0.0])
@pytest.mark.parametrize("log_t", [-math.inf, -80.0, -0.3, -1e-12, 0.0])
def test_clamps_at_both_ends(log_t, log_s, backend):
    """Outside [eps, 1 - eps] the student gets no gradient; the loss stays finite, -inf tokens included."""
    student = torch.tensor([[-0.5 * (log_s > -1), log_s, -3.0]], requires_grad=True)
    teacher = torch.tensor([[log_t, 0.0]])
    ids = (torch.tensor([[0, 0, -1]]), torch.tensor([[0, 0]]), torch.ones(1, 1, dtype=torch.bool))
    clamped = log_s < -1
    for eps in (1e-7, 1e-3):
        for objective in OBJECTIVES:
            options = options_of(objective, 1) | {"eps": eps}
            loss = chunk_likelihood(student, teacher, *ids, backend=backend, **options)
            d_student = gradient(loss, student, torch.tensor([[2.0]]))
            expected, d_expected = by_hand(
                (student, teacher, *ids), torch.tensor([[2.0]]), **options
            )
            assert math.isfinite(float(loss.detach()))
            # 1 - eps is rounded to fp32 in the definition: 6e-8 / eps of log(1 - P).
            bound = EPS32 if backend == "torch" else 0.05
            assert relative(loss, expected) < bound
            assert relative(d_student, d_expected) < bound
            assert bool((d_student == 0).all()) == (clamped or not bool(d_expected.any()))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_likely_student_is_clamped_too(objective):
    teacher = torch.tensor([[-0.3]])
    ids = (torch.tensor([[0]]), torch.tensor([[0]]), torch.ones(1, 1, dtype=torch.bool))
    for log_p, free in ((-1e-9, False), (-1e-3, True)):
        student = torch.tensor([[log_p]], requires_grad=True)
        loss = chunk_likelihood(student, teacher, *ids, **options_of(objective, 1))
        expected, d_expected = by_hand(
            (student, teacher, *ids), torch.ones(1, 1), **options_of(objective, 1)
        )
        assert relative(loss, expected) < EPS32
        d_student = gradient(loss, student, torch.ones(1, 1))
        assert bool(d_student != 0) == free
        assert relative(d_student, d_expected) < EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_small_eps_leaves_a_finite_gradient(objective, backend):
    student = torch.tensor([[-0.5, -1e-8, -0.0, -30.0]], requires_grad=True)
    teacher = torch.tensor([[-0.0, -0.7, -30.0, -1e-8]])
    chunks = torch.arange(4)[None]
    inputs = (student, teacher, chunks, chunks, torch.ones(1, 4, dtype=torch.bool))
    options = options_of(objective, 1) | {"eps": 1e-10, "backend": backend}
    loss = chunk_likelihood(*inputs, **options)
    assert bool(loss.isfinite().all())
    d_student = gradient(loss, student, torch.ones(1, 4))
    assert bool(d_student.isfinite().all()), d_student
    assert d_student[0, 2] == 0 and d_student[0, 0] != 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_no_active_chunk_holds_is_neither_read_nor_counted(objective, backend):
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
    assert relative(loss, expected) < BOUND[backend] * EPS32
    d_student = gradient(loss, student, upstream)
    assert not d_student[idle[0]].any()
    assert relative(d_student, d_expected) < BOUND[backend] * EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_chunk_that_does_not_count_needs_no_tokens(objective, backend):
    student = torch.tensor([[-0.5, -0.2]], requires_grad=True)
    teacher = torch.tensor([[-0.4, -0.9]])
    ids = (torch.tensor([[1, 2]]), torch.tensor([[3, 2]]), torch.tensor([[False, False, True, False]]))
    loss = chunk_likelihood(student, teacher, *ids, backend=backend, **options_of(objective, 1))
    expected, d_expected = by_hand(
        (student, teacher, *ids), torch.ones(1, 4), **options_of(objective, 1)
    )
    assert (loss != 0).tolist() == [[False, False, True, False]]
    assert relative(loss, expected) < BOUND[backend] * EPS32
    d_student = gradient(loss, student, torch.ones(1, 4))
    assert d_student[0, 0] == 0
    assert relative(d_student, d_expected) < BOUND[backend] * EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 7, True), (3, 7, False), (0, 7, True), (3, 0, True), (0, 0, True)])
def test_nothing_to_compare_gives_zeros_with_a_graph(shape, backend):
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_lambda_takes_the_target_from_the_student_to_the_teacher(backend):
    inputs, upstream = make()
    forward = chunk_likelihood(*inputs, backend=backend)
    ends = [chunk_likelihood(*inputs, objective="interpolated", lambda_t=x, backend=backend) for x in (0.0, 1.0)]
    # The target is a constant for the gradient: at lambda = 0 the student is already there.
    assert relative(gradient(ends[0], inputs[0], upstream), torch.zeros(())) == 0 or (
        gradient(chunk_likelihood(*inputs, objective="interpolated", lambda_t=0.0, backend=backend),
                 inputs[0], upstream).abs().max() < 64 * EPS32
    )
    assert relative(ends[1], forward.double()) < 64 * EPS32
    one = gradient(ends[1], inputs[0], upstream)
    assert relative(one, gradient(forward, inputs[0], upstream).double()) < 64 * EPS32


def test_kl_is_zero_at_equality_and_positive_elsewhere():
    (student, teacher, student_chunks, teacher_chunks, mask), upstream = make()
    loss = chunk_likelihood(student, teacher, student_chunks, teacher_chunks, mask, objective="kl")
    assert bool((loss[mask] >= 0).all()) and bool((loss > 0.1).any())
    same = student.detach().clone()
    loss = chunk_likelihood(student, same, student_chunks, student_chunks, mask, objective="kl")
    assert not loss.any() and not gradient(loss, student, upstream).any()


def test_tokens_of_a_chunk_need_not_be_neighbours():
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
    loss = chunk_likelihood(*mixed, objective="reverse", temperature=2.0)
    assert relative(loss, expected) < EPS32
    assert relative(gradient(loss, mixed[0], upstream), d_expected) < EPS32


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8])
def test_chunk_ids_of_any_integer_type(dtype):
    (*log_p, student_chunks, teacher_chunks, mask), _ = make()
    other = chunk_likelihood(*log_p, student_chunks.to(dtype), teacher_chunks.to(dtype), mask)
    assert torch.equal(other, chunk_likelihood(*log_p, student_chunks, teacher_chunks, mask))
