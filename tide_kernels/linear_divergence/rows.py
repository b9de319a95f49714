"""Divergences over hidden states by row blocks.

hidden --two products--> logits --formulas or kernels--> kl, ce, d_logits --two products--> d_hidden, d_weight

Logits exist for one row block, their gradient for a gradient block of several row blocks: each gradient block
reads and writes the head's gradient once. On the `torch` backend d_logits overwrites the student's logits;
the `triton` kernels write it in the dtype of the products that follow. Formulas and kernels are those of the
logits-in ops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tide_kernels._shared.head import Head, product_dtype, rounding_buffer, rounding_bytes
from tide_kernels._shared.head_gradient import GradientByRows
from tide_kernels._shared.row_blocks import Scratch, map_blocks, rows_per_block
from tide_kernels._shared.vocabulary import Vocabulary, vocabulary_of
from tide_kernels._shared.workspace import RowPlan, aligned_rows, plan_rows, row_steps
from tide_kernels.divergence.backend import DivergenceRows
from tide_kernels.divergence.chunked import block_gradient, block_values

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels.divergence.backend import DivergenceBackend
    from tide_kernels.linear_divergence.arguments import LinearArguments, LinearSettings


# Row blocks per gradient block: if the gradient overwrites fp32 logits; if it is a bf16 buffer beside fp32
# logits of both sides, which then takes as many bytes as they do.
IN_PLACE_RATIO = 2
SEPARATE_RATIO = 4


def linear_divergence_rows(
    of_logits: DivergenceBackend,
    arguments: LinearArguments,
    settings: LinearSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss, kl, ce (empty without labels), and gradients for upstream 1 (empty if not needed).

    Args:
        of_logits: the backend of the divergence over logits.
        arguments: tensors.
        settings: other arguments.
    """
    hidden, dtype = arguments.student_hidden, arguments.lambda_t.dtype
    vocabulary = vocabulary_of(arguments.student_weight.shape[0], settings.vocab, settings.vocab_group)
    student_head, teacher_head = (
        Head(
            weight,
            bias,
            options,
            dtype,
            product_dtype(x, weight, dtype, settings.autocast_dtype),
            settings.logits_dtype,
        )
        for (x, weight, bias), options in arguments.sides(settings, vocabulary.size)
    )
    needed = (settings.needed[0], settings.needed[1], settings.needed[2])
    gradient = GradientByRows(student_head, *arguments[:3], needed)
    rows = _ROWS[settings.backend](
        of_logits, arguments, settings, student_head, teacher_head, vocabulary, gradient.wanted
    )
    plan = rows.plan()
    for gradient_block in row_steps(hidden.shape[0], plan.gradient_block):
        for block in row_steps(gradient_block, plan.block):
            student, teacher = rows.buffers(block, gradient_block)
            student_head.logits(hidden[block], student, rows.through)
            teacher_head.logits(arguments.teacher_hidden[block], teacher, rows.through)
            rows.take(block, gradient_block, student, teacher)
        if gradient.wanted:
            gradient.add(
                gradient_block,
                hidden[gradient_block],
                rows.d_block[: gradient_block.stop - gradient_block.start],
            )
    loss = (arguments.weight * rows.kl).sum()
    if arguments.labels is not None:
        loss = loss + (arguments.ce_weight * rows.ce).sum()
    return loss, rows.kl, rows.ce, *gradient.made(vocabulary)


class _Rows:
    """kl and ce of all rows, buffers, and a backend's work on a row block."""

    def __init__(
        self,
        of_logits: Any,
        arguments: LinearArguments,
        settings: LinearSettings,
        head: Head,
        teacher_head: Head,
        vocabulary: Vocabulary,
        wanted: bool,
    ) -> None:
        self.of_logits, self.arguments, self.settings = of_logits, arguments, settings
        self.head, self.teacher_head = head, teacher_head
        self.vocabulary, self.wanted = vocabulary, wanted
        self.dtype, self.device = arguments.lambda_t.dtype, arguments.lambda_t.device
        self.kl = torch.zeros_like(arguments.lambda_t)
        self.ce = self.kl.new_zeros(0) if arguments.labels is None else torch.zeros_like(self.kl)
        # Gradients are in the product, not in the scaled logits.
        self.kl_weight = arguments.weight * head.options.logit_scale
        self.ce_weight = arguments.ce_weight * head.options.logit_scale

    def plan(self) -> RowPlan:
        """Plan the blocks and allocate their buffers."""
        logits_dtype = self.logits_dtype()
        # The gradient overwrites the student's logits if the dtypes match.
        self.in_place = self.wanted and self.gradient_dtype() == logits_dtype
        apart = 1 if self.in_place else 2
        # Processes that share the head need the same row blocks: each of their sums is a collective.
        size = self.vocabulary.largest_size
        # Both sides' logits are rounded through one buffer.
        rounded = self.head.rounds_through(logits_dtype) or self.teacher_head.rounds_through(logits_dtype)
        plan = plan_rows(
            self.kl.shape[0],
            size * self._gradient_bytes(),
            size * apart * logits_dtype.itemsize + rounding_bytes(size, rounded) + self.scratch_bytes(),
            IN_PLACE_RATIO if self.in_place else SEPARATE_RATIO,
            self.settings.workspace_bytes,
        )

        def rows_of(count: int, dtype: torch.dtype) -> Float[Tensor, "n V"]:
            return aligned_rows(count, self.vocabulary.size, dtype, self.device)

        self.d_block = rows_of(plan.gradient_block if self.wanted else 0, self.gradient_dtype())
        self.teacher = rows_of(plan.block, logits_dtype)
        self.student = rows_of(0 if self.in_place else plan.block, logits_dtype)
        self.through = rounding_buffer(plan.block, self.vocabulary.size, rounded, self.device)
        return plan

    def _gradient_bytes(self) -> int:
        """Bytes per entry of a gradient block, with a copy if the products need another dtype."""
        made, read = self.gradient_dtype(), self.head.gradient_dtype
        return (made.itemsize + (0 if made == read else read.itemsize)) if self.wanted else 0

    def buffers(
        self, block: slice, gradient_block: slice
    ) -> tuple[Float[Tensor, "n V"], Float[Tensor, "n V"]]:
        """Buffers for the student's and the teacher's logits of a row block."""
        size = block.stop - block.start
        return self.gradient_of(block, gradient_block) if self.in_place else self.student[
            :size
        ], self.teacher[:size]

    def gradient_of(self, block: slice, gradient_block: slice) -> Float[Tensor, "n V"]:
        """Buffer for the gradient of a row block."""
        return self.d_block[block.start - gradient_block.start : block.stop - gradient_block.start]

    def logits_dtype(self) -> torch.dtype:
        """dtype of the logits."""
        return self.dtype

    def gradient_dtype(self) -> torch.dtype:
        """dtype of the logits' gradient."""
        return self.dtype

    def scratch_bytes(self) -> int:
        """Bytes per row of a row block beyond logits and gradient."""
        return 0

    def take(
        self,
        block: slice,
        gradient_block: slice,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
    ) -> None:
        """Compute kl and ce of a row block and, if wanted, the gradient of the student's product."""
        raise NotImplementedError


