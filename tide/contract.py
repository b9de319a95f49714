"""The contract of a model: how it was trained to read a noised text. Each model has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Contract:
    """How a block-diffusion model reads a noised text x_t beside its clean text x_0.

    Attributes:
        mask_id: id of the mask token.
        block_size: tokens per block; blocks are counted from the start of the text, the last may be short.
        shift: output i predicts token i + shift.
    Raises:
        ValueError: block_size is below 1.
    """

    mask_id: int
    block_size: int
    shift: Literal[0] = 0

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(
                f"Contract: block_size must be at least 1; got {self.block_size}. "
                "Give the size that the model was trained with (the paper's models: 32)."
            )
