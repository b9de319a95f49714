"""chunk_likelihood: loss and slope of every chunk, held to arithmetic on plain numbers and to stored vectors.

Mutants that this file kills: the last chunk or the last token of a row left out, the two sides swapped in the
reverse divergence, T missing from the likelihood or from the slope, the target of TIDAL not held constant.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import torch

from tests.kernels.cases import EPS32, relative
from tests.kernels.cases.chunks import BACKENDS, BOUND, FAST, by_hand, gradient, make, options_of
from tide_kernels import chunk_likelihood
from tide_kernels.chunk_likelihood.reference import OBJECTIVES

GOLDEN = Path(__file__).parents[1] / "golden"
HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("num_chunks", "temperature"), [(1, 2.5), (7, 1.0), (32, 2.5), (51, 1.0)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fp32_equals_arithmetic_on_plain_numbers(objective, num_chunks, temperature, backend):
    inputs, upstream = make(num_chunks)
    options = options_of(objective) | {"temperature": temperature}
    expected, d_expected = by_hand(inputs, upstream, **options)
    assert d_expected.any() or num_chunks == 1
    loss = chunk_likelihood(*inputs, backend=backend, **options)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < BOUND[backend]
    d_student = gradient(loss, inputs[0], upstream)
    assert d_student.dtype == torch.float32
    assert relative(d_student, d_expected) < BOUND[backend]
    if backend != "reference":  # also entry by entry
        for actual, wanted in ((loss, expected), (d_student, d_expected)):
            error = (actual.detach().double() - wanted).abs()
            assert bool((error <= EPS32 * wanted.abs() + 1e-9 * wanted.abs().max()).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_definition_in_fp64_is_the_arithmetic(objective):
    inputs, upstream = make(dtype=torch.float64)
    options = options_of(objective) | {"temperature": 2.5}
    options |= {"lambda_t": options["lambda_t"].double()} if "lambda_t" in options else {}
    expected, d_expected = by_hand(inputs, upstream, **options)
    for backend in ("torch", "reference"):
        loss = chunk_likelihood(*inputs, backend=backend, **options)
        assert loss.dtype == torch.float64
        assert relative(loss, expected) < 1e-9
        assert relative(gradient(loss, inputs[0], upstream), d_expected) < 1e-9


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_types_round_the_gradient_once(objective, dtype, backend):
    inputs, upstream = make(dtype=dtype)
    options = options_of(objective) | {"temperature": 2.5}
    expected, d_expected = by_hand(inputs, upstream, **options)
    loss = chunk_likelihood(*inputs, backend=backend, **options)
    assert loss.dtype == torch.float32
    assert relative(loss, expected) < EPS32
    d_student = gradient(loss, inputs[0], upstream)
    assert d_student.dtype == dtype
    # The interpreter truncates to bf16 where a GPU rounds.
    roundings = 1.0 if backend == "triton" and dtype == torch.bfloat16 else 0.5
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    error = (d_student.double() - d_expected).abs()
    bound = (roundings * torch.finfo(dtype).eps + EPS32) * d_expected.abs() + roundings * subnormal
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
def test_lambda_takes_the_target_from_the_student_to_the_teacher(backend):
    inputs, upstream = make()
    forward = chunk_likelihood(*inputs, backend=backend)
    d_forward = gradient(forward, inputs[0], upstream)
    options = {"objective": "interpolated", "backend": backend}
    whole = chunk_likelihood(*inputs, lambda_t=1.0, **options)
    assert relative(whole, forward.double()) < 8 * EPS32
    assert relative(gradient(whole, inputs[0], upstream), d_forward.double()) < 8 * EPS32
    # The target is held constant, and at lambda = 0 it is the student.
    none = chunk_likelihood(*inputs, lambda_t=0.0, **options)
    assert float(none.detach().max()) > 0.5
    assert float(gradient(none, inputs[0], upstream).abs().max()) < 8 * EPS32


@pytest.mark.parametrize("backend", FAST)
def test_kl_is_zero_at_equality_and_positive_elsewhere(backend):
    (student, teacher, student_chunks, teacher_chunks, mask), upstream = make()
    loss = chunk_likelihood(
        student, teacher, student_chunks, teacher_chunks, mask, objective="kl", backend=backend
    )
    assert bool((loss[mask] >= 0).all()) and bool((loss > 0.1).any())
    same = student.detach().clone()
    loss = chunk_likelihood(
        student, same, student_chunks, student_chunks, mask, objective="kl", backend=backend
    )
    assert not loss.any() and float(gradient(loss, student, upstream).abs().max()) < 1e-12


def stored(name):
    with numpy.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    return {key: torch.from_numpy(value) if value.ndim else value.item() for key, value in data.items()}


def schedule(case):
    """(lambda, weight) per sequence of a stored TIDAL case, in fp64."""
    config, progress, t = (
        json.loads(case["config"]),
        case["global_step"] / case["max_steps"],
        case["t"].double(),
    )
    growth = progress if config.get("decay") == "linear" else 0.5 - 0.5 * math.cos(math.pi * progress)
    share = torch.full_like(t, 0.1 + 0.8 * growth)
    if config.get("axis") != "training_only":
        share = share * (1 - t)
    midrange = config.get("tw") == "midrange"
    return share, torch.exp(-((t - 0.5) ** 2) / (2 * 0.15**2)) if midrange else torch.ones_like(t)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(backend, torch.float32) for backend in BACKENDS]
    + [("torch", torch.float64), ("reference", torch.float64)],
)
@pytest.mark.parametrize("name", ["alm_0", "alm_1", "alm_2", "alm_taid_0", "alm_taid_1"])
def test_stored_losses_and_gradients(name, dtype, backend):
    """Tests the chunk op only: the token log-probabilities come from torch in fp64."""
    case = stored(name)
    logits = {side: case[f"{side}_logits"].double() for side in ("student", "teacher")}
    logits["student"].requires_grad_()
    inputs = []
    for side, x in logits.items():
        ids = case[f"{side}_input_ids"][..., None]
        inputs.append(x.log_softmax(-1).gather(-1, ids).squeeze(-1).to(dtype))
    for side in logits:
        matrix = case[f"alignment_matrix_{side}"]
        inputs.append(torch.where(matrix.any(-1), matrix.int().argmax(-1), -1))
    mask = case["chunk_mask"]
    options = {"objective": "reverse" if case["reverse"] else "forward"}
    weight = case.get("chunk_weights", torch.ones(mask.shape)).double()
    if "config" in case:
        share, per_sequence = schedule(case)
        options = {"objective": "interpolated", "lambda_t": share}
        weight = per_sequence[:, None]
    values = chunk_likelihood(*inputs, mask, temperature=case["temperature"], backend=backend, **options)
    assert values.dtype == dtype
    loss = (values.double() * weight).sum() / mask.sum()
    (d_logits,) = torch.autograd.grad(loss, [logits["student"]])
    bound = {torch.float32: 2e-5 if backend == "reference" else 16 * EPS32, torch.float64: 1e-9}[dtype]
    assert abs(float(loss.detach()) / case["exact_loss"] - 1) < bound
    assert relative(d_logits, case["exact_grad"]) < bound
