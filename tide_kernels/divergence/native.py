"""`native` backend of the divergences: the call of csrc/cpu/divergence.h."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.launch import with_unit_columns
from tide_kernels._shared.native import Rows, on_huge_pages, pointer, run

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels.divergence.backend import DivergenceRows

_KINDS = {"interpolated_kl": 0, "reverse_kl": 1}


class _Call(ctypes.Structure):
    """`tide_divergence`."""

    _fields_ = (
        *((name, Rows) for name in ("student", "teacher", "gradient")),
        *(
            (name, ctypes.c_void_p)
            for name in ("lambda_t", "d_kl", "d_ce", "kl", "ce", "statistics", "labels", "mask")
        ),
        *((name, ctypes.c_int64) for name in ("num_rows", "vocab", "width")),
        *((name, ctypes.c_double) for name in ("temperature", "softcap")),
        *((name, ctypes.c_int32) for name in ("kind", "num_threads")),
    )


class NativeDivergence(NamedTuple):
    """One divergence; `DivergenceKernels` has the same methods."""

    name: str
    num_statistics: int = 8

    def forward(
        self, rows: DivergenceRows
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, "N 8"]]:
        """See `DivergenceBackend`."""
        num_rows, like = rows.student_logits.shape[0], rows.lambda_t
        kl = like.new_zeros(num_rows)
        ce = like.new_zeros(0 if rows.labels is None else num_rows)
        statistics = like.new_zeros((num_rows, self.num_statistics))
        kept = _Kept(rows)
        call = self._call(kept, rows)
        call.kl, call.ce, call.statistics = pointer(kl), pointer(ce), pointer(statistics)
        run("tide_divergence_forward", call, wide=rows.lambda_t.dtype == torch.float64)
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
        if out is None:
            out = on_huge_pages(torch.empty(rows.student_logits.shape, dtype=rows.student_logits.dtype))
        target = with_unit_columns(out)
        kept = _Kept(rows)
        upstream = [None if x is None else x.to(rows.lambda_t.dtype).contiguous() for x in (d_kl, d_ce)]
        statistics = statistics.contiguous()
        call = self._call(kept, rows)
        call.gradient, call.softcap = Rows.of(target), softcap
        call.statistics = pointer(statistics)
        call.d_kl, call.d_ce = map(pointer, upstream)
        run("tide_divergence_backward", call, wide=rows.lambda_t.dtype == torch.float64)
        return out if target is out else out.copy_(target)

    def _call(self, kept: _Kept, rows: DivergenceRows) -> _Call:
        num_rows, width = kept.student.shape
        return _Call(
            student=Rows.of(kept.student),
            teacher=Rows.of(kept.teacher),
            lambda_t=pointer(kept.lambda_t),
            labels=pointer(kept.labels),
            mask=pointer(kept.mask),
            num_rows=num_rows,
            vocab=rows.vocab,
            width=width,
            temperature=rows.temperature,
            kind=_KINDS[self.name],
            num_threads=torch.get_num_threads(),
        )


class _Kept:
    """Arguments as the library reads them, which must outlive the call."""

    def __init__(self, rows: DivergenceRows) -> None:
        student, teacher, lambda_t, labels, mask, *_ = rows
        self.student, self.teacher = with_unit_columns(student), with_unit_columns(teacher)
        self.lambda_t = lambda_t.contiguous()
        self.labels, self.mask = (None if x is None else x.contiguous() for x in (labels, mask))


INTERPOLATED_KL, REVERSE_KL = NativeDivergence("interpolated_kl"), NativeDivergence("reverse_kl")
