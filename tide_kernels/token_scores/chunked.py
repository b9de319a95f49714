"""`torch` backend of token_scores, by row blocks: all scores from one exponential per entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.checks import accumulation_dtype
from tide_kernels._shared.row_blocks import RowBlocks, map_blocks
from tide_kernels.token_scores.reference import TokenScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# exp(-1000) is 0 in fp32 and fp64; 0 * -1000 is 0, but 0 * -inf is NaN.
LOWEST = -1000.0


def token_scores_block(
    logits: Float[Tensor, "n V"], shifted: Float[Tensor, "n V"], exponentials: Float[Tensor, "n V"]
) -> TokenScores:
    """Scores of a row block. Reads the logits, overwrites the two buffers."""
    row_max, token_ids = logits.max(1)
    column = token_ids[:, None]
    torch.sub(logits, row_max[:, None], out=shifted).clamp_min_(LOWEST)
    # The winner is excluded from the sums: its exp is 1, its share of sum e (m - x) is 0.
    torch.exp(shifted, out=exponentials).scatter_(1, column, 0.0)
    # 0 * max is NaN for a row without a finite maximum; a single column would not show it otherwise.
    rest = exponentials.sum(1) + 0 * row_max
    spread = exponentials.mul_(shifted).sum(1).neg_()
    log_total = rest.log1p()
    entropy = log_total + spread / (1 + rest)
    # 1 - e^(x2 - m) without cancellation for near ties; exactly 0 for a tie.
    shifted.scatter_(1, column, -torch.inf)
    margin = -shifted.amax(1).expm1_() / (1 + rest)
    return TokenScores(token_ids, -log_total, entropy, margin)


class _Buffers(NamedTuple):
    loaded: Float[Tensor, "n V"] | None
    shifted: Float[Tensor, "n V"]
    exponentials: Float[Tensor, "n V"]


def forward(logits: Float[Tensor, "N V"], vocab: int) -> TokenScores:
    """Scores of all rows; each thread holds two or three buffers of a row block."""
    blocks = RowBlocks(logits.shape[0], None, vocab, accumulation_dtype(logits), logits.device)

    def scores(rows: slice, buffers: _Buffers) -> TokenScores:
        num_rows = rows.stop - rows.start
        part = blocks.load(logits, rows, buffers.loaded)
        return token_scores_block(part, buffers.shifted[:num_rows], buffers.exponentials[:num_rows])

    parts = map_blocks(
        blocks,
        scores,
        lambda: _Buffers(blocks.buffer_for(logits), blocks.buffer(), blocks.buffer()),
    )
    return TokenScores(*map(torch.cat, zip(*parts, strict=True)))
