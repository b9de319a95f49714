"""Hidden-in ops under torch's machinery: registration, compile, checkpointing, higher derivatives.

Mutants that this file kills: a graph break, a fake of another shape or dtype, a gradient scaled in place
while torch.compile traces it, a double backward that raises for the first input only or not for a factor of
the loss, a forward-mode derivative of 0.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import forward_ad

from tests.kernels.cases import DIVERGENCES, EPS32, FAST, relative
from tests.kernels.cases.linear import STUDENT, call, make
from tide_kernels import linear_token_logprob, scalar_tensor

OPS = (*DIVERGENCES, "token_logprob")
every_op = pytest.mark.parametrize("op", OPS)
both_backends = pytest.mark.parametrize("backend", FAST)


def run(op, inputs, **options):
    """A scalar that depends on every tensor of the student's side."""
    if op != "token_logprob":
        return call(op, inputs, **options).loss
    hidden, weight, bias = (inputs[name] for name in STUDENT)
    log_p = linear_token_logprob(hidden, weight, inputs["labels"], bias=bias, **options)
    return (inputs["weight"] * log_p).sum()


def loss_of(op, inputs, backend):
    """That scalar as a function of the student's tensors, with work before and after the op."""

    def loss(hidden, weight, bias):
        changed = {"student_hidden": 2 * hidden, "student_weight": weight, "student_bias": bias}
        return 3 * run(op, inputs | changed, backend=backend)

    return loss


@both_backends
@every_op
@pytest.mark.parametrize(
    ("needed", "dtype"),
    [
        pytest.param([True, True, True], torch.float32, id="all"),
        pytest.param([True, False, False], torch.bfloat16, id="hidden-bf16", marks=pytest.mark.slow),
        pytest.param([False, False, False], torch.float32, id="none", marks=pytest.mark.slow),
    ],
)
def test_opcheck_passes(op, needed, dtype, backend):
    inputs = make(5, 40, dtype)
    for name, asked in zip(STUDENT, needed, strict=True):
        inputs[name].requires_grad_(asked)
    shared = (1 << 20, torch.float32)
    if op == "token_logprob":
        student = (*(inputs[name] for name in STUDENT), inputs["labels"])
        numbers = map(scalar_tensor, (1.0, 3.0))
        arguments = (*student, *numbers, 40, *shared, torch.float32, None, "", backend, needed, False)
    else:
        heads = [
            inputs[f"{side}_{x}"] for side in ("student", "teacher") for x in ("hidden", "weight", "bias")
        ]
        rows = [inputs[name] for name in ("lambda_t", "labels", "weight", "ce_weight")]
        numbers = map(scalar_tensor, (2.0, 1.0, 3.0, 1.0, 0.0))
        arguments = (*heads, *rows, *numbers, 40, *shared, None, "", backend, needed)
    torch.library.opcheck(getattr(torch.ops.tide_kernels, f"linear_{op}").default, arguments)


@both_backends
@every_op
def test_compiles_to_one_graph(op, backend):
    inputs = make(5, 40)
    student = [inputs[name] for name in STUDENT]

    loss = loss_of(op, inputs, backend)
    expected = loss(*student)
    expected_gradients = torch.autograd.grad(expected, student)
    torch.compiler.reset()
    actual = torch.compile(loss, fullgraph=True, backend="aot_eager")(*student)
    assert relative(actual, expected.double()) < 8 * EPS32
    for one, two in zip(torch.autograd.grad(actual, student), expected_gradients, strict=True):
        # Traced code keeps no logits for backward: the same sums in another order.
        assert relative(one, two.double()) < 16 * EPS32


@every_op
@pytest.mark.slow
def test_a_compiled_graph_takes_other_sizes_and_another_scale(op):
    side = {} if op == "token_logprob" else {"teacher_logit_scale": 0.5}
    name = "logit_scale" if op == "token_logprob" else "student_logit_scale"

    def loss(scale, inputs):
        return run(op, inputs, **side | {name: scale})

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for scale, sizes in ((1.0, (5, 40)), (0.7, (6, 50)), (-1.3, (7, 60))):
        inputs = make(*sizes)
        student = [inputs[name] for name in STUDENT]
        actual, expected = compiled(scale, inputs), loss(scale, inputs)
        assert relative(actual, expected.double()) < 8 * EPS32
        both = (torch.autograd.grad(x, student) for x in (actual, expected))
        for one, two in zip(*both, strict=True):
            assert relative(one, two.double()) < 16 * EPS32


@both_backends
@every_op
def test_a_checkpointed_segment_gives_the_same(op, backend):
    inputs = make(5, 40)
    student = [inputs[name] for name in STUDENT]

    loss = loss_of(op, inputs, backend)
    plain = torch.autograd.grad(loss(*student), student)
    checkpointed = torch.utils.checkpoint.checkpoint(loss, *student, use_reentrant=False)
    for one, two in zip(torch.autograd.grad(checkpointed, student), plain, strict=True):
        assert torch.equal(one, two)


@both_backends
@every_op
@pytest.mark.parametrize("by", [*STUDENT, "coefficient"])
def test_double_backward_raises_for_every_input_and_a_factor_of_the_loss(op, by, backend):
    inputs = make(5, 40)
    coefficient = torch.tensor(2.0, requires_grad=True)
    loss = coefficient * run(op, inputs, backend=backend)
    first = torch.autograd.grad(loss, [inputs[name] for name in STUDENT], create_graph=True)
    x = coefficient if by == "coefficient" else inputs[by]
    for gradient in first:
        # The second term is differentiable, so that a gradient taken as a constant would go unnoticed.
        penalty = gradient.square().sum() + x.square().sum()
        with pytest.raises(RuntimeError, match="double backward is not implemented"):
            torch.autograd.grad(penalty, [x], retain_graph=True)


@both_backends
@pytest.mark.parametrize(
    ("op", "by"),
    [*itertools.product(OPS, STUDENT), *itertools.product(DIVERGENCES, ("weight", "teacher_hidden"))],
)
def test_forward_mode_raises_except_in_the_definition(op, by, backend):
    inputs = {name: x.detach() for name, x in make(5, 40).items()}
    names = {name: name.removeprefix("student_") if op == "token_logprob" else name for name in inputs}

    def loss(x, which):
        return run(op, inputs | {by: x}, backend=which)

    def derivative(which):
        return torch.func.jvp(lambda x: loss(x, which), (inputs[by],), (inputs[by],))[1]

    message = f"linear_{op}: {names[by]} carries a tangent, but backend '{backend}' .* backend=\"reference\""
    with pytest.raises(ValueError, match=message):
        derivative(backend)
    with forward_ad.dual_level(), pytest.raises(ValueError, match=message):
        loss(forward_ad.make_dual(inputs[by].clone().requires_grad_(by in STUDENT), inputs[by]), backend)
    if by in STUDENT and op != "interpolated_kl":  # whose target is held constant
        x = inputs[by].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x, backend), x)
        assert relative(derivative("reference"), (gradient.double() * inputs[by].double()).sum()) < 1e-4


@every_op
def test_triton_rejects_fp64(op):
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in make(3, 20).items()}
    with pytest.raises(ValueError, match=f"linear_{op}: backend 'triton' sums in fp32"):
        run(op, inputs, backend="triton")
