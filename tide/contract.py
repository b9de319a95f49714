"""The contract of a model: how it was trained to read a text. Each model has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

InBlock = Literal["bidirectional", "observed_first"]


@dataclass(frozen=True)
class Contract:
    """How a model reads a text, and what it was trained at.

    A diffusion model reads a noised text x_t, and where it has blocks, the clean text x_0 of earlier blocks.
    An autoregressive model reads x_0 alone, each token those before it.

    Attributes:
        mask_id: id of the mask token; None for an autoregressive model.
        block_size: tokens per block; blocks are counted from the start of the text, the last may be short.
            None: the whole text is one block, and there is no clean text beside it.
        in_block: what a token sees of its own block. "bidirectional": all of it, clean blocks likewise.
            "observed_first": a masked token sees the observed ones, and equals up to itself; x_0 is causal.
        shift: output i predicts token i + shift.
        rates: lowest and highest mask rate that the model was trained at.
    Raises:
        ValueError: in_block or shift has another value, block_size is below 1, or rates are not within
            [0, 1] in order.
    """

    mask_id: int | None
    block_size: int | None
    in_block: InBlock = "bidirectional"
    shift: Literal[0, 1] = 0
    rates: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        # Layouts would take any other value for bidirectional blocks.
        if self.in_block not in get_args(InBlock) or self.shift not in (0, 1):
            raise ValueError(
                f"Contract: in_block must be one of {', '.join(get_args(InBlock))}, and shift 0 or 1; got "
                f"{self.in_block!r}, {self.shift!r}. Give what the model was trained with."
            )
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(
                f"Contract: block_size must be at least 1; got {self.block_size}. "
                "Give the size that the model was trained with (the paper's models: 32)."
            )
        low, high = self.rates
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"Contract: rates must lie within [0, 1], the lower one first; got {self.rates}. "
                "Give the rates that the model was trained at (LLaDA2: 0.3, 0.8)."
            )

    @property
    def autoregressive(self) -> bool:
        """True if the model reads the clean text alone."""
        return self.mask_id is None

    @property
    def block_diffusion(self) -> bool:
        """True if the model denoises bidirectional blocks, each token at its own place."""
        return self.block_size is not None and self.in_block == "bidirectional" and not self.shift

    @property
    def separate_segments(self) -> bool:
        """True if a token sees its own copy of the text alone, all of it or what is before."""
        return self.block_size is None and (self.autoregressive or self.in_block == "bidirectional")


AUTOREGRESSIVE = Contract(mask_id=None, block_size=None, in_block="observed_first", shift=1)
