"""Both divergences over logits: rows in chunks, per-row statistics kept, gradient written once.

An op supplies two chunk formulas (a `RowDivergence`); the hidden-in ops call the same two on logits that they
make themselves. Forward reads the logits once per chunk and keeps a handful of numbers per row; backward
reads them again and writes the gradient. Beyond inputs and gradient, the peak is a few buffers of
`chunking.rows_per_chunk` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from tide_kernels._shared.backends import resolve_backend
from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_ids,
    check_mask,
    check_pair,
    check_temperature,
    row_lambda,
)
from tide_kernels._shared.chunking import RowChunks, Scratch, active_rows
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.label import LabelStatistics, label_gradient, label_statistics
from tide_kernels._shared.workers import map_chunks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class RowStatistics(NamedTuple):
    """Per-row result of a divergence and what its gradient needs; every field is [n]."""

    kl: Float[Tensor, " n"]  # nats, not scaled by T^2
    row_max: Float[Tensor, " n"]  # max s
    total: Float[Tensor, " n"]  # sum of exp((s - max s)/T)
    mean_difference: Float[Tensor, " n"]  # the gradient uses u centred by it
    offset: Float[Tensor, " n"]  # and less this: log(r/p) for a target r
    infinite: Bool[Tensor, " n"]  # the row holds entries that are not finite
    careful: Bool[Tensor, " n"]  # value and gradient come from the definition in fp64


class StatisticsFormula(Protocol):
    """Divergence of one chunk of rows. Reads student and teacher, overwrites the scratch."""

    def __call__(
        self,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
        lambda_t: Float[Tensor, " n"],
        temperature: float,
        scratch: Scratch,
    ) -> RowStatistics: ...


class GradientFormula(Protocol):
    """Row-weighted gradient of the divergence of one chunk, written to out.

    out has the dtype of the scratch, is written after student and teacher were last read, and may be either
    of them or scratch.p.
    """

    def __call__(
        self,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
        lambda_t: Float[Tensor, " n"],
        temperature: float,
        scratch: Scratch,
        statistics: RowStatistics,
        weight: Float[Tensor, " n"],
        out: Float[Tensor, "n V"],
    ) -> None: ...


class ReferenceFormula(Protocol):
    """The definition over all rows at once: (kl [N], ce [N] or None), differentiable."""

    def __call__(
        self,
        student_logits: Float[Tensor, "N V"],
        teacher_logits: Float[Tensor, "N V"],
        lambda_t: Float[Tensor, " N"],
        temperature: float,
        labels: Int[Tensor, " N"] | None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]: ...


class RowDivergence(NamedTuple):
    """The formulas of one divergence. A divergence without an interpolation ignores lambda_t."""

    statistics: StatisticsFormula
    gradient: GradientFormula
    reference: ReferenceFormula


class ChunkStatistics(NamedTuple):
    """Divergence and, with labels, cross-entropy of a chunk of rows."""

    divergence: RowStatistics
    label: LabelStatistics | None


def chunk_values(
    op: RowDivergence,
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    scratch: Scratch,
    labels: Int[Tensor, " n"] | None = None,
) -> ChunkStatistics:
    """Per-row divergence, `.divergence.kl`, and with labels their log-probability at T = 1, `.label.log_p`.

    Args:
        student, teacher: [n, V] in the dtype of the scratch, only read.
        lambda_t: [n] in the same dtype.
        scratch: three [n, V] buffers; contents before and after mean nothing.
        labels: [n] int64.
    """
    divergence = op.statistics(student, teacher, lambda_t, temperature, scratch)
    if labels is None:
        return ChunkStatistics(divergence, None)
    return ChunkStatistics(divergence, label_statistics(student, divergence.row_max, labels, scratch.x))


def chunk_gradient(
    op: RowDivergence,
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    scratch: Scratch,
    statistics: ChunkStatistics,
    d_student: Float[Tensor, "n V"],
    *,
    weight: Float[Tensor, " n"] | None,
    labels: Int[Tensor, " n"] | None = None,
    ce_weight: Float[Tensor, " n"] | None = None,
) -> None:
    """Write d_student, the gradient of sum(weight * kl) + sum(ce_weight * ce) with ce = -log_p.

    Args:
        student, teacher, lambda_t, temperature: as given to `chunk_values`.
        scratch: three [n, V] buffers, none of them an argument.
        statistics: of the same rows.
        d_student: [n, V], any float dtype, every entry written, last; may be `student` or `teacher` itself.
        weight, ce_weight: [n] in the dtype of the scratch; None leaves that term out.
    """
    p, _, x = scratch
    label = statistics.label if labels is not None and ce_weight is not None else None
    if weight is not None:
        # Nothing else to add and no cast to make: straight into the gradient.
        direct = label is None and d_student.dtype == p.dtype
        out = d_student if direct else p
        op.gradient(student, teacher, lambda_t, temperature, scratch, statistics.divergence, weight, out)
        if direct:
            return
    if label is None or labels is None or ce_weight is None:
        d_student.zero_() if weight is None else d_student.copy_(p)
        return
    label_gradient(student, label, labels, -ce_weight, x)
    d_student.copy_(x if weight is None else x.add_(p))


class _Buffers(NamedTuple):
    """What one thread needs; a side whose rows can be read in place has no buffer of its own."""

    scratch: Scratch
    student: Float[Tensor, "n V"] | None
    teacher: Float[Tensor, "n V"] | None

    @classmethod
    def allocate(
        cls, chunks: RowChunks, student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V2"]
    ) -> _Buffers:
        return cls(
            Scratch.allocate(chunks.size, chunks.vocab, chunks.dtype, chunks.device),
            chunks.buffer_for(student_logits),
            chunks.buffer_for(teacher_logits),
        )


class DivergenceFunction(torch.autograd.Function):
    """(kl [N], ce [N]) of logits, differentiable once in the student's logits."""

    @staticmethod
    def forward(
        ctx: Any,
        op: RowDivergence,
        student_logits: Float[Tensor, "N V"],
        teacher_logits: Float[Tensor, "N V2"],
        lambda_t: Float[Tensor, " N"],
        labels: Int[Tensor, " N"] | None,
        active: Int[Tensor, " A"] | None,
        temperature: float,
        vocab: int,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
        num_rows = student_logits.shape[0]
        chunks = RowChunks(num_rows, active, vocab, lambda_t.dtype, student_logits.device)

        def values(rows: slice, buffers: _Buffers) -> ChunkStatistics:
            return chunk_values(
                op,
                chunks.load(student_logits, rows, buffers.student),
                chunks.load(teacher_logits, rows, buffers.teacher),
                chunks.select(lambda_t, rows),
                temperature,
                buffers.scratch.head(rows.stop - rows.start),
                None if labels is None else chunks.select(labels, rows),
            )

        parts = map_chunks(
            chunks, values, lambda: _Buffers.allocate(chunks, student_logits, teacher_logits), chunks.device
        )
        divergence = RowStatistics(*map(torch.cat, zip(*(part.divergence for part in parts), strict=True)))
        label = None
        if labels is not None:
            kept = [part.label for part in parts if part.label is not None]
            label = LabelStatistics(*map(torch.cat, zip(*kept, strict=True)))

        ctx.op, ctx.temperature, ctx.chunks = op, temperature, chunks
        ctx.save_for_backward(student_logits, teacher_logits, lambda_t, labels, *divergence, *(label or ()))
        ctx.set_materialize_grads(False)
        kl = chunks.scatter(divergence.kl, num_rows)
        return kl, None if label is None else chunks.scatter(-label.log_p, num_rows)

    @staticmethod
    @first_order_only
    def backward(
        ctx: Any, d_kl: Float[Tensor, " N"] | None, d_ce: Float[Tensor, " N"] | None
    ) -> tuple[Tensor | None, ...]:
        student_logits, teacher_logits, lambda_t, labels, *saved = ctx.saved_tensors
        num_fields = len(RowStatistics._fields)
        divergence = RowStatistics(*saved[:num_fields])
        label = LabelStatistics(*saved[num_fields:]) if labels is not None else None
        chunks: RowChunks = ctx.chunks
        d_student = chunks.gradient_like(student_logits)

        def gradient(rows: slice, buffers: _Buffers) -> None:
            chunk_gradient(
                ctx.op,
                chunks.load(student_logits, rows, buffers.student),
                chunks.load(teacher_logits, rows, buffers.teacher),
                chunks.select(lambda_t, rows),
                ctx.temperature,
                buffers.scratch.head(rows.stop - rows.start),
                ChunkStatistics(
                    RowStatistics(*(field[rows] for field in divergence)),
                    None if label is None else LabelStatistics(*(field[rows] for field in label)),
                ),
                chunks.target(d_student, rows, buffers.student),
                weight=None if d_kl is None else chunks.select(d_kl, rows),
                labels=None if labels is None else chunks.select(labels, rows),
                ce_weight=None if d_ce is None else chunks.select(d_ce, rows),
            )
            chunks.store(d_student, rows, buffers.student)

        map_chunks(
            chunks, gradient, lambda: _Buffers.allocate(chunks, student_logits, teacher_logits), chunks.device
        )
        return None, d_student, None, None, None, None, None, None


def row_divergence(
    name: str,
    op: RowDivergence,
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: float | Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None,
    mask: Bool[Tensor, " N"] | None,
    vocab_size: int | None,
    backend: str,
) -> Float[Tensor, " N"] | tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Check the arguments of the public op `name` and run it: kl [N], or (kl [N], ce [N]) with labels."""
    which = resolve_backend(name, backend)
    vocab = check_pair(name, student_logits, teacher_logits, vocab_size)
    temperature = check_temperature(name, temperature)
    num_rows, device = student_logits.shape[0], student_logits.device
    check_mask(name, mask, num_rows, device)
    active = active_rows(mask)
    dtype = accumulation_dtype(student_logits, teacher_logits)
    per_row_lambda = row_lambda(name, lambda_t, num_rows, dtype, device, active)
    if labels is not None:
        labels = check_ids(name, "labels", labels, num_rows, vocab, device, active)

    if which == "torch":
        kl, ce = DivergenceFunction.apply(  # type: ignore[no-untyped-call]
            op, student_logits, teacher_logits, per_row_lambda, labels, active, temperature, vocab
        )
        return kl if ce is None else (kl, ce)
    chunks = RowChunks(num_rows, active, vocab, dtype, device)
    every = slice(0, chunks.num_active)
    kl, ce = op.reference(
        chunks.gather(student_logits),
        chunks.gather(teacher_logits),
        chunks.select(per_row_lambda, every),
        temperature,
        None if labels is None else chunks.select(labels, every),
    )
    kl = chunks.scatter(kl, num_rows)
    return kl if ce is None else (kl, chunks.scatter(ce, num_rows))
