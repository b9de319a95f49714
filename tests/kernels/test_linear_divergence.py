"""linear_interpolated_kl and linear_reverse_kl: hidden states in, the same numbers as the definition in fp64.

Mutants that this file kills: the last vocabulary column left out (its bias makes it one of the likeliest),
the gradient of the last row chunk alone, T missing from one factor, row weights missing from the gradients.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from tide_kernels import interpolated_kl, linear_interpolated_kl, linear_reverse_kl, reverse_kl
from tide_kernels._shared.head import head_chunks

EPS32 = torch.finfo(torch.float32).eps
DIVERGENCES = ("interpolated_kl", "reverse_kl")
STUDENT = ("student_hidden", "student_weight", "student_bias")


def make(rows=13, vocab=1000, dtype=torch.float32, seed=0, teacher_dtype=None, widths=(24, 40)):
    """Inputs in the given dtype, with gradients asked for on the student's side."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0, to=dtype):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(to)

    teacher_dtype = teacher_dtype or dtype
    inputs = {
        "student_hidden": normal(rows, widths[0]),
        "student_weight": normal(vocab, widths[0], scale=2 * widths[0] ** -0.5),
        "student_bias": normal(vocab),
        "teacher_hidden": normal(rows, widths[1], to=teacher_dtype),
        "teacher_weight": normal(vocab, widths[1], scale=2 * widths[1] ** -0.5, to=teacher_dtype),
        "teacher_bias": normal(vocab, to=teacher_dtype),
        "lambda_t": torch.rand(rows, generator=generator),
        "labels": torch.randint(vocab, (rows,), generator=generator),
        "weight": torch.rand(rows, generator=generator),
        "ce_weight": torch.rand(rows, generator=generator),
    }
    # The last column has to matter: a kernel that stops before it must fail.
    inputs["student_bias"][-1] += 5
    inputs["labels"][::2] = vocab - 1
    for name in STUDENT:
        inputs[name].requires_grad_()
    return inputs


def call(divergence, inputs, temperature=2.0, **options):
    inputs = dict(inputs)
    lambda_t = inputs.pop("lambda_t")
    heads = [inputs.pop(f"{side}_{part}") for side in ("student", "teacher") for part in ("hidden", "weight")]
    if divergence == "interpolated_kl":
        return linear_interpolated_kl(*heads, lambda_t, temperature=temperature, **inputs, **options)
    return linear_reverse_kl(*heads, temperature=temperature, **inputs, **options)


def widened(inputs):
    return {
        name: x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for name, x in inputs.items()
    }


def gradients(result, inputs, names=STUDENT, upstream=1.0):
    return torch.autograd.grad(result.loss * upstream, [inputs[name] for name in names])


def truth(divergence, inputs, **options):
    """The definition in fp64 on the same rounded inputs, and its gradients."""
    wide = widened(inputs)
    result = call(divergence, wide, backend="reference", **options)
    return result, gradients(result, wide)


def relative(actual, expected):
    scale = expected.detach().abs().max().clamp_min(1e-30)
    return float((actual.detach().double() - expected.detach()).abs().max() / scale)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("vocab", [7, 1000, 4096, 5003])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_fp32_equals_the_definition_in_fp64(divergence, vocab, rows, backend):
    inputs = make(rows, vocab)
    expected, expected_gradients = truth(divergence, inputs)
    result = call(divergence, inputs, backend=backend, **({"workspace_bytes": 8 * vocab * 5}))
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
    inputs = make(31, 4096, dtype, teacher_dtype=teacher_dtype, widths=(64, 96))
    expected, expected_gradients = truth(divergence, inputs)
    result = call(divergence, inputs, workspace_bytes=8 * 4096 * 10)
    actual_gradients = gradients(result, inputs)

    # Eager: logits in the model's dtype, the divergence in fp32 as careful training code has it.
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

    # Values are kept in fp32: what remains is the product's rounding, far below the inputs' dtype.
    assert relative(result.loss, expected.loss) < 16 * EPS32
    assert relative(result.kl, expected.kl) < 64 * EPS32
    for name, actual, other, wanted in zip(
        STUDENT, actual_gradients, eager_gradients, expected_gradients, strict=True
    ):
        assert actual.dtype == inputs[name].dtype
        # One rounding to the gradient's dtype, half an ulp of the largest entry, and fp32 sums before it.
        assert relative(actual, wanted) <= 0.51 * torch.finfo(actual.dtype).eps + 64 * EPS32
        assert (actual.double() - wanted).norm() <= (other.double() - wanted).norm() * (1 + 1e-6)


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
    monkeypatch.setattr("tide_kernels._shared.linear_divergence.chunk_gradient", None)
    with torch.no_grad():
        result = call(divergence, inputs)
    assert not result.loss.requires_grad
    assert torch.equal(result.kl, expected.kl) and torch.equal(result.loss, expected.loss)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_backward_again_and_with_another_upstream(divergence):
    inputs = make(dtype=torch.bfloat16)
    _, expected = truth(divergence, inputs)
    result = call(divergence, inputs)
    tensors = [inputs[name] for name in STUDENT]
    first = torch.autograd.grad(result.loss * 3.0, tensors, retain_graph=True)
    second = torch.autograd.grad(result.loss * 3.0, tensors)
    for one, two, wanted in zip(first, second, expected, strict=True):
        assert torch.equal(one, two)
        assert relative(one, 3.0 * wanted) < 0.51 * torch.finfo(one.dtype).eps + 64 * EPS32


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_fp16_gradients_are_cast_after_the_loss_scale(divergence):
    inputs = make(dtype=torch.float16)
    inputs["weight"] *= 1e-8
    inputs["ce_weight"] *= 1e-8
    _, expected = truth(divergence, inputs)
    scaled = gradients(call(divergence, inputs), inputs, upstream=65536.0)
    for actual, wanted in zip(scaled, expected, strict=True):
        # Subnormal fp16 has an absolute resolution of 6e-8; cast before the scale, all of it would be 0.
        assert (actual.double() - 65536.0 * wanted).abs().max() < 4e-8 + 1e-3 * 65536.0 * wanted.abs().max()
        assert actual.abs().max() > 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_double_backward_raises(divergence):
    inputs = make()
    hidden = inputs["student_hidden"]
    (gradient,) = torch.autograd.grad(call(divergence, inputs).loss, [hidden], create_graph=True)
    # The second term alone is differentiable: a gradient taken as a constant would go unnoticed.
    penalty = gradient.square().sum() + hidden.square().sum()
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(penalty, [hidden])


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


