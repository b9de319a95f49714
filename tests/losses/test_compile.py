"""Losses inside a compiled graph, and with a gradient in place."""

from __future__ import annotations

import pytest
import torch

from tide import losses

BACKENDS = ("torch", "native", pytest.param("triton", marks=pytest.mark.slow))
NAMES = ("tidal", "forward_kl", "reverse_kl", "cross_entropy")


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 5, 60, generator=generator)
    labels = torch.randint(60, (2, 5), generator=generator)
    mask = torch.tensor([[True, True, False, True, True], [True, False, True, True, True]])
    return student.requires_grad_(), teacher, labels, mask


def run(name, student, teacher, labels, mask, **options):
    if name == "cross_entropy":
        return losses.cross_entropy_loss(student, labels, mask, **options)
    if name == "tidal":
        options["lambda_t"] = torch.tensor([0.2, 0.7])
    return getattr(losses, f"{name}_loss")(student, teacher, mask, labels=labels, **options).loss


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_loss_is_one_graph_with_the_same_values(name, backend):
    student, *rest = inputs()

    def loss(student, *rest):
        return run(name, 2 * student, *rest, backend=backend)

    expected = loss(student, *rest)
    torch.compiler.reset()
    actual = torch.compile(loss, fullgraph=True, backend="aot_eager")(student, *rest)
    assert torch.equal(actual, expected)
    assert torch.equal(*(torch.autograd.grad(x, student)[0] for x in (actual, expected)))


def test_a_compiled_module_is_one_graph_with_the_same_values():
    student, teacher, labels, mask = inputs()
    module = losses.ReverseKLLoss(temperature=1.5, backend="torch")
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = compiled(student, teacher, mask, labels=labels).loss
    assert torch.equal(actual, module(student, teacher, mask, labels=labels).loss)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES[:3])
def test_a_gradient_in_place_reaches_the_head(name, backend):
    student, *rest = inputs()
    expected = torch.autograd.grad(run(name, 2 * student, *rest, backend=backend), student)[0]
    actual = torch.autograd.grad(
        run(name, 2 * student, *rest, backend=backend, inplace_gradient=True), student
    )[0]
    assert torch.allclose(actual, expected, rtol=0, atol=1e-7)
