"""log softmax(x) at one token, of N rows over V columns, and its gradient, onehot - softmax(x).

Grid: SPLITS programs per row. Forward reads x once (2 bytes per entry in bf16) and keeps its maximum and the
sum of the other exponentials; with SPLITS > 1 a second kernel, one program per row, joins the records.
Backward reads x again and writes the gradient (4 bytes), rows in reverse order: the last ones read are still
in the L2 cache. The token is excluded from the sum: near p = 1, log p is the sum of the others.

Statistics of a row, [N, 4] fp32: max x log2(e), 1 / sum of exp(x - max x), 1 - p_token, unused.
Legend: N rows, V vocabulary entries in use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_value
from tide_kernels._shared.math_kernels import LOG2E, softcap_slope
from tide_kernels._shared.row_kernels import fill_zeros, rest_columns, row_start, tile_range, whole_tiles

STATISTICS = tl.constexpr(4)
RECORD = tl.constexpr(2)


@triton.jit
def exponentials_tile(x, cols, label, has_label_here):
    """(max x log2(e), sum of exp(x - max x) over all columns except the label) of one tile."""
    mk = tl.max(x, 0) * LOG2E
    e = tl.exp2(x * LOG2E - tl.where(mk == float("-inf"), 0.0, mk))
    if has_label_here:
        e = tl.where(cols == label, 0.0, e)
    return mk, tl.sum(e, 0)


@triton.jit
def join_exponentials(mk_a, rest_a, mk_b, rest_b):
    """Merge the records of two sets of entries."""
    mk = tl.maximum(mk_a, mk_b)
    base = tl.where(mk == float("-inf"), 0.0, mk)
    return mk, rest_a * tl.exp2(mk_a - base) + rest_b * tl.exp2(mk_b - base)


@triton.jit
def store_token_statistics(statistics_ptr, row, mk, inverse, share, mask):
    """Store the statistics of one row or of several."""
    row_ptr = statistics_ptr + row * STATISTICS
    tl.store(row_ptr, mk, mask=mask)
    tl.store(row_ptr + 1, inverse, mask=mask)
    tl.store(row_ptr + 2, share, mask=mask)
    tl.store(row_ptr + 3, tl.zeros_like(mk), mask=mask)


@triton.jit
def finish_token_logprob(
    logits_ptr, log_p_ptr, statistics_ptr, logits_stride_n, V, row, label, active, mk, rest,
):  # fmt: skip
    """Compute log-probability and statistics from the record of a whole row, and store them."""
    log_p, inverse, share = label_value(
        logits_ptr + row * logits_stride_n, label, V, active, mk, rest, LOG2E, 1.0
    )
    tl.store(log_p_ptr + row, tl.where(active, log_p, 0.0))
    mk, inverse = tl.where(active, mk, 0.0), tl.where(active, inverse, 0.0)
    store_token_statistics(statistics_ptr, row, mk, inverse, tl.where(active, share, 0.0), True)


@triton.jit
def row_label(row, token_ids_ptr, mask_ptr, HAS_MASK: tl.constexpr):
    """(token; active: False for a masked row, whose id is not read)."""
    active = tl.full((), 1, tl.int1)
    if HAS_MASK:
        active = tl.load(mask_ptr + row) != 0
    return tl.load(token_ids_ptr + row, mask=active, other=0).to(tl.int32), active


@triton.jit
def token_logprob_fwd_kernel(
    logits_ptr,  # [N, width] any float
    token_ids_ptr,  # [N] int64
    mask_ptr,  # [N] bool
    log_p_ptr,  # [N] fp32, nats
    statistics_ptr,  # [N, 4] fp32
    parts_ptr,  # [N, SPLITS, 2] fp32
    logits_stride_n, V,
    HAS_MASK: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    # int64: row * stride passes 2**31 at row 14,135 of a 151,936-entry vocabulary.
    row = (tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    label, active = row_label(row, token_ids_ptr, mask_ptr, HAS_MASK)
    start_of_row, skip = row_start(row, logits_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    first, last = tile_range(split, num_tiles, SPLITS)
    lanes = tl.arange(0, BLOCK_V)
    mk = tl.full((), float("-inf"), tl.float32)
    rest = tl.zeros((), tl.float32)
    for tile in range(first, tl.where(active, last, first)):
        start = tile * BLOCK_V
        x = tl.load(logits_ptr + start_of_row + start + lanes).to(tl.float32)
        here = (label >= skip + start) & (label < skip + start + BLOCK_V)
        mk_tile, rest_tile = exponentials_tile(x, skip + start + lanes, label, here)
        mk, rest = join_exponentials(mk, rest, mk_tile, rest_tile)
    num_rest = tl.where(active & (split == SPLITS - 1), V - num_tiles * BLOCK_V, 0)
    for start in range(0, num_rest, BLOCK_V):
        cols, in_vocab = rest_columns(start + lanes, skip, num_tiles * BLOCK_V, V)
        x = tl.load(logits_ptr + start_of_row + (cols - skip), mask=in_vocab, other=float("-inf"))
        mk_tile, rest_tile = exponentials_tile(x.to(tl.float32), cols, label, True)
        mk, rest = join_exponentials(mk, rest, mk_tile, rest_tile)
    if SPLITS == 1:
        finish_token_logprob(
            logits_ptr, log_p_ptr, statistics_ptr, logits_stride_n, V, row, label, active, mk, rest
        )
    else:
        tl.store(parts_ptr + (row * SPLITS + split) * RECORD, mk)
        tl.store(parts_ptr + (row * SPLITS + split) * RECORD + 1, rest)


@triton.jit
def token_logprob_join_kernel(
    logits_ptr, token_ids_ptr, mask_ptr, log_p_ptr, statistics_ptr, parts_ptr,
    logits_stride_n, V,
    HAS_MASK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label, active = row_label(row, token_ids_ptr, mask_ptr, HAS_MASK)
    part_ptr = parts_ptr + row * SPLITS * RECORD
    mk, rest = tl.load(part_ptr), tl.load(part_ptr + 1)
    for split in range(1, SPLITS):
        mk, rest = join_exponentials(
            mk, rest, tl.load(part_ptr + split * RECORD), tl.load(part_ptr + split * RECORD + 1)
        )
    finish_token_logprob(
        logits_ptr, log_p_ptr, statistics_ptr, logits_stride_n, V, row, label, active, mk, rest
    )


@triton.jit
def token_gradient(x, cols, label, mk, scale, at_label):
    """[BLOCK_V] fp32: scale * exp(x - max x); at_label in the label's column."""
    return tl.where(cols == label, at_label, tl.exp2(x * LOG2E - mk) * scale)


