"""linear_token_logprob against the definition in fp64.

Mutants that this file kills: the last vocabulary column left out (its bias makes it the likeliest), the
gradient of the last run of columns only, statistics of one run used for another in backward.
"""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from tests.kernels.cases import EPS32, relative, widened
from tests.kernels.cases.linear_token import TENSORS, call, gradients, make, truth
from tide_kernels import linear_token_logprob, token_logprob


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
@pytest.mark.parametrize(("vocab", "rows"), [(7, 13), (1000, 1), (5003, 7)])
def test_fp32_equals_the_definition_in_fp64(vocab, rows, backend):
    inputs, upstream = make(rows, vocab)
    expected, expected_gradients = truth(inputs, upstream)
    log_p = call(inputs, backend=backend, workspace_bytes=4 * vocab * 5)
    assert log_p.dtype == torch.float32
    assert relative(log_p, expected) < 16 * EPS32
    # A gradient of hidden states sums over the vocabulary, in an order that each machine chooses.
    bound = max(32, 2 * vocab**0.5) * EPS32
    for actual, wanted in zip(gradients(log_p, upstream, inputs), expected_gradients, strict=True):
        assert relative(actual, wanted) < bound


def test_a_vocabulary_of_one_is_certain():
    inputs, upstream = make(vocab=1)
    log_p = call(inputs)
    assert log_p.abs().max() == 0
    for gradient in gradients(log_p, upstream, inputs):
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_types_are_at_least_as_close_to_fp64_as_eager(dtype):
    inputs, upstream = make(31, 2048, dtype, width=64)
    expected, expected_gradients = truth(inputs, upstream)
    log_p = call(inputs, workspace_bytes=4 * 2048 * 10)
    actual_gradients = gradients(log_p, upstream, inputs)
    logits = torch.nn.functional.linear(*(inputs[name] for name in TENSORS))
    eager = logits.float().log_softmax(-1).gather(1, inputs["token_ids"][:, None]).squeeze(1)
    eager_gradients = gradients(eager, upstream, inputs)
    assert relative(log_p, expected) < 16 * EPS32
    for name, actual, other, wanted in zip(
        TENSORS, actual_gradients, eager_gradients, expected_gradients, strict=True
    ):
        assert actual.dtype == inputs[name].dtype
        # fp32 sums, then one rounding to the gradient's dtype.
        assert relative(actual, wanted) <= 0.51 * torch.finfo(dtype).eps + 32 * EPS32
        assert (actual.double() - wanted).norm() <= (other.double() - wanted).norm() * (1 + 1e-6)


def test_equals_the_logits_in_op():
    inputs, upstream = make(vocab=777)
    log_p = call(inputs)
    logits = torch.nn.functional.linear(*(inputs[name] for name in TENSORS))
    other = token_logprob(logits, inputs["token_ids"])
    assert relative(log_p, other.double()) < 16 * EPS32
    for one, two in zip(gradients(log_p, upstream, inputs), gradients(other, upstream, inputs), strict=True):
        assert relative(one, two.double()) < 32 * EPS32


def test_the_workspace_does_not_change_the_result():
    inputs, upstream = make(23, 513)
    whole = call(inputs, workspace_bytes=1 << 30)
    whole_gradients = gradients(whole, upstream, inputs)
    for workspace_bytes in (1, 4 * 513 * 3, 4 * 513 * 22):
        parts = call(inputs, workspace_bytes=workspace_bytes)
        assert relative(parts, whole.double()) < 16 * EPS32
        for one, two in zip(gradients(parts, upstream, inputs), whole_gradients, strict=True):
            assert relative(one, two.double()) < 32 * EPS32


@pytest.mark.parametrize("threads", [1, 3])
def test_runs_of_columns_and_threads_do_not_change_the_result(threads):
    inputs, upstream = make(23, 513)
    whole = call(inputs, workspace_bytes=1 << 30)
    whole_gradients = gradients(whole, upstream, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Runs of 48 columns, the last one of 33; and of one column.
        for workspace_bytes in (4 * 23 * 50, 1):
            runs = call(inputs, workspace_bytes=workspace_bytes)
            assert relative(runs, whole.double()) < 8 * EPS32
            runs_gradients = gradients(runs, upstream, inputs)
            for actual, expected in zip(runs_gradients, whole_gradients, strict=True):
                assert relative(actual, expected.double()) < 16 * EPS32
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("rows", "vocab", "dtype"),
    [
        *((*shape, torch.float32) for shape in ((1, 1), (17, 64), (5, 65), (130, 70), (2, 4200))),
        (17, 65, torch.bfloat16),
        (5, 130, torch.float16),
    ],
    ids=str,
)
def test_the_epilogue_of_the_triton_product_keeps_what_log_p_needs(rows, vocab, dtype, monkeypatch):
    """Rows cross BLOCK_N; columns cross a tile, and the tiles that are joined at once."""
    launch = importlib.import_module("tide_kernels.linear_token_logprob.launch")
    monkeypatch.setattr(launch.chunked, "forward", None)
    inputs, upstream = make(rows, vocab, dtype, width=32)
    with torch.no_grad():
        inputs["bias"][-1] += 4  # the largest entry comes last
    options = {"logit_scale": 0.7, "softcap": 9.0}
    # The large shapes take seconds in the interpreter.
    for chosen in ({}, options) if rows * vocab < 5000 else (options,):
        wide = widened(inputs)
        expected = call(wide, backend="reference", **chosen)
        with torch.no_grad():
            alone = call(inputs, backend="triton", **chosen)
        # With a workspace of one column forward keeps no logits and backward recomputes them.
        log_p = call(inputs, backend="triton", workspace_bytes=4 * rows * 70, **chosen)
        assert relative(alone, expected) < 16 * EPS32
        if rows * vocab > rows * 70:
            assert torch.equal(alone, log_p)
        wanted = gradients(expected, upstream, wide)
        for actual, exact in zip(gradients(log_p, upstream, inputs), wanted, strict=True):
            assert relative(actual, exact) <= 0.51 * torch.finfo(dtype).eps + 32 * EPS32


