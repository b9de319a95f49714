"""The attention mask of every contract: one rule over text, segment, block, position and masked flag.

Source: Block Diffusion (arXiv 2503.09573) §3.1 and its appendix on the specialised attention mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tide.batch import Layout, MaskFunction
    from tide.contract import InBlock

CLEAN = 0  # The segment of x_0; noised views are 1, 2, ...


def contract_mask(layout: Layout, *, in_block: InBlock) -> MaskFunction:
    """A token attends to its own block in its own segment, and to the clean blocks before it.

    x_0 attends to x_0 alone, so several views may share it. Every token attends to itself, since a query
    without any key is NaN.

    Args:
        layout: the tokens.
        in_block: what a token sees of its own block (`tide.contract.Contract`). x_0 has no masked tokens, so
            under "observed_first" it is causal.
    """
    # FlexAttention compiles the function below: it may hold tensors, but no record.
    text, segment, block = layout.text, layout.segment, layout.block
    position, masked = layout.positions, layout.masked

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own_block = (segment[row, query] == segment[row, key]) & (block[row, query] == block[row, key])
        if in_block == "observed_first":
            query_masked, key_masked = masked[row, query], masked[row, key]
            not_after = (query_masked == key_masked) & (position[row, key] <= position[row, query])
            own_block = own_block & ((query_masked & ~key_masked) | not_after)
        earlier_clean = (segment[row, key] == CLEAN) & (block[row, key] < block[row, query])
        return (text[row, query] == text[row, key]) & (own_block | earlier_clean)

    return attends
