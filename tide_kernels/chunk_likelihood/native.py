"""`native` backend of chunk_likelihood: the call of csrc/cpu/chunks.h."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.native import Rows, pointer, run
from tide_kernels.chunk_likelihood.reference import OBJECTIVES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class _Call(ctypes.Structure):
    """`tide_chunks`."""

    _fields_ = (
        *((name, Rows) for name in ("student", "teacher", "loss", "d_loss", "gradient")),
        *(
            (name, ctypes.c_void_p)
            for name in ("student_chunks", "teacher_chunks", "chunk_mask", "lambda_t", "slope", "sums")
        ),
        *((name, ctypes.c_int64) for name in ("num_rows", "student_length", "teacher_length", "num_chunks")),
        *((name, ctypes.c_double) for name in ("temperature", "low", "high")),
        *((name, ctypes.c_int32) for name in ("objective", "num_threads")),
    )


def forward(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    lambda_t: Float[Tensor, " B"] | None,
    objective: str,
    temperature: float,
    eps: float,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """(loss, slope) per chunk; slope: fp64 derivative in the sum of the student's log-probabilities."""
    student, teacher = student_token_log_probs.contiguous(), teacher_token_log_probs.contiguous()
    loss = torch.empty(chunk_mask.shape, dtype=accumulation_dtype(student, teacher))
    slope, sums = (torch.empty(chunk_mask.shape, dtype=torch.float64) for _ in range(2))
    ids = [x.to(torch.int64).contiguous() for x in (student_chunks, teacher_chunks)]
    active = chunk_mask.contiguous()
    share = None if lambda_t is None else lambda_t.to(torch.float64).contiguous()
    call = _Call(
        student=Rows.of(student),
        teacher=Rows.of(teacher),
        loss=Rows.of(loss),
        student_chunks=pointer(ids[0]),
        teacher_chunks=pointer(ids[1]),
        chunk_mask=pointer(active),
        lambda_t=pointer(share),
        slope=pointer(slope),
        sums=pointer(sums),
        num_rows=chunk_mask.shape[0],
        student_length=student.shape[1],
        teacher_length=teacher.shape[1],
        num_chunks=chunk_mask.shape[1],
        temperature=temperature,
        low=math.log(eps),
        high=math.log1p(-eps),
        objective=OBJECTIVES.index(objective),
        num_threads=torch.get_num_threads(),
    )
    run("tide_chunk_forward", call, wide=True)
    return loss, slope


def backward(
    student_token_log_probs: Float[Tensor, "B L"],
    student_chunks: Int[Tensor, "B L"],
    slope: Float[Tensor, "B C"],
    d_loss: Float[Tensor, "B C"],
) -> Float[Tensor, "B L"]:
    """Gradient in the student's token log-probabilities, in their dtype."""
    d_student = torch.empty(student_chunks.shape, dtype=student_token_log_probs.dtype)
    ids, slope, upstream = (
        student_chunks.to(torch.int64).contiguous(),
        slope.contiguous(),
        d_loss.contiguous(),
    )
    call = _Call(
        d_loss=Rows.of(upstream),
        gradient=Rows.of(d_student),
        student_chunks=pointer(ids),
        slope=pointer(slope),
        num_rows=d_student.shape[0],
        student_length=d_student.shape[1],
        num_chunks=slope.shape[1],
        num_threads=torch.get_num_threads(),
    )
    run("tide_chunk_backward", call, wide=True)
    return d_student