@pytest.mark.parametrize("backend", ["torch", "reference"])
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
def test_two_runs_agree_bit_for_bit_and_no_buffer_is_read_before_it_is_written(divergence):
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
    # The target is held constant, so the numerical derivative has to hold it too.
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


def test_chunks_cover_the_rows_within_the_workspace(monkeypatch):
    device = torch.device("cpu")
    size, chunks = head_chunks(10, 100, 350, device)
    assert size == 3 and [(c.start, c.stop) for c in chunks] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert head_chunks(10, 100, 1, device)[0] == 1
    assert head_chunks(0, 100, 1, device)[1] == []
    monkeypatch.setenv("TIDE_WORKSPACE_BYTES", "500")
    assert head_chunks(10, 100, None, device)[0] == 5
    assert head_chunks(10, 100, 200, device)[0] == 2
    for bad in ("many", "0", "-3"):
        monkeypatch.setenv("TIDE_WORKSPACE_BYTES", bad)
        with pytest.raises(ValueError, match=f"TIDE_WORKSPACE_BYTES must be a positive number.*{bad}"):
            head_chunks(10, 100, None, device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_hidden": torch.zeros(13, 5)}, r"must share d; got \(13, 5\)"),
        ({"student_weight": torch.zeros(1000, 24, 1)}, "student_weight must be two-dimensional"),
        (
            {"teacher_hidden": torch.zeros(12, 40)},
            "teacher_hidden must have one entry for each of the 13 rows",
        ),
        ({"teacher_weight": torch.zeros(999, 40), "teacher_bias": None}, "pass vocab_size"),
        ({"vocab_size": 1001}, r"vocab_size must lie in \[1, 1000\]"),
        ({"teacher_hidden": torch.zeros(13, 40, requires_grad=True)}, "teacher_hidden requires grad"),
        ({"teacher_weight": torch.zeros(1000, 40, requires_grad=True)}, "teacher_weight requires grad"),
        ({"weight": torch.ones(13, requires_grad=True)}, "weight requires grad"),
        ({"weight": torch.ones(13, 1)}, r"weight must be \[N\]"),
        ({"ce_weight": torch.ones(12)}, "ce_weight must have one entry for each of the 13 rows"),
        ({"labels": None}, "ce_weight needs labels"),
        ({"labels": torch.full((13,), 1000)}, r"labels must lie in \[0, 1000\)"),
        ({"labels": torch.zeros(13)}, "labels must be integers"),
        ({"student_bias": torch.zeros(999)}, "student_bias must have one entry for each of the 1000"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"workspace_bytes": 0}, "workspace_bytes must be positive"),
        ({"backend": "triton"}, "unknown backend 'triton'; choose one of auto, reference, torch"),
    ],
)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_errors_name_function_rule_values_and_remedy(divergence, change, message):
    with pytest.raises(ValueError, match=f"linear_{divergence}: .*{message}"):
        call(divergence, make(), **change) if set(change) <= {
            "vocab_size",
            "temperature",
            "workspace_bytes",
            "backend",
        } else call(divergence, {**make(), **change})


@pytest.mark.parametrize("lambda_t", [1.5, -0.1, torch.full((13,), 2.0), torch.full((12,), 0.5)])
def test_lambda_outside_its_range_or_shape(lambda_t):
    with pytest.raises(ValueError, match="linear_interpolated_kl: lambda_t must"):
        call("interpolated_kl", {**make(), "lambda_t": lambda_t})
