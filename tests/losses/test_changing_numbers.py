"""Every public function under torch.compile's default backend, with numbers that change between calls.

Mutants that this file kills: a number passed to an op as `float`, to `torch.full`, `as_tensor` or `clamp`.
From the second value on, torch keeps it as it was where it is also a factor in the graph.
"""

from __future__ import annotations

import inspect

import pytest
import torch

import tide_kernels
from tide import losses

# The values of a number x, as expressions of one that changes.
NUMBERS = {
    "lambda_t": lambda x: 1 - x,
    "temperature": lambda x: 1 + x,
    "eps": lambda x: 0.3 * x,
    "logit_scale": lambda x: 1 + x,
    "student_logit_scale": lambda x: 1 + x,
    "teacher_logit_scale": lambda x: 2 - x,
    "softcap": lambda x: 1 + x,
    "student_softcap": lambda x: 1 + x,
    "teacher_softcap": lambda x: 2 - x,
    "count": lambda x: 3 + x,
    "t": lambda x: 1 - x,
    "progress": lambda x: 1 - x,
    "lambda_init": lambda x: x / 3,
    "lambda_max": lambda x: 1 - x / 3,
    "sigma": lambda x: 1 + x,
    "weight": lambda x: 2 - x,
}
CHOICES = {
    "row_weights": {"normalizer": "batch"},
    "tidal_chunk_loss": {"backend": "reference"},
    "lambda_schedule": {"axis": "training"},
    "timestep_weight": {"kind": "midrange"},
    "chunk_likelihood": {"objective": "interpolated"},
}


def tensors():
    """Arguments by name: logits [4, 31], hidden states [4, 6] and their heads, two sequences of chunks."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    chunks = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    given = {"hidden": normal(4, 6), "weight": normal(31, 6), "logits": normal(4, 31)}
    for side in ("student", "teacher"):
        given |= {f"{side}_hidden": normal(4, 6), f"{side}_weight": normal(31, 6)}
        given |= {f"{side}_logits": normal(4, 31), f"{side}_token_log_probs": -normal(2, 4).abs()}
        given |= {f"{side}_chunks": chunks}
    given |= dict.fromkeys(("labels", "token_ids"), torch.arange(4))
    given |= dict.fromkeys(("masked", "loss_mask"), torch.ones(2, 4, dtype=torch.bool))
    return given | {"chunk_mask": torch.ones(2, 3, dtype=torch.bool)}


def taken(function):
    """Names of the numbers and of the required tensors that a function takes."""
    parameters = inspect.signature(function).parameters
    annotations = {name: x.annotation for name, x in parameters.items()}
    annotations |= losses.HiddenOptions.__annotations__ if "options" in annotations else {}
    written = {name: str(getattr(x, "__forward_arg__", x)) for name, x in annotations.items()}
    numbers = [name for name, x in written.items() if x.startswith("float")]
    required = [name for name, x in parameters.items() if x.default is x.empty and x.kind != x.VAR_KEYWORD]
    return numbers, [name for name in required if name not in numbers]


PUBLIC = {
    name: getattr(package, name)
    for package in (losses, tide_kernels)
    for name in package.__all__
    if inspect.isfunction(getattr(package, name)) and taken(getattr(package, name))[0]
    if name != "scalar_tensor"  # which all of them call
}


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.slow
def test_a_number_that_changes_between_calls_counts(name):
    numbers, given = taken(PUBLIC[name])
    arguments = {x: tensors()[x] for x in given}
    (student,) = {"student_logits", "student_hidden", "student_token_log_probs", "hidden"} & {*given} or ("",)
    differentiated = hasattr(tide_kernels, name)
    if differentiated:
        arguments[student].requires_grad_()

    def loss(x):
        options = {y: NUMBERS[y](x) for y in numbers}
        value = PUBLIC[name](**arguments, **options, **CHOICES.get(name, {}))
        return x * (value if isinstance(value, torch.Tensor) else value[0]).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    for x in (0.15, 0.3, 0.6):
        actual, expected = compiled(x), loss(x)
        torch.testing.assert_close(actual, expected)
        if differentiated:
            gradients = (torch.autograd.grad(y, arguments[student])[0] for y in (actual, expected))
            torch.testing.assert_close(*gradients)