def test_the_epilogue_reads_ids_and_bias_with_their_strides():
    inputs, _ = make(4, 70, width=32)
    ids = torch.stack([torch.zeros(4, dtype=torch.int64), inputs["token_ids"]], 1)[:, 1]
    bias = torch.stack([torch.full((70,), 5.0), inputs["bias"].detach()], 1)[:, 1]
    with torch.no_grad():
        expected = call(inputs, backend="torch")
        spread = call(inputs | {"token_ids": ids, "bias": bias}, backend="triton")
    assert not ids.is_contiguous() and not bias.is_contiguous()
    assert relative(spread, expected.double()) < 16 * EPS32


def test_the_epilogue_gives_nan_for_an_unchecked_id_outside_the_vocabulary(monkeypatch):
    function = importlib.import_module("tide_kernels.linear_token_logprob.op")
    monkeypatch.setattr(function, "check_id_values", lambda *_: None)
    inputs, _ = make(3, 70, width=32)
    inputs["token_ids"] = torch.tensor([0, 70, -1])
    with torch.no_grad():
        log_p = call(inputs, backend="triton")
    assert log_p[0] < 0 and log_p[1:].isnan().all()


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_scale_cap_and_the_dtype_of_logits(backend, dtype):
    inputs, upstream = make(13, 300, dtype)
    options = {"logit_scale": -1.3, "softcap": 4.0}
    wide = widened(inputs)
    expected = call(wide, backend="reference", **options)
    log_p = call(inputs, backend=backend, workspace_bytes=4 * 13 * 40, **options)
    assert relative(log_p, expected) < 32 * EPS32
    wanted = gradients(expected, upstream, wide)
    for actual, exact in zip(gradients(log_p, upstream, inputs), wanted, strict=True):
        assert relative(actual, exact) <= 0.51 * torch.finfo(dtype).eps + 64 * EPS32
    if dtype == torch.bfloat16:
        coarse = call(inputs, backend=backend, logits_dtype=dtype, workspace_bytes=4 * 13 * 40, **options)
        # Rounded logits, and no coarser: the logits are below 4.
        assert 32 * EPS32 < relative(coarse, expected) < 2**-7
        for actual, exact in zip(gradients(coarse, upstream, inputs), wanted, strict=True):
            assert relative(actual, exact) < 0.03


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_logits_that_fit_the_workspace_are_kept_for_the_first_backward(backend, monkeypatch):
    inputs, upstream = make(7, 90)
    chunked = importlib.import_module("tide_kernels.linear_token_logprob.chunked")
    made = []
    products = chunked.TokenLogprobCall.logits
    monkeypatch.setattr(
        chunked.TokenLogprobCall, "logits", lambda *arguments: made.append(1) or products(*arguments)
    )
    log_p = call(inputs, backend=backend)
    assert len(made) == 1
    first = gradients(log_p, upstream, inputs, retain_graph=True)
    assert len(made) == 1
    second = gradients(log_p, 2 * upstream, inputs)
    assert len(made) == 2
    for one, two in zip(first, second, strict=True):
        assert relative(two, 2 * one.double()) < 8 * EPS32


@pytest.mark.parametrize("asked", [s for n in range(4) for s in itertools.combinations(TENSORS, n)])
def test_every_subset_of_gradients(asked):
    inputs, upstream = make()
    expected, expected_gradients = truth(inputs, upstream)
    wanted = dict(zip(TENSORS, expected_gradients, strict=True))
    for name in TENSORS:
        inputs[name].requires_grad_(name in asked)
    log_p = call(inputs)
    assert log_p.requires_grad == bool(asked)
    assert relative(log_p, expected) < 16 * EPS32
    if asked:
        for name, actual in zip(asked, gradients(log_p, upstream, inputs, asked), strict=True):
            assert relative(actual, wanted[name]) < 32 * EPS32


def test_without_a_bias():
    inputs, upstream = make()
    plain = linear_token_logprob(inputs["hidden"], inputs["weight"], inputs["token_ids"])
    zero = {**inputs, "bias": torch.zeros(1000)}
    assert torch.equal(plain, call(zero))
    names = ("hidden", "weight")
    for one, two in zip(
        gradients(plain, upstream, inputs, names), gradients(call(zero), upstream, zero, names), strict=True
    ):
        assert torch.equal(one, two)


