"""Device functions of both divergences: the record of a row, in spans of tiles with sums kept per lane.

`tilt_kernels.py` defines the record and takes a tile on its own: several reductions over the program and a
merge. Here up to SPAN tiles share the centre and the unit of the record so far. Each lane sums its own
entries of all of them; one reduction, one shift to the span's own mean and one merge follow.

A tile ends its span and is taken on its own if

- some w = scale (z - s) - c leaves +-REACH or is NaN: an outlier, or p e^w may be out of range;
- some s rises RISE nats over the record's unit, as in the first tile: the unit would overflow;
- it holds the label, whose exponential must stay out of `rest`.

A centre that is off by delta costs a span's sums eps delta^2 of its share of the mass, while the row's
divergence grows by delta^2 / 2 of the product of both shares. So a span that outweighs all before it
OUTWEIGH-fold is summed again, tile by tile.

Per entry, a span of a row that is known to differ takes p, p e^w and their product with w; other spans take
e^w - 1 - w by its series.
Legend: V vocabulary entries in use, BLOCK_V columns of a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_exponentials
from tide_kernels._shared.math_kernels import LOG2E, log1p
from tide_kernels._shared.row_kernels import (
    lane_max,
    lane_max_nan,
    lane_sum,
    lane_width,
    load_lanes,
    rest_columns,
    row_start,
    tile_range,
    whole_tiles,
)
from tide_kernels.divergence.tilt_kernels import merge, shift, tilt_tile

# Tiles of a span: its reductions and merge, some 250 instructions, are then 1 per entry.
SPAN = tl.constexpr(16)
# Largest |w| within a span. An entry whose p underflows has e^(40 - 87) of the target, which is negligible.
REACH = tl.constexpr(40.0)
# Nats at min(T, 1) by which s may rise over the unit: p < 16, also at T = 1.
RISE = tl.constexpr(2.77)
OUTWEIGH = tl.constexpr(4.0)
# Above this E[e^w - 1] spans are summed plainly: an error of a few eps beside a divergence of that order.
PLAIN_TILT = tl.constexpr(0.2)
# e^w - 1 - w by its series below this |w|, by subtraction above: relative errors of 2e-7, and 4e-7 plus four
# times the exponential's.
NEAR_W = tl.constexpr(1.0)
# What a tile needs: series only, subtraction too, to be taken on its own.
NEAR = tl.constexpr(0)
MIXED = tl.constexpr(1)
ALONE = tl.constexpr(2)


@triton.jit
def excess(w, CLOSE: tl.constexpr):
    """e^w - 1 - w; with CLOSE for |w| < NEAR_W only."""
    # (e^w - 1 - w) / w^2, minimax of degree 6.
    high = 0.0083309305 + w * (0.0013891335 + w * (0.00020325486 + w * 2.4960813e-05))
    series = w * w * (0.5 + w * (0.16666696 + w * (0.041666516 + w * high)))
    return series if CLOSE else tl.where(tl.abs(w) < NEAR_W, series, tl.exp2(w * LOG2E) - 1.0 - w)


@triton.jit
def tile_verdict(student, w, highest, LANES: tl.constexpr):
    """NEAR, MIXED or ALONE for a tile; one vote of all lanes."""
    widest = lane_max_nan(tl.abs(w), LANES)
    within = (widest <= REACH) & (lane_max(student, LANES) <= highest)
    verdict = tl.where(within, tl.where(widest < NEAR_W, NEAR, MIXED), ALONE)
    return tl.max(verdict, 0)


@triton.jit
def series_sums(p, w, LANES: tl.constexpr, LINEAR: tl.constexpr, CLOSE: tl.constexpr):
    """Sums per lane of p (e^w - 1) and p (w e^w - e^w + 1), or of p w and p (e^w - 1 - w) if LINEAR."""
    h = excess(w, CLOSE)
    if LINEAR:
        first, second = p * w, p * h
    else:
        grown = w + h
        first, second = p * grown, p * (w * grown - h)
    return lane_sum(first, LANES), lane_sum(second, LANES)


@triton.jit
def plain_sums(log_p, p, w, LANES: tl.constexpr, LINEAR: tl.constexpr):
    """Sums per lane of p e^w and p w e^w, or of p w and p e^w if LINEAR."""
    tilted = tl.exp2(w * LOG2E + log_p)
    if LINEAR:
        first, second = p * w, tilted
    else:
        first, second = tilted, w * tilted
    return lane_sum(first, LANES), lane_sum(second, LANES)


@triton.jit
def span_means(mass, first, second, centre, plain, LINEAR: tl.constexpr):
    """(centre, first, second) of a span at its own mean, from its sums about `centre`."""
    inverse = 1.0 / mass
    first *= inverse
    second *= inverse
    if plain:
        if LINEAR:
            second -= 1.0 + first
        else:
            first -= 1.0
            second -= first
    # The mean of w, or of e^w.
    delta = first if LINEAR else log1p(first)
    # E[e^w] may round to 0.
    delta = tl.where(tl.abs(delta) <= REACH, delta, 0.0)
    first, second = shift(first, second, delta, LINEAR)
    return centre + delta, first, second


@triton.jit
def add_tile(
    mk, mass, lost, centre, first, second, rest, flags,
    student, teacher, cols, in_vocab, label, has_label_here, scale, student_scale, temperature, teacher_alone,
    LINEAR: tl.constexpr, HAS_LABEL: tl.constexpr, TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """Merge a tile of its own into the record."""
    mk_t, mass_t, lost_t, centre_t, first_t, second_t, rest_t, flags_t = tilt_tile(
        student.to(tl.float32), teacher.to(tl.float32), cols, in_vocab, label, has_label_here,
        scale, student_scale, temperature, teacher_alone,
        LINEAR, HAS_LABEL, TEMPERATURE,
    )  # fmt: skip
    return merge(
        mk, mass, lost, centre, first, second, rest, flags,
        mk_t, mass_t, lost_t, centre_t, first_t, second_t, rest_t, flags_t,
        temperature, LINEAR,
    )  # fmt: skip


@triton.jit
def row_record(
    student_ptr,  # [N, V] any float
    teacher_ptr,  # [N, V] any float
    student_stride_n, teacher_stride_n, V,
    row,  # int64
    split,  # index of this program's share of the tiles; the last share includes the remaining columns
    active,  # bool: False for a masked row, which is not read and whose record is meaningless
    label, scale, student_scale, temperature, teacher_alone,
    LINEAR: tl.constexpr, HAS_LABEL: tl.constexpr, TEMPERATURE: tl.constexpr, LOCKSTEP: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_V: tl.constexpr, ALONE_V: tl.constexpr,
):  # fmt: skip
    """The record of one program's share of a row."""
    LANES: tl.constexpr = BLOCK_V // 16
    WIDTH: tl.constexpr = lane_width(student_ptr.dtype.element_ty, teacher_ptr.dtype.element_ty, LOCKSTEP)
    student_start, skip = row_start(row, student_stride_n, LOCKSTEP)
    teacher_start, _ = row_start(row, teacher_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    first_tile, last_tile = tile_range(split, num_tiles, SPLITS)
    last_tile = tl.where(active, last_tile, first_tile)
    label_tile = tl.full((), -1, tl.int32)
    if HAS_LABEL:
        label_tile = tl.where(label >= skip, (label - skip) // BLOCK_V, -1)
    columns = tl.arange(0, ALONE_V)

    mk = tl.full((), float("-inf"), tl.float32)
    mass = tl.zeros((), tl.float32)
    lost = tl.zeros((), tl.float32)
    centre = tl.zeros((), tl.float32)
    first = tl.zeros((), tl.float32)
    second = tl.zeros((), tl.float32)
    rest = tl.zeros((), tl.float32)
    flags = tl.full((), 0, tl.int32)
    tile = first_tile
    while tile < last_tile:
        # Not longer than all before it, lest it outweigh that.
        end = tl.minimum(tile + tl.maximum(1, tl.minimum(SPAN, tile - first_tile)), last_tile)
        if HAS_LABEL:
            end = tl.where((label_tile >= tile) & (label_tile < end), label_tile, end)
        plain = (second if LINEAR else first) > PLAIN_TILT
        highest = mk / student_scale + RISE * tl.minimum(temperature, 1.0)
        mass_lanes = tl.zeros((LANES,), tl.float32)
        first_lanes = tl.zeros((LANES,), tl.float32)
        second_lanes = tl.zeros((LANES,), tl.float32)
        rest_lanes = tl.zeros((LANES,), tl.float32)
        step = tile
        verdict = tl.full((), 0, tl.int32)
        while (step < end) & (verdict != ALONE):
            start = step * BLOCK_V
            student = load_lanes(student_ptr + student_start + start, BLOCK_V, WIDTH, LOCKSTEP)
            teacher = load_lanes(teacher_ptr + teacher_start + start, BLOCK_V, WIDTH, LOCKSTEP)
            w = scale * (teacher - student) - centre
            verdict = tile_verdict(student, w, highest, LANES)
            if verdict != ALONE:
                log_p = student * student_scale - mk
                p = tl.exp2(log_p)
                mass_lanes += lane_sum(p, LANES)
                if HAS_LABEL:
                    e = label_exponentials(student, p, mk, student_scale, temperature, TEMPERATURE)
                    rest_lanes += lane_sum(e, LANES)
                if plain:
                    first_sum, second_sum = plain_sums(log_p, p, w, LANES, LINEAR)
                elif verdict == NEAR:
                    first_sum, second_sum = series_sums(p, w, LANES, LINEAR, True)
                else:
                    first_sum, second_sum = series_sums(p, w, LANES, LINEAR, False)
                first_lanes += first_sum
                second_lanes += second_sum
                step += 1
        # Tiles that are taken on their own.
        alone = step
        after = tl.where((verdict == ALONE) | (step == label_tile), step + 1, step)
        span_mass = tl.sum(mass_lanes, 0)
        if step > tile:
            if span_mass <= OUTWEIGH * mass:
                span_centre, span_first, span_second = span_means(
                    span_mass, tl.sum(first_lanes, 0), tl.sum(second_lanes, 0), centre, plain, LINEAR
                )
                mk, mass, lost, centre, first, second, rest, flags = merge(
                    mk, mass, lost, centre, first, second, rest, flags,
                    mk, span_mass, 0.0, span_centre, span_first, span_second, tl.sum(rest_lanes, 0), 0,
                    temperature, LINEAR,
                )  # fmt: skip
            else:
                alone = tile
        after = tl.minimum(after, last_tile)
        for start in range(alone * BLOCK_V, after * BLOCK_V, ALONE_V):
            cols = skip + start + columns
            mk, mass, lost, centre, first, second, rest, flags = add_tile(
                mk, mass, lost, centre, first, second, rest, flags,
                tl.load(student_ptr + student_start + start + columns),
                tl.load(teacher_ptr + teacher_start + start + columns),
                cols, columns >= 0, label, (label >= skip + start) & (label < skip + start + ALONE_V),
                scale, student_scale, temperature, teacher_alone,
                LINEAR, HAS_LABEL, TEMPERATURE,
            )  # fmt: skip
        tile = after
    num_rest = tl.where(active & (split == SPLITS - 1), V - num_tiles * BLOCK_V, 0)
    for start in range(0, num_rest, ALONE_V):
        cols, in_vocab = rest_columns(start + columns, skip, num_tiles * BLOCK_V, V)
        offsets = cols - skip
        mk, mass, lost, centre, first, second, rest, flags = add_tile(
            mk, mass, lost, centre, first, second, rest, flags,
            tl.load(student_ptr + student_start + offsets, mask=in_vocab, other=float("-inf")),
            tl.load(teacher_ptr + teacher_start + offsets, mask=in_vocab, other=float("-inf")),
            cols, in_vocab, label, True, scale, student_scale, temperature, teacher_alone,
            LINEAR, HAS_LABEL, TEMPERATURE,
        )  # fmt: skip
    return mk, mass, lost, centre, first, second, rest, flags
