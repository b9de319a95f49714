"""Device functions of both divergences: softmax(s/T) tilted towards the teacher, in one pass over V.

`tilt.py` derives the formulas and says why no log-sum-exps are subtracted. It takes the mean of z - s first
and centres then; one pass cannot. So a row is cut into tiles. A tile stays in registers, is centred on its
own mean, and yields

    mk      its largest s, times log2(e) / T: the unit of every sum below is 2^mk
    mass    sum of p = exp((s - max s) / T), over entries where the teacher has mass
    lost    the same over entries at -inf on the teacher's side alone
    centre  c, about E_p[scale (z - s)]; with w = scale (z - s) - c and means over p / mass:
    mean    M = E[w], rounding alone in a tile
    excess  G = E[e^w - 1 - w] >= 0
    gain    H = E[w (e^w - 1)] >= 0
    rest    sum of exp(s - max s) at T = 1 over all entries but the label
    flags   INFINITE, CAREFUL

`merge` joins two such records, of tiles or of parts of a row that went to different programs. It moves both
to their common mean, as Chan's update of a variance does: M, G and H are small differences around any centre
nearby, and no digits are lost in the move. A heavy entry that arrives late thus cannot swamp the rest.

Most rows in training differ by far more than rounding, and this is known after their first tiles. From then
on a tile takes two sums of p e^w, half the work, unless it is heavier than all before it.

Entries at -inf and products out of fp32's range are recognised by sums that are not finite, so that ordinary
tiles pay nothing for them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_exponentials
from tide_kernels._shared.math_kernels import LN2, LOG2E, SERIES_W, TINY, exp_excess, finite, series_excess
from tide_kernels._shared.row_kernels import rest_columns, row_start, tile_range, whole_tiles

INFINITE = tl.constexpr(1)  # the row holds entries at -inf that the gradient has to step around
# From this excess on, tiles are summed as E[e^w] - 1: an error of 4e-7 beside a divergence of at least 0.1.
PLAIN_EXCESS = tl.constexpr(0.2)
CAREFUL = tl.constexpr(2)  # the sums do not describe the row: it is read again, as log-sum-exps


@triton.jit
def tilt_tile(
    student,  # [BLOCK_V] fp32, -inf outside the vocabulary
    teacher,  # [BLOCK_V] fp32
    cols,  # [BLOCK_V]
    in_vocab,  # [BLOCK_V] bool
    label,  # of the row; read only with HAS_LABEL
    has_label_here,  # bool: the label may be one of cols
    scale,  # lambda / T
    student_scale,  # log2(e) / T
    temperature,
    teacher_alone,  # 1 if the target has mass where only the student is at -inf, else 0
    mk_before, mass_before, excess_before,  # of the record that this tile will be merged into
    HAS_LABEL: tl.constexpr,
    TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """The record of one tile."""
    mk = tl.max(student, 0) * student_scale
    mk_finite = tl.where(mk == float("-inf"), 0.0, mk)
    log_p = student * student_scale - mk_finite
    p = tl.exp2(log_p)
    difference = teacher - student
    mass = tl.sum(p, 0)
    moment = tl.sum(p * difference, 0)
    rest = tl.zeros_like(mass)
    if HAS_LABEL:
        e = label_exponentials(student, p, mk_finite, student_scale, temperature, TEMPERATURE)
        if has_label_here:
            e = tl.where(cols == label, 0.0, e)
        rest = tl.sum(e, 0)

    lost = tl.zeros_like(mass)
    flags = tl.full((), 0, tl.int32)
    centre = scale * (moment / tl.maximum(mass, TINY))
    if not finite(moment):
        of_student = student == float("-inf")
        of_teacher = teacher == float("-inf")
        outside = of_student | of_teacher
        flags = tl.max(tl.where(outside & in_vocab, INFINITE, 0), 0)
        beyond = tl.max(tl.where(of_student & (teacher > float("-inf")), CAREFUL, 0), 0)
        flags = flags | (beyond * teacher_alone)
        # At lambda = 0 the target does not ask the teacher.
        excluded = tl.where(of_teacher, scale, 0.0) > 0.0
        lost = tl.sum(tl.where(excluded, p, 0.0), 0)
        p = tl.where(excluded, 0.0, p)
        log_p = tl.where(excluded, float("-inf"), log_p)
        mass = tl.sum(p, 0)
        mean_difference = tl.sum(p * tl.where(outside, 0.0, difference), 0) / tl.maximum(mass, TINY)
        difference = tl.where(outside, mean_difference, difference)
        centre = scale * mean_difference

    w = scale * difference - centre
    # p e^w as one exponential: p may be too small, and e^w too large, for the product.
    tilted = tl.exp2(w * LOG2E + log_p)
    inverse = 1.0 / tl.maximum(mass, TINY)
    # A row that is known to differ, and a tile that cannot outweigh what is known: the tile's error of a few
    # eps is one of the row's sum too, and subtraction does.
    plain = (excess_before > PLAIN_EXCESS) & (mass * tl.exp2(mk_finite - mk_before) <= mass_before)
    if plain:
        mean = tl.zeros_like(mass)
        excess = tl.sum(tilted, 0) * inverse - 1.0
        gain = tl.sum(w * tilted, 0) * inverse
    else:
        pw = p * w
        p_excess = tl.where(tl.abs(w) < SERIES_W, pw * w * series_excess(w), tilted - (p + pw))
        mean = tl.sum(pw, 0) * inverse
        excess = tl.sum(p_excess, 0) * inverse
        gain = tl.sum(w * (p_excess + pw), 0) * inverse
    return mk, mass, lost, centre, mean, excess, gain, rest, flags


@triton.jit
def shift(mean, excess, gain, delta):
    """(mean, excess, gain) about a centre that is higher by delta."""
    excess_delta = exp_excess(-delta)
    growth = excess_delta - delta  # expm1(-delta)
    factor = tl.exp2(-delta * LOG2E)  # not 1 + growth: what is left of it far below 1 may meet a large excess
    return (
        mean - delta,
        factor * excess + growth * mean + excess_delta,
        factor * gain + growth * mean - delta * factor * (mean + excess) - delta * growth,
    )


@triton.jit
def merge(
    mk_a, mass_a, lost_a, centre_a, mean_a, excess_a, gain_a, rest_a, flags_a,
    mk_b, mass_b, lost_b, centre_b, mean_b, excess_b, gain_b, rest_b, flags_b,
    temperature,
):  # fmt: skip
    """The record of two sets of entries together."""
    mk = tl.maximum(mk_a, mk_b)
    base = tl.where(mk == float("-inf"), 0.0, mk)
    unit_a, unit_b = tl.exp2(mk_a - base), tl.exp2(mk_b - base)
    mass_a *= unit_a
    mass_b *= unit_b
    mass = mass_a + mass_b
    inverse = 1.0 / tl.maximum(mass, TINY)
    share_a, share_b = mass_a * inverse, mass_b * inverse
    # The difference first: a gap of 0 between far centres stays 0.
    centre = centre_a + share_b * (centre_b - centre_a)
    mean_a, excess_a, gain_a = shift(mean_a, excess_a, gain_a, centre - centre_a)
    mean_b, excess_b, gain_b = shift(mean_b, excess_b, gain_b, centre - centre_b)
    # A side without mass has a centre of its own, which may be out of range. NaN is not 0 and stays.
    mean = tl.where(share_a != 0, share_a * mean_a, 0.0) + tl.where(share_b != 0, share_b * mean_b, 0.0)
    excess = tl.where(share_a != 0, share_a * excess_a, 0.0) + tl.where(share_b != 0, share_b * excess_b, 0.0)
    gain = tl.where(share_a != 0, share_a * gain_a, 0.0) + tl.where(share_b != 0, share_b * gain_b, 0.0)
    lost = lost_a * unit_a + lost_b * unit_b
    rest = rest_a * tl.exp2((mk_a - base) * temperature) + rest_b * tl.exp2((mk_b - base) * temperature)
    flags = flags_a | flags_b
    # e^60 times a mass that may have been rounded to 0.
    lead = tl.maximum(centre_a, centre_b) - centre
    flags = tl.where((mk_a > float("-inf")) & (mk_b > float("-inf")) & (lead > 60.0), flags | CAREFUL, flags)
    return mk, mass, lost, centre, mean, excess, gain, rest, flags


@triton.jit
def tilt_columns(
    student_ptr,  # [N, V] any float
    teacher_ptr,  # [N, V] any float
    student_stride_n, teacher_stride_n, V,
    row,  # int64
    split,  # this program's share of the tiles; the last one also takes the columns that fill none
    active,  # bool: a row that is not is not read, and its record says nothing
    label, scale, student_scale, temperature, teacher_alone,
    HAS_LABEL: tl.constexpr, TEMPERATURE: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The record of one program's share of a row."""
    student_start, skip = row_start(row, student_stride_n, LOCKSTEP)
    teacher_start, _ = row_start(row, teacher_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    first, last = tile_range(split, num_tiles, SPLITS)
    num_rest = tl.where(active & (split == SPLITS - 1), V - num_tiles * BLOCK_V, 0)
    lanes = tl.arange(0, BLOCK_V)
    everywhere = lanes >= 0

    mk = tl.full((), float("-inf"), tl.float32)
    mass = tl.zeros((), tl.float32)
    lost = tl.zeros((), tl.float32)
    centre = tl.zeros((), tl.float32)
    mean = tl.zeros((), tl.float32)
    excess = tl.zeros((), tl.float32)
    gain = tl.zeros((), tl.float32)
    rest = tl.zeros((), tl.float32)
    flags = tl.full((), 0, tl.int32)
    for tile in range(first, tl.where(active, last, first)):
        start = tile * BLOCK_V
        student = tl.load(student_ptr + student_start + start + lanes).to(tl.float32)
        teacher = tl.load(teacher_ptr + teacher_start + start + lanes).to(tl.float32)
        cols = skip + start + lanes
        here = (label >= skip + start) & (label < skip + start + BLOCK_V)
        mk_t, mass_t, lost_t, centre_t, mean_t, excess_t, gain_t, rest_t, flags_t = tilt_tile(
            student, teacher, cols, everywhere, label, here, scale, student_scale, temperature, teacher_alone,
            mk, mass, excess,
            HAS_LABEL, TEMPERATURE,
        )  # fmt: skip
        mk, mass, lost, centre, mean, excess, gain, rest, flags = merge(
            mk, mass, lost, centre, mean, excess, gain, rest, flags,
            mk_t, mass_t, lost_t, centre_t, mean_t, excess_t, gain_t, rest_t, flags_t,
            temperature,
        )  # fmt: skip
    for start in range(0, num_rest, BLOCK_V):
        cols, in_vocab = rest_columns(start + lanes, skip, num_tiles * BLOCK_V, V)
        offsets = cols - skip
        student = tl.load(student_ptr + student_start + offsets, mask=in_vocab, other=float("-inf")).to(
            tl.float32
        )
        teacher = tl.load(teacher_ptr + teacher_start + offsets, mask=in_vocab, other=float("-inf")).to(
            tl.float32
        )
        mk_t, mass_t, lost_t, centre_t, mean_t, excess_t, gain_t, rest_t, flags_t = tilt_tile(
            student, teacher, cols, in_vocab, label, True, scale, student_scale, temperature, teacher_alone,
            mk, mass, excess,
            HAS_LABEL, TEMPERATURE,
        )  # fmt: skip
        mk, mass, lost, centre, mean, excess, gain, rest, flags = merge(
            mk, mass, lost, centre, mean, excess, gain, rest, flags,
            mk_t, mass_t, lost_t, centre_t, mean_t, excess_t, gain_t, rest_t, flags_t,
            temperature,
        )  # fmt: skip
    return mk, mass, lost, centre, mean, excess, gain, rest, flags


@triton.jit
def log_sum_exp_columns(
    student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V, row,
    mk, centre, scale, student_scale, temperature, teacher_alone,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The whole row again, for records marked CAREFUL, in whose units the results are.

    Returns the log of the target's sum of exponentials over 2^mk e^centre, E_r[w] and sum of p w.
    """
    lanes = tl.arange(0, BLOCK_V)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    target_moment = tl.zeros((), tl.float32)
    student_moment = tl.zeros((), tl.float32)
    for start in range(0, V, BLOCK_V):
        cols = start + lanes
        in_vocab = cols < V
        student = tl.load(student_ptr + row * student_stride_n + cols, mask=in_vocab, other=float("-inf"))
        teacher = tl.load(teacher_ptr + row * teacher_stride_n + cols, mask=in_vocab, other=float("-inf"))
        student, teacher = student.to(tl.float32), teacher.to(tl.float32)
        p, w, x = log_target(student, teacher, mk, centre, scale, student_scale, temperature, teacher_alone)
        new_peak = tl.maximum(peak, tl.max(x, 0))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        r = tl.exp2((x - base) * LOG2E)
        unit = tl.exp2((peak - base) * LOG2E)
        total = total * unit + tl.sum(r, 0)
        target_moment = target_moment * unit + tl.sum(tl.where(r == 0.0, 0.0, r * w), 0)
        student_moment += tl.sum(tl.where(p == 0.0, 0.0, p * w), 0)
        peak = new_peak
    return peak + tl.log2(total) * LN2, target_moment / total, student_moment


@triton.jit
def log_target(student, teacher, mk, centre, scale, student_scale, temperature, teacher_alone):
    """p in units of 2^mk, w, and the log of the target in units of 2^mk e^centre; -inf where it is."""
    base = tl.where(mk == float("-inf"), 0.0, mk)
    log_p = student * student_scale - base
    p = tl.exp2(log_p)
    asked = tl.zeros_like(student) + scale > 0.0  # at lambda = 0 the target is the student
    w = tl.where(asked, scale * (teacher - student) - centre, 0.0)
    x = log_p * LN2 + w
    x = tl.where((student == float("-inf")) | ((teacher == float("-inf")) & asked), float("-inf"), x)
    alone = tl.where((student == float("-inf")) & (teacher > float("-inf")), teacher_alone, 0)
    x = tl.where(alone != 0, teacher / temperature - centre - base * LN2, x)
    return p, w, x