class _FormulaRows(_Rows):
    """`torch` backend. Products want many rows at once, the formulas few enough to stay in cache."""

    def scratch_bytes(self) -> int:
        # With shards the formulas take a whole row block: each of their sums is a collective.
        entry = len(Scratch._fields) * self.dtype.itemsize
        return self.vocabulary.largest_size * entry if self.vocabulary.sharded else 0

    def take(
        self,
        block: slice,
        gradient_block: slice,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
    ) -> None:
        step = student.shape[0]
        if not self.vocabulary.sharded:
            step = min(step, rows_per_block(self.vocabulary.size, self.dtype, self.device))

        def values_and_gradient(here: slice, scratch: Scratch) -> None:
            rows = slice(block.start + here.start, block.start + here.stop)
            self._take_step(rows, student[here], teacher[here], scratch.head(here.stop - here.start))

        map_blocks(
            row_steps(student.shape[0], step),
            values_and_gradient,
            lambda: Scratch.allocate(step, self.vocabulary.size, self.dtype, self.device),
        )

    def _take_step(
        self, rows: slice, student: Float[Tensor, "n V"], teacher: Float[Tensor, "n V"], scratch: Scratch
    ) -> None:
        arguments, settings = self.arguments, self.settings
        labels = None if arguments.labels is None else arguments.labels[rows]
        given = (student, teacher, arguments.lambda_t[rows], settings.temperature, self.vocabulary, scratch)
        statistics = block_values(self.of_logits.formulas, *given, labels)
        self.kl[rows] = statistics.divergence.kl
        if statistics.label is not None:
            self.ce[rows] = -statistics.label.log_p
        if not self.wanted:
            return
        slope = self.head.slope(student, torch.empty_like(student)) if self.head.options.softcap else None
        block_gradient(
            self.of_logits.formulas,
            *given,
            statistics,
            student,
            weight=self.kl_weight[rows],
            labels=labels,
            ce_weight=None if labels is None else self.ce_weight[rows],
        )
        if slope is not None:
            student.mul_(slope)


class _NativeRows(_Rows):
    """`native` backend: one call for the statistics of a row block, one for its gradient."""

    def take(
        self,
        block: slice,
        gradient_block: slice,
        student: Float[Tensor, "n V"],
        teacher: Float[Tensor, "n V"],
    ) -> None:
        arguments, settings = self.arguments, self.settings
        labels = None if arguments.labels is None else arguments.labels[block]
        rows = DivergenceRows(
            student,
            teacher,
            arguments.lambda_t[block],
            labels,
            None,
            settings.temperature,
            self.vocabulary.size,
        )
        kl, ce, statistics = self.of_logits.forward(rows)
        self.kl[block] = kl
        if labels is not None:
            self.ce[block] = ce
        if not self.wanted:
            return
        self.of_logits.backward(
            rows,
            statistics,
            self.kl_weight[block],
            None if labels is None else self.ce_weight[block],
            self.gradient_of(block, gradient_block),
            self.head.options.softcap,
        )


class _KernelRows(_NativeRows):
    """`triton` backend: likewise by launches, with half logits and gradients where the products have them."""

    def logits_dtype(self) -> torch.dtype:
        return self.settings.logits_dtype

    def gradient_dtype(self) -> torch.dtype:
        return self.head.gradient_dtype


_ROWS: dict[str, type[_Rows]] = {"torch": _FormulaRows, "native": _NativeRows, "triton": _KernelRows}
