"""The autograd function of both divergences over hidden states: logits exist for one chunk of rows at a time.

The weight of every row is known in the forward pass, so the gradient of a chunk is made while its logits are
there: written over them, multiplied into the gradients of the hidden states and of the head, and gone. No
head product runs twice, and backward only scales. The row formulas are those of the logits-in ops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_frozen,
    check_id_values,
    check_ids,
    check_lambda_values,
    check_same_length,
    check_temperature,
    check_vocab,
    row_lambda,
)
from tide_kernels._shared.chunking import Scratch, rows_per_chunk
from tide_kernels._shared.divergence_chunks import chunk_gradient, chunk_values
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.head import (
    Head,
    HeadGradient,
    cache_steps,
    check_head,
    check_workspace,
    cut_to_vocabulary,
    head_chunks,
)
from tide_kernels._shared.workers import map_chunks

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide_kernels._shared.divergence_chunks import RowDivergence


class LinearDivergence(NamedTuple):
    """Result of a hidden-in divergence. Only ``loss`` carries a gradient; the rows are for metrics."""

    loss: Float[Tensor, ""]  # sum(weight * kl) + sum(ce_weight * ce)
    kl: Float[Tensor, " N"]  # nats, not scaled by T², detached
    ce: Float[Tensor, " N"] | None  # nats, detached; None without labels


class LinearArguments(NamedTuple):
    """Checked arguments: heads cut to the vocabulary in use, one number per row in the dtype of
    accumulation."""

    student_hidden: Float[Tensor, "N ds"]
    student_weight: Float[Tensor, "V ds"]
    student_bias: Float[Tensor, " V"] | None
    teacher_hidden: Float[Tensor, "N dt"]
    teacher_weight: Float[Tensor, "V dt"]
    teacher_bias: Float[Tensor, " V"] | None
    lambda_t: Float[Tensor, " N"]
    labels: Int[Tensor, " N"] | None
    weight: Float[Tensor, " N"]
    ce_weight: Float[Tensor, " N"]
    temperature: float

    def logits(self) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
        """All logits of both sides in the dtype of accumulation, for the definition."""
        dtype = self.lambda_t.dtype
        # Autocast would round the product to a half type.
        with torch.autocast(self.student_hidden.device.type, enabled=False):
            student = torch.nn.functional.linear(
                self.student_hidden.to(dtype), self.student_weight.to(dtype), _cast(self.student_bias, dtype)
            )
            teacher = torch.nn.functional.linear(
                self.teacher_hidden.to(dtype), self.teacher_weight.to(dtype), _cast(self.teacher_bias, dtype)
            )
        return student, teacher

    def reduce(self, kl: Float[Tensor, " N"], ce: Float[Tensor, " N"] | None) -> LinearDivergence:
        """Weighted sum of per-row values."""
        loss = (self.weight * kl).sum()
        if ce is None:
            return LinearDivergence(loss, kl.detach(), None)
        return LinearDivergence(loss + (self.ce_weight * ce).sum(), kl.detach(), ce.detach())


def check_linear_divergence(
    function: str,
    student_hidden: Float[Tensor, "N ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "N dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float,
    labels: Int[Tensor, " N"] | None,
    weight: Float[Tensor, " N"] | None,
    ce_weight: Float[Tensor, " N"] | None,
    student_bias: Float[Tensor, " V"] | None,
    teacher_bias: Float[Tensor, " V2"] | None,
    vocab_size: int | None,
    workspace_bytes: int | None,
) -> LinearArguments:
    """The arguments of a hidden-in divergence, checked and brought to one form.

    Raises:
        ValueError: as the public ops document.
    """
    check_head(function, "student_", student_hidden, student_weight, student_bias, frozen=False)
    check_head(function, "teacher_", teacher_hidden, teacher_weight, teacher_bias, frozen=True)
    num_rows, device = student_hidden.shape[0], student_hidden.device
    check_same_length(function, "teacher_hidden", teacher_hidden, num_rows, device)
    vocab = check_vocab(function, vocab_size, student_weight.shape[0], teacher_weight.shape[0])
    check_workspace(function, workspace_bytes)
    if ce_weight is not None and labels is None:
        raise ValueError(f"{function}: ce_weight needs labels; pass labels= or leave ce_weight out.")
    dtype = accumulation_dtype(student_hidden, student_weight, teacher_hidden, teacher_weight)
    per_row_lambda = row_lambda(function, lambda_t, num_rows, dtype, device)
    check_lambda_values(function, per_row_lambda, None)
    if labels is not None:
        labels = check_ids(function, "labels", labels, num_rows, device)
        check_id_values(function, "labels", labels, vocab, None)
    return LinearArguments(
        student_hidden,
        cut_to_vocabulary(student_weight, vocab),
        None if student_bias is None else cut_to_vocabulary(student_bias, vocab),
        teacher_hidden,
        cut_to_vocabulary(teacher_weight, vocab),
        None if teacher_bias is None else cut_to_vocabulary(teacher_bias, vocab),
        per_row_lambda,
        labels,
        _row_weight(function, "weight", weight, num_rows, dtype, device),
        _row_weight(function, "ce_weight", ce_weight, num_rows, dtype, device),
        check_temperature(function, temperature),
    )


def linear_divergence(
    op: RowDivergence, arguments: LinearArguments, workspace_bytes: int | None
) -> LinearDivergence:
    """The `torch` backend of a hidden-in divergence: no tensor of [N, V].

    Args:
        op: chunk formulas of the divergence.
        arguments: from `check_linear_divergence`.
        workspace_bytes: for the logits of both sides in flight; see `head.head_chunks`.
    """
    trained = (arguments.student_hidden, arguments.student_weight, arguments.student_bias)
    with_gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in trained)
    loss, kl, ce = LinearDivergenceFunction.apply(  # type: ignore[no-untyped-call]
        *trained,
        op,
        arguments,
        workspace_bytes,
        with_gradient,
    )
    return LinearDivergence(loss, kl, ce)


class LinearDivergenceFunction(torch.autograd.Function):
    """(loss, kl, ce); the gradients of the student's hidden states, head and bias are made in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Float[Tensor, "N ds"],
        student_weight: Float[Tensor, "V ds"],
        student_bias: Float[Tensor, " V"] | None,
        op: RowDivergence,
        arguments: LinearArguments,
        workspace_bytes: int | None,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        needed = tuple(ctx.needs_input_grad[:3]) if with_gradient else (False, False, False)
        kl, ce, made = _run(op, arguments, workspace_bytes, needed)
        ctx.save_for_backward(*arguments[:-1])  # the last is the temperature
        ctx.op, ctx.temperature, ctx.workspace_bytes = op, arguments.temperature, workspace_bytes
        ctx.needed, ctx.made = needed, made
        ctx.dtypes = [None if x is None else x.dtype for x in (student_hidden, student_weight, student_bias)]
        result = arguments.reduce(kl, ce)
        ctx.mark_non_differentiable(*(x for x in (result.kl, result.ce) if x is not None))
        return result.loss, result.kl, result.ce

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_loss: Float[Tensor, ""], *_: Tensor | None) -> tuple[Tensor | None, ...]:
        made: tuple[Tensor | None, ...] | None = ctx.made
        ctx.made = None
        if made is None:
            # A second backward through a retained graph makes them again. Keeping a copy for it would hold
            # the head's gradient, the largest tensor of the step, twice in every run.
            arguments = LinearArguments._make((*ctx.saved_tensors, ctx.temperature))
            made = _run(ctx.op, arguments, ctx.workspace_bytes, ctx.needed)[2]
        # Cast after the product, so that a loss scale applies before fp16 can underflow.
        gradients = (
            None if x is None else x.mul_(d_loss).to(dtype) for x, dtype in zip(made, ctx.dtypes, strict=True)
        )
        return *gradients, None, None, None, None


