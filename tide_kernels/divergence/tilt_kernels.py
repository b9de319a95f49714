"""Device functions of both divergences: softmax(s/T) tilted towards the teacher, in one pass over V.

`tilt.py` derives the formulas; it centres on the mean of z - s, which takes a pass of its own. Here a row is
cut into sets of entries, a tile each or the tiles of a span (`span_kernels.py`). A tile stays in registers
and is centred on its own mean. A set yields a record:

    mk      log2(e) / T times its largest s, or one a little smaller: the unit of every sum below is 2^mk
    mass    sum of p = exp(s / T) in that unit, without `lost`
    lost    the same over entries that the teacher all but excludes, where r is negligible beside p
    centre  c, close to E_p[scale (z - s)]; with w = scale (z - s) - c and means over p / mass,
            for TIDAL and forward KL                   for reverse KL (LINEAR)
    first   A = E[e^w - 1]                             M = E[w]
    second  J = E[w e^w - e^w + 1] >= 0                G = E[e^w - 1 - w] >= 0
    rest    sum of exp(s) at T = 1 over all entries except the label, in units of 2^(mk T)
    flags   GUARDED, CAREFUL

`merge` joins two records, of tiles, spans or programs that share a row. It moves both to their common mean,
like Chan's update of a variance: the sums are small differences around any nearby centre, so the move loses
no precision, and a heavy entry that arrives late does not swamp the rest.

Entries at -inf on one side, or far below the others (finite stand-ins for -inf), would drag the centre away.
A tile whose largest |z - s| exceeds WIDE looks for them; other tiles skip the search.
Legend: V vocabulary entries in use, BLOCK_V columns of a tile on its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_exponentials
from tide_kernels._shared.math_kernels import LN2, LOG2E, SERIES_W, TINY, exp_excess, finite, series_excess

GUARDED = tl.constexpr(1)  # the gradient must treat some entries of the row apart
CAREFUL = tl.constexpr(2)  # the sums do not represent the row: it is read again as log-sum-exps
# |z - s| above which a tile searches for outliers.
WIDE = tl.constexpr(40.0)
# Nats below the target's mean at which an entry's share of the target, e^-40, is negligible.
FORBIDDEN = tl.constexpr(40.0)
# log2 of a p that underflows in fp32.
VANISHED = tl.constexpr(-200.0)


@triton.jit
def tilt_tile(
    student,  # [BLOCK_V] fp32, -inf outside the vocabulary
    teacher,  # [BLOCK_V] fp32, -inf outside the vocabulary
    cols,  # [BLOCK_V]
    in_vocab,  # [BLOCK_V] bool
    label,  # of the row; read only with HAS_LABEL
    has_label_here,  # bool: the label may be one of cols
    scale,  # lambda / T
    student_scale,  # log2(e) / T
    temperature,
    teacher_alone,  # 1 if the student does not enter the target (lambda = 1, reverse KL), else 0
    LINEAR: tl.constexpr,
    HAS_LABEL: tl.constexpr,
    TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """The record of one tile."""
    if scale == 0.0:
        teacher = student  # lambda = 0: the target does not ask the teacher
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
    if (tl.max(tl.abs(difference), 0) > WIDE) | (not finite(moment)):
        # Entries with p = 0: their log p + u is rounding error.
        gone = log_p < VANISHED
        tilt = tl.where(gone, float("-inf"), log_p * LN2 + scale * difference)
        tilt = tl.where(teacher == float("-inf"), float("-inf"), tilt)
        peak = tl.max(tilt, 0)
        peak = tl.where(peak == float("-inf"), 0.0, peak)
        target = peak + tl.log2(tl.sum(tl.exp2((tilt - peak) * LOG2E), 0)) * LN2
        # The target may have mass where p vanishes: such a row is read again, unless both exclude the entry.
        log_r = log_target(student, teacher, scale, temperature, teacher_alone) - mk_finite * LN2
        beyond = tl.max(tl.where(gone & in_vocab, log_r, float("-inf")), 0)
        forbidden = teacher == float("-inf")
        if not LINEAR:
            below = target - tl.log2(tl.maximum(mass, TINY)) * LN2 - FORBIDDEN
            forbidden = forbidden | (scale * difference < below)
        forbidden = forbidden & (log_p >= VANISHED)
        flags = tl.max(tl.where((gone | forbidden) & in_vocab, GUARDED, 0), 0)
        flags = flags | tl.where(beyond > target - FORBIDDEN, CAREFUL, 0)
        lost = tl.sum(tl.where(forbidden, p, 0.0), 0)
        p = tl.where(gone | forbidden, 0.0, p)
        log_p = tl.where(gone | forbidden, float("-inf"), log_p)
        mass = tl.sum(p, 0)
        # The target may sit on entries whose p is negligible.
        flags = flags | tl.where((mass < 1e-30) & (target > float("-inf")), CAREFUL, 0)
        mean_difference = tl.sum(tl.where(gone | forbidden, 0.0, p * difference), 0) / tl.maximum(mass, TINY)
        difference = tl.where(gone | forbidden, mean_difference, difference)
        centre = scale * mean_difference

    w = scale * difference - centre
    # p e^w as one exponential: p may be too small, and e^w too large, for the product.
    tilted = tl.exp2(w * LOG2E + log_p)
    inverse = 1.0 / tl.maximum(mass, TINY)
    pw = p * w
    near = tl.abs(w) < SERIES_W
    series = pw * w * series_excess(w)
    if LINEAR:
        first = tl.sum(pw, 0) * inverse
        second = tl.sum(tl.where(near, series, tilted - (p + pw)), 0) * inverse
    else:
        grown = tl.where(near, series + pw, tilted - p)
        first = tl.sum(grown, 0) * inverse
        second = tl.sum(tl.where(near, w * grown - series, w * tilted - grown), 0) * inverse
    # A tile without mass has no mean.
    first = tl.where(mass == 0.0, 0.0, first)
    second = tl.where(mass == 0.0, 0.0, second)
    return mk, mass, lost, centre, first, second, rest, flags


@triton.jit
def shift(first, second, delta, LINEAR: tl.constexpr):
    """Move (first, second) to a centre higher by delta."""
    excess = exp_excess(-delta)
    growth = excess - delta  # expm1(-delta)
    factor = tl.exp2(-delta * LOG2E)  # not 1 + growth, which loses precision far below 1
    if LINEAR:
        moved = factor * second + growth * first + excess
        first = first - delta
    else:
        # 1 - e^-delta (1 + delta)
        alone = tl.where(tl.abs(delta) < SERIES_W, -delta * growth - excess, 1.0 - factor * (1.0 + delta))
        moved = factor * second + alone - delta * factor * first
        first = factor * first + growth
    return first, moved


@triton.jit
def log2_target(mk, mass, centre, first, second, LINEAR: tl.constexpr):
    """log2 of the target's sum of exponentials over the entries of a record."""
    tilt = 1.0 + first
    if LINEAR:
        tilt += second
    return mk + tl.log2(mass * tilt) + centre * LOG2E


