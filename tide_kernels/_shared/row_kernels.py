"""Device functions that walk a row of logits: whole tiles in aligned loads, and the columns around them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_start(row, stride_n, LOCKSTEP: tl.constexpr):
    """Offset of the first entry of a row that lies on 16 bytes, and how many lie before it.

    Where V is odd, rows begin anywhere. With LOCKSTEP, all tensors have the same strides modulo 8 and begin
    on 16 bytes, so that skipping the same few entries aligns them all.
    """
    offset = row * stride_n
    skip = tl.zeros((), tl.int32)
    if LOCKSTEP:
        skip = ((8 - offset % 8) % 8).to(tl.int32)
        offset = tl.multiple_of(offset + skip, 8)
    return offset, skip


@triton.jit
def rest_columns(index, skip, end_of_tiles, V):
    """Columns that whole tiles leave out: those before the first 16 bytes, then those after the last tile."""
    cols = tl.where(index < skip, index, end_of_tiles + index)
    return cols, cols < V


@triton.jit
def whole_tiles(V, skip, BLOCK_V: tl.constexpr):
    """How many tiles of BLOCK_V columns fit behind the first `skip`."""
    return tl.maximum(V - skip, 0) // BLOCK_V


@triton.jit
def tile_range(split, num_tiles, SPLITS: tl.constexpr):
    """First and last whole tile of one of SPLITS programs that share a row."""
    per_split = tl.cdiv(num_tiles, SPLITS)
    first = tl.minimum(split * per_split, num_tiles)
    return first, tl.minimum(first + per_split, num_tiles)


@triton.jit
def fill_zeros(out_ptr, out_start, first, last, BLOCK_V: tl.constexpr):
    """0 in columns [first, last) of a row."""
    lanes = tl.arange(0, BLOCK_V)
    zeros = tl.zeros((BLOCK_V,), out_ptr.dtype.element_ty)
    for start in range(first, last, BLOCK_V):
        tl.store(out_ptr + out_start + start + lanes, zeros, mask=start + lanes < last)
