"""`triton` backend of linear_token_logprob: forward without logits.

Backward works by runs of columns, as in `chunked.py`, with the backward kernel of `token_logprob`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from tide_kernels._shared.backends import interpreted
from tide_kernels._shared.launch import blocks_for, on_device
from tide_kernels._shared.workspace import row_steps
from tide_kernels.linear_token_logprob import chunked
from tide_kernels.linear_token_logprob.chunked import TokenLogprobCall, backward
from tide_kernels.linear_token_logprob.kernels import (
    linear_token_logprob_fwd_kernel,
    linear_token_logprob_join_kernel,
)
from tide_kernels.token_logprob import launch as of_logits
from tide_kernels.token_logprob.kernels import STATISTICS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels.linear_token_logprob.chunked import TokenLogprobArguments, TokenLogprobSettings

__all__ = ["backward", "forward"]

# Rows and depth of a product's tile; its columns and warps are in blocks.json.
BLOCK_N = 128
BLOCK_D = {2: 64, 4: 16}  # by bytes per input element
JOIN_BLOCK_N, JOIN_BLOCK_T = 16, 64
PARTS = 2  # numbers per row and tile


def forward(
    arguments: TokenLogprobArguments, settings: TokenLogprobSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"], Float[Tensor, "N V"]]:
    """(log_p, statistics as in `token_logprob/kernels.py`, all logits if kept, else empty)."""
    call = TokenLogprobCall(arguments, settings)
    if settings.keep:
        kept = call.buffer(call.vocabulary.size, settings.kept_dtype)
        for run in call.runs[1]:
            call.logits(run, kept[:, run])
        return *of_logits.forward(kept, arguments.token_ids, None, call.vocabulary.size), kept
    if not _product_fits(call):
        log_p, fields, none = chunked.forward(arguments, settings)
        _, row_max, rest, total = fields.unbind(1)
        zero = torch.zeros_like(row_max)
        return log_p, torch.stack([row_max / math.log(2), 1 / total, rest / total, zero], 1), none
    log_p, statistics = _without_logits(call)
    return log_p, statistics, log_p.new_empty((0, 0), dtype=settings.kept_dtype)


def _product_fits(call: TokenLogprobCall) -> bool:
    """True if the forward kernel takes the inputs unchanged: one dtype, that of products; aligned rows.

    Hidden sizes of real models always qualify; with others the kernel would load entry by entry, and spill.
    """
    hidden, weight = call.arguments.hidden, call.head.weight
    # On a CPU, in the interpreter, the kernel widens them itself.
    as_they_are = hidden.dtype == call.head.product_dtype or hidden.device.type == "cpu"
    aligned = weight.stride(1) == 1 and not any(n % 16 for n in (hidden.shape[1], weight.stride(0)))
    return hidden.dtype == weight.dtype and as_they_are and aligned and weight.data_ptr() % 16 == 0


def _without_logits(call: TokenLogprobCall) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"]]:
    """(log_p, statistics) of all rows, in slices whose parts fit the workspace."""
    settings = call.settings
    hidden, token_ids = call.arguments.hidden.contiguous(), call.arguments.token_ids.contiguous()
    weight, bias = call.head.weight, call.head.bias
    bias = None if bias is None else bias.contiguous()
    (num_rows, width), vocab, device = hidden.shape, weight.shape[0], hidden.device
    blocks = blocks_for("linear_token_logprob_fwd", device)
    num_tiles = -(-vocab // blocks.block_v)
    wide: dict[str, Any] = {"dtype": torch.float32, "device": device}
    log_p, label_logit = torch.empty(num_rows, **wide), torch.empty(num_rows, **wide)
    statistics = torch.empty((num_rows, STATISTICS.value), **wide)
    if num_rows == 0:
        return log_p, statistics
    part_bytes = num_tiles * PARTS * torch.float32.itemsize
    step = rows_at_once(num_rows, part_bytes, settings.workspace_bytes)
    parts = torch.empty((num_tiles, PARTS, step), **wide)
    for rows in row_steps(num_rows, step):
        count = rows.stop - rows.start
        block_n = max(16, min(BLOCK_N, 1 << (count - 1).bit_length()))
        per_row = (token_ids[rows], label_logit[rows], parts)
        with on_device(device):
            linear_token_logprob_fwd_kernel[(num_tiles * -(-count // block_n),)](
                hidden[rows],
                weight,
                bias,
                *per_row,
                hidden.stride(0),
                weight.stride(0),
                count,
                vocab,
                width,
                settings.logit_scale,
                settings.softcap,
                HAS_BIAS=bias is not None,
                HAS_SOFTCAP=settings.softcap != 0.0,
                ROUNDED=settings.logits_dtype != settings.dtype,
                # The interpreter has no bf16 arithmetic.
                WIDEN=interpreted() and hidden.dtype != torch.float32,
                BLOCK_N=block_n,
                BLOCK_V=blocks.block_v,
                BLOCK_D=BLOCK_D[hidden.dtype.itemsize],
                **blocks.options(),
            )
            linear_token_logprob_join_kernel[(-(-count // JOIN_BLOCK_N),)](
                *per_row,
                log_p[rows],
                statistics[rows],
                count,
                vocab,
                num_tiles,
                BLOCK_N=JOIN_BLOCK_N,
                BLOCK_T=JOIN_BLOCK_T,
                num_warps=1,
            )
    return log_p, statistics


def rows_at_once(num_rows: int, row_bytes: int, budget: int) -> int:
    """Rows whose parts fit the budget, at least one: a multiple of BLOCK_N if possible."""
    most = min(num_rows, max(1, budget // row_bytes))
    # Slices that start at a multiple of BLOCK_N keep their alignment; others would need another compilation.
    return most if most == num_rows or most < BLOCK_N else most - most % BLOCK_N
