"""The `torch` backend of token_logprob: rows in chunks, two numbers per row kept, gradient written once.

The formulas of a chunk are in `_shared/label.py`; the cross-entropy beside a divergence runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.chunking import RowChunks
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.label import (
    LabelStatistics,
    label_coefficients,
    label_rest,
    label_statistics_from,
    write_label_gradient,
)
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
        ids = token_ids if active is None else token_ids[active]

        def values(rows: slice, buffers: _Buffers) -> tuple[Tensor, Tensor]:
            part = chunks.load(logits, rows, buffers.loaded)
            row_max = part.amax(1)
            return row_max, label_rest(part, row_max, ids[rows], buffers.exponentials[: part.shape[0]])

        parts = map_chunks(
            chunks, values, lambda: _Buffers(chunks.buffer_for(logits), chunks.buffer()), chunks.device
        )
        row_max, rest = map(torch.cat, zip(*parts, strict=True))
        rows = torch.arange(len(ids), device=ids.device) if active is None else active
        statistics = label_statistics_from(logits[rows, ids].to(dtype), row_max, rest)
        ctx.chunks = chunks
        ctx.save_for_backward(logits, ids, *statistics)
        return chunks.scatter(statistics.log_p, logits.shape[0])

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_log_p: Float[Tensor, " N"]) -> tuple[Tensor | None, ...]:
        logits, ids, *saved = ctx.saved_tensors
        chunks: RowChunks = ctx.chunks
        d_logits = chunks.gradient_like(logits)
        every = slice(0, chunks.num_active)
        coefficients = label_coefficients(LabelStatistics(*saved), ids, chunks.select(d_log_p, every))

        def gradient(rows: slice, buffer: Float[Tensor, "n V"] | None) -> None:
            part = chunks.load(logits, rows, buffer)
            write_label_gradient(part, coefficients.at(rows), chunks.target(d_logits, rows, buffer))
            chunks.store(d_logits, rows, buffer)

        map_chunks(chunks, gradient, lambda: chunks.buffer_for(logits), chunks.device)
        return d_logits, None, None, None, None
