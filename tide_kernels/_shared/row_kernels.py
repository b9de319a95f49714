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


@triton.jit
def propagating_max(a, b):
    """The larger; NaN if one is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def by_lane(x, LANES: tl.constexpr):
    """A tile as [entries, LANES, entries]: reducing the first and last axis stays within a lane."""
    return tl.reshape(x, (x.shape[0] // LANES, LANES, x.shape[1]))


@triton.jit
def lane_sum(x, LANES: tl.constexpr):
    """[LANES] sums of a tile."""
    return tl.sum(tl.sum(by_lane(x, LANES), 2), 0)


@triton.jit
def lane_max(x, LANES: tl.constexpr):
    """[LANES] largest entries of a tile; a NaN may be ignored."""
    return tl.max(tl.max(by_lane(x, LANES), 2), 0)


@triton.jit
def lane_max_nan(x, LANES: tl.constexpr):
    """[LANES] largest entries of a tile, NaN where an entry is NaN."""
    return tl.reduce(tl.reduce(by_lane(x, LANES), 2, propagating_max), 0, propagating_max)


@triton.constexpr_function
def lane_width(a_type, b_type, lockstep):
    """Consecutive columns of a lane: 16 bytes of the narrower dtype; 1 for rows that share no alignment."""
    if not lockstep:
        return 1
    return 4 if a_type == tl.float32 and b_type == tl.float32 else 8


@triton.jit
def load_lanes(ptr, BLOCK_V: tl.constexpr, WIDTH: tl.constexpr, LOCKSTEP: tl.constexpr):
    """A tile of a row as [BLOCK_V / WIDTH, WIDTH] fp32: WIDTH consecutive columns in a lane."""
    rows = tl.arange(0, BLOCK_V // WIDTH)[:, None]
    if (ptr.dtype.element_ty == tl.bfloat16) and LOCKSTEP:
        # As 32-bit pairs, which need their alignment: one shift or mask per entry, where the conversion of
        # an upper half takes two instructions.
        pairs = tl.load(
            ptr.to(tl.pointer_type(tl.int32), bitcast=True)
            + (rows * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :])
        )
        even = (pairs << 16).to(tl.float32, bitcast=True)
        odd = (pairs & -65536).to(tl.float32, bitcast=True)
        x = tl.reshape(tl.join(even, odd), (BLOCK_V // WIDTH, WIDTH))
    else:
        x = tl.load(ptr + rows * WIDTH + tl.arange(0, WIDTH)[None, :]).to(tl.float32)
    return x
