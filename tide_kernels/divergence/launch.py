"""`triton` backend of the divergences: forward, join (if programs share a row), backward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.launch import (
    blocks_for,
    in_lockstep,
    kernel_temperature,
    on_device,
    splits_for,
    with_unit_columns,
)
from tide_kernels.divergence.gradient_kernels import RECORD, STATISTICS
from tide_kernels.divergence.kernels import (
    divergence_bwd_kernel,
    divergence_fwd_kernel,
    divergence_join_kernel,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels.divergence.backend import DivergenceRows


class DivergenceKernels(NamedTuple):
    """One divergence; `native.NativeDivergence` has the same methods."""

    name: str
    reverse: bool
    num_statistics: int = STATISTICS.value

    def forward(
        self, rows: DivergenceRows
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, "N 8"]]:
        """See `DivergenceBackend`."""
        student_logits, teacher_logits, _, labels, mask, temperature, vocab = rows
        student, teacher = with_unit_columns(student_logits), with_unit_columns(teacher_logits)
        num_rows, device = student.shape[0], student.device
        blocks = blocks_for(f"{self.name}_fwd", device)
        splits = splits_for(num_rows, vocab, blocks, device)
        kl = torch.empty(num_rows, dtype=torch.float32, device=device)
        ce = torch.empty(0 if labels is None else num_rows, dtype=torch.float32, device=device)
        statistics = torch.empty((num_rows, STATISTICS.value), dtype=torch.float32, device=device)
        if num_rows == 0:
            return kl, ce, statistics
        parts = None
        if splits > 1:
            parts = torch.empty((num_rows, splits, RECORD.value), dtype=torch.float32, device=device)
        arguments = (
            *self._pointers(rows, student, teacher),
            kl,
            ce,
            statistics,
            parts,
            student.stride(0),
            teacher.stride(0),
            vocab,
            math.log2(math.e) / temperature,
            temperature,
        )
        constants = {
            "REVERSE": self.reverse,
            "HAS_LABEL": labels is not None,
            "HAS_MASK": mask is not None,
            "SPLITS": splits,
            "BLOCK_V": blocks.block_v,
            **blocks.options(),
        }
        with on_device(device):
            divergence_fwd_kernel[(num_rows * splits,)](
                *arguments,
                TEMPERATURE=kernel_temperature(temperature),
                LOCKSTEP=in_lockstep(student, teacher),
                **constants,
            )
            if splits > 1:
                divergence_join_kernel[(num_rows,)](*arguments, **constants)
        return kl, ce, statistics

    def backward(
        self,
        rows: DivergenceRows,
        statistics: Float[Tensor, "N 8"],
        d_kl: Float[Tensor, " N"] | None,
        d_ce: Float[Tensor, " N"] | None,
        out: Float[Tensor, "N V"] | None,
        softcap: float = 0.0,
    ) -> Float[Tensor, "N V"]:
        """See `DivergenceBackend`."""
        student_logits, teacher_logits, _, labels, mask, temperature, vocab = rows
        student, teacher = with_unit_columns(student_logits), with_unit_columns(teacher_logits)
        num_rows, width = student.shape
        device = student.device
        d_student = torch.empty((num_rows, width), dtype=student.dtype, device=device) if out is None else out
        target = with_unit_columns(d_student)
        if num_rows > 0:
            blocks = blocks_for(f"{self.name}_bwd", device)
            splits = splits_for(num_rows, vocab, blocks, device)
            has_label = labels is not None and d_ce is not None
            with on_device(device):
                divergence_bwd_kernel[(num_rows * splits,)](
                    *self._pointers(rows, student, teacher),
                    statistics,
                    None if d_kl is None else d_kl.contiguous(),
                    None if d_ce is None else d_ce.contiguous(),
                    target,
                    student.stride(0),
                    teacher.stride(0),
                    target.stride(0),
                    vocab,
                    width,
                    math.log2(math.e) / temperature,
                    temperature,
                    1.0 / softcap if softcap else 0.0,
                    num_rows,
                    REVERSE=self.reverse,
                    HAS_KL=d_kl is not None,
                    HAS_LABEL=has_label,
                    HAS_MASK=mask is not None,
                    HAS_SOFTCAP=softcap != 0.0,
                    TEMPERATURE=kernel_temperature(temperature),
                    LOCKSTEP=in_lockstep(student, teacher, target),
                    SPLITS=splits,
                    BLOCK_V=blocks.block_v,
                    **blocks.options(),
                )
        if target is not d_student:
            d_student.copy_(target)
        return d_student

    def _pointers(self, rows: DivergenceRows, student: Tensor, teacher: Tensor) -> tuple[Tensor | None, ...]:
        per_row = (None if self.reverse else rows.lambda_t, rows.labels, rows.mask)
        return student, teacher, *(None if x is None else x.contiguous() for x in per_row)


INTERPOLATED_KL = DivergenceKernels("interpolated_kl", reverse=False)
REVERSE_KL = DivergenceKernels("reverse_kl", reverse=True)
