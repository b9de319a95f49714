"""The `torch` backend of chunk_likelihood: span sums, one slope per chunk kept, no graph.

Chunks are few (hundreds, not hundreds of thousands), so the arithmetic runs in fp64, where 1 - P has digits
to spare, and the slope comes from differentiating the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tide_kernels._shared.first_order import first_order_only
from tide_kernels.chunk_likelihood.reference import chunk_objective, span_sums, tokens_read

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class ChunkLikelihoodFunction(torch.autograd.Function):
    """Loss per chunk [B, C], differentiable once in the student's token log-probabilities."""

    @staticmethod
    def forward(
        ctx: Any,
        student_token_log_probs: Float[Tensor, "B Ls"],
        teacher_token_log_probs: Float[Tensor, "B Lt"],
        student_chunks: Int[Tensor, "B Ls"],
        teacher_chunks: Int[Tensor, "B Lt"],
        chunk_mask: Bool[Tensor, "B C"],
        objective: str,
        lambda_t: Float[Tensor, " B"] | None,
        temperature: float,
        eps: float,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B C"]:
        student_log_p = span_sums(student_token_log_probs.double(), student_chunks, chunk_mask) / temperature
        teacher_log_p = span_sums(teacher_token_log_probs.double(), teacher_chunks, chunk_mask) / temperature
        with torch.enable_grad():
            student_log_p.requires_grad_()
            loss = chunk_objective(student_log_p, teacher_log_p, objective, lambda_t, eps)
            (slope,) = torch.autograd.grad(loss.sum(), student_log_p)
        inactive = ~chunk_mask
        slope = slope.div_(temperature).masked_fill_(inactive, 0.0)
        ctx.save_for_backward(
            student_token_log_probs, student_chunks, tokens_read(student_chunks, chunk_mask), slope
        )
        return loss.detach().masked_fill(inactive, 0.0).to(dtype)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_loss: Float[Tensor, "B C"]) -> tuple[Tensor | None, ...]:
        student_token_log_probs, chunks, read, slope = ctx.saved_tensors
        # An upstream NaN of an inactive chunk stops here too.
        per_chunk = torch.where(slope != 0, slope * d_loss, 0.0)
        d_student = per_chunk.gather(1, chunks.clamp(min=0)).masked_fill_(~read, 0.0)
        return d_student.to(student_token_log_probs.dtype), *([None] * 9)
