"""Device functions of both divergences: records, statistics of a row, gradient.

Record of a program's share of a row, [N * SPLITS, 8] fp32: the fields of `tilt_kernels.py`.
Statistics of a row, [N, 8] fp32: mk, 1 / sum of p, centre, offset, flags, 1 / sum of exp(s - max s) at T = 1,
1 - p_label, log_sum. They give log(r / p) = scale (z - s) - centre - offset. In CAREFUL rows centre is the
target's largest logit over T, log_sum the log of its sum of exponentials relative to that, and log(r / p) is
computed from both distributions.
Legend: N rows, V vocabulary entries in use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_exponentials, label_value
from tide_kernels._shared.math_kernels import LN2, LOG2E, SERIES_W, series_excess, softcap_slope
from tide_kernels._shared.row_kernels import fill_zeros, rest_columns, row_start, tile_range, whole_tiles
from tide_kernels.divergence.tilt_kernels import CAREFUL, VANISHED, log_ratio, merge

STATISTICS = tl.constexpr(8)
RECORD = tl.constexpr(8)


@triton.jit
def store_record(
    parts_ptr, index, mk, mass, lost, centre, first, second, rest, flags,
):  # fmt: skip
    """Store the record of one program."""
    part_ptr = parts_ptr + index * RECORD
    tl.store(part_ptr, mk)
    tl.store(part_ptr + 1, mass)
    tl.store(part_ptr + 2, lost)
    tl.store(part_ptr + 3, centre)
    tl.store(part_ptr + 4, first)
    tl.store(part_ptr + 5, second)
    tl.store(part_ptr + 6, rest)
    tl.store(part_ptr + 7, flags.to(tl.float32))


@triton.jit
def load_record(parts_ptr, row, temperature, LINEAR: tl.constexpr, SPLITS: tl.constexpr):
    """Merge the records of a row, left to right: a fixed order keeps results deterministic."""
    part_ptr = parts_ptr + row * SPLITS * RECORD
    mk, mass, lost, centre = (
        tl.load(part_ptr),
        tl.load(part_ptr + 1),
        tl.load(part_ptr + 2),
        tl.load(part_ptr + 3),
    )
    first, second, rest = tl.load(part_ptr + 4), tl.load(part_ptr + 5), tl.load(part_ptr + 6)
    flags = tl.load(part_ptr + 7).to(tl.int32)
    for split in range(1, SPLITS):
        next_ptr = part_ptr + split * RECORD
        mk, mass, lost, centre, first, second, rest, flags = merge(
            mk, mass, lost, centre, first, second, rest, flags,
            tl.load(next_ptr), tl.load(next_ptr + 1), tl.load(next_ptr + 2), tl.load(next_ptr + 3),
            tl.load(next_ptr + 4), tl.load(next_ptr + 5), tl.load(next_ptr + 6),
            tl.load(next_ptr + 7).to(tl.int32),
            temperature, LINEAR,
        )  # fmt: skip
    return mk, mass, lost, centre, first, second, rest, flags


@triton.jit
def store_row(
    student_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, V, row, active, label, kl,
    mk, mass, lost, rest, centre, offset, flags, log_sum, student_scale, temperature,
    HAS_LABEL: tl.constexpr,
):  # fmt: skip
    """Store KL, cross-entropy and statistics of a row; 0 for a masked row."""
    tl.store(kl_ptr + row, tl.where(active, kl, 0.0))
    label_inverse = tl.zeros_like(mass)
    label_rest = tl.zeros_like(mass)
    if HAS_LABEL:
        log_p, label_inverse, label_rest = label_value(
            student_ptr + row * student_stride_n, label, V, active, mk, rest, student_scale, temperature
        )
        tl.store(ce_ptr + row, tl.where(active, -log_p, 0.0))
    row_ptr = statistics_ptr + row * STATISTICS
    tl.store(row_ptr, tl.where(active, mk, 0.0))
    tl.store(row_ptr + 1, tl.where(active, 1.0 / (mass + lost), 0.0))
    tl.store(row_ptr + 2, tl.where(active, centre, 0.0))
    tl.store(row_ptr + 3, tl.where(active, offset, 0.0))
    tl.store(row_ptr + 4, tl.where(active, flags, 0).to(tl.float32))
    tl.store(row_ptr + 5, tl.where(active, label_inverse, 0.0))
    tl.store(row_ptr + 6, tl.where(active, label_rest, 0.0))
    tl.store(row_ptr + 7, tl.where(active, log_sum, 0.0))


@triton.jit
def gradient_tile(
    student, teacher, cols, label, has_label_here,
    mk, inverse, centre, offset, flags, log_sum, scale, student_scale, temperature, teacher_alone,
    weight, label_weight, label_at,
    LINEAR: tl.constexpr, HAS_KL: tl.constexpr, HAS_LABEL: tl.constexpr, TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """weight p (e^w - 1), or weight p w if LINEAR, plus label_weight (p - onehot) at T = 1, in fp32."""
    log_p = student * student_scale - mk
    p = tl.exp2(log_p)
    gradient = tl.zeros_like(p)
    if HAS_KL:
        if scale == 0.0:
            teacher = student
        # Two subtractions: centre + offset would round.
        w = scale * (teacher - student) - centre - offset
        log_r = w + log_p * LN2
        if flags >= CAREFUL:
            log_mass = -tl.log2(inverse) * LN2
            w, log_r = log_ratio(
                student,
                teacher,
                scale,
                student_scale,
                temperature,
                teacher_alone,
                mk,
                log_mass,
                centre,
                log_sum,
            )
            w -= offset
            log_r += log_mass
            w = tl.where(p == 0.0, float("inf"), w)
        elif flags != 0:
            gone = log_p < VANISHED
            w = tl.where(gone, float("inf"), w)
            log_r = tl.where(gone | (teacher == float("-inf")), float("-inf"), log_r)
        if LINEAR:
            # w is not finite where p underflowed, and only there.
            surplus = tl.where(p == 0.0, 0.0, p * w)
        else:
            near = p * (w + w * w * series_excess(w))
            surplus = tl.where(tl.abs(w) < SERIES_W, near, tl.exp2(log_r * LOG2E) - p)
        gradient = surplus * weight
    if HAS_LABEL:
        e = label_exponentials(student, p, mk, student_scale, temperature, TEMPERATURE)
        cross = e * label_weight
        if has_label_here:
            cross = tl.where(cols == label, label_at, cross)
        gradient += cross
    return gradient


@triton.jit
def write_divergence_gradient(
    student_ptr, teacher_ptr, out_ptr, statistics_ptr, d_kl_ptr, d_ce_ptr,
    student_stride_n, teacher_stride_n, out_stride_n, V, width,
    row, split, active, label, scale, student_scale, temperature, teacher_alone, inverse_softcap,
    LINEAR: tl.constexpr, HAS_KL: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    TEMPERATURE: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One program's share of the gradient of d_kl * KL + d_ce * CE in s; 0 in columns V to width.

    With a soft-cap, s = cap tanh(x / cap), the gradient is in x. A masked row is not read and gets 0.
    """
    row_ptr = statistics_ptr + row * STATISTICS
    mk = tl.load(row_ptr)
    inverse = tl.load(row_ptr + 1)
    weight = tl.zeros((), tl.float32)
    if HAS_KL:
        weight = -tl.load(d_kl_ptr + row).to(tl.float32) * inverse / temperature
    centre, offset = tl.load(row_ptr + 2), tl.load(row_ptr + 3)
    flags = tl.load(row_ptr + 4).to(tl.int32)
    log_sum = tl.load(row_ptr + 7)
    label_weight = tl.zeros((), tl.float32)
    if HAS_LABEL:
        label_weight = tl.load(d_ce_ptr + row).to(tl.float32)
    label_at = -label_weight * tl.load(row_ptr + 6)
    label_weight *= tl.load(row_ptr + 5)

    student_start, skip = row_start(row, student_stride_n, LOCKSTEP)
    teacher_start, _ = row_start(row, teacher_stride_n, LOCKSTEP)
    out_start, _ = row_start(row, out_stride_n, LOCKSTEP)
    num_tiles = whole_tiles(V, skip, BLOCK_V)
    first, last = tile_range(split, num_tiles, SPLITS)
    if active:
        lanes = tl.arange(0, BLOCK_V)
        teacher = tl.zeros((BLOCK_V,), tl.float32)
        for tile in range(first, last):
            start = tile * BLOCK_V
            student = tl.load(student_ptr + student_start + start + lanes).to(tl.float32)
            if HAS_KL:
                teacher = tl.load(teacher_ptr + teacher_start + start + lanes).to(tl.float32)
            here = (label >= skip + start) & (label < skip + start + BLOCK_V)
            gradient = gradient_tile(
                student, teacher, skip + start + lanes, label, here,
                mk, inverse, centre, offset, flags, log_sum, scale, student_scale, temperature, teacher_alone,
                weight, label_weight, label_at,
                LINEAR, HAS_KL, HAS_LABEL, TEMPERATURE,
            )  # fmt: skip
            if HAS_SOFTCAP:
                gradient *= softcap_slope(student, inverse_softcap)
            tl.store(out_ptr + out_start + start + lanes, gradient.to(out_ptr.dtype.element_ty))
        for start in range(0, tl.where(split == SPLITS - 1, V - num_tiles * BLOCK_V, 0), BLOCK_V):
            cols, in_vocab = rest_columns(start + lanes, skip, num_tiles * BLOCK_V, V)
            offsets = cols - skip
            student = tl.load(student_ptr + student_start + offsets, mask=in_vocab, other=0.0).to(tl.float32)
            if HAS_KL:
                teacher = tl.load(teacher_ptr + teacher_start + offsets, mask=in_vocab, other=0.0).to(
                    tl.float32
                )
            gradient = gradient_tile(
                student, teacher, cols, label, True,
                mk, inverse, centre, offset, flags, log_sum, scale, student_scale, temperature, teacher_alone,
                weight, label_weight, label_at,
                LINEAR, HAS_KL, HAS_LABEL, TEMPERATURE,
            )  # fmt: skip
            if HAS_SOFTCAP:
                gradient *= softcap_slope(student, inverse_softcap)
            tl.store(out_ptr + out_start + offsets, gradient.to(out_ptr.dtype.element_ty), mask=in_vocab)
    if split == SPLITS - 1:
        fill_zeros(out_ptr, out_start - skip, tl.where(active, V, 0), width, BLOCK_V)


@triton.jit
def row_options(
    row, lambda_ptr, labels_ptr, mask_ptr,
    HAS_LAMBDA: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """(lambda, default 1; label, default 0; active: False for a masked row)."""
    active = tl.full((), 1, tl.int1)
    if HAS_MASK:
        active = tl.load(mask_ptr + row) != 0
    lambda_t = tl.full((), 1.0, tl.float32)
    if HAS_LAMBDA:
        lambda_t = tl.load(lambda_ptr + row).to(tl.float32)
    label = tl.full((), 0, tl.int32)
    if HAS_LABEL:
        label = tl.load(labels_ptr + row).to(tl.int32)
    return lambda_t, label, active
