"""Divergences over hidden states as registered torch.library ops: checks, backend selection, autograd.

Row weights are known in forward, so forward computes the gradient of a row block while its logits exist
(`linear_divergence_rows.py`) and backward only scales it: no head product runs twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from tide_kernels._shared.agreement import facts_of, go_on_together
from tide_kernels._shared.backends import BACKENDS
from tide_kernels._shared.checks import check_id_values, check_lambda_values, floats, scalar_tensors
from tide_kernels._shared.first_order import first_order_only
from tide_kernels.linear_divergence.arguments import LinearArguments, LinearSettings
from tide_kernels.linear_divergence.rows import linear_divergence_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

_SCHEMA = (
    "(Tensor student_hidden, Tensor student_weight, Tensor? student_bias, Tensor teacher_hidden, "
    "Tensor teacher_weight, Tensor? teacher_bias, Tensor lambda_t, Tensor? labels, Tensor weight, "
    "Tensor ce_weight, Tensor temperature, Tensor student_logit_scale, Tensor student_softcap, "
    "Tensor teacher_logit_scale, Tensor teacher_softcap, SymInt vocab, SymInt workspace_bytes, "
    "ScalarType logits_dtype, ScalarType? autocast_dtype, str vocab_group, str backend, bool[] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class LinearDivergence(NamedTuple):
    """Result of a hidden-in divergence. Only `loss` has a gradient; the per-row values are for metrics."""

    loss: Float[Tensor, ""]  # sum(weight * kl) + sum(ce_weight * ce)
    kl: Float[Tensor, " N"]  # nats, not scaled by T², detached
    ce: Float[Tensor, " N"] | None  # nats, detached; None without labels


class Reference(Protocol):
    """Definition over all rows at once: (kl [N], ce [N] or None), differentiable."""

    def __call__(
        self, arguments: LinearArguments, settings: LinearSettings
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]: ...


class LinearDivergenceOp(NamedTuple):
    """A registered divergence: name, definition and forward op."""

    name: str
    reference: Reference
    forward: Callable[..., tuple[Tensor, ...]]


def register_linear_divergence(name: str, reference: Reference) -> LinearDivergenceOp:
    """Register `tide_kernels::<name>` over the op's entries in BACKENDS."""

    @torch.library.custom_op(f"tide_kernels::{name}", mutates_args=(), schema=_SCHEMA)
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        arguments, settings = _split(inputs)
        settings = floats(settings)
        go_on_together(
            name,
            settings.vocab_group,
            lambda: facts_of(arguments, settings, but=("vocab_group",)),
            lambda: _check_values(name, arguments, settings),
        )
        # Autocast would round products to a half dtype.
        with torch.autocast(arguments.student_hidden.device.type, enabled=False):
            return linear_divergence_rows(BACKENDS[name][settings.backend].load(), arguments, settings)

    @forward.register_fake
    def _(*inputs: Any) -> tuple[Tensor, ...]:
        arguments, settings = _split(inputs)
        like = arguments.lambda_t
        shapes: list[Any] = [(), like.shape, (0,) if arguments.labels is None else like.shape]
        hidden, weight = arguments.student_hidden, arguments.student_weight
        made = (hidden.shape, weight.shape, weight.shape[:1])
        shapes += [shape if asked else (0,) for shape, asked in zip(made, settings.needed, strict=True)]
        return tuple(like.new_empty(shape) for shape in shapes)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        arguments, ctx.settings = _split(inputs)
        ctx.save_for_backward(*arguments)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.made = output[3:]

    @first_order_only
    def differentiate(ctx: Any, d_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        num_inputs = len(LinearArguments._fields) + len(LinearSettings._fields)
        if d_loss is None:
            return (None,) * num_inputs
        made, ctx.made = ctx.made, None
        arguments = LinearArguments(*ctx.saved_tensors)
        if made is None:
            # A second backward through a retained graph recomputes them. A copy would hold the head's
            # gradient, the largest tensor of the step, twice in every run.
            made = forward(*arguments, *ctx.settings)[3:]
        # Cast after scaling, so that a loss scale applies before fp16 underflows.
        gradients = (
            _scaled(made_one, d_loss, x.dtype) if asked and x is not None else None
            for made_one, x, asked in zip(made, arguments[:3], ctx.settings.needed, strict=True)
        )
        return *gradients, *(None,) * (num_inputs - 3)

    forward.register_autograd(differentiate, setup_context=setup_context)
    return LinearDivergenceOp(name, reference, forward)


def linear_divergence(
    op: LinearDivergenceOp, arguments: LinearArguments, settings: LinearSettings
) -> LinearDivergence:
    """Run a checked call on its backend."""
    if settings.backend == "reference":
        return _by_definition(op, arguments, settings)
    loss, kl, ce, *_ = op.forward(*arguments, *scalar_tensors(settings))
    return LinearDivergence(loss, kl, None if arguments.labels is None else ce)


def _check_values(name: str, arguments: LinearArguments, settings: LinearSettings) -> None:
    check_lambda_values(name, arguments.lambda_t, None)
    if arguments.labels is not None:
        check_id_values(name, "labels", arguments.labels, settings.vocab, None)


def _by_definition(
    op: LinearDivergenceOp, arguments: LinearArguments, settings: LinearSettings
) -> LinearDivergence:
    if not torch.compiler.is_compiling():
        _check_values(op.name, arguments, settings)
    kl, ce = op.reference(arguments, settings)
    loss = (arguments.weight * kl).sum()
    if ce is None:
        return LinearDivergence(loss, kl.detach(), None)
    return LinearDivergence(loss + (arguments.ce_weight * ce).sum(), kl.detach(), ce.detach())


def _scaled(made: Tensor, d_loss: Float[Tensor, ""], dtype: torch.dtype) -> Tensor:
    """Scale by the upstream gradient and cast to `dtype`; in place if the dtype stays."""
    if type(made) is not torch.Tensor:
        # Traced by torch.compile, which plans memory itself.
        return (made * d_loss).to(dtype)
    if made.dtype != dtype:
        return torch.mul(made, d_loss, out=torch.empty_like(made, dtype=dtype))
    _scale_(made, d_loss)
    return made


@torch.library.custom_op(
    "tide_kernels::scale_", mutates_args=("x",), schema="(Tensor(a!) x, Tensor factor) -> ()"
)
def _scale_(x: Tensor, factor: Tensor) -> None:
    # Read on a CPU only; on a GPU it would synchronise.
    if factor.device.type != "cpu" or float(factor) != 1.0:
        x.mul_(factor)


def _split(inputs: tuple[Any, ...]) -> tuple[LinearArguments, LinearSettings]:
    """Name the op's flat arguments."""
    count = len(LinearArguments._fields)
    return LinearArguments(*inputs[:count]), LinearSettings(*inputs[count:])
