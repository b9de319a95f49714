"""Device functions that iterate over a row: whole tiles with aligned loads, then the remaining columns.

Legend: V vocabulary entries in use; skip: leading entries before the first 16-byte boundary.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_start(row, stride_n, LOCKSTEP: tl.constexpr):
    """(offset of the first 16-byte aligned entry of a row, number of entries before it).

    If V is odd, rows start anywhere. With LOCKSTEP all tensors are 16-byte aligned and have equal strides
    modulo 8, so that skipping the same few entries aligns them all.
    """
    offset = row * stride_n
    skip = tl.zeros((), tl.int32)
    if LOCKSTEP:
        skip = ((8 - offset % 8) % 8).to(tl.int32)
        offset = tl.multiple_of(offset + skip, 8)
    return offset, skip


@triton.jit
def rest_columns(index, skip, end_of_tiles, V):
    """Columns outside the whole tiles: first those before `skip`, then those after the last tile."""
    cols = tl.where(index < skip, index, end_of_tiles + index)
    return cols, cols < V


@triton.jit
def whole_tiles(V, skip, BLOCK_V: tl.constexpr):
    """Number of whole tiles of BLOCK_V columns after the first `skip`."""
    return tl.maximum(V - skip, 0) // BLOCK_V


@triton.jit
def tile_range(split, num_tiles, SPLITS: tl.constexpr):
    """Range of whole tiles of one of SPLITS programs that share a row."""
    per_split = tl.cdiv(num_tiles, SPLITS)
    first = tl.minimum(split * per_split, num_tiles)
    return first, tl.minimum(first + per_split, num_tiles)


@triton.jit
def fill_zeros(out_ptr, out_start, first, last, BLOCK_V: tl.constexpr):
    """Store 0 in columns [first, last) of a row."""
    lanes = tl.arange(0, BLOCK_V)
    zeros = tl.zeros((BLOCK_V,), out_ptr.dtype.element_ty)
    for start in range(first, last, BLOCK_V):
        tl.store(out_ptr + out_start + start + lanes, zeros, mask=start + lanes < last)
