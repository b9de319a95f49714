"""Inputs, calls and fp64 truth of every op, one file per family; here the names and measures they share."""

from __future__ import annotations

import torch

EPS32 = torch.finfo(torch.float32).eps
FAST = ("torch", "native", "triton")
BACKENDS = (*FAST, "reference")
DIVERGENCES = ("interpolated_kl", "reverse_kl")


def relative(actual, expected):
    """Largest error, relative to the largest expected entry."""
    expected = expected.detach().double()
    return float((actual.detach().double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def worst_row(actual, expected):
    """`relative` of the worst row, so that no row hides behind a larger one."""
    return max(relative(a, e) for a, e in zip(actual, expected, strict=True))


def norm_error(actual, expected):
    """Norm of the error over the norm of the expected values."""
    return float((actual.detach().double() - expected.detach()).norm() / expected.detach().norm())


def widened(inputs):
    """Floating tensors in fp64, leaves again where they require grad."""
    return {
        name: x.detach().double().requires_grad_(x.requires_grad)
        if torch.is_tensor(x) and x.is_floating_point()
        else x
        for name, x in inputs.items()
    }
