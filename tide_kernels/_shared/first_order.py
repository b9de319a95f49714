"""Make second derivatives raise instead of returning a constant."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


DOUBLE_BACKWARD = (
    "tide_kernels: double backward is not implemented; the ops are differentiable once. "
    'Use backend="reference" for second derivatives.'
)


def first_order_only(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """Decorate a backward whose gradients must not be differentiated again.

    The function must save its differentiable inputs. torch's `once_differentiable` raises only if the
    upstream gradient requires grad. Under a plain sum it does not, and a gradient penalty added to another
    loss would silently vanish. Upstream gradients that require grad count as inputs: they hold the loss
    factors, which loss balancing may train.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        if not create_graph:
            return gradients
        # A node between the gradients and what they depend on: a second backward reaches it and raises.
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
    """Register a derivative for a backward op (torch.library) that raises when it is used."""

    def refuse(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(DOUBLE_BACKWARD)

    backward_op.register_autograd(refuse)


def spend_once(ctx: Any, function: str) -> None:
    """Allow a single backward through a node whose gradient overwrites its input.

    Raises:
        RuntimeError: on a second backward, whose logits are gone, or for a second derivative.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(DOUBLE_BACKWARD)
    if getattr(ctx, "spent", False):
        raise RuntimeError(
            f"{function}: second backward through inplace_gradient: the first one overwrote the logits with "
            "their gradient. Turn inplace_gradient off to keep the graph."
        )
    ctx.spent = True
