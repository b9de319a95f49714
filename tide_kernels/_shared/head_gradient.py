"""Gradients of hidden states, weight and bias, accumulated from parts of the logits' gradient.

Only the `needed` ones (of hidden states, weight, bias) are allocated and computed; the others are empty.
Legend: N rows, n rows of a row block, V entries of the weight, v entries in use or of a run, d hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.head import multiply, tile_rows
from tide_kernels._shared.workspace import row_steps

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels._shared.head import Head
    from tide_kernels._shared.vocabulary import Vocabulary


class _Gradient:
    """The three gradients: uninitialised, and zero for vocabulary entries not in use."""

    def __init__(
        self,
        head: Head,
        hidden: Float[Tensor, "N d"],
        weight: Float[Tensor, "V d"],
        bias: Float[Tensor, " V"] | None,
        needed: tuple[bool, bool, bool],
    ) -> None:
        self.head, self.needed, self.hidden_dtype = head, needed, hidden.dtype
        in_use, device = head.weight.shape[0], hidden.device
        shapes = (hidden.shape, weight.shape, weight.shape[:1])
        self.d_hidden, self.d_weight, self.d_bias = (
            torch.empty(shape if asked else (0,), dtype=dtype, device=device)
            for shape, asked, dtype in zip(shapes, needed, self._dtypes(weight, bias), strict=True)
        )
        if hidden.shape[0] == 0:
            in_use = 0  # no product runs
        self.d_weight[in_use:].zero_()
        self.d_bias[in_use:].zero_()

    def _dtypes(
        self, weight: Float[Tensor, "V d"], bias: Float[Tensor, " V"] | None
    ) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        """dtypes of the three gradients: the accumulation dtype where terms are added."""
        return self.head.dtype, self.head.dtype, self.head.dtype

    @property
    def wanted(self) -> bool:
        """True if any gradient is needed."""
        return any(self.needed)


class GradientByRows(_Gradient):
    """From row blocks: writes rows of the hidden states' gradient once, adds to the weight's.

    All in the accumulation dtype.
    """

    def add(self, rows: slice, hidden: Float[Tensor, "n d"], d_logits: Float[Tensor, "n v"]) -> None:
        """Add the next row block: its hidden states and the gradient of its product."""
        d_logits = d_logits.to(self.head.gradient_dtype)
        vocab, later = d_logits.shape[1], rows.start > 0
        if self.needed[0]:
            self.head.hidden_gradient(d_logits, self.d_hidden[rows])
        if self.needed[1]:
            # The first row block is written, so the gradient need not be zeroed or read.
            multiply(d_logits.T, hidden.to(d_logits.dtype), self.d_weight[:vocab], add=later)
        if self.needed[2]:
            share = d_logits.sum(0, dtype=self.head.dtype)
            self.d_bias[:vocab] = self.d_bias[:vocab] + share if later else share

    def made(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of hidden states, weight and bias."""
        return vocabulary.total(self.d_hidden), self.d_weight, self.d_bias


class GradientByColumns(_Gradient):
    """From runs of the vocabulary: writes rows of the weight's gradient once, in the weight's dtype, and adds
    to the hidden states' in the accumulation dtype.

    `add` takes `hidden` in the product dtype, since all runs read it. A product in another dtype than the
    weight's is rounded tile by tile.
    """

    _tile: Float[Tensor, "h d"] | None = None

    def _dtypes(
        self, weight: Float[Tensor, "V d"], bias: Float[Tensor, " V"] | None
    ) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        return self.head.dtype, weight.dtype, self.head.dtype if bias is None else bias.dtype

    def add(self, run: slice, hidden: Float[Tensor, "N d"], d_logits: Float[Tensor, "N v"]) -> None:
        """Add the next run: all hidden states and the gradient of its product."""
        assert hidden.dtype == self.head.gradient_dtype
        d_logits = d_logits.to(self.head.gradient_dtype)
        if self.needed[0]:
            self.head.columns(run).hidden_gradient(d_logits, self.d_hidden, add=run.start > 0)
        if self.needed[1] and hidden.shape[0] > 0:
            self._write_weight(d_logits, hidden, self.d_weight[run])
        if self.needed[2]:
            self.d_bias[run] = d_logits.sum(0, dtype=self.head.dtype)

    def _write_weight(
        self, d_logits: Float[Tensor, "N v"], hidden: Float[Tensor, "N d"], out: Float[Tensor, "v d"]
    ) -> None:
        dtype, (entries, width) = self.head.dtype, out.shape
        if out.dtype in (d_logits.dtype, dtype):
            multiply(d_logits.T, hidden, out)
            return
        height = min(entries, tile_rows(width, dtype, out.device))
        if self._tile is None or self._tile.shape[0] < height:
            self._tile = torch.empty((height, width), dtype=dtype, device=out.device)
        for part in row_steps(entries, height):
            tile = self._tile[: part.stop - part.start]
            multiply(d_logits[:, part].T, hidden, tile)
            out[part].copy_(tile)

    def made(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of hidden states, weight and bias, each in its dtype."""
        return vocabulary.total(self.d_hidden).to(self.hidden_dtype), self.d_weight, self.d_bias
