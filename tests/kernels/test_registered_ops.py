"""Logits-in ops under torch's machinery: registration, compile, autocast, in-place gradients.

Mutants that this file kills: a graph break, a fake of another shape, an in-place gradient that allows a
second backward, a double backward that is silently constant.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, FAST, relative
from tests.kernels.cases.divergence import call, gradient, make
from tide_kernels import scalar_tensor, token_logprob
from tide_kernels._shared.backends import BACKENDS, resolve_backend

CPU = torch.device("cpu")
OPS = (*DIVERGENCES, "token_logprob")
every_op = pytest.mark.parametrize("op", OPS)
both_backends = pytest.mark.parametrize("backend", FAST)


def inputs_of(op, rows=4, vocab=70):
    """(student's logits, run), where run(logits, **options) gives the op's per-row results as a tuple."""
    inputs, _ = make(rows, vocab)
    logits = inputs.pop("student_logits")
    if op == "token_logprob":
        return logits, lambda x, **options: (token_logprob(x, inputs["labels"], **options),)
    return logits, lambda x, **options: call(op, inputs | {"student_logits": x}, **options)


def weighted(results):
    """A scalar that weighs every row and result differently."""
    return sum(((i + 1) * torch.arange(1.0, len(x) + 1) * x).sum() for i, x in enumerate(results))


@both_backends
@every_op
@pytest.mark.parametrize("with_mask", [False, True])
def test_opcheck_passes(op, with_mask, backend):
    inputs, _ = make(3, 40)
    mask = torch.tensor([True, False, True]) if with_mask else None
    if op == "token_logprob":
        arguments = (inputs["student_logits"], inputs["labels"], mask, 40, backend, False)
    else:
        arguments = (*inputs.values(), mask, scalar_tensor(2.0), 40, backend, False)
    torch.library.opcheck(getattr(torch.ops.tide_kernels, op).default, arguments)


@both_backends
@every_op
def test_compiles_to_one_graph(op, backend):
    logits, run = inputs_of(op)
    mask = torch.tensor([True, True, False, True])

    def loss(x, mask):
        return weighted(run(2 * x, mask=mask, backend=backend))

    expected = loss(logits, mask)
    (d_expected,) = torch.autograd.grad(expected, logits)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual = compiled(logits, mask)
    assert torch.equal(actual, expected)
    assert torch.equal(torch.autograd.grad(actual, logits)[0], d_expected)


@both_backends
@every_op
def test_autocast_changes_nothing(op, backend):
    logits, run = inputs_of(op)
    plain = run(logits, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        cast = run(logits, backend=backend)
        loss = weighted(cast)
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(plain, cast, strict=True))
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (loss, weighted(plain))))


@both_backends
@every_op
def test_a_checkpointed_segment_gives_the_same(op, backend):
    logits, run = inputs_of(op)

    def loss(x):
        return weighted(run(2 * x, backend=backend))

    checkpointed = torch.utils.checkpoint.checkpoint(loss, logits, use_reentrant=False)
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (checkpointed, loss(logits))))


@both_backends
@every_op
@pytest.mark.parametrize("options", [{}, {"mask": torch.tensor([True, False, True, True]), "vocab_size": 70}])
def test_an_inplace_gradient_uses_the_logits_storage(op, options, backend):
    base, run = inputs_of(op)
    wide = torch.cat([base.detach(), torch.full((4, 3), 9.0)], 1) if options else base.detach()
    wide.requires_grad_()
    expected = torch.autograd.grad(weighted(run(2 * wide, backend=backend, **options)), wide)[0] / 2
    logits = 2 * wide
    logits.retain_grad()
    loss = weighted(run(logits, backend=backend, inplace_gradient=True, **options))
    storage = logits.data_ptr()
    seen = []
    logits.register_hook(lambda d: seen.append(d.data_ptr()))
    loss.backward(retain_graph=True)
    assert seen == [storage]
    assert relative(wide.grad / 2, expected) < 4 * EPS32
    with pytest.raises(RuntimeError, match=f"{op}: second backward through inplace_gradient"):
        loss.backward()


@both_backends
@every_op
def test_an_inplace_gradient_raises_where_it_would_corrupt(op, backend):
    leaf, run = inputs_of(op)
    with pytest.raises(ValueError, match=f"{op}: inplace_gradient would overwrite a leaf"):
        run(leaf, backend=backend, inplace_gradient=True)
    with pytest.raises(ValueError, match=f"{op}: inplace_gradient needs backend 'torch' or 'triton'"):
        run(2 * leaf, backend="reference", inplace_gradient=True)
    with pytest.raises(ValueError, match=f"{op}: inplace_gradient .* overlapping"):
        run((2 * leaf)[:1].expand(4, 70), backend=backend, inplace_gradient=True)
    with pytest.raises(ValueError, match=f"{op}: inplace_gradient .* overlapping"):
        run((2 * leaf).flatten().as_strided((4, 70), (1, 1)), backend=backend, inplace_gradient=True)
    # Another op saved the logits: autograd detects that they changed.
    logits = 2 * leaf
    other = logits.exp().sum() + (logits * logits).sum()
    loss = weighted(run(logits, backend=backend, inplace_gradient=True))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()
    loss = weighted(run(2 * leaf, backend=backend, inplace_gradient=True))
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(loss, leaf, create_graph=True)


@both_backends
@every_op
def test_double_backward_raises(op, backend):
    logits, run = inputs_of(op)
    (d_logits,) = torch.autograd.grad(weighted(run(logits, backend=backend)), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        d_logits.sum().backward()


@both_backends
@every_op
@pytest.mark.parametrize("by", ["logits", "coefficient"])
def test_double_backward_raises_beside_a_differentiable_term(op, by, backend):
    logits, run = inputs_of(op)
    coefficient = torch.tensor(2.0, requires_grad=True)
    loss = coefficient * weighted(run(logits, backend=backend))
    (d_logits,) = torch.autograd.grad(loss, logits, create_graph=True)
    x = coefficient if by == "coefficient" else logits
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(d_logits.square().sum() + x.square().sum(), [x])


@both_backends
@every_op
def test_forward_mode_raises(op, backend):
    logits, run = inputs_of(op)
    logits = logits.detach()
    name = "logits" if op == "token_logprob" else "student_logits"
    message = f"{op}: {name} carries a tangent, but backend '{backend}' has no forward-mode derivative"
    with pytest.raises(ValueError, match=message):
        torch.func.jvp(lambda x: weighted(run(x, backend=backend)), (logits,), (logits,))
    _, actual = torch.func.jvp(lambda x: weighted(run(x, backend="reference")), (logits,), (logits,))
    x = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(run(x, backend=backend)), x)
    assert relative(actual, (gradient.double() * logits.double()).sum()) < 1e-4


@both_backends
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("used", [0, 1])
def test_either_result_can_be_differentiated_alone(used, divergence, backend):
    inputs, upstream = make(5, 60)
    results, wanted = (call(divergence, inputs, backend=b) for b in (backend, "reference"))
    keep = [None, None]
    keep[used] = results[used]
    actual = gradient(keep, inputs["student_logits"], upstream)
    keep[used] = wanted[used]
    assert relative(actual, gradient(keep, inputs["student_logits"], upstream)) < 64 * EPS32


def test_backends_resolve_by_name_device_and_dtype(monkeypatch):
    fp32 = torch.float32
    for op, entries in BACKENDS.items():
        assert resolve_backend(op, "auto", CPU, fp32) == "native"
        assert [resolve_backend(op, name, CPU, fp32) for name in ("reference", *entries)] == [
            "reference",
            *entries,
        ]
        for entry in entries.values():
            assert callable(entry.load().forward)
    gpu = torch.device("cuda")
    assert resolve_backend("token_scores", "auto", gpu, fp32) == "triton"
    assert resolve_backend("token_scores", "auto", gpu, torch.float64) == "torch"
    with pytest.raises(
        ValueError, match=r"token_scores: unknown backend 'Torch'; choose one of auto, reference, torch, nat"
    ):
        resolve_backend("token_scores", "Torch", CPU, fp32)
    with pytest.raises(
        ValueError, match=r"token_scores: backend 'triton' sums in fp32; for torch.float64 use 'torch'"
    ):
        resolve_backend("token_scores", "triton", gpu, torch.float64)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(
        ValueError, match=r"token_scores: backend 'triton' needs a GPU, the inputs are on cpu.*INTERPRET=1"
    ):
        resolve_backend("token_scores", "triton", CPU, fp32)
    monkeypatch.setattr("tide_kernels._shared.backends.has_triton", lambda: False)
    assert resolve_backend("token_scores", "auto", gpu, fp32) == "torch"
    with pytest.raises(ValueError, match="token_scores: backend 'triton' needs the package triton"):
        resolve_backend("token_scores", "triton", gpu, fp32)
