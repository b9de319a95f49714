"""The attention mask of block diffusion, one rule over segments and blocks.

Source: Block Diffusion (arXiv 2503.09573) §3.1 and its appendix on the specialised attention mask.
Legend: B sequences, S tokens of an input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from tide.batch import MaskFunction

CLEAN = 0  # The segment of x_0; noised views are 1, 2, ...


def block_mask(
    segment: Int[Tensor, "S"], block: Int[Tensor, "S"], valid: Bool[Tensor, "B S"]
) -> MaskFunction:
    """A token attends to its own block in its own segment and to the clean blocks before it.

    x_0 attends to x_0 alone, so several views may share it. Padding is attended to by itself alone, since a
    query without any key is NaN.

    Args:
        segment: of every token: CLEAN, or the number of its noised view, from 1.
        block: of every token in its text.
        valid: False on padding.
    """

    def attends(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own_block = (segment[query] == segment[key]) & (block[query] == block[key])
        earlier_clean = (segment[key] == CLEAN) & (block[key] < block[query])
        return ((own_block | earlier_clean) & valid[sequence, key]) | (query == key)

    return attends
