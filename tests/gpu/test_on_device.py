"""Triton ops on this machine's device: a GPU with real vocabularies, or the interpreter with small ones.

`make gpu` runs this folder with only torch, triton, numpy and pytest installed; `make test` runs it on the
CPU, which tests the tests.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, relative
from tests.kernels.cases.divergence import call, gradient, truth
from tide_kernels import chunk_likelihood, token_logprob, token_scores

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
VOCABULARIES = (151_646, 151_936, 157_184) if GPU else (1_030, 1_536)
ROWS = 33 if GPU else 3
both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)
every_vocabulary = pytest.mark.parametrize("vocab", VOCABULARIES)
gpu_only = pytest.mark.skipif(not GPU, reason="needs a GPU")


def make(rows, vocab, dtype, width=None, near=None):
    """Inputs of a divergence; with `near` the teacher is the student plus noise of that size."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE)

    student = 2 * normal(rows, width or vocab)
    teacher = (
        2 * normal(rows, width or vocab) if near is None else student + near * normal(rows, width or vocab)
    )
    # The last column weighs on both sides and is a label: code that drops it must fail.
    student[:, vocab - 1] += 12
    teacher[:, vocab - 1] += 12 if near is not None else 14
    labels = torch.randint(vocab, (rows,), generator=generator, device=DEVICE)
    labels[::2] = vocab - 1
    inputs = {
        "student_logits": student.to(dtype).requires_grad_(),
        "teacher_logits": teacher.to(dtype),
        "lambda_t": torch.rand(rows, generator=generator, device=DEVICE).clamp_min(0.01),
        "labels": labels,
        "vocab_size": vocab,
    }
    return inputs, (normal(rows), normal(rows))


def check(divergence, inputs, upstream, kl_bound):
    """Values and gradient against fp64 on the same rounded inputs."""
    kl, ce, d_student = truth(divergence, inputs, upstream)
    results = call(divergence, inputs, backend="triton")
    worst = ((results[0].detach() - kl).abs() / kl.abs().clamp_min(1e-30)).max()
    assert float(worst) < kl_bound
    assert relative(results[1], ce) < 1e-5
    actual = gradient(results, inputs["student_logits"], upstream)
    dtype = actual.dtype
    step = torch.finfo(dtype).eps / (2 if GPU else 1) if dtype != torch.float32 else 0.0
    error = (actual.double() - d_student).abs() - step * d_student.abs()
    assert float((error.amax(1) / d_student.abs().amax(1)).max()) < 2e-5


@both_divergences
@every_vocabulary
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_divergences_equal_the_definition_in_fp64(dtype, vocab, divergence):
    check(divergence, *make(ROWS, vocab, dtype), 1e-5)


@both_divergences
@every_vocabulary
@pytest.mark.parametrize("near", [1e-3, 1e-2])
def test_near_converged_teachers_keep_their_digits(near, vocab, divergence):
    check(divergence, *make(ROWS, vocab, torch.float32, near=near), 1e-5)


@both_divergences
@pytest.mark.parametrize("rows", [1, 2, 700])
def test_few_rows_and_many(rows, divergence):
    # Few rows are split among programs, many are not.
    vocab = VOCABULARIES[0]
    check(
        divergence, *make(rows if GPU else min(rows, 4), vocab, torch.bfloat16, width=VOCABULARIES[-1]), 1e-5
    )


@both_divergences
def test_a_prefix_of_wider_logits(divergence):
    # The shared vocabulary of two heads of 151,936: the stride is a multiple of 16 bytes, the width is not.
    vocab, width = VOCABULARIES[0], VOCABULARIES[1]
    inputs, upstream = make(ROWS, vocab, torch.bfloat16, width=width)
    check(divergence, inputs, upstream, 1e-5)
    results = call(divergence, inputs, backend="triton")
    assert not gradient(results, inputs["student_logits"], upstream)[:, vocab:].any()


@every_vocabulary
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_token_log_probabilities_equal_the_definition_in_fp64(dtype, vocab):
    inputs, (upstream, _) = make(ROWS, vocab, dtype)
    logits, ids = inputs["student_logits"], inputs["labels"]
    wide = logits.detach().double().requires_grad_()
    expected = token_logprob(wide, ids, backend="reference")
    (d_expected,) = torch.autograd.grad(expected, wide, upstream.double())
    log_p = token_logprob(logits, ids, backend="triton")
    assert float(((log_p - expected).abs() / expected.abs()).max()) < 1e-5
    (d_logits,) = torch.autograd.grad(log_p, logits, upstream)
    step = torch.finfo(dtype).eps / (2 if GPU else 1) if dtype != torch.float32 else 0.0
    error = (d_logits.double() - d_expected).abs() - step * d_expected.abs()
    assert float((error.amax(1) / d_expected.abs().amax(1)).max()) < 1e-5


