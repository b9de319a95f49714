"""Kernels of both divergences, of N rows over V columns: their values, and their gradient in the student.

interpolated_kl: KL(r || softmax(s / T)) with r = softmax(((1 - lambda) s + lambda z) / T). With `REVERSE`,
reverse_kl: KL(softmax(s / T) || softmax(z / T)), lambda = 1.

Grid: SPLITS programs per row, each over its share of the tiles. Forward reads s and z once (4 bytes per entry
in bf16) and writes eight numbers per row; with SPLITS > 1 a second kernel, one program per row, joins the
records. Backward reads both again and writes the gradient (6 bytes), rows in reverse order: the last ones
read are still in the L2 cache.

    KL(r || p) = J / (1 + A) - (1 / (1 + A) - 1 + log(1 + A))      p - r        = -p (e^(w - log(1 + A)) - 1)
    KL(p || q) = log E_p[e^(w - M)] = log(1 + G about the mean)    log q/p + KL = w - M

with w, A, J, M and G as in `tilt_kernels.py`. The gradient of the second, -p (w - M) / T, needs no second
exponential.
Legend: N rows, V vocabulary entries in use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.math_kernels import LN2, exp_excess, finite, log1p
from tide_kernels.divergence.gradient_kernels import (
    load_record,
    row_options,
    store_record,
    store_row,
    write_divergence_gradient,
)
from tide_kernels.divergence.span_kernels import row_record
from tide_kernels.divergence.tilt_kernels import CAREFUL, log_sum_exp_columns, shift


@triton.jit
def finish(
    student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V, row,
    mk, mass, lost, centre, first, second, rest, flags,
    scale, label, student_scale, temperature, teacher_alone, active,
    REVERSE: tl.constexpr, HAS_LABEL: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute KL, cross-entropy and statistics from the record of a whole row, and store them."""
    log_sum = tl.zeros_like(mass)
    if REVERSE:
        _, at_mean = shift(first, second, first, True)
        kl = log1p(at_mean)
        offset = first
        empty = mass + lost == 0.0
        careful = ((flags & CAREFUL) != 0) | (lost > 0.0) | empty | (not finite(kl))
    else:
        tilt = 1.0 + first
        log_tilt = log1p(first)
        # Entries that the teacher all but excludes have no share of r.
        log_share = log1p(lost / mass)
        kl = second / tilt - exp_excess(-log_tilt) + log_share
        offset = log_tilt - log_share
        careful = ((flags & CAREFUL) != 0) | (not finite(kl))
    if careful & active:
        centre, log_sum, target_mean, student_mean = log_sum_exp_columns(
            student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V, row,
            mk, tl.log2(mass + lost) * LN2, scale, student_scale, temperature, teacher_alone,
            BLOCK_V,
        )  # fmt: skip
        flags = flags | CAREFUL
        if REVERSE:
            kl, offset = -student_mean, student_mean
        else:
            kl, offset = target_mean, tl.zeros_like(mass)
    store_row(
        student_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, V, row, active, label, kl,
        mk, mass, lost, rest, centre, offset, flags, log_sum, student_scale, temperature, HAS_LABEL,
    )  # fmt: skip


@triton.jit
def divergence_fwd_kernel(
    student_ptr,  # [N, width] any float
    teacher_ptr,  # [N, width] any float
    lambda_ptr,  # [N] fp32; None with REVERSE
    labels_ptr,  # [N] int64
    mask_ptr,  # [N] bool
    kl_ptr,  # [N] fp32, nats
    ce_ptr,  # [N] fp32, nats
    statistics_ptr,  # [N, 8] fp32
    parts_ptr,  # [N, SPLITS, 8] fp32
    student_stride_n, teacher_stride_n, V,
    student_scale,  # log2(e) / T
    temperature,
    REVERSE: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,  # 1, 2, or 0 for any other
    LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    # int64: row * stride passes 2**31 at row 14,135 of a 151,936-entry vocabulary.
    row = (tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    lambda_t, label, active = row_options(
        row, lambda_ptr, labels_ptr, mask_ptr, not REVERSE, HAS_LABEL, HAS_MASK
    )
    scale = lambda_t / temperature
    teacher_alone = (lambda_t == 1.0).to(tl.int32)
    mk, mass, lost, centre, first, second, rest, flags = row_record(
        student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V,
        row, split, active, label, scale, student_scale, temperature, teacher_alone,
        REVERSE, HAS_LABEL, TEMPERATURE, LOCKSTEP, SPLITS, BLOCK_V, BLOCK_V // 4,
    )  # fmt: skip
    if SPLITS == 1:
        finish(
            student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V,
            row, mk, mass, lost, centre, first, second, rest, flags,
            scale, label, student_scale, temperature, teacher_alone, active,
            REVERSE, HAS_LABEL, BLOCK_V // 4,
        )  # fmt: skip
    else:
        store_record(parts_ptr, row * SPLITS + split, mk, mass, lost, centre, first, second, rest, flags)


@triton.jit
def divergence_join_kernel(
    student_ptr, teacher_ptr, lambda_ptr, labels_ptr, mask_ptr, kl_ptr, ce_ptr, statistics_ptr, parts_ptr,
    student_stride_n, teacher_stride_n, V, student_scale, temperature,
    REVERSE: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lambda_t, label, active = row_options(
        row, lambda_ptr, labels_ptr, mask_ptr, not REVERSE, HAS_LABEL, HAS_MASK
    )
    mk, mass, lost, centre, first, second, rest, flags = load_record(
        parts_ptr, row, temperature, REVERSE, SPLITS
    )
    finish(
        student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V, row,
        mk, mass, lost, centre, first, second, rest, flags,
        lambda_t / temperature, label, student_scale, temperature, (lambda_t == 1.0).to(tl.int32), active,
        REVERSE, HAS_LABEL, BLOCK_V // 4,
    )  # fmt: skip


# Not specialised: N differs from batch to batch, and each variant is a compilation.
@triton.jit(do_not_specialize=["N"])
def divergence_bwd_kernel(
    student_ptr, teacher_ptr, lambda_ptr, labels_ptr, mask_ptr, statistics_ptr,
    d_kl_ptr,  # [N] fp32
    d_ce_ptr,  # [N] fp32
    d_student_ptr,  # [N, width], the student's dtype; may alias student_ptr
    student_stride_n, teacher_stride_n, d_student_stride_n, V, width, student_scale, temperature,
    inverse_softcap,  # 1 / soft-cap of the student's logits
    N,
    REVERSE: tl.constexpr, HAS_KL: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, TEMPERATURE: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = (N - 1 - tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    lambda_t, label, active = row_options(
        row, lambda_ptr, labels_ptr, mask_ptr, not REVERSE, HAS_LABEL, HAS_MASK
    )
    write_divergence_gradient(
        student_ptr, teacher_ptr, d_student_ptr, statistics_ptr, d_kl_ptr, d_ce_ptr,
        student_stride_n, teacher_stride_n, d_student_stride_n, V, width,
        row, split, active, label, lambda_t / temperature, student_scale, temperature,
        (lambda_t == 1.0).to(tl.int32), inverse_softcap,
        REVERSE, HAS_KL, HAS_LABEL, HAS_SOFTCAP, TEMPERATURE, LOCKSTEP, SPLITS, BLOCK_V,
    )  # fmt: skip
