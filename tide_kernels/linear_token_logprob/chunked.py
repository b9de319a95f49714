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
from tide_kernels._shared.head import Head, HeadGradient, cache_steps, head_chunks
from tide_kernels._shared.label import (
    LabelStatistics,
    label_coefficients,
    label_statistics,
    write_label_gradient,
)
from tide_kernels._shared.workers import map_chunks

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
        statistics = LabelStatistics(
            *(torch.zeros(num_rows, dtype=dtype, device=device) for _ in LabelStatistics._fields)
        )
        for chunk in chunks:
            logits = head.logits(hidden[chunk].to(dtype), buffer[: chunk.stop - chunk.start])

            def measure(
                here: slice, scratch: Tensor, start: int = chunk.start, logits: Tensor = logits
            ) -> None:
                rows, part = slice(start + here.start, start + here.stop), logits[here]
                fields = label_statistics(part, part.amax(1), token_ids[rows], scratch[: part.shape[0]])
                for whole, field in zip(statistics, fields, strict=True):
                    whole[rows] = field

            map_chunks(
                cache_steps(logits.shape[0], step),
                measure,
                lambda: torch.empty((step, vocab), dtype=dtype, device=device),
                device,
            )
        ctx.save_for_backward(hidden, weight, bias, token_ids, *statistics)
        ctx.dtype, ctx.workspace_bytes = dtype, workspace_bytes
        # A tensor that is both output and saved would keep itself alive.
        return statistics.log_p.clone()

    @staticmethod
    @first_order_only
    def backward(ctx: Any, d_log_p: Float[Tensor, " N"]) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, *saved = ctx.saved_tensors
        coefficients = label_coefficients(LabelStatistics(*saved), token_ids, d_log_p)
        num_rows, vocab, device, dtype = hidden.shape[0], weight.shape[0], hidden.device, ctx.dtype
        head = Head(weight, bias, dtype)
        gradient = HeadGradient(head, hidden, tuple(ctx.needs_input_grad[:3]))
        size, chunks = head_chunks(num_rows, vocab * dtype.itemsize, ctx.workspace_bytes, device)
        buffer = torch.empty((size, vocab), dtype=dtype, device=device)
        step = min(rows_per_chunk(vocab, dtype, device), size)
        for chunk in chunks:
            rows_hidden = hidden[chunk].to(dtype)
            logits = head.logits(rows_hidden, buffer[: chunk.stop - chunk.start])

            def turn_into_gradient(
                here: slice, _: None, start: int = chunk.start, logits: Tensor = logits
            ) -> None:
                rows = slice(start + here.start, start + here.stop)
                write_label_gradient(logits[here], coefficients.at(rows), logits[here])

            map_chunks(cache_steps(logits.shape[0], step), turn_into_gradient, lambda: None, device)
            gradient.add(chunk, rows_hidden, logits)
        gradients = (
            None if made is None else made.to(like.dtype)
            for made, like in zip(gradient.made, (hidden, weight, bias), strict=True)
        )
        return *gradients, None, None, None
