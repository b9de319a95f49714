"""linear_interpolated_kl and linear_reverse_kl against the definition in fp64.

Mutants that this file kills: the last vocabulary column left out (its bias makes it one of the likeliest),
the gradient of the last row block only, T missing from one factor, row weights missing from the gradients.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, relative
from tests.kernels.cases.linear import STUDENT, call, gradients, make, truth
from tide_kernels import interpolated_kl, reverse_kl
from tide_kernels._shared import head, head_gradient
from tide_kernels.linear_divergence import rows as linear_divergence_rows


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
@pytest.mark.parametrize(("vocab", "rows"), [(7, 13), (1000, 1), (5003, 7)])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_fp32_equals_the_definition_in_fp64(divergence, vocab, rows, backend):
    inputs = make(rows, vocab)
    expected, expected_gradients = truth(divergence, inputs)
    result = call(divergence, inputs, backend=backend, **({"workspace_bytes": 28 * vocab}))
    for actual, wanted in zip(result, expected, strict=True):
        assert actual.dtype == torch.float32
        assert relative(actual, wanted) < 32 * EPS32
    for actual, wanted in zip(gradients(result, inputs), expected_gradients, strict=True):
        assert relative(actual, wanted) < 64 * EPS32


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_vocabulary_of_one_has_no_divergence(divergence):
    inputs = make(vocab=1)
    result = call(divergence, inputs)
    assert result.kl.abs().max() == 0 and result.ce.abs().max() == 0
    for gradient in gradients(result, inputs):
        assert gradient.abs().max() == 0


@pytest.mark.parametrize(
    ("dtype", "teacher_dtype"),
    [
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
    ids=["bf16", "fp16", "bf16-fp32", "fp32-bf16"],
)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_half_types_are_at_least_as_close_to_fp64_as_eager(divergence, dtype, teacher_dtype):
    inputs = make(31, 2048, dtype, teacher_dtype=teacher_dtype, widths=(64, 96))
    expected, expected_gradients = truth(divergence, inputs)
    result = call(divergence, inputs, workspace_bytes=8 * 2048 * 10)
    actual_gradients = gradients(result, inputs)

    # Eager: logits in the model's dtype, the divergence in fp32, as in careful training code.
    student, teacher = (
        torch.nn.functional.linear(
            *(inputs[f"{side}_{part}"] for part in ("hidden", "weight", "bias"))
        ).float()
        for side in ("student", "teacher")
    )
    options = {"temperature": 2.0, "labels": inputs["labels"], "backend": "reference"}
    if divergence == "interpolated_kl":
        kl, ce = interpolated_kl(student, teacher, inputs["lambda_t"], **options)
    else:
        kl, ce = reverse_kl(student, teacher, **options)
    eager = (inputs["weight"] * kl).sum() + (inputs["ce_weight"] * ce).sum()
    eager_gradients = torch.autograd.grad(eager, [inputs[name] for name in STUDENT])

    # Values stay in fp32: the error is the product's rounding, far below that of the inputs' dtype.
    assert relative(result.loss, expected.loss) < 16 * EPS32
    assert relative(result.kl, expected.kl) < 64 * EPS32
    for name, actual, other, wanted in zip(
        STUDENT, actual_gradients, eager_gradients, expected_gradients, strict=True
    ):
        assert actual.dtype == inputs[name].dtype
        # fp32 sums, then one rounding to the gradient's dtype: half an ulp of the largest entry.
        assert relative(actual, wanted) <= 0.51 * torch.finfo(actual.dtype).eps + 64 * EPS32
        assert (actual.double() - wanted).norm() <= (other.double() - wanted).norm() * (1 + 1e-6)


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_scale_cap_and_the_dtype_of_logits(divergence, dtype, backend):
    inputs = make(13, 300, dtype)
    options = {
        "student_logit_scale": -1.3,
        "student_softcap": 4.0,
        "teacher_logit_scale": 0.6,
        "teacher_softcap": 7.0,
    }
    expected, expected_gradients = truth(divergence, inputs, **options)
    options |= {"backend": backend, "workspace_bytes": 28 * 300}
    result = call(divergence, inputs, **options)
    for actual, wanted in zip(result, expected, strict=True):
        assert relative(actual, wanted) < 64 * EPS32
    for actual, wanted in zip(gradients(result, inputs), expected_gradients, strict=True):
        assert relative(actual, wanted) <= 0.51 * torch.finfo(dtype).eps + 64 * EPS32
    if dtype == torch.bfloat16:
        coarse = call(divergence, inputs, logits_dtype=dtype, **options)
        assert 64 * EPS32 < relative(coarse.kl, expected.kl) < 2**-6
        for actual, wanted in zip(gradients(coarse, inputs), expected_gradients, strict=True):
            assert relative(actual, wanted) < 0.05


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_kernels_write_the_gradient_in_the_dtype_of_the_products(divergence, monkeypatch):
    """As on a GPU: bf16 gradient of fp32 logits, several row blocks per gradient block."""
    inputs = make(13, 300, torch.bfloat16)
    expected, expected_gradients = truth(divergence, inputs)
    heads = []
    make_head = linear_divergence_rows.Head

    def head_with_bf16_gradient(*arguments):
        heads.append(make_head(*arguments))
        heads[-1].gradient_dtype = torch.bfloat16
        return heads[-1]

    # A CPU multiplies fp32 only, so the products widen what the kernels wrote.
    plain = head.multiply

    def widened_product(a, b, *rest, **options):
        plain(a.float(), b.float(), *rest, **options)

    monkeypatch.setattr(head_gradient, "multiply", widened_product)
    monkeypatch.setattr(head, "multiply", widened_product)
    monkeypatch.setattr(linear_divergence_rows, "Head", head_with_bf16_gradient)
    result = call(divergence, inputs, backend="triton", workspace_bytes=300 * (2 * 4 + 4 * 2) * 2)
    assert relative(result.kl, expected.kl) < 64 * EPS32
    for actual, wanted in zip(gradients(result, inputs), expected_gradients, strict=True):
        # The interpreter truncates where a GPU rounds: up to one ulp per entry, in either direction.
        assert relative(actual, wanted) < 2.0 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equals_the_logits_in_op(divergence):
    inputs = make(vocab=777)
    result = call(divergence, inputs)
    student, teacher = (
        torch.nn.functional.linear(*(inputs[f"{side}_{part}"] for part in ("hidden", "weight", "bias")))
        for side in ("student", "teacher")
    )
    if divergence == "interpolated_kl":
        kl, ce = interpolated_kl(
            student, teacher, inputs["lambda_t"], temperature=2.0, labels=inputs["labels"]
        )
    else:
        kl, ce = reverse_kl(student, teacher, temperature=2.0, labels=inputs["labels"])
    assert relative(result.kl, kl.detach().double()) < 32 * EPS32
    assert relative(result.ce, ce.detach().double()) < 32 * EPS32
    loss = (inputs["weight"] * kl).sum() + (inputs["ce_weight"] * ce).sum()
    wanted = torch.autograd.grad(loss, [inputs[name] for name in STUDENT])
    for actual, expected in zip(gradients(result, inputs), wanted, strict=True):
        assert relative(actual, expected.double()) < 64 * EPS32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_workspace_does_not_change_the_result(divergence, dtype):
    inputs = make(23, 513, dtype)
    whole = call(divergence, inputs, workspace_bytes=1 << 30)
    whole_gradients = gradients(whole, inputs)
    for workspace_bytes in (1, 8 * 513 * 3, 8 * 513 * 22):
        parts = call(divergence, inputs, workspace_bytes=workspace_bytes)
        for actual, expected in zip(parts, whole, strict=True):
            assert relative(actual, expected.double()) < 32 * EPS32
        for actual, expected in zip(gradients(parts, inputs), whole_gradients, strict=True):
            # In bf16 two fp32 sums that differ in the last place may round to neighbours.
            assert relative(actual, expected.double()) < 64 * EPS32 + torch.finfo(dtype).eps * (
                dtype != torch.float32
            )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_steps_within_a_row_block_and_threads_do_not_change_the_result(divergence, threads, monkeypatch):
    inputs = make(23, 513)
    workspace_bytes = 8 * 513 * 9
    whole = call(divergence, inputs, workspace_bytes=workspace_bytes)
    whole_gradients = gradients(whole, inputs)
    monkeypatch.setattr("tide_kernels.linear_divergence.rows.rows_per_block", lambda *_: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps = call(divergence, inputs, workspace_bytes=workspace_bytes)
        steps_gradients = gradients(steps, inputs)
    finally:
        torch.set_num_threads(before)
    for actual, expected in zip(steps, whole, strict=True):
        assert relative(actual, expected.double()) < 8 * EPS32
    for actual, expected in zip(steps_gradients, whole_gradients, strict=True):
        assert relative(actual, expected.double()) < 16 * EPS32


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_inference_mode_on_two_threads_gives_the_same(divergence, monkeypatch):
    inputs = make(23, 513)
    monkeypatch.setattr("tide_kernels.linear_divergence.rows.rows_per_block", lambda *_: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            expected = call(divergence, inputs, backend="torch")
        with torch.inference_mode():
            # Inputs created outside inference mode, and inside it.
            results = [call(divergence, x, backend="torch") for x in (inputs, make(23, 513))]
    finally:
        torch.set_num_threads(before)
    for result in results:
        assert all(torch.equal(one, two) for one, two in zip(result, expected, strict=True))


@pytest.mark.parametrize("asked", [s for n in range(4) for s in itertools.combinations(STUDENT, n)])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_subset_of_gradients(divergence, asked):
    inputs = make()
    _, expected = truth(divergence, inputs)
    wanted = dict(zip(STUDENT, expected, strict=True))
    for name in STUDENT:
        inputs[name].requires_grad_(name in asked)
    result = call(divergence, inputs)
    assert result.loss.requires_grad == bool(asked)
    if asked:
        for name, actual in zip(asked, gradients(result, inputs, asked), strict=True):
            assert relative(actual, wanted[name]) < 64 * EPS32


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_gradient_work_without_grad_mode(divergence, monkeypatch):
    inputs = make()
    expected = call(divergence, inputs)
    monkeypatch.setattr("tide_kernels.linear_divergence.rows.block_gradient", None)
    with torch.no_grad():
        result = call(divergence, inputs)
    assert not result.loss.requires_grad
    assert torch.equal(result.kl, expected.kl) and torch.equal(result.loss, expected.loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_backward_again_and_with_another_upstream(divergence, dtype):
    inputs = make(dtype=dtype)
    _, expected = truth(divergence, inputs)
    result = call(divergence, inputs)
    tensors = [inputs[name] for name in STUDENT]
    first = torch.autograd.grad(result.loss * 3.0, tensors, retain_graph=True)
    second = torch.autograd.grad(result.loss * -1.5, tensors, retain_graph=True)
    third = torch.autograd.grad(result.loss * 3.0, tensors)
    for one, two, three, wanted in zip(first, second, third, expected, strict=True):
        assert torch.equal(one, three) and torch.equal(one, -2.0 * two)
        assert relative(one, 3.0 * wanted) < 0.51 * torch.finfo(one.dtype).eps + 64 * EPS32


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_fp16_gradients_are_cast_after_the_loss_scale(divergence):
    inputs = make(dtype=torch.float16)
    inputs["weight"] *= 1e-8
    inputs["ce_weight"] *= 1e-8
    _, expected = truth(divergence, inputs)
    scaled = gradients(call(divergence, inputs), inputs, upstream=65536.0)
    for actual, wanted in zip(scaled, expected, strict=True):
        # Subnormal fp16 has an absolute resolution of 6e-8; cast before the loss scale, all would be 0.
        assert (actual.double() - 65536.0 * wanted).abs().max() < 4e-8 + 1e-3 * 65536.0 * wanted.abs().max()
        assert actual.abs().max() > 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_double_backward_raises(divergence):
    inputs = make()
    hidden = inputs["student_hidden"]
    (gradient,) = torch.autograd.grad(call(divergence, inputs).loss, [hidden], create_graph=True)
    # The second term is differentiable, so that a gradient taken as a constant would go unnoticed.
    penalty = gradient.square().sum() + hidden.square().sum()
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(penalty, [hidden])