def test_backward_again_gives_the_same():
    inputs, upstream = make(dtype=torch.bfloat16)
    log_p = call(inputs)
    first = gradients(log_p, upstream, inputs, retain_graph=True)
    second = gradients(log_p, 2 * upstream, inputs)
    for one, two in zip(first, second, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(2 * one, two)


def test_double_backward_raises():
    inputs, upstream = make()
    (gradient,) = gradients(call(inputs), upstream, inputs, ("hidden",), create_graph=True)
    penalty = gradient.square().sum() + inputs["hidden"].square().sum()
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(penalty, [inputs["hidden"]])


def test_tied_embedding_receives_both_gradients():
    inputs, upstream = make(vocab=50)
    embedding = inputs["weight"].detach().clone().requires_grad_()
    tokens = torch.arange(13)
    log_p = call({**inputs, "hidden": embedding[tokens], "weight": embedding})
    (actual,) = torch.autograd.grad(log_p, [embedding], upstream)
    apart = {**inputs, "hidden": embedding.detach()[tokens].requires_grad_()}
    _, (d_hidden, d_weight, _) = truth(apart, upstream)
    assert relative(actual, d_weight.index_add(0, tokens, d_hidden)) < 32 * EPS32


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
def test_no_rows_give_no_values_with_a_graph(backend):
    inputs, upstream = make(rows=0)
    log_p = call(inputs, backend=backend)
    assert log_p.shape == (0,)
    for name, gradient in zip(TENSORS, gradients(log_p, upstream, inputs), strict=True):
        assert gradient.shape == inputs[name].shape and not gradient.any()


def test_vocab_size_normalises_over_a_prefix():
    inputs, upstream = make(vocab=60)
    inputs["token_ids"] %= 40
    log_p = call(inputs, vocab_size=40)
    narrow = {**inputs} | {name: inputs[name].detach()[:40].requires_grad_() for name in ("weight", "bias")}
    expected = call(narrow)
    assert torch.equal(log_p, expected)
    d_hidden, d_weight, d_bias = gradients(log_p, upstream, inputs)
    n_hidden, n_weight, n_bias = gradients(expected, upstream, narrow)
    assert torch.equal(d_hidden, n_hidden)
    assert torch.equal(d_weight[:40], n_weight) and torch.equal(d_bias[:40], n_bias)
    assert not d_weight[40:].any() and not d_bias[40:].any()


def test_inputs_are_read_only_and_need_not_be_contiguous():
    inputs, upstream = make()
    spread = {
        name: x.detach().T.contiguous().T.requires_grad_(x.requires_grad) if x.ndim == 2 else x
        for name, x in inputs.items()
    }
    assert not spread["weight"].is_contiguous()
    before = {name: x.detach().clone() for name, x in spread.items()}
    actual = gradients(call(spread), upstream, spread)
    _, expected = truth(inputs, upstream)
    for one, two in zip(actual, expected, strict=True):
        assert relative(one, two) < 32 * EPS32
    for name, x in spread.items():
        assert torch.equal(x, before[name]), name


def test_runs_are_bit_identical_and_no_buffer_is_read_before_it_is_written():
    inputs, upstream = make(dtype=torch.bfloat16)
    first = call(inputs, workspace_bytes=4 * 1000 * 4)
    first_gradients = gradients(first, upstream, inputs)
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    try:
        second = call(inputs, workspace_bytes=4 * 1000 * 4)
        second_gradients = gradients(second, upstream, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for one, two in zip((first, *first_gradients), (second, *second_gradients), strict=True):
        assert torch.equal(one, two)


def test_autocast_does_not_round_the_products():
    inputs, upstream = make()
    plain = call(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = call(inputs)
        definition = call(inputs, backend="reference")
    assert torch.equal(plain, cast)
    assert relative(definition, plain.double()) < 16 * EPS32
    for one, two in zip(gradients(plain, upstream, inputs), gradients(cast, upstream, inputs), strict=True):
        assert torch.equal(one, two)


def test_a_certain_token_keeps_its_digits():
    """1 - p = 1e-9 is below fp32's resolution at 1, log p is not: chunk likelihoods need it for 1 - P."""
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [20.7232658], [-1.0]])
    log_p = linear_token_logprob(hidden, weight, torch.tensor([1]))
    expected = linear_token_logprob(hidden.double(), weight.double(), torch.tensor([1]), backend="reference")
    assert -2e-9 < float(log_p) < -1e-9
    assert relative(log_p, expected) < 16 * EPS32


def test_reference_passes_gradcheck():
    inputs, _ = make(rows=3, vocab=5, width=2)
    wide = widened(inputs)
    ids = wide["token_ids"]

    def function(hidden, weight, bias):
        return linear_token_logprob(hidden, weight, ids, bias=bias, backend="reference")

    assert torch.autograd.gradcheck(function, [wide[name] for name in TENSORS])