def _run(
    op: RowDivergence,
    arguments: LinearArguments,
    workspace_bytes: int | None,
    needed: tuple[bool, bool, bool],
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None, tuple[Tensor | None, ...]]:
    """kl, ce, and the needed gradients of student_hidden, student_weight and student_bias, for upstream 1."""
    lambda_t, labels, dtype = arguments.lambda_t, arguments.labels, arguments.lambda_t.dtype
    num_rows, vocab = arguments.student_hidden.shape[0], arguments.student_weight.shape[0]
    device = arguments.student_hidden.device
    student_head = Head(arguments.student_weight, arguments.student_bias, dtype)
    teacher_head = Head(arguments.teacher_weight, arguments.teacher_bias, dtype)
    gradient = HeadGradient(student_head, arguments.student_hidden, needed)
    size, chunks = head_chunks(num_rows, 2 * vocab * dtype.itemsize, workspace_bytes, device)
    buffers = torch.empty((2, size, vocab), dtype=dtype, device=device)
    step = min(rows_per_chunk(vocab, dtype, device), size)
    kl = torch.zeros(num_rows, dtype=dtype, device=device)
    ce = None if labels is None else torch.zeros_like(kl)

    for chunk in chunks:
        hidden = arguments.student_hidden[chunk].to(dtype)
        teacher_hidden = arguments.teacher_hidden[chunk].to(dtype)
        student_chunk = student_head.logits(hidden, buffers[0, : hidden.shape[0]])
        teacher_chunk = teacher_head.logits(teacher_hidden, buffers[1, : hidden.shape[0]])

        def values_and_gradient(
            here: slice,
            scratch: Scratch,
            start: int = chunk.start,
            student: Tensor = student_chunk,
            teacher: Tensor = teacher_chunk,
        ) -> None:
            rows = slice(start + here.start, start + here.stop)
            row_labels = None if labels is None else labels[rows]
            part = scratch.head(here.stop - here.start)
            logits = (student[here], teacher[here], lambda_t[rows], arguments.temperature)
            statistics = chunk_values(op, *logits, part, row_labels)
            kl[rows] = statistics.divergence.kl
            if ce is not None and statistics.label is not None:
                ce[rows] = -statistics.label.log_p
            if gradient.wanted:
                chunk_gradient(
                    op,
                    *logits,
                    part,
                    statistics,
                    student[here],
                    weight=arguments.weight[rows],
                    labels=row_labels,
                    ce_weight=None if ce is None else arguments.ce_weight[rows],
                )

        # The product wants many rows at once, the row formulas few enough to stay in the cache.
        map_chunks(
            cache_steps(hidden.shape[0], step),
            values_and_gradient,
            lambda: Scratch.allocate(step, vocab, dtype, device),
            device,
        )
        if gradient.wanted:
            gradient.add(chunk, hidden, student_chunk)
    return kl, ce, gradient.made


def _row_weight(
    function: str,
    name: str,
    value: Float[Tensor, " N"] | None,
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, " N"]:
    if value is None:
        return torch.ones(num_rows, dtype=dtype, device=device)
    check_frozen(function, name, value)
    if value.dim() != 1:
        raise ValueError(f"{function}: {name} must be [N], one factor per row; got {tuple(value.shape)}.")
    check_same_length(function, name, value, num_rows, device)
    return value.to(dtype)


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)