@every_vocabulary
def test_token_scores_equal_the_definition_in_fp64(vocab):
    inputs, _ = make(ROWS, vocab, torch.bfloat16)
    logits = inputs["student_logits"].detach()
    actual = token_scores(logits, backend="triton")
    expected = token_scores(logits.double(), backend="reference")
    assert torch.equal(actual.token_ids, expected.token_ids)
    for field in ("log_p", "entropy", "margin"):
        assert relative(getattr(actual, field), getattr(expected, field)) < 1e-5


@pytest.mark.parametrize("objective", ["forward", "reverse", "kl", "interpolated"])
def test_chunk_likelihoods_equal_the_definition_in_fp64(objective):
    generator = torch.Generator(DEVICE).manual_seed(0)
    batch, student_length, teacher_length, num_chunks = (8, 512, 700, 300) if GPU else (2, 20, 25, 9)

    def side(length):
        log_p = -3 * torch.rand(batch, length, generator=generator, device=DEVICE)
        ids = torch.sort(
            torch.randint(-1, num_chunks, (batch, length), generator=generator, device=DEVICE), 1
        )
        ids.values[:, :num_chunks] = torch.arange(num_chunks, device=DEVICE)
        return log_p, ids.values

    (student, student_chunks), (teacher, teacher_chunks) = side(student_length), side(teacher_length)
    active = torch.rand(batch, num_chunks, generator=generator, device=DEVICE) < 0.8
    options = {"objective": objective, "temperature": 2.0}
    if objective == "interpolated":
        options["lambda_t"] = torch.rand(batch, generator=generator, device=DEVICE)
    upstream = torch.randn(batch, num_chunks, generator=generator, device=DEVICE)
    found = {}
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        x = student.to(dtype).requires_grad_()
        loss = chunk_likelihood(
            x, teacher.to(dtype), student_chunks, teacher_chunks, active, backend=backend, **options
        )
        found[backend] = loss.detach(), torch.autograd.grad(loss, x, upstream.to(dtype))[0]
    for actual, expected in zip(found["triton"], found["reference"], strict=True):
        assert relative(actual, expected) < 16 * EPS32


@both_divergences
def test_runs_are_bit_identical(divergence):
    inputs, upstream = make(ROWS, VOCABULARIES[0], torch.bfloat16)
    runs = []
    for _ in range(2):
        results = call(divergence, inputs, backend="triton")
        runs.append([*results, gradient(results, inputs["student_logits"], upstream)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@gpu_only
def test_auto_is_triton_on_a_gpu():
    inputs, upstream = make(5, 1000, torch.float32)
    for divergence in DIVERGENCES:
        results = [call(divergence, inputs, backend=backend) for backend in ("auto", "triton")]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        gradients = [gradient(x, inputs["student_logits"], upstream) for x in results]
        assert torch.equal(*gradients)


@gpu_only
@both_divergences
def test_more_entries_than_int32_counts(divergence):
    # Row 14,135 of 151,936 entries starts past 2**31. All rows are equal, so all results must be.
    rows, vocab = 14_200, 151_936
    inputs, _ = make(1, vocab, torch.bfloat16)
    student = inputs["student_logits"].detach().expand(rows, vocab).contiguous().requires_grad_()
    teacher = inputs["teacher_logits"].expand(rows, vocab).contiguous()
    many = inputs | {
        "student_logits": student,
        "teacher_logits": teacher,
        "lambda_t": inputs["lambda_t"].expand(rows),
        "labels": inputs["labels"].expand(rows),
    }
    results = call(divergence, many, backend="triton")
    assert all(bool((x == x[0]).all()) and bool(x[0].isfinite()) for x in results)
    ones = torch.ones(rows, device=DEVICE)
    d_student = gradient(results, student, (ones, ones))
    assert torch.equal(d_student[-1], d_student[0]) and torch.equal(d_student[14_135], d_student[0])
    log_p = token_logprob(student, many["labels"], backend="triton")
    assert bool((log_p == log_p[0]).all())


@gpu_only
def test_memory_beyond_the_inputs_is_the_gradient():
    rows, vocab = 512, 151_936
    inputs, _ = make(rows, vocab, torch.bfloat16)
    one = rows * vocab * 2
    for inplace_gradient, floor in ((False, one), (True, 0)):
        logits = inputs["student_logits"] * 1
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call(
            "interpolated_kl",
            inputs | {"student_logits": logits},
            backend="triton",
            inplace_gradient=inplace_gradient,
        )
        torch.autograd.grad(sum(x.sum() for x in results), logits)
        added = torch.cuda.max_memory_allocated() - before
        assert floor <= added < floor + (8 << 20)


@gpu_only
def test_a_compiled_step_equals_the_eager_one():
    inputs, upstream = make(17, 151_646, torch.bfloat16)
    for divergence in DIVERGENCES:

        def loss(student, divergence=divergence):
            results = call(divergence, inputs | {"student_logits": student}, backend="triton")
            return sum((x * d).sum() for x, d in zip(results, upstream, strict=True))

        student = inputs["student_logits"]
        expected = torch.autograd.grad(loss(student), student)[0]
        compiled = torch.compile(loss, fullgraph=True)
        assert torch.equal(torch.autograd.grad(compiled(student), student)[0], expected)
