"""`torch` backend of token_logprob, by row blocks.

The formulas are in `_shared/label.py`, shared with the cross-entropy of the divergences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.label import (
    LabelStatistics,
    label_coefficients,
    label_rest,
    label_statistics_from,
    write_label_gradient,
)
from tide_kernels._shared.row_blocks import RowBlocks, active_rows, clear_unread, map_blocks
from tide_kernels._shared.vocabulary import Vocabulary

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class _Buffers(NamedTuple):
    loaded: Float[Tensor, "n V"] | None
    exponentials: Float[Tensor, "n V"]


def forward(
    logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"], mask: Bool[Tensor, " N"] | None, vocab: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"]]:
    """(log_p, statistics: the fields of LabelStatistics) of all rows."""
    num_rows, dtype, active = logits.shape[0], accumulation_dtype(logits), active_rows(mask)
    blocks = RowBlocks(num_rows, active, vocab, dtype, logits.device)
    ids = token_ids if active is None else token_ids[active]
    vocabulary = Vocabulary(vocab)

    def values(rows: slice, buffers: _Buffers) -> tuple[Tensor, Tensor]:
        part = blocks.load(logits, rows, buffers.loaded)
        row_max = part.amax(1)
        buffer = buffers.exponentials[: part.shape[0]]
        return row_max, label_rest(part, row_max, ids[rows], vocabulary, buffer)

    parts = map_blocks(blocks, values, lambda: _Buffers(blocks.buffer_for(logits), blocks.buffer()))
    row_max, rest = map(torch.cat, zip(*parts, strict=True))
    rows = torch.arange(len(ids), device=ids.device) if active is None else active
    statistics = label_statistics_from(logits[rows, ids].to(dtype), row_max, rest)
    packed = torch.stack([blocks.scatter(field, num_rows) for field in statistics], 1)
    return blocks.scatter(statistics.log_p, num_rows), packed


def backward(
    logits: Float[Tensor, "N V"],
    token_ids: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"] | None,
    statistics: Float[Tensor, "N 4"],
    d_log_p: Float[Tensor, " N"],
    vocab: int,
    out: Float[Tensor, "N V"] | None,
) -> Float[Tensor, "N V"]:
    """Gradient in the logits, written to `out` if given; `out` may be the logits."""
    blocks = RowBlocks(logits.shape[0], active_rows(mask), vocab, statistics.dtype, logits.device)
    d_logits = blocks.gradient_like(logits) if out is None else out
    every, vocabulary = slice(0, blocks.num_active), Vocabulary(vocab)
    coefficients = label_coefficients(
        LabelStatistics(*(blocks.select(field, every) for field in statistics.unbind(1))),
        blocks.select(token_ids, every),
        blocks.select(d_log_p, every),
    )

    def gradient(rows: slice, buffer: Float[Tensor, "n V"] | None) -> None:
        part = blocks.load(logits, rows, buffer)
        target = blocks.target(d_logits, rows, buffer)
        write_label_gradient(part, coefficients.at(rows), vocabulary, target)
        blocks.store(d_logits, rows, buffer)

    map_blocks(blocks, gradient, lambda: blocks.buffer_for(logits))
    if out is not None:
        clear_unread(d_logits, mask, vocab)
    return d_logits
