"""`triton` backend of token_scores: one pass, and a join if programs share a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.launch import blocks_for, in_lockstep, on_device, splits_for, with_unit_columns
from tide_kernels.token_scores.kernels import RECORD, token_scores_fwd_kernel, token_scores_join_kernel
from tide_kernels.token_scores.reference import TokenScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def forward(logits: Float[Tensor, "N V"], vocab: int) -> TokenScores:
    """Scores of all rows."""
    rows = with_unit_columns(logits)
    num_rows, device = rows.shape[0], rows.device
    blocks = blocks_for("token_scores", device)
    splits = splits_for(num_rows, vocab, blocks, device)
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=device)
    log_p, entropy, margin = (torch.empty(num_rows, dtype=torch.float32, device=device) for _ in range(3))
    scores = TokenScores(token_ids, log_p, entropy, margin)
    if num_rows == 0:
        return scores
    parts = part_ids = None
    if splits > 1:
        parts = torch.empty((num_rows, splits, RECORD.value), dtype=torch.float32, device=device)
        part_ids = torch.empty((num_rows, splits), dtype=torch.int32, device=device)
    with on_device(device):
        token_scores_fwd_kernel[(num_rows * splits,)](
            rows,
            *scores,
            parts,
            part_ids,
            rows.stride(0),
            vocab,
            LOCKSTEP=in_lockstep(rows),
            SPLITS=splits,
            BLOCK_V=blocks.block_v,
            **blocks.options(),
        )
        if splits > 1:
            token_scores_join_kernel[(num_rows,)](*scores, parts, part_ids, vocab, SPLITS=splits, num_warps=1)
    return scores
