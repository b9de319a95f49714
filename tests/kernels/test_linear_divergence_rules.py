"""linear_interpolated_kl and linear_reverse_kl: edge cases, workspace, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, relative, widened
from tests.kernels.cases.linear import STUDENT, call, gradients, make, truth
from tide_kernels._shared.workspace import plan_rows, row_steps, workspace

CPU = torch.device("cpu")


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tied_embedding_receives_both_gradients(divergence):
    inputs = make(vocab=50)
    embedding = inputs["student_weight"].detach().clone().requires_grad_()
    tokens = torch.arange(13)
    tied = call(divergence, {**inputs, "student_hidden": embedding[tokens], "student_weight": embedding})
    (actual,) = torch.autograd.grad(tied.loss, [embedding])

    apart = {**inputs, "student_hidden": embedding.detach()[tokens].requires_grad_()}
    _, (d_hidden, d_weight, _) = truth(divergence, apart)
    expected = d_weight.index_add(0, tokens, d_hidden)
    assert relative(actual, expected) < 64 * EPS32


@pytest.mark.parametrize("backend", ["torch", "native", "triton", "reference"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_rows_give_zero_with_a_graph(divergence, backend):
    inputs = make(rows=0)
    result = call(divergence, inputs, backend=backend)
    assert result.loss == 0 and result.kl.shape == (0,) and result.ce.shape == (0,)
    for name, gradient in zip(STUDENT, gradients(result, inputs), strict=True):
        assert gradient.shape == inputs[name].shape and not gradient.any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_vocab_size_reads_a_common_prefix(divergence):
    inputs = make(vocab=60)
    inputs["labels"] %= 40
    wider = {**inputs}
    for name in ("teacher_weight", "teacher_bias"):
        extra = torch.full((9, *inputs[name].shape[1:]), float("nan"))
        wider[name] = torch.cat([inputs[name], extra])
    result = call(divergence, wider, vocab_size=40)
    narrow = {
        name: x.detach()[:40].requires_grad_(x.requires_grad) if name.endswith(("_weight", "_bias")) else x
        for name, x in inputs.items()
        if name != "ce_weight"
    } | {"ce_weight": inputs["ce_weight"]}
    expected = call(divergence, narrow)
    assert torch.equal(result.kl, expected.kl) and torch.equal(result.ce, expected.ce)
    d_hidden, d_weight, d_bias = gradients(result, inputs)
    n_hidden, n_weight, n_bias = gradients(expected, narrow)
    assert torch.equal(d_hidden, n_hidden)
    assert torch.equal(d_weight[:40], n_weight) and torch.equal(d_bias[:40], n_bias)
    assert not d_weight[40:].any() and not d_bias[40:].any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_inputs_are_read_only_and_need_not_be_contiguous(divergence):
    inputs = make()
    spread = {
        name: x.detach().T.contiguous().T.requires_grad_(x.requires_grad) if x.ndim == 2 else x
        for name, x in inputs.items()
    }
    assert not spread["student_hidden"].is_contiguous() and not spread["teacher_weight"].is_contiguous()
    before = {name: x.detach().clone() for name, x in spread.items()}
    result = call(divergence, spread)
    actual = gradients(result, spread)
    _, expected = truth(divergence, inputs)
    for one, two in zip(actual, expected, strict=True):
        assert relative(one, two) < 64 * EPS32
    for name, x in spread.items():
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_runs_are_bit_identical_and_no_buffer_is_read_before_it_is_written(divergence):
    inputs = make(dtype=torch.bfloat16)
    first = call(divergence, inputs, workspace_bytes=8 * 1000 * 4)
    first_gradients = gradients(first, inputs)
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    try:
        second = call(divergence, inputs, workspace_bytes=8 * 1000 * 4)
        second_gradients = gradients(second, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for one, two in zip((*first, *first_gradients), (*second, *second_gradients), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_autocast_does_not_round_the_products(divergence):
    inputs = make()
    plain = call(divergence, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = call(divergence, inputs)
        definition = call(divergence, inputs, backend="reference")
    assert torch.equal(plain.loss, cast.loss)
    assert relative(definition.loss, plain.loss.detach().double()) < 32 * EPS32
    for one, two in zip(gradients(plain, inputs), gradients(cast, inputs), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_excluded_entries_through_an_infinite_bias(divergence):
    inputs = make(vocab=30)
    for name in ("student_bias", "teacher_bias"):
        bias = inputs[name].detach().clone()
        bias[5:9] = -torch.inf
        inputs[name] = bias.requires_grad_(inputs[name].requires_grad)
    inputs["labels"].fill_(3)
    kept = [column for column in range(30) if not 5 <= column < 9]
    narrow = {
        name: x.detach()[kept].requires_grad_(x.requires_grad)
        if name in ("student_weight", "student_bias", "teacher_weight", "teacher_bias")
        else x
        for name, x in inputs.items()
    }
    expected, expected_gradients = truth(divergence, narrow)
    result = call(divergence, inputs)
    assert relative(result.loss, expected.loss) < 32 * EPS32
    d_hidden, d_weight, _ = gradients(result, inputs)
    assert relative(d_hidden, expected_gradients[0]) < 64 * EPS32
    assert relative(d_weight[kept], expected_gradients[1]) < 64 * EPS32
    assert not d_weight[5:9].any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_reference_passes_gradcheck(divergence):
    inputs = widened(make(rows=3, vocab=5, widths=(2, 3)))

    def loss(*student):
        return call(
            divergence, {**inputs, **dict(zip(STUDENT, student, strict=True))}, backend="reference"
        ).loss

    tensors = [inputs[name] for name in STUDENT]
    if divergence == "reverse_kl":
        assert torch.autograd.gradcheck(loss, tensors)
        return
    # The target is held constant, so the numerical derivative must hold it too.
    result = call(divergence, inputs, backend="reference")
    student = torch.nn.functional.linear(*tensors).detach()
    teacher = torch.nn.functional.linear(*(inputs[f"teacher_{x}"] for x in ("hidden", "weight", "bias")))
    share = inputs["lambda_t"][:, None]
    target = (((1 - share) * student + share * teacher) / 2.0).softmax(-1)

    def held(*student):
        logits = torch.nn.functional.linear(*student)
        kl = (target * (target.log() - (logits / 2.0).log_softmax(-1))).sum(-1)
        ce = -logits.log_softmax(-1).gather(1, inputs["labels"][:, None]).squeeze(1)
        return (inputs["weight"] * kl).sum() + (inputs["ce_weight"] * ce).sum()

    assert torch.autograd.gradcheck(held, tensors)
    torch.testing.assert_close(held(*tensors), result.loss, rtol=1e-12, atol=0)
    for one, two in zip(torch.autograd.grad(held(*tensors), tensors), gradients(result, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_row_blocks_cover_the_rows_within_the_workspace(monkeypatch):
    # A gradient block of r row blocks takes r 10 + 20 bytes per row of a row block.
    assert plan_rows(100, 10, 20, 2, 400) == (20, 10)
    assert plan_rows(100, 10, 20, 4, 600) == (34, 12)  # 40 and 10, evened; the row block takes the rest
    assert plan_rows(12, 10, 20, 2, 400) == (12, 12)  # all rows at once, then the largest row block
    assert plan_rows(16, 10, 20, 4, 400) == (16, 8)
    assert plan_rows(10, 10, 20, 2, 1) == (2, 1)
    assert plan_rows(0, 10, 20, 2, 400) == (1, 1)
    # A bf16 model of V = 151,936 on a GPU: parts of whole tiles of its products.
    assert plan_rows(4096, 2 * 151936, 8 * 151936, 4, 768 << 20) == (1024, 384)
    assert plan_rows(700, 2, 8, 4, 16 * 300) == (700, 384)
    for rows, budget in itertools.product(range(1, 40), range(60, 900, 37)):
        gradient_block, block = plan_rows(rows, 10, 20, 2, budget)
        assert 1 <= block <= gradient_block <= rows
        assert gradient_block * 10 + block * 20 <= max(budget, 40)
    assert row_steps(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert row_steps(slice(4, 9), 3) == [slice(4, 7), slice(7, 9)]
    monkeypatch.delenv("TIDE_WORKSPACE_BYTES", raising=False)
    assert workspace("op", None, CPU) == 160 << 20
    assert workspace("op", None, torch.device("cuda")) == 768 << 20
    monkeypatch.setenv("TIDE_WORKSPACE_BYTES", "500")
    assert workspace("op", None, CPU) == 500
    assert workspace("op", 200, CPU) == 200
    for bad in ("many", "0", "-3"):
        monkeypatch.setenv("TIDE_WORKSPACE_BYTES", bad)
        with pytest.raises(ValueError, match=f"op: .*TIDE_WORKSPACE_BYTES.*positive.*{bad}"):
            workspace("op", None, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_hidden": torch.zeros(13, 5)}, r"share d.*\(13, 5\)"),
        ({"student_weight": torch.zeros(1000, 24, 1)}, "student_weight.*two-dimensional"),
        (
            {"teacher_hidden": torch.zeros(12, 40)},
            "teacher_hidden.*13 rows",
        ),
        ({"teacher_weight": torch.zeros(999, 40), "teacher_bias": None}, "999.*vocab_size"),
        ({"vocab_size": 1001}, r"vocab_size.*\[1, 1000\].*1001"),
        ({"teacher_hidden": torch.zeros(13, 40, requires_grad=True)}, r"teacher_hidden\.detach"),
        ({"teacher_weight": torch.zeros(1000, 40, requires_grad=True)}, r"teacher_weight\.detach"),
        ({"weight": torch.ones(13, requires_grad=True)}, r"weight\.detach"),
        ({"weight": torch.ones(13, 1)}, r"weight.*\[N\].*\(13, 1\)"),
        ({"ce_weight": torch.ones(12)}, "ce_weight.*13 rows"),
        ({"labels": None}, "ce_weight.*labels"),
        ({"labels": torch.full((13,), 1000)}, r"labels.*\[0, 1000\).*1000"),
        ({"labels": torch.zeros(13)}, "labels.*integers.*float32"),
        ({"student_bias": torch.zeros(999)}, "student_bias.*1000.*999"),
        ({"temperature": 0.0}, "temperature.*positive.*0"),
        ({"workspace_bytes": 0}, "workspace_bytes.*positive.*0"),
        (
            {"student_weight": torch.nn.Linear(24, 1000)},
            r"student_weight.*Linear.*lm_head\.weight",
        ),
        (
            {"teacher_weight": torch.nn.Linear(40, 1000)},
            r"teacher_weight.*Linear.*lm_head\.weight",
        ),
        ({"teacher_bias": torch.nn.Linear(40, 1000)}, r"teacher_bias.*Linear.*lm_head\.bias"),
        (
            {"teacher_hidden": np.zeros((13, 40))},
            "teacher_hidden.*ndarray.*as_tensor",
        ),
        ({"labels": [0] * 13}, "labels.*tensor.*list"),
        ({"weight": np.ones(13)}, "weight.*tensor.*ndarray"),
        ({"vocab_size": "40"}, "vocab_size.*integer.*'40'"),
        ({"workspace_bytes": "1G"}, "workspace_bytes.*integer.*'1G'.*1 << 30"),
        ({"backend": "cuda"}, "backend 'cuda'.*triton"),
        ({"student_logit_scale": 0.0}, "student_logit_scale.*finite.*0.0"),
        ({"teacher_logit_scale": float("inf")}, "teacher_logit_scale.*finite.*inf"),
        ({"teacher_logit_scale": -float("inf")}, "teacher_logit_scale.*finite.*-inf"),
        ({"student_logit_scale": float("nan")}, "student_logit_scale.*finite.*nan"),
        ({"student_softcap": 0.0}, "student_softcap.*positive.*0.0"),
        ({"teacher_softcap": -1.0}, "teacher_softcap.*positive.*-1.0"),
        ({"logits_dtype": torch.bfloat16}, "logits_dtype.*float32.*bfloat16"),
        ({"logits_dtype": torch.float64}, "logits_dtype.*float32.*float64"),
    ],
)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_errors_name_function_argument_and_value(divergence, change, message):
    with pytest.raises(ValueError, match=f"linear_{divergence}: .*{message}"):
        inputs = make()
        tensors = {name: value for name, value in change.items() if name in inputs}
        call(divergence, inputs | tensors, **{k: v for k, v in change.items() if k not in inputs})


@pytest.mark.parametrize(
    "lambda_t", [1.5, -0.1, torch.full((13,), 2.0), torch.full((12,), 0.5), np.full(13, 0.5)]
)
def test_lambda_outside_its_range_or_shape(lambda_t):
    with pytest.raises(ValueError, match="linear_interpolated_kl: lambda_t"):
        call("interpolated_kl", {**make(), "lambda_t": lambda_t})
