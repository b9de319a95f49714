"""Triton ops over hidden states on this machine's device: a GPU with real heads, or the interpreter with
small ones. `make gpu` and `make test` run this file like `test_on_device.py`.

Gradients are compared by norm, as in the target of 0.3 %.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, linear, linear_token, norm_error, relative
from tests.kernels.cases.linear import STUDENT, gradients
from tests.kernels.cases.linear_token import TENSORS
from tide_kernels._shared.head import multiply

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
VOCAB = 151_936 if GPU else 1_030
# A row count that no row block divides, and the hidden sizes of the models.
ROWS = 301 if GPU else 5
WIDTHS = (1024, 4096) if GPU else (32, 48)
TOKEN_HEADS = ((151_936, 1024), (157_184, 2048), (151_646, 1024)) if GPU else ((1_030, 32), (1_536, 16))
# Several row blocks per gradient block, and several gradient blocks.
WORKSPACE = 48 * VOCAB * 8 if GPU else 2 * VOCAB * 8
# Half gradients are rounded once at the end: small ones must not vanish before.
UPSTREAM = 256.0
# Products of half inputs may round towards 0, and the gradient of the logits enters its products in bf16.
VALUES = {torch.float32: 1e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
GRADIENTS = {torch.float32: 2e-5, torch.bfloat16: 3e-3, torch.float16: 3e-3}
CAP = {"student_softcap": 5.0, "teacher_softcap": 8.0, "student_logit_scale": 0.7, "teacher_logit_scale": 1.3}
both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)
every_dtype = pytest.mark.parametrize("dtype", list(VALUES), ids=["fp32", "bf16", "fp16"])
half_dtypes = pytest.mark.parametrize("dtype", list(VALUES)[1:], ids=["bf16", "fp16"])
gpu_only = pytest.mark.skipif(not GPU, reason="needs a GPU")


def make(rows=ROWS, dtype=torch.float32, **options):
    return linear.make(rows, VOCAB, dtype, widths=WIDTHS, device=DEVICE, **options)


def call(divergence, inputs, **options):
    return linear.call(divergence, inputs, **{"backend": "triton", "workspace_bytes": WORKSPACE} | options)


def make_token(rows=ROWS, head=TOKEN_HEADS[0], dtype=torch.float32):
    return linear_token.make(rows, head[0], dtype, width=head[1], device=DEVICE)


def call_token(inputs, **options):
    return linear_token.call(inputs, **{"backend": "triton", "workspace_bytes": WORKSPACE} | options)


def check_divergence(divergence, inputs, dtype, **options):
    expected, wanted = linear.truth(divergence, inputs, **options)
    result = call(divergence, inputs, **options)
    for actual, exact in zip(result, expected, strict=True):
        assert relative(actual, exact) < VALUES[dtype]
    for name, actual, exact in zip(
        STUDENT, gradients(result, inputs, upstream=UPSTREAM), wanted, strict=True
    ):
        assert actual.dtype == dtype
        assert norm_error(actual, UPSTREAM * exact) < GRADIENTS[dtype], name


def check_token(inputs, upstream, dtype, **options):
    expected, wanted = linear_token.truth(inputs, UPSTREAM * upstream, **options)
    log_p = call_token(inputs, **options)
    assert relative(log_p, expected) < VALUES[dtype]
    made = linear_token.gradients(log_p, UPSTREAM * upstream, inputs)
    for name, actual, exact in zip(TENSORS, made, wanted, strict=True):
        assert actual.dtype == dtype
        assert norm_error(actual, exact) < GRADIENTS[dtype], name


@both_divergences
@every_dtype
def test_divergences_equal_the_definition_in_fp64(dtype, divergence):
    # With labels, both biases and both row weights.
    check_divergence(divergence, make(dtype=dtype), dtype)


@both_divergences
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_few_rows(rows, divergence):
    check_divergence(divergence, make(rows, torch.bfloat16), torch.bfloat16)


@both_divergences
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_and_soft_caps(dtype, divergence):
    check_divergence(divergence, make(dtype=dtype), dtype, **CAP)


@both_divergences
def test_a_prefix_of_wider_heads(divergence):
    inputs = make(dtype=torch.bfloat16)
    vocab = VOCAB - 290
    inputs["labels"] = inputs["labels"].clamp_max(vocab - 1)
    check_divergence(divergence, inputs, torch.bfloat16, vocab_size=vocab)
    d_weight = gradients(call(divergence, inputs, vocab_size=vocab), inputs)[1]
    assert not d_weight[vocab:].any() and d_weight[vocab - 1].any()


@both_divergences
@half_dtypes
def test_half_logits_stay_within_the_documented_error(dtype, divergence):
    inputs = make(dtype=dtype)
    expected, wanted = linear.truth(divergence, inputs)
    result = call(divergence, inputs, logits_dtype=dtype)
    assert result.loss.dtype == torch.float32 and relative(result.loss, expected.loss) < 1e-2
    errors = [
        norm_error(actual, UPSTREAM * exact)
        for actual, exact in zip(gradients(result, inputs, upstream=UPSTREAM), wanted, strict=True)
    ]
    assert max(errors) < 0.2
    # Rounded indeed: fp32 logits give another result.
    assert not torch.equal(result.kl, call(divergence, inputs).kl)


@both_divergences
@pytest.mark.parametrize("frozen", ["student_weight", "student_hidden"])
def test_a_frozen_input_changes_no_other_gradient(frozen, divergence):
    inputs = make(dtype=torch.bfloat16)
    names = [name for name in STUDENT if name != frozen]
    wanted = gradients(call(divergence, inputs), inputs, names)
    inputs[frozen] = inputs[frozen].detach()
    for actual, other in zip(gradients(call(divergence, inputs), inputs, names), wanted, strict=True):
        assert torch.equal(actual, other)


@both_divergences
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_are_bit_identical(dtype, divergence):
    inputs = make(dtype=dtype)
    runs = [(*(r := call(divergence, inputs)), *gradients(r, inputs)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@both_divergences
def test_the_workspace_changes_only_the_order_of_sums(divergence):
    inputs = make()
    small, large = (call(divergence, inputs, workspace_bytes=n) for n in (1, ROWS * VOCAB * 32))
    assert relative(small.loss, large.loss) < 1e-5
    for actual, other in zip(gradients(small, inputs), gradients(large, inputs), strict=True):
        assert norm_error(actual, other) < 2e-5


@every_dtype
@pytest.mark.parametrize("head", TOKEN_HEADS, ids=str)
def test_token_log_probabilities_equal_the_definition_in_fp64(head, dtype):
    check_token(*make_token(head=head, dtype=dtype), dtype)


@every_dtype
def test_token_log_probabilities_of_logits_that_are_kept(dtype):
    # All logits fit, so backward recomputes none.
    inputs, upstream = make_token(dtype=dtype)
    check_token(inputs, upstream, dtype, workspace_bytes=ROWS * TOKEN_HEADS[0][0] * 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_log_probabilities_with_a_scale_and_a_soft_cap(dtype):
    check_token(*make_token(dtype=dtype), dtype, logit_scale=0.7, softcap=5.0)


@half_dtypes
def test_token_log_probabilities_of_half_logits(dtype):
    inputs, upstream = make_token(dtype=dtype)
    expected, wanted = linear_token.truth(inputs, UPSTREAM * upstream)
    log_p = call_token(inputs, logits_dtype=dtype)
    assert log_p.dtype == torch.float32 and relative(log_p, expected) < 1e-2
    made = linear_token.gradients(log_p, UPSTREAM * upstream, inputs)
    assert max(norm_error(a, b) for a, b in zip(made, wanted, strict=True)) < 0.2


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_a_frozen_head_of_token_log_probabilities(frozen):
    inputs, upstream = make_token(dtype=torch.bfloat16)
    names = [name for name in TENSORS if name != frozen]
    wanted = linear_token.gradients(call_token(inputs), upstream, inputs, names)
    inputs[frozen] = inputs[frozen].detach()
    made = linear_token.gradients(call_token(inputs), upstream, inputs, names)
    assert all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_of_token_log_probabilities_are_bit_identical(dtype):
    inputs, upstream = make_token(dtype=dtype)
    runs = []
    for _ in range(2):
        log_p = call_token(inputs)
        runs.append([log_p, *linear_token.gradients(log_p, upstream, inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@gpu_only
@half_dtypes
@pytest.mark.parametrize("add", [False, True])
def test_products_of_half_inputs_are_summed_and_kept_in_fp32(add, dtype):
    # Into columns of a wider buffer with strided rows, like those of logits and their gradients.
    generator = torch.Generator(DEVICE).manual_seed(0)
    a, b = (torch.randn(n, 4096, generator=generator, device=DEVICE).to(dtype) for n in (130, 1000))
    wide = torch.ones(130, 1040, device=DEVICE)
    multiply(a, b.T, wide[:, 16:1016], add=add)
    expected = a.double() @ b.double().T + float(add)
    assert relative(wide[:, 16:1016], expected) < 1e-5
    assert bool((wide[:, :16] == 1).all()) and bool((wide[:, 1016:] == 1).all())


@gpu_only
@both_divergences
def test_under_autocast_gradients_come_back_in_fp32(divergence):
    inputs = make()
    expected, wanted = linear.truth(divergence, inputs)
    with torch.autocast("cuda", torch.bfloat16):
        result = call(divergence, inputs)
    assert relative(result.loss, expected.loss) < 1e-2
    for actual, exact in zip(gradients(result, inputs), wanted, strict=True):
        assert actual.dtype == torch.float32 and norm_error(actual, exact) < 2e-2


def added_bytes(step):
    """Bytes that the step adds to the allocator's peak, its result included."""
    step()  # compiles, and initialises libraries
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = step()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