@triton.jit
def merge(
    mk_a, mass_a, lost_a, centre_a, first_a, second_a, rest_a, flags_a,
    mk_b, mass_b, lost_b, centre_b, first_b, second_b, rest_b, flags_b,
    temperature,
    LINEAR: tl.constexpr,
):  # fmt: skip
    """Merge the records of two sets of entries."""
    mk = tl.maximum(mk_a, mk_b)
    base = tl.where(mk == float("-inf"), 0.0, mk)
    unit_a, unit_b = tl.exp2(mk_a - base), tl.exp2(mk_b - base)
    share_a, share_b = mass_a * unit_a, mass_b * unit_b
    mass = share_a + share_b
    inverse = 1.0 / tl.maximum(mass, TINY)
    share_a *= inverse
    share_b *= inverse
    flags = flags_a | flags_b
    if (share_a < 1e-30) | (share_b < 1e-30):
        # A negligible share of p may be most of the target.
        target_a = log2_target(mk_a, mass_a, centre_a, first_a, second_a, LINEAR)
        target_b = log2_target(mk_b, mass_b, centre_b, first_b, second_b, LINEAR)
        target_small = tl.where(share_a < 1e-30, target_a, target_b)
        target_large = tl.where(share_a < 1e-30, target_b, target_a)
        present = tl.where(share_a < 1e-30, mass_a, mass_b) > 0.0
        matters = present & (not (target_small < target_large - FORBIDDEN * LOG2E))
        flags = flags | tl.where(matters, CAREFUL, 0)
    # Difference first: equal centres far from 0 stay equal.
    centre = tl.where(share_a == 0.0, centre_b, centre_a + share_b * (centre_b - centre_a))
    first_a, second_a = shift(first_a, second_a, centre - centre_a, LINEAR)
    first_b, second_b = shift(first_b, second_b, centre - centre_b, LINEAR)
    # The centre of a side without mass may be out of range. NaN is not 0 and propagates.
    first = tl.where(share_a != 0, share_a * first_a, 0.0) + tl.where(share_b != 0, share_b * first_b, 0.0)
    second = tl.where(share_a != 0, share_a * second_a, 0.0)
    second += tl.where(share_b != 0, share_b * second_b, 0.0)
    lost = lost_a * unit_a + lost_b * unit_b
    rest = rest_a * tl.exp2((mk_a - base) * temperature) + rest_b * tl.exp2((mk_b - base) * temperature)
    return mk, mass, lost, centre, first, second, rest, flags


