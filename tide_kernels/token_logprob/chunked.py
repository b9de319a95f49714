"""The `torch` backend of token_logprob: rows in chunks, two numbers per row kept, gradient written once.

The formulas of a chunk are in `_shared/label.py`; the cross-entropy beside a divergence runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.chunking import RowChunks
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.label import LabelStatistics, label_gradient, label_statistics
from tide_kernels._shared.workers import map_chunks

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class _Buffers(NamedTuple):
    loaded: Float[Tensor, "n V"] | None
    exponentials: Float[Tensor, "n V"]


class TokenLogProbFunction(torch.autograd.Function):
    """log softmax(logits)_y [N], differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "N V"],
        token_ids: Int[Tensor, " N"],
        active: Int[Tensor, " A"] | None,
        vocab: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, " N"]:
        chunks = RowChunks(logits.shape[0], active, vocab, dtype, logits.device)

        def values(rows: slice, buffers: _Buffers) -> LabelStatistics:
            part = chunks.load(logits, rows, buffers.loaded)
            ids = chunks.select(token_ids, rows)
            return label_statistics(part, part.amax(1), ids, buffers.exponentials[: len(ids)])

        parts = map_chunks(
            chunks, values, lambda: _Buffers(chunks.buffer_for(logits), chunks.buffer()), chunks.device
        )
        statistics = LabelStatistics(*map(torch.cat, zip(*parts, strict=True)))
        ctx.chunks = chunks
        ctx.save_for_backward(logits, token_ids, *statistics)
        return chunks.scatter(statistics.log_p, logits.shape[0])

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_log_p: Float[Tensor, " N"]) -> tuple[Tensor | None, ...]:
        logits, token_ids, *saved = ctx.saved_tensors
        chunks: RowChunks = ctx.chunks
        d_logits = chunks.gradient_like(logits)

        def gradient(rows: slice, buffer: Float[Tensor, "n V"] | None) -> None:
            label_gradient(
                chunks.load(logits, rows, buffer),
                LabelStatistics(*(field[rows] for field in saved)),
                chunks.select(token_ids, rows),
                chunks.select(d_log_p, rows),
                chunks.target(d_logits, rows, buffer),
            )
            chunks.store(d_logits, rows, buffer)

        map_chunks(chunks, gradient, lambda: chunks.buffer_for(logits), chunks.device)
        return d_logits, None, None, None, None