# Statistics, row weights and the workspace of cuBLAS.
SLACK = 96 << 20


@gpu_only
@both_divergences
@pytest.mark.parametrize("workspace", [256 << 20, 768 << 20])
@pytest.mark.parametrize("trained", [True, False])
def test_memory_of_a_divergence_is_workspace_and_gradients(trained, workspace, divergence):
    inputs = make(2048, torch.bfloat16)
    names = STUDENT if trained else STUDENT[:1]
    for name in STUDENT[len(names) :]:
        inputs[name] = inputs[name].detach()
    # Computed in fp32, cast in backward.
    made = sum(inputs[name].numel() * (4 + 2) for name in names)

    def step():
        return gradients(call(divergence, inputs, workspace_bytes=workspace), inputs, names)

    assert added_bytes(step) < workspace + made + SLACK


@gpu_only
@pytest.mark.parametrize("workspace", [256 << 20, 768 << 20])
def test_memory_of_token_log_probabilities_is_workspace_and_gradients(workspace):
    inputs, upstream = make_token(2048, dtype=torch.bfloat16)
    # The head's gradient is written once, in its own dtype.
    made = 2 * inputs["weight"].numel() + (4 + 2) * inputs["hidden"].numel() + 6 * inputs["bias"].numel()

    def step():
        log_p = call_token(inputs, workspace_bytes=workspace)
        return linear_token.gradients(log_p, upstream, inputs)

    assert added_bytes(step) < workspace + made + SLACK

    def forward():
        with torch.no_grad():
            return call_token(inputs, workspace_bytes=workspace)

    # Two numbers per row and tile, no logits.
    assert added_bytes(forward) < SLACK


