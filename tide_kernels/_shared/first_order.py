"""Backward passes that exist once: asking for a second derivative raises instead of giving a constant."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


DOUBLE_BACKWARD = (
    "tide_kernels: double backward is not implemented, its ops are differentiable once. "
    'For second derivatives use backend="reference".'
)


def first_order_only(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """Decorate the backward of an autograd function whose gradients must not be differentiated again.

    The function has to save its differentiable inputs. torch's own `once_differentiable` raises only where
    the upstream gradient requires grad; under a plain sum it does not, and a gradient penalty added to
    another loss would silently lose its term. Upstream gradients that require grad count as inputs: they hold
    the factors of the loss, which a balance of several losses may train.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        if not create_graph:
            return gradients
        # The refusal hangs between the gradients and what they depend on: a second backward passes there.
        inputs = [x for x in (*ctx.saved_tensors, *upstream) if x is not None and x.requires_grad]
        refuse: Callable[..., Tensor] = _Refuse.apply
        return tuple(None if x is None else refuse(x, *inputs) for x in gradients)

    return wrapper


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(DOUBLE_BACKWARD)


def forbid_double_backward(backward_op: Any) -> None:
    """Register a derivative with a backward op (a torch.library op) that raises when it is asked for."""

    def refuse(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(DOUBLE_BACKWARD)

    backward_op.register_autograd(refuse)


def spend_once(ctx: Any, function: str) -> None:
    """Let one backward pass through a node whose gradient overwrites its input, and no second one.

    Raises:
        RuntimeError: the logits are gone, or a second derivative was asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(DOUBLE_BACKWARD)
    if getattr(ctx, "spent", False):
        raise RuntimeError(
            f"{function}: second backward through inplace_gradient: the first wrote its gradient over the "
            "logits. Leave inplace_gradient off to keep the graph."
        )
    ctx.spent = True