@triton.jit
def log_target(student, teacher, scale, temperature, teacher_alone):
    """Logits of the target over T, by the definition: -inf where it has no mass."""
    lambda_t = scale * temperature
    mixed = ((1.0 - lambda_t) * student + lambda_t * teacher) / temperature
    mixed = tl.where((student == float("-inf")) | (teacher == float("-inf")), float("-inf"), mixed)
    share = tl.zeros_like(student) + lambda_t
    mixed = tl.where(share == 0.0, student / temperature, mixed)
    alone = tl.zeros_like(student) + teacher_alone
    return tl.where(alone != 0.0, teacher / temperature, mixed)


@triton.jit
def log_ratio(
    student, teacher, scale, student_scale, temperature, teacher_alone, mk, log_mass, peak, log_sum
):
    """(log(r / p), log r) of a CAREFUL row."""
    log_r = log_target(student, teacher, scale, temperature, teacher_alone) - peak - log_sum
    return log_r - ((student * student_scale - mk) * LN2 - log_mass), log_r


@triton.jit
def log_sum_exp_columns(
    student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V, row,
    mk, log_mass, scale, student_scale, temperature, teacher_alone,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Read the whole row twice more, for records marked CAREFUL.

    Returns the target's largest logit over T, the log of its sum of exponentials relative to that,
    E_r[log(r / p)] and E_p[log(r / p)].
    """
    lanes = tl.arange(0, BLOCK_V)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, V, BLOCK_V):
        student, teacher = load_both(
            student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, row, start + lanes, V
        )
        x = log_target(student, teacher, scale, temperature, teacher_alone)
        new_peak = tl.maximum(peak, tl.max(x, 0))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        total = total * tl.exp2((peak - base) * LOG2E) + tl.sum(tl.exp2((x - base) * LOG2E), 0)
        peak = new_peak
    log_sum = tl.log2(total) * LN2
    target_mean = tl.zeros((), tl.float32)
    student_mean = tl.zeros((), tl.float32)
    for start in range(0, V, BLOCK_V):
        student, teacher = load_both(
            student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, row, start + lanes, V
        )
        ratio, log_r = log_ratio(
            student, teacher, scale, student_scale, temperature, teacher_alone, mk, log_mass, peak, log_sum
        )
        r = tl.exp2(log_r * LOG2E)
        p = tl.exp2(student * student_scale - mk - log_mass * LOG2E)
        target_mean += tl.sum(tl.where(r == 0.0, 0.0, r * ratio), 0)
        student_mean += tl.sum(tl.where(p == 0.0, 0.0, p * ratio), 0)
    return peak, log_sum, target_mean, student_mean


@triton.jit
def load_both(student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, row, cols, V):
    """Columns of a row on both sides as fp32, -inf outside the vocabulary."""
    in_vocab = cols < V
    student = tl.load(student_ptr + row * student_stride_n + cols, mask=in_vocab, other=float("-inf"))
    teacher = tl.load(teacher_ptr + row * teacher_stride_n + cols, mask=in_vocab, other=float("-inf"))
    return student.to(tl.float32), teacher.to(tl.float32)