@gpu_only
@both_divergences
def test_a_block_of_more_entries_than_int32_counts(divergence):
    # Row 14,135 of 151,936 entries starts past 2**31. All rows are equal, so all results must be.
    rows, vocab = 14_200, 151_936
    inputs = linear.make(1, vocab, torch.bfloat16, widths=(64, 64), device=DEVICE)
    for name in ("student_hidden", "teacher_hidden", "lambda_t", "labels", "weight", "ce_weight"):
        x = inputs[name].detach()
        inputs[name] = x.expand(rows, *x.shape[1:]).contiguous()
    inputs["student_hidden"].requires_grad_()
    result = call(divergence, inputs, workspace_bytes=16 << 30)
    assert all(bool((x == x[0]).all()) and bool(x[0].isfinite()) for x in (result.kl, result.ce))
    d_hidden, d_weight = gradients(result, inputs, STUDENT[:2])
    assert all(relative(d_hidden[row], d_hidden[0].double()) < 1e-2 for row in (14_135, -1))
    one = {k: x[:1] if x.shape[0] == rows else x for k, x in inputs.items() if k != "student_hidden"}
    one["student_hidden"] = inputs["student_hidden"][:1].detach().requires_grad_()
    (expected,) = gradients(call(divergence, one), one, STUDENT[1:2], upstream=float(rows))
    assert norm_error(d_weight, expected.double()) < 1e-2


@gpu_only
def test_auto_is_triton_on_a_gpu():
    inputs = make(5)
    for divergence in DIVERGENCES:
        runs = [
            (*(r := call(divergence, inputs, backend=backend)), *gradients(r, inputs))
            for backend in ("auto", "triton")
        ]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    tokens, _ = make_token(5)
    assert torch.equal(*(call_token(tokens, backend=backend) for backend in ("auto", "triton")))


@gpu_only
def test_a_compiled_step_equals_the_eager_one():
    inputs = make(17, torch.bfloat16)
    for divergence in DIVERGENCES:

        def loss(divergence=divergence):
            return call(divergence, inputs).loss

        compiled = torch.compile(loss, fullgraph=True)
        trained = [inputs[name] for name in STUDENT]
        made, wanted = (torch.autograd.grad(one(), trained) for one in (compiled, loss))
        for actual, exact in zip(made, wanted, strict=True):
            assert norm_error(actual, exact.double()) < 4e-3
