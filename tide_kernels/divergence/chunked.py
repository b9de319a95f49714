"""`torch` backend of the divergences, by row blocks.

An op supplies the formulas of a row block (`RowDivergence`); the hidden-in ops run them on logits of their
own. Forward reads each row once and keeps a few numbers of it; backward reads it again and writes the
gradient. Memory beyond inputs and gradient: a few buffers of `row_blocks.rows_per_block` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from tide_kernels._shared.label import LabelStatistics, label_gradient, label_statistics
from tide_kernels._shared.row_blocks import RowBlocks, Scratch, active_rows, clear_unread, map_blocks
from tide_kernels._shared.vocabulary import Vocabulary

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide_kernels.divergence.backend import DivergenceRows


class RowStatistics(NamedTuple):
    """Divergence per row and the numbers its gradient needs; every field is [n]."""

    kl: Float[Tensor, " n"]  # nats, not scaled by T^2
    row_max: Float[Tensor, " n"]  # max s
    total: Float[Tensor, " n"]  # sum of exp((s - max s)/T)
    mean_difference: Float[Tensor, " n"]  # the gradient uses u centred by it
    offset: Float[Tensor, " n"]  # and reduced by this: log(r/p) for a target r
    infinite: Bool[Tensor, " n"]  # some entry of the row is not finite
    careful: Bool[Tensor, " n"]  # value and gradient are computed by the definition in fp64


class StatisticsFormula(Protocol):
    """Divergence of a row block. Reads student and teacher, overwrites the scratch."""

    def __call__(
        self,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
        lambda_t: Float[Tensor, " n"],
        temperature: float,
        vocabulary: Vocabulary,
        scratch: Scratch,
    ) -> RowStatistics: ...


class GradientFormula(Protocol):
    """Row-weighted gradient of the divergence of a row block, written to out.

    out has the scratch dtype, is written after the last read of student and teacher, and may alias either of
    them or scratch.p.
    """

    def __call__(
        self,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
        lambda_t: Float[Tensor, " n"],
        temperature: float,
        vocabulary: Vocabulary,
        scratch: Scratch,
        statistics: RowStatistics,
        weight: Float[Tensor, " n"],
        out: Float[Tensor, "n V"],
    ) -> None: ...


class ReferenceFormula(Protocol):
    """Definition over all rows at once: (kl [N], ce [N] or None), differentiable."""

    def __call__(
        self,
        student_logits: Float[Tensor, "N V"],
        teacher_logits: Float[Tensor, "N V"],
        lambda_t: Float[Tensor, " N"],
        temperature: float,
        labels: Int[Tensor, " N"] | None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]: ...


class RowDivergence(NamedTuple):
    """Formulas of one divergence. Reverse KL ignores lambda_t."""

    statistics: StatisticsFormula
    gradient: GradientFormula
    reference: ReferenceFormula


class BlockStatistics(NamedTuple):
    """Divergence and, with labels, cross-entropy of a row block."""

    divergence: RowStatistics
    label: LabelStatistics | None


def block_values(
    op: RowDivergence,
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
    labels: Int[Tensor, " n"] | None = None,
) -> BlockStatistics:
    """Divergence per row (`.divergence.kl`) and, with labels, their log-probability (`.label.log_p`).

    Args:
        student, teacher: [n, V] in the scratch dtype, read only.
        lambda_t: [n], same dtype.
        vocabulary: maps columns to the vocabulary.
        scratch: overwritten.
        labels: [n] int64.
    """
    divergence = op.statistics(student, teacher, lambda_t, temperature, vocabulary, scratch)
    if labels is None:
        return BlockStatistics(divergence, None)
    label = label_statistics(student, divergence.row_max, labels, vocabulary, scratch.x)
    return BlockStatistics(divergence, label)


def block_gradient(
    op: RowDivergence,
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
    statistics: BlockStatistics,
    d_student: Float[Tensor, "n V"],
    *,
    weight: Float[Tensor, " n"] | None,
    labels: Int[Tensor, " n"] | None = None,
    ce_weight: Float[Tensor, " n"] | None = None,
) -> None:
    """Write d_student, the gradient of sum(weight * kl) + sum(ce_weight * ce) with ce = -log_p.

    Args:
        student, teacher, lambda_t, temperature, vocabulary: as given to `block_values`.
        scratch: overwritten; must not alias another argument.
        statistics: from `block_values`, same rows.
        d_student: [n, V], any float dtype, fully written, last; may alias `student` or `teacher`.
        weight, ce_weight: [n] in the scratch dtype; None drops the term.
    """
    p, _, x = scratch
    label = statistics.label if labels is not None and ce_weight is not None else None
    if weight is not None:
        # No term to add and no cast: write straight into the gradient.
        direct = label is None and d_student.dtype == p.dtype
        out = d_student if direct else p
        values = (student, teacher, lambda_t, temperature)
        op.gradient(*values, vocabulary, scratch, statistics.divergence, weight, out)
        if direct:
            return
    if label is None or labels is None or ce_weight is None:
        d_student.zero_() if weight is None else d_student.copy_(p)
        return
    label_gradient(student, label, labels, -ce_weight, vocabulary, x)
    d_student.copy_(x if weight is None else x.add_(p))


class _Buffers(NamedTuple):
    """Buffers of one thread; None for a side that can be read in place."""

    scratch: Scratch
    student: Float[Tensor, "n V"] | None
    teacher: Float[Tensor, "n V"] | None

    @classmethod
    def allocate(
        cls, blocks: RowBlocks, student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V2"]
    ) -> _Buffers:
        return cls(
            Scratch.allocate(blocks.size, blocks.vocab, blocks.dtype, blocks.device),
            blocks.buffer_for(student_logits),
            blocks.buffer_for(teacher_logits),
        )


class ChunkedDivergence:
    """Both directions of a divergence by row blocks."""

    # The fields of RowStatistics, then of LabelStatistics.
    num_statistics = len(RowStatistics._fields) + len(LabelStatistics._fields)

    def __init__(self, formulas: RowDivergence) -> None:
        self.formulas = formulas

    def forward(
        self, rows: DivergenceRows
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, "N F"]]:
        """See `DivergenceBackend`."""
        student_logits, teacher_logits, lambda_t, labels, mask, temperature, vocab = rows
        num_rows, active, vocabulary = student_logits.shape[0], active_rows(mask), Vocabulary(vocab)
        blocks = RowBlocks(num_rows, active, vocab, lambda_t.dtype, student_logits.device)

        def values(rows: slice, buffers: _Buffers) -> BlockStatistics:
            return block_values(
                self.formulas,
                blocks.load(student_logits, rows, buffers.student),
                blocks.load(teacher_logits, rows, buffers.teacher),
                blocks.select(lambda_t, rows),
                temperature,
                vocabulary,
                buffers.scratch.head(rows.stop - rows.start),
                None if labels is None else blocks.select(labels, rows),
            )

        parts = map_blocks(blocks, values, lambda: _Buffers.allocate(blocks, student_logits, teacher_logits))
        statistics = lambda_t.new_zeros((num_rows, self.num_statistics))
        fields = list(map(torch.cat, zip(*(part.divergence for part in parts), strict=True)))
        if labels is not None:
            kept = [part.label for part in parts if part.label is not None]
            fields += map(torch.cat, zip(*kept, strict=True))
        for column, field in enumerate(fields):
            statistics[:, column] = blocks.scatter(field.to(lambda_t.dtype), num_rows)
        kl = statistics[:, RowStatistics._fields.index("kl")].clone()
        if labels is None:
            return kl, kl.new_empty(0), statistics
        log_p = statistics[:, len(RowStatistics._fields) + LabelStatistics._fields.index("log_p")]
        return kl, -log_p, statistics

    def backward(
        self,
        rows: DivergenceRows,
        statistics: Float[Tensor, "N F"],
        d_kl: Float[Tensor, " N"] | None,
        d_ce: Float[Tensor, " N"] | None,
        out: Float[Tensor, "N V"] | None,
    ) -> Float[Tensor, "N V"]:
        """See `DivergenceBackend`."""
        student_logits, teacher_logits, lambda_t, labels, mask, temperature, vocab = rows
        active, vocabulary = active_rows(mask), Vocabulary(vocab)
        blocks = RowBlocks(student_logits.shape[0], active, vocab, lambda_t.dtype, student_logits.device)
        d_student = blocks.gradient_like(student_logits) if out is None else out
        divergence, label = unpack_statistics(statistics, labels is not None)

        def statistics_of(rows: slice) -> BlockStatistics:
            return BlockStatistics(
                RowStatistics(*(blocks.select(field, rows) for field in divergence)),
                None if label is None else LabelStatistics(*(blocks.select(field, rows) for field in label)),
            )

        def gradient(rows: slice, buffers: _Buffers) -> None:
            block_gradient(
                self.formulas,
                blocks.load(student_logits, rows, buffers.student),
                blocks.load(teacher_logits, rows, buffers.teacher),
                blocks.select(lambda_t, rows),
                temperature,
                vocabulary,
                buffers.scratch.head(rows.stop - rows.start),
                statistics_of(rows),
                blocks.target(d_student, rows, buffers.student),
                weight=None if d_kl is None else blocks.select(d_kl, rows),
                labels=None if labels is None else blocks.select(labels, rows),
                ce_weight=None if d_ce is None else blocks.select(d_ce, rows),
            )
            blocks.store(d_student, rows, buffers.student)

        map_blocks(blocks, gradient, lambda: _Buffers.allocate(blocks, student_logits, teacher_logits))
        if out is not None:
            clear_unread(d_student, mask, vocab)
        return d_student


def unpack_statistics(
    statistics: Float[Tensor, "N F"], with_label: bool
) -> tuple[RowStatistics, LabelStatistics | None]:
    """Name the columns of a statistics tensor."""
    columns = statistics.unbind(1)
    split = len(RowStatistics._fields)
    divergence = RowStatistics(*columns[:split])
    divergence = divergence._replace(infinite=divergence.infinite != 0, careful=divergence.careful != 0)
    return divergence, LabelStatistics(*columns[split:]) if with_label else None
