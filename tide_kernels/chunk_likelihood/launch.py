"""`triton` backend of chunk_likelihood: one launch forward, one backward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.launch import blocks_for, on_device
from tide_kernels.chunk_likelihood.kernels import chunk_likelihood_bwd_kernel, chunk_likelihood_fwd_kernel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# Chunks per program. With 128 tokens per tile that is 2048 fp64 sums: 32 registers per thread over 4 warps.
BLOCK_C = 16


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
    """(loss in fp32, slope in fp64) per chunk, 0 where chunk_mask is False."""
    (batch, num_chunks), device = chunk_mask.shape, chunk_mask.device
    loss = torch.empty((batch, num_chunks), dtype=torch.float32, device=device)
    slope = torch.empty((batch, num_chunks), dtype=torch.float64, device=device)
    if loss.numel() > 0:
        blocks = blocks_for("chunk_likelihood_fwd", device)
        with on_device(device):
            chunk_likelihood_fwd_kernel[(batch * math.ceil(num_chunks / BLOCK_C),)](
                student_token_log_probs.contiguous(),
                teacher_token_log_probs.contiguous(),
                student_chunks.contiguous(),
                teacher_chunks.contiguous(),
                chunk_mask.contiguous(),
                None if lambda_t is None else lambda_t.contiguous(),
                loss,
                slope,
                student_chunks.shape[1],
                teacher_chunks.shape[1],
                num_chunks,
                temperature,
                math.log(eps),
                math.log1p(-eps),
                OBJECTIVE=objective,
                BLOCK_C=BLOCK_C,
                BLOCK_L=blocks.block_v,
                **blocks.options(),
            )
    return loss, slope


def backward(
    student_token_log_probs: Float[Tensor, "B L"],
    student_chunks: Int[Tensor, "B L"],
    slope: Float[Tensor, "B C"],
    d_loss: Float[Tensor, "B C"],
) -> Float[Tensor, "B L"]:
    """Gradient in the student's token log-probabilities, in their dtype."""
    (batch, length), device = student_chunks.shape, student_chunks.device
    d_student = torch.empty((batch, length), dtype=student_token_log_probs.dtype, device=device)
    if d_student.numel() > 0:
        blocks = blocks_for("chunk_likelihood_bwd", device)
        with on_device(device):
            chunk_likelihood_bwd_kernel[(batch * math.ceil(length / blocks.block_v),)](
                student_chunks.contiguous(),
                slope,
                d_loss.contiguous(),
                d_student,
                length,
                slope.shape[1],
                BLOCK_L=blocks.block_v,
                **blocks.options(),
            )
    return d_student
