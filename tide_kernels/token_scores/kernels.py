"""Argmax, its log-probability, the entropy and the top-two margin of N rows over V columns.

Grid: SPLITS programs per row, each over its share of the tiles, read x once (2 bytes per entry in bf16) and
keep five numbers; with SPLITS > 1 a second kernel, one program per row, joins them. With m the largest x:

    token    its column, the lowest in a tie
    rest     sum of e^(x - m) over all columns except the token: near p = 1, log p is -rest
    spread   sum of (m - x) e^(x - m): the entropy is log(1 + rest) + spread / (1 + rest)
    second   the largest x of the other columns

A tile whose largest x is below `second` changes neither token nor margin and takes only two sums: almost all
tiles of a long row. Each lane keeps its own over SPAN tiles; other tiles are reduced and joined at once.
Legend: N rows, V vocabulary entries in use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.math_kernels import LOG2E, SERIES_W, log1p, series_excess
from tide_kernels._shared.row_kernels import (
    lane_max,
    lane_sum,
    lane_width,
    load_lanes,
    rest_columns,
    row_start,
    tile_range,
    whole_tiles,
)

RECORD = tl.constexpr(4)
# e^-1000 is 0; 0 * 1000 is 0, but 0 * inf is NaN.
FARTHEST = tl.constexpr(1000.0)
# Tiles whose sums a lane keeps: adding more of them one by one would round the sums more.
SPAN = tl.constexpr(32)
# The token of a record without entries: above every column.
NOWHERE = tl.constexpr(2147483647)


@triton.jit
def distance(high, low):
    """high - low >= 0, at most FARTHEST, also between -inf and -inf. A NaN shows in the sums of e^x."""
    difference = high - low
    return tl.where(difference < FARTHEST, difference, FARTHEST)


@triton.jit
def join_scores(
    m_a, token_a, rest_a, spread_a, second_a, m_b, token_b, rest_b, spread_b, second_b,
):  # fmt: skip
    """Merge the records of two sets of entries: the loser's token joins the winner's other columns."""
    a_wins = (m_a > m_b) | ((m_a == m_b) & (token_a < token_b))
    m, loser = tl.where(a_wins, m_a, m_b), tl.where(a_wins, m_b, m_a)
    token = tl.where(a_wins, token_a, token_b)
    apart = distance(m, loser)
    factor = tl.exp2(-apart * LOG2E)
    loser_sum = 1.0 + tl.where(a_wins, rest_b, rest_a)
    loser_spread = tl.where(a_wins, spread_b, spread_a) + apart * loser_sum
    rest = tl.where(a_wins, rest_a, rest_b) + factor * loser_sum
    spread = tl.where(a_wins, spread_a, spread_b) + factor * loser_spread
    second = tl.where(a_wins, second_a, second_b)
    return m, token, rest, spread, tl.where(second > loser, second, loser)


@triton.jit
def add_tile(x, cols, m, token, rest, spread, second):
    """Add a tile to the record: x [BLOCK_V] fp32, -inf outside the vocabulary."""
    m_tile = tl.max(x, 0)
    if m_tile >= second:
        token_tile = tl.min(tl.where(x == m_tile, cols, NOWHERE), 0)
        others = cols != token_tile
        second_tile = tl.max(tl.where(others, x, float("-inf")), 0)
        base = tl.where(m_tile == float("-inf"), 0.0, m_tile)
        e = tl.where(others, tl.exp2((x - base) * LOG2E), 0.0)
        rest_tile = tl.sum(e, 0)
        spread_tile = tl.sum(e * distance(base, x), 0)
        m, token, rest, spread, second = join_scores(
            m, token, rest, spread, second, m_tile, token_tile, rest_tile, spread_tile, second_tile
        )
    else:
        e = tl.exp2((x - m) * LOG2E)
        rest += tl.sum(e, 0)
        spread += tl.sum(e * distance(m, x), 0)
    return m, token, rest, spread, second


@triton.jit
def store_scores(
    token_ids_ptr, log_p_ptr, entropy_ptr, margin_ptr, row, m, token, rest, spread, second, V,
):  # fmt: skip
    """Compute the scores from the record of a whole row, and store them."""
    # NaN for a row without a finite maximum; a single column would not show it otherwise.
    rest += 0.0 * m
    log_total = log1p(rest)
    # 1 - e^(second - m) without cancellation for near ties; exactly 0 for a tie.
    w = second - m
    gap = tl.where(tl.abs(w) < SERIES_W, -(w + w * w * series_excess(w)), 1.0 - tl.exp2(w * LOG2E))
    # A row of NaN has no token.
    tl.store(token_ids_ptr + row, tl.where(token < V, token, 0).to(tl.int64))
    tl.store(log_p_ptr + row, -log_total)
    tl.store(entropy_ptr + row, log_total + spread / (1.0 + rest))
    tl.store(margin_ptr + row, gap / (1.0 + rest))


@triton.jit
def token_scores_fwd_kernel(
    logits_ptr,  # [N, width] any float
    token_ids_ptr,  # [N] int64
    log_p_ptr,  # [N] fp32, nats
    entropy_ptr,  # [N] fp32, nats
    margin_ptr,  # [N] fp32
    parts_ptr,  # [N, SPLITS, 4] fp32
    part_ids_ptr,  # [N, SPLITS] int32: fp32 is exact to 2**24 only
    logits_stride_n, V,
    LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    # int64: row * stride passes 2**31 at row 14,135 of a 151,936-entry vocabulary.
    row = (tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    LANES: tl.constexpr = BLOCK_V // 16
    ALONE_V: tl.constexpr = BLOCK_V // 4
    WIDTH: tl.constexpr = lane_width(logits_ptr.dtype.element_ty, logits_ptr.dtype.element_ty, LOCKSTEP)
    start_of_row, skip = row_start(row, logits_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    tile, last = tile_range(split, num_tiles, SPLITS)
    columns = tl.arange(0, ALONE_V)
    # A split may hold no entry: merged into another, its record has weight 0.
    m = tl.full((), float("-inf"), tl.float32)
    token = tl.full((), NOWHERE, tl.int32)
    rest = tl.zeros((), tl.float32)
    spread = tl.zeros((), tl.float32)
    second = tl.full((), float("-inf"), tl.float32)
    while tile < last:
        end = tl.minimum(tile + SPAN, last)
        rest_lanes = tl.zeros((LANES,), tl.float32)
        spread_lanes = tl.zeros((LANES,), tl.float32)
        alone = tl.full((), 0, tl.int32)
        while (tile < end) & (alone == 0):
            x = load_lanes(logits_ptr + start_of_row + tile * BLOCK_V, BLOCK_V, WIDTH, LOCKSTEP)
            alone = tl.max((lane_max(x, LANES) >= second).to(tl.int32), 0)
            if alone == 0:
                apart = tl.minimum(m - x, FARTHEST)
                e = tl.exp2((x - m) * LOG2E)
                rest_lanes += lane_sum(e, LANES)
                spread_lanes += lane_sum(e * apart, LANES)
                tile += 1
        rest += tl.sum(rest_lanes, 0)
        spread += tl.sum(spread_lanes, 0)
        for start in range(tile * BLOCK_V, (tile + alone) * BLOCK_V, ALONE_V):
            x = tl.load(logits_ptr + start_of_row + start + columns).to(tl.float32)
            m, token, rest, spread, second = add_tile(
                x, skip + start + columns, m, token, rest, spread, second
            )
        tile += alone
    num_rest = tl.where(split == SPLITS - 1, V - num_tiles * BLOCK_V, 0)
    for start in range(0, num_rest, ALONE_V):
        cols, in_vocab = rest_columns(start + columns, skip, num_tiles * BLOCK_V, V)
        x = tl.load(logits_ptr + start_of_row + (cols - skip), mask=in_vocab, other=float("-inf"))
        m, token, rest, spread, second = add_tile(x.to(tl.float32), cols, m, token, rest, spread, second)
    if SPLITS == 1:
        store_scores(
            token_ids_ptr, log_p_ptr, entropy_ptr, margin_ptr, row, m, token, rest, spread, second, V
        )
    else:
        part_ptr = parts_ptr + (row * SPLITS + split) * RECORD
        tl.store(part_ptr, m)
        tl.store(part_ptr + 1, rest)
        tl.store(part_ptr + 2, spread)
        tl.store(part_ptr + 3, second)
        tl.store(part_ids_ptr + row * SPLITS + split, token)


@triton.jit
def token_scores_join_kernel(
    token_ids_ptr, log_p_ptr, entropy_ptr, margin_ptr, parts_ptr, part_ids_ptr, V, SPLITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part_ptr = parts_ptr + row * SPLITS * RECORD
    ids_ptr = part_ids_ptr + row * SPLITS
    m, rest, spread = tl.load(part_ptr), tl.load(part_ptr + 1), tl.load(part_ptr + 2)
    second, token = tl.load(part_ptr + 3), tl.load(ids_ptr)
    for split in range(1, SPLITS):
        next_ptr = part_ptr + split * RECORD
        m, token, rest, spread, second = join_scores(
            m, token, rest, spread, second,
            tl.load(next_ptr), tl.load(ids_ptr + split), tl.load(next_ptr + 1), tl.load(next_ptr + 2),
            tl.load(next_ptr + 3),
        )  # fmt: skip
    store_scores(token_ids_ptr, log_p_ptr, entropy_ptr, margin_ptr, row, m, token, rest, spread, second, V)
