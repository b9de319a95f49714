"""The `torch` backend of linear_token_logprob: logits of one chunk of rows at a time, in forward and again in
backward.

The factor of a row is not known in forward (a chunk objective needs the whole span first), so backward makes
the logits of a chunk once more and turns them into their gradient in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tide_kernels._shared.chunking import rows_per_chunk
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.head import Head, HeadGradient, head_chunks
from tide_kernels._shared.label import LabelStatistics, label_gradient, label_statistics

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class LinearTokenLogprobFunction(torch.autograd.Function):
    """[N] log-probabilities, differentiable once in hidden states, head and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N d"],
        weight: Float[Tensor, "V d"],
        bias: Float[Tensor, " V"] | None,
        token_ids: Int[Tensor, " N"],
        dtype: torch.dtype,
        workspace_bytes: int | None,
    ) -> Float[Tensor, " N"]:
        num_rows, vocab, device = hidden.shape[0], weight.shape[0], hidden.device
        head = Head(weight, bias, dtype)
        size, chunks = head_chunks(num_rows, vocab * dtype.itemsize, workspace_bytes, device)
        buffer = torch.empty((size, vocab), dtype=dtype, device=device)
        step = min(rows_per_chunk(vocab, dtype, device), size)
        scratch = torch.empty((step, vocab), dtype=dtype, device=device)
        parts = []
        for chunk in chunks:
            logits = head.logits(hidden[chunk].to(dtype), buffer[: chunk.stop - chunk.start])
            for rows, here in _steps(chunk, step):
                part = logits[here]
                parts.append(label_statistics(part, part.amax(1), token_ids[rows], scratch[: part.shape[0]]))
        empty = torch.zeros(0, dtype=dtype, device=device)
        fields = zip(*parts, strict=True) if parts else [(empty,)] * len(LabelStatistics._fields)
        statistics = LabelStatistics(*(torch.cat(field) for field in fields))
        ctx.save_for_backward(hidden, weight, bias, token_ids, *statistics)
        ctx.dtype, ctx.workspace_bytes = dtype, workspace_bytes
        # A tensor that is both output and saved would keep itself alive.
        return statistics.log_p.clone()

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_log_p: Float[Tensor, " N"]) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, *saved = ctx.saved_tensors
        statistics = LabelStatistics(*saved)
        num_rows, vocab, device, dtype = hidden.shape[0], weight.shape[0], hidden.device, ctx.dtype
        head = Head(weight, bias, dtype)
        needed = ctx.needs_input_grad
        gradient = HeadGradient(
            head, hidden, need_hidden=needed[0], need_weight=needed[1], need_bias=needed[2]
        )
        size, chunks = head_chunks(num_rows, vocab * dtype.itemsize, ctx.workspace_bytes, device)
        buffer = torch.empty((size, vocab), dtype=dtype, device=device)
        step = min(rows_per_chunk(vocab, dtype, device), size)
        for chunk in chunks:
            rows_hidden = hidden[chunk].to(dtype)
            logits = head.logits(rows_hidden, buffer[: chunk.stop - chunk.start])
            for rows, here in _steps(chunk, step):
                fields = LabelStatistics(*(field[rows] for field in statistics))
                label_gradient(logits[here], fields, token_ids[rows], d_log_p[rows].to(dtype), logits[here])
            gradient.add(chunk, rows_hidden, logits)
        made = (gradient.d_hidden, gradient.d_weight, gradient.d_bias)
        given = (hidden, weight, bias)
        return (
            *(None if x is None else x.to(like.dtype) for x, like in zip(made, given, strict=True)),
            None,
            None,
            None,
        )


def _steps(chunk: slice, step: int) -> list[tuple[slice, slice]]:
    """Parts of a chunk that stay in the cache: as rows of the input, and as rows of the chunk."""
    return [
        (
            slice(start, min(start + step, chunk.stop)),
            slice(start - chunk.start, min(start + step, chunk.stop) - chunk.start),
        )
        for start in range(chunk.start, chunk.stop, step)
    ]