# Not specialised: N differs from batch to batch, and each variant is a compilation.
@triton.jit(do_not_specialize=["N"])
def token_logprob_bwd_kernel(
    logits_ptr, token_ids_ptr, mask_ptr, statistics_ptr,
    d_log_p_ptr,  # [N] fp32
    d_logits_ptr,  # [N, width], the logits' dtype; may alias logits_ptr
    logits_stride_n, d_logits_stride_n, V, width,
    inverse_softcap,  # 1 / soft-cap of the logits
    N,
    HAS_MASK: tl.constexpr, HAS_SOFTCAP: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = (N - 1 - tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    label, active = row_label(row, token_ids_ptr, mask_ptr, HAS_MASK)
    d_log_p = tl.load(d_log_p_ptr + row).to(tl.float32)
    mk = tl.load(statistics_ptr + row * STATISTICS)
    scale = -d_log_p * tl.load(statistics_ptr + row * STATISTICS + 1)
    # 1 - p as the sum of the others: accurate where p rounds to 1.
    at_label = d_log_p * tl.load(statistics_ptr + row * STATISTICS + 2)
    start_of_row, skip = row_start(row, logits_stride_n, LOCKSTEP)
    start_of_out, _ = row_start(row, d_logits_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    first, last = tile_range(split, num_tiles, SPLITS)
    lanes = tl.arange(0, BLOCK_V)
    if active:
        for tile in range(first, last):
            start = tile * BLOCK_V
            x = tl.load(logits_ptr + start_of_row + start + lanes).to(tl.float32)
            d_x = token_gradient(x, skip + start + lanes, label, mk, scale, at_label)
            if HAS_SOFTCAP:
                d_x *= softcap_slope(x, inverse_softcap)
            tl.store(d_logits_ptr + start_of_out + start + lanes, d_x.to(d_logits_ptr.dtype.element_ty))
        for start in range(0, tl.where(split == SPLITS - 1, V - num_tiles * BLOCK_V, 0), BLOCK_V):
            cols, in_vocab = rest_columns(start + lanes, skip, num_tiles * BLOCK_V, V)
            offsets = cols - skip
            x = tl.load(logits_ptr + start_of_row + offsets, mask=in_vocab, other=0.0).to(tl.float32)
            d_x = token_gradient(x, cols, label, mk, scale, at_label)
            if HAS_SOFTCAP:
                d_x *= softcap_slope(x, inverse_softcap)
            tl.store(
                d_logits_ptr + start_of_out + offsets, d_x.to(d_logits_ptr.dtype.element_ty), mask=in_vocab
            )
    if split == SPLITS - 1:
        fill_zeros(d_logits_ptr, start_of_out - skip, tl.where(active, V, 0), width, BLOCK_V)
