"""The output head of hidden-in ops: products with a [V, d] weight, a few rows of logits at a time.

    logits = cap tanh(scale (hidden @ weight.T + bias) / cap), without a cap scale (hidden @ weight.T + bias)

Logits are made in fp32, unless the caller asks for a half type: rounding them to bf16 costs 2 to 16 % of
the gradient. A GPU multiplies bf16 inputs with fp32 output, and the gradient of the logits goes back in bf16:
what is summed there is thousands of products, whose roundings cancel. A processor without such a product gets
the weight converted in tiles that are used at once and overwritten, so that no second copy of a head exists.
Legend: N rows, n rows of a chunk, V vocabulary entries in use, v entries of a tile, d hidden size.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor


# A converted tile of the weight; on a CPU it should stay in the last-level cache between conversion and
# product, on a GPU it has to be large enough for one.
CPU_TILE_BYTES = 16 << 20
GPU_TILE_BYTES = 64 << 20
HALF_DTYPES = (torch.bfloat16, torch.float16)


class HeadOptions(NamedTuple):
    """What happens to the product."""

    logit_scale: float = 1.0
    softcap: float = 0.0  # 0 for none


def product_dtype(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    dtype: torch.dtype,
    autocast_dtype: torch.dtype | None,
) -> torch.dtype:
    """The dtype of a product's inputs; its output is in the dtype of accumulation, or in the logits' own.

    A GPU takes half inputs as they are, and under autocast rounds wider ones as it does everywhere. A CPU,
    where half products are slow, works in the dtype of accumulation throughout.
    """
    if hidden.device.type == "cpu" or dtype == torch.float64:
        return dtype
    if hidden.dtype == weight.dtype and weight.dtype in HALF_DTYPES:
        return weight.dtype
    if autocast_dtype is not None:
        return autocast_dtype
    return weight.dtype if hidden.dtype == weight.dtype else dtype


def head_logits(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    options: HeadOptions,
    dtype: torch.dtype,
) -> Float[Tensor, "N V"]:
    """The definition: all logits at once, differentiable, in `dtype`."""
    # Autocast would round the product to a half type.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(
            hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )
    logits = logits * options.logit_scale
    return options.softcap * torch.tanh(logits / options.softcap) if options.softcap else logits


class Head:
    """One output head.

    Args:
        weight: [V, d], cut to the vocabulary in use.
        bias: [V] or None, cut as well.
        options: scale and cap.
        dtype: of accumulation.
        product_dtype: of the inputs of products.
    """

    def __init__(
        self,
        weight: Float[Tensor, "V d"],
        bias: Float[Tensor, " V"] | None,
        options: HeadOptions,
        dtype: torch.dtype,
        product_dtype: torch.dtype,
    ) -> None:
        self.weight, self.options = weight, options
        self.raw_bias = bias
        self.bias = None if bias is None else bias.to(dtype) * options.logit_scale
        self.dtype, self.product_dtype = dtype, product_dtype
        # bf16 has the range of fp32; in fp16 a gradient of 1e-8 would be nothing.
        self.gradient_dtype = product_dtype if product_dtype == torch.bfloat16 else dtype
        self._converted: dict[torch.dtype, Tensor] = {}

    def columns(self, run: slice) -> Head:
        """The head of some entries of the vocabulary."""
        if run == slice(0, self.weight.shape[0]):
            return self
        part = copy.copy(self)
        part.weight = self.weight[run]
        part.bias = None if self.bias is None else self.bias[run]
        part.raw_bias = None if self.raw_bias is None else self.raw_bias[run]
        return part

    def logits(self, hidden: Float[Tensor, "n d"], out: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """Logits of some rows, written into `out`, which has the dtype of accumulation or of products."""
        hidden = hidden.to(self.product_dtype)
        # In one product a CPU's library would take a buffer as large as `out`, and keep it.
        for columns, tile in self._tiles(self.product_dtype, always=hidden.device.type == "cpu"):
            multiply(hidden, tile.T, out[:, columns])
        scale, cap = self.options
        if scale != 1.0:
            out.mul_(scale)
        if self.bias is not None:
            out.add_(self.bias)
        return out.div_(cap).tanh_().mul_(cap) if cap else out

    def slope(self, logits: Float[Tensor, "n V"], out: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """What a cap multiplies the gradient of its output by, written into `out`; 1 without a cap."""
        return torch.square(logits, out=out).mul_(-1.0 / self.options.softcap**2).add_(1.0)

    def hidden_gradient(
        self, d_logits: Float[Tensor, "n V"], out: Float[Tensor, "n d"], *, add: bool = False
    ) -> None:
        """d_logits @ weight, written into or added to `out`; d_logits in the gradient's dtype."""
        for columns, tile in self._tiles(self.gradient_dtype):
            multiply(d_logits[:, columns], tile, out, add=add or columns.start > 0)

    def _tiles(
        self, dtype: torch.dtype, *, always: bool = False
    ) -> Iterator[tuple[slice, Float[Tensor, "v d"]]]:
        """The weight in a dtype: whole if it has that and nobody asks for tiles, else in converted tiles."""
        vocab, width = self.weight.shape
        as_it_is = self.weight.dtype == dtype
        budget = CPU_TILE_BYTES if self.weight.device.type == "cpu" else GPU_TILE_BYTES
        height = min(vocab, max(1, budget // (max(width, 1) * dtype.itemsize)))
        if as_it_is:
            height = height if always else vocab
            for start in range(0, vocab, height):
                yield slice(start, min(start + height, vocab)), self.weight[start : start + height]
            return
        if dtype not in self._converted or self._converted[dtype].shape[0] < height:
            self._converted[dtype] = torch.empty((height, width), dtype=dtype, device=self.weight.device)
        for start in range(0, vocab, height):
            part = self.weight[start : start + height]
            yield (
                slice(start, start + part.shape[0]),
                self._converted[dtype][: part.shape[0]].copy_(part),
            )


def cut_to_vocabulary(x: Float[Tensor, "V ..."], vocab: int) -> Float[Tensor, "v ..."]:
    """The first `vocab` rows; x itself if that is all."""
    return x if x.shape[0] == vocab else x[:vocab]


def multiply(a: Float[Tensor, "n k"], b: Float[Tensor, "k m"], out: Tensor, *, add: bool = False) -> None:
    """out = a @ b, or out += a @ b; summed in fp32 where a and b are of a half type and out is not."""
    if out.dtype != a.dtype and out.device.type == "cpu":
        # Only GPUs have a product whose output has another dtype.
        product = a @ b
        out.copy_(out + product if add else product)
        return
    wider: dict[str, Any] = {} if out.dtype == a.dtype else {"out_dtype": out.dtype}
    if add:
        torch.addmm(out, a, b, out=out, **wider)
    else:
        torch.mm(a, b, out=out, **wider)
