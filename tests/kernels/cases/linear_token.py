"""linear_token_logprob: inputs, calls, truth."""

from __future__ import annotations

import torch

from tests.kernels.cases import widened
from tide_kernels import linear_token_logprob

TENSORS = ("hidden", "weight", "bias")


def make(rows=13, vocab=1000, dtype=torch.float32, seed=0, width=24, device="cpu"):
    """(inputs, upstream gradient); hidden states and head require grad."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = {"generator": generator, "device": device}

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, dtype=torch.float64, **drawn) * scale).to(dtype)

    inputs = {
        "hidden": normal(rows, width),
        "weight": normal(vocab, width, scale=2 * width**-0.5),
        "bias": normal(vocab),
        "token_ids": torch.randint(vocab, (rows,), **drawn),
    }
    # The last column weighs, and is a token: code that drops it must fail.
    inputs["bias"][-1] += 5
    inputs["token_ids"][::2] = vocab - 1
    for name in TENSORS:
        inputs[name].requires_grad_()
    upstream = torch.randn(rows, **drawn)
    return inputs, upstream


def call(inputs, **options):
    return linear_token_logprob(
        inputs["hidden"], inputs["weight"], inputs["token_ids"], bias=inputs["bias"], **options
    )


def gradients(log_p, upstream, inputs, names=TENSORS, **options):
    return torch.autograd.grad(log_p, [inputs[name] for name in names], upstream.to(log_p.dtype), **options)


def truth(inputs, upstream, **options):
    """(log_p, gradients) by the definition in fp64, on the same rounded inputs."""
    wide = widened(inputs)
    log_p = call(wide, backend="reference", **options)
    return log_p.detach(), gradients(log_p, upstream, wide)
