"""Divergences over logits as registered torch.library ops: checks, backend selection, autograd.

Each divergence is three ops, opaque to torch.compile and autocast, that all backends share: forward,
backward, and a backward that overwrites the student's logits with the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.backends import BACKENDS, resolve_backend
from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_id_values,
    check_ids,
    check_inplace_gradient,
    check_lambda_values,
    check_mask,
    check_no_tangent,
    check_pair,
    check_temperature,
    row_lambda,
    scalar_tensor,
)
from tide_kernels._shared.first_order import forbid_double_backward, spend_once
from tide_kernels._shared.row_blocks import RowBlocks, active_rows
from tide_kernels.divergence.backend import DivergenceRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide_kernels.divergence.chunked import ReferenceFormula

_INPUTS = (
    "Tensor{} student_logits, Tensor teacher_logits, Tensor lambda_t, Tensor? labels, Tensor? mask, "
    "Tensor temperature, SymInt vocab, str backend"
)
_UPSTREAM = "Tensor statistics, Tensor? d_kl, Tensor? d_ce"


class DivergenceOp(NamedTuple):
    """A registered divergence: name, definition and forward op."""

    name: str
    reference: ReferenceFormula
    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def register_divergence(name: str, reference: ReferenceFormula) -> DivergenceOp:
    """Register `tide_kernels::<name>` and its two backward ops over the op's entries in BACKENDS."""
    backends = BACKENDS[name]
    forward_op = torch.library.custom_op(
        f"tide_kernels::{name}",
        mutates_args=(),
        schema=f"({_INPUTS.format('')}, bool inplace_gradient) -> (Tensor, Tensor, Tensor)",
    )
    backward_op = torch.library.custom_op(
        f"tide_kernels::{name}_backward",
        mutates_args=(),
        schema=f"({_INPUTS.format('')}, {_UPSTREAM}) -> Tensor",
    )
    inplace_op = torch.library.custom_op(
        f"tide_kernels::{name}_backward_",
        mutates_args=("student_logits",),
        schema=f"({_INPUTS.format('(a!)')}, {_UPSTREAM}) -> ()",
    )

    @forward_op
    def forward(
        student_logits: Tensor,
        teacher_logits: Tensor,
        lambda_t: Tensor,
        labels: Tensor | None,
        mask: Tensor | None,
        temperature: Tensor,
        vocab: int,
        backend: str,
        inplace_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_lambda_values(name, lambda_t, mask)
        if labels is not None:
            check_id_values(name, "labels", labels, vocab, mask)
        rows = DivergenceRows(
            student_logits, teacher_logits, lambda_t, labels, mask, float(temperature), vocab
        )
        made: tuple[Tensor, Tensor, Tensor] = backends[backend].load().forward(rows)
        return made

    @forward.register_fake
    def _(
        student_logits: Tensor,
        teacher_logits: Tensor,
        lambda_t: Tensor,
        labels: Tensor | None,
        mask: Tensor | None,
        temperature: Tensor,
        vocab: int,
        backend: str,
        inplace_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_rows = student_logits.shape[0]
        values = lambda_t.new_empty((num_rows,))
        ce = lambda_t.new_empty((0 if labels is None else num_rows,))
        return values, ce, lambda_t.new_empty((num_rows, backends[backend].load().num_statistics))

    def write_gradient(out: Tensor | None, *arguments: Any) -> Tensor:
        student, teacher, lambda_t, labels, mask, temperature, vocab, backend, *rest = arguments
        rows = DivergenceRows(student, teacher, lambda_t, labels, mask, float(temperature), vocab)
        gradient: Tensor = backends[backend].load().backward(rows, *rest, out)
        return gradient

    @backward_op
    def backward(*arguments: Any) -> Tensor:
        return write_gradient(None, *arguments)

    @backward.register_fake
    def _(student_logits: Tensor, *arguments: Any) -> Tensor:
        return student_logits.new_empty(student_logits.shape)

    forbid_double_backward(backward)

    @inplace_op
    def backward_(student_logits: Tensor, *arguments: Any) -> None:
        write_gradient(student_logits, student_logits, *arguments)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.vocab, ctx.backend, ctx.inplace_gradient = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*tensors, output[2])

    def differentiate(
        ctx: Any, d_kl: Tensor | None, d_ce: Tensor | None, _: Any
    ) -> tuple[Tensor | None, ...]:
        unused = (None,) * 8
        if d_kl is None and d_ce is None:
            return None, *unused
        if ctx.inplace_gradient:
            spend_once(ctx, name)
        *tensors, statistics = ctx.saved_tensors
        if tensors[3] is None:
            d_ce = None
        settings = (ctx.vocab, ctx.backend)
        if not ctx.inplace_gradient:
            return backward(*tensors, *settings, statistics, d_kl, d_ce), *unused
        student_logits = tensors[0].detach()
        backward_(student_logits, *tensors[1:], *settings, statistics, d_kl, d_ce)
        return student_logits, *unused

    forward.register_autograd(differentiate, setup_context=setup_context)
    return DivergenceOp(name, reference, forward)


def row_divergence(
    op: DivergenceOp,
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: float | Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None,
    mask: Bool[Tensor, " N"] | None,
    vocab_size: int | None,
    backend: str,
    inplace_gradient: bool,
) -> Float[Tensor, " N"] | tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Check the arguments of a public op and run it. Returns kl [N], or (kl [N], ce [N]) with labels."""
    name = op.name
    vocab = check_pair(name, student_logits, teacher_logits, vocab_size)
    dtype = accumulation_dtype(student_logits, teacher_logits)
    which = resolve_backend(name, backend, student_logits.device, dtype)
    temperature = check_temperature(name, temperature)
    num_rows, device = student_logits.shape[0], student_logits.device
    check_mask(name, mask, num_rows, device)
    per_row_lambda = row_lambda(name, lambda_t, num_rows, dtype, device)
    if labels is not None:
        labels = check_ids(name, "labels", labels, num_rows, device)
    floating = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    check_no_tangent(name, which, floating | {"lambda_t": per_row_lambda})
    if inplace_gradient:
        check_inplace_gradient(name, student_logits, which)
    if which != "reference":
        kl, ce, _ = op.forward(
            student_logits,
            teacher_logits,
            per_row_lambda,
            labels,
            mask,
            scalar_tensor(temperature),
            vocab,
            which,
            inplace_gradient,
        )
        return kl if labels is None else (kl, ce)
    return _by_definition(
        op, student_logits, teacher_logits, per_row_lambda, temperature, labels, mask, vocab
    )


def _by_definition(
    op: DivergenceOp,
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None,
    mask: Bool[Tensor, " N"] | None,
    vocab: int,
) -> Float[Tensor, " N"] | tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    if not torch.compiler.is_compiling():
        check_lambda_values(op.name, lambda_t, mask)
        if labels is not None:
            check_id_values(op.name, "labels", labels, vocab, mask)
    num_rows = student_logits.shape[0]
    blocks = RowBlocks(num_rows, active_rows(mask), vocab, lambda_t.dtype, student_logits.device)
    every = slice(0, blocks.num_active)
    kl, ce = op.reference(
        blocks.gather(student_logits),
        blocks.gather(teacher_logits),
        blocks.select(lambda_t, every),
        temperature,
        None if labels is None else blocks.select(labels, every),
    )
    kl = blocks.scatter(kl, num_rows)
    return kl if ce is None else (kl, blocks.scatter(ce, num_rows))
