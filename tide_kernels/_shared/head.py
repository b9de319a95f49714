"""The output head of hidden-in ops: products with a [V, d] weight, one row block at a time.

    logits = cap tanh(scale (hidden @ weight.T + bias) / cap), without a cap scale (hidden @ weight.T + bias)

Logits are computed in fp32. If the caller asks for a half dtype, product, bias, scale and cap stay in fp32
and the result is rounded once; bf16 costs 2 to 16 % of the gradient. On CUDA and ROCm, products of half
inputs have fp32 output, and the gradient of the logits enters its products in bf16: they sum thousands of
terms, whose rounding errors cancel. Other devices convert the weight to fp32 tile by tile, so that no second
copy of a head exists.
Legend: N rows, n rows of a row block, V vocabulary entries in use, v entries of a tile, d hidden size.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.backends import WIDE_PRODUCT_DEVICES
from tide_kernels._shared.workspace import ALIGNED_ENTRIES, aligned_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor


# A converted tile of the weight: on a CPU it should stay in the last-level cache between conversion and
# product; on a GPU it must be large enough for an efficient product.
CPU_TILE_BYTES = 16 << 20
GPU_TILE_BYTES = 64 << 20
HALF_DTYPES = (torch.bfloat16, torch.float16)
# Logits are rounded in this many parts of their columns: one buffer for all columns would take more memory
# than the half dtype saves.
ROUNDED_PARTS = 8


class HeadOptions(NamedTuple):
    """Scale and soft-cap of the logits."""

    logit_scale: float = 1.0
    softcap: float = 0.0  # 0 for none


def product_dtype(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    dtype: torch.dtype,
    autocast_dtype: torch.dtype | None,
) -> torch.dtype:
    """dtype of a product's inputs; its output has the accumulation dtype or that of the logits.

    Devices with fp32 output take half inputs unchanged and round wider ones under autocast. Other devices,
    and CPUs, whose half products are slow, multiply in the accumulation dtype.
    """
    if hidden.device.type not in WIDE_PRODUCT_DEVICES or dtype == torch.float64:
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
    """Definition: all logits at once, differentiable, in `dtype`."""
    # Autocast would round the product to a half dtype.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(
            hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )
    logits = logits * options.logit_scale
    return options.softcap * torch.tanh(logits / options.softcap) if options.softcap else logits


class Head:
    """An output head.

    Args:
        weight: [V, d], cut to the vocabulary in use.
        bias: [V] or None, cut likewise.
        options: scale and soft-cap.
        dtype: accumulation dtype.
        product_dtype: dtype of the inputs of products.
        logits_dtype: dtype that logits are rounded to; the accumulation dtype for no rounding.
    """

    def __init__(
        self,
        weight: Float[Tensor, "V d"],
        bias: Float[Tensor, " V"] | None,
        options: HeadOptions,
        dtype: torch.dtype,
        product_dtype: torch.dtype,
        logits_dtype: torch.dtype,
    ) -> None:
        self.weight, self.bias, self.options = weight, bias, options
        self.dtype, self.product_dtype, self.logits_dtype = dtype, product_dtype, logits_dtype
        # bf16 has the range of fp32; in fp16 a gradient of 1e-8 would underflow.
        self.gradient_dtype = product_dtype if product_dtype == torch.bfloat16 else dtype
        self._converted: dict[torch.dtype, Tensor] = {}

    def columns(self, run: slice) -> Head:
        """The head restricted to a run of vocabulary entries."""
        if run == slice(0, self.weight.shape[0]):
            return self
        part = copy.copy(self)
        part.weight = self.weight[run]
        part.bias = None if self.bias is None else self.bias[run]
        return part

    def rounds_through(self, out_dtype: torch.dtype) -> torch.dtype | None:
        """dtype of the buffer that `logits` needs for an `out` of this dtype; None for no buffer."""
        if self.logits_dtype == self.dtype:
            return None
        if out_dtype == self.dtype:
            return self.logits_dtype
        # Without bias, scale and cap the product itself rounds.
        alone = self.bias is None and self.options == HeadOptions()
        return None if alone and self.product_dtype == out_dtype else self.dtype

    def logits(
        self,
        hidden: Float[Tensor, "n d"],
        out: Float[Tensor, "n V"],
        through: Float[Tensor, "n v"] | None = None,
    ) -> Float[Tensor, "n V"]:
        """Write the logits of some rows into `out`, rounded once.

        Args:
            hidden: [n, d].
            out: [n, V], in the accumulation dtype or `logits_dtype`.
            through: from `rounding_buffer`, if `rounds_through` asks for one.
        """
        hidden, num_rows = hidden.to(self.product_dtype), out.shape[0]
        most = None if through is None else through.shape[1]
        # In one product a CPU's library would allocate a buffer the size of `out`, and keep it.
        always = hidden.device.type == "cpu"
        for columns, tile in self._tiles(self.product_dtype, always=always, most=most):
            part = out[:, columns]
            buffer = None if through is None else through[:num_rows, : part.shape[1]]
            made = buffer if buffer is not None and buffer.dtype == self.dtype else part
            multiply(hidden, tile.T, made)
            self._follow(made, columns)
            if buffer is not None:
                part.copy_(buffer if made is buffer else buffer.copy_(made))
        return out

    def _follow(self, product: Float[Tensor, "n v"], columns: slice) -> None:
        """Apply scale, bias and cap to a product in place."""
        scale, cap = self.options
        if scale != 1.0:
            product.mul_(scale)
        if self.bias is not None:
            product.add_(self.bias[columns], alpha=scale)
        if cap:
            product.div_(cap).tanh_().mul_(cap)

    def slope(self, logits: Float[Tensor, "n V"], out: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """Write the derivative of the soft-cap at its output `logits` into `out`."""
        return torch.square(logits, out=out).mul_(-1.0 / self.options.softcap**2).add_(1.0)

    def hidden_gradient(
        self, d_logits: Float[Tensor, "n V"], out: Float[Tensor, "n d"], *, add: bool = False
    ) -> None:
        """Write or add d_logits @ weight to `out`; d_logits has `gradient_dtype`."""
        for columns, tile in self._tiles(self.gradient_dtype):
            multiply(d_logits[:, columns], tile, out, add=add or columns.start > 0)

    def _tiles(
        self, dtype: torch.dtype, *, always: bool = False, most: int | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "v d"]]]:
        """Yield the weight in a dtype: whole if it has it, else in converted tiles of at most `most` entries.

        `always` asks for tiles in either case.
        """
        vocab, width = self.weight.shape
        as_it_is = self.weight.dtype == dtype
        height = vocab if most is None else min(vocab, most)
        if always or not as_it_is:
            height = min(height, tile_rows(width, dtype, self.weight.device))
        if as_it_is:
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


def tile_rows(width: int, dtype: torch.dtype, device: torch.device) -> int:
    """Entries of a head, or of its gradient, per converted tile; at least one."""
    budget = CPU_TILE_BYTES if device.type == "cpu" else GPU_TILE_BYTES
    return max(1, budget // (max(width, 1) * dtype.itemsize))


def cut_to_vocabulary(x: Float[Tensor, "V ..."], vocab: int) -> Float[Tensor, "v ..."]:
    """The first `vocab` rows; x itself if it has no more."""
    return x if x.shape[0] == vocab else x[:vocab]


def rounding_columns(columns: int) -> int:
    """Columns of the buffer through which `columns` columns of logits are rounded."""
    part = -(-columns // ROUNDED_PARTS)
    return min(columns, -(-part // ALIGNED_ENTRIES) * ALIGNED_ENTRIES)


def rounding_bytes(columns: int, dtype: torch.dtype | None) -> int:
    """Bytes of a row of that buffer."""
    return 0 if dtype is None else rounding_columns(columns) * dtype.itemsize


def rounding_buffer(
    num_rows: int, columns: int, dtype: torch.dtype | None, device: torch.device
) -> Float[Tensor, "n v"] | None:
    """Allocate that buffer, uninitialised; None if logits are not rounded."""
    return None if dtype is None else aligned_rows(num_rows, rounding_columns(columns), dtype, device)


def multiply(a: Float[Tensor, "n k"], b: Float[Tensor, "k m"], out: Tensor, *, add: bool = False) -> None:
    """out = a @ b, or out += a @ b; half inputs are summed in fp32 if out is fp32."""
    assert out.dtype == a.dtype or out.device.type in WIDE_PRODUCT_DEVICES
    wider: dict[str, Any] = {} if out.dtype == a.dtype else {"out_dtype": out.dtype}
    if add:
        torch.addmm(out, a, b, out=out, **wider)
    else:
        torch.mm(a, b, out=out, **wider)
