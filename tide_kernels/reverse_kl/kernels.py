"""KL(softmax(s / T) || softmax(z / T)) of N rows over V columns, and its gradient.

Grid, passes and bytes are those of `interpolated_kl/kernels.py`. With p and q the two distributions and
lambda = 1:

    KL(p || q)   = log E_p[e^(w - M)] = log(1 + G about the mean)
    log q/p + KL = w - M

with w, M and G as in `_shared/tilt_kernels.py`. The gradient, -p (w - M) / T, needs no second exponential.
Legend: N rows, V vocabulary entries in use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.divergence_kernels import (
    load_record,
    row_options,
    store_record,
    store_row,
    write_divergence_gradient,
)
from tide_kernels._shared.math_kernels import LN2, finite, log1p
from tide_kernels._shared.tilt_kernels import CAREFUL, log_sum_exp_columns, shift, tilt_columns


@triton.jit
def finish_reverse_kl(
    student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V, row,
    mk, mass, lost, centre, first, second, rest, flags,
    scale, label, student_scale, temperature, teacher_alone, active,
    HAS_LABEL: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute KL, cross-entropy and statistics from the record of a whole row, and store them."""
    _, at_mean = shift(first, second, first, True)
    kl = log1p(at_mean)
    offset = first
    log_sum = tl.zeros_like(mass)
    empty = mass + lost == 0.0
    if (((flags & CAREFUL) != 0) | (lost > 0.0) | empty | (not finite(kl))) & active:
        centre, log_sum, _, offset = log_sum_exp_columns(
            student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V, row,
            mk, tl.log2(mass + lost) * LN2, scale, student_scale, temperature, teacher_alone,
            BLOCK_V,
        )  # fmt: skip
        kl = -offset
        flags = flags | CAREFUL
    store_row(
        student_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, V, row, active, label, kl,
        mk, mass, lost, rest, centre, offset, flags, log_sum, student_scale, temperature, HAS_LABEL,
    )  # fmt: skip


@triton.jit
def reverse_kl_fwd_kernel(
    student_ptr,  # [N, width] any float
    teacher_ptr,  # [N, width] any float
    labels_ptr,  # [N] int64
    mask_ptr,  # [N] bool
    kl_ptr,  # [N] fp32, nats
    ce_ptr,  # [N] fp32, nats
    statistics_ptr,  # [N, 8] fp32
    parts_ptr,  # [N, SPLITS, 8] fp32
    student_stride_n, teacher_stride_n, V,
    student_scale,  # log2(e) / T
    temperature,
    HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,  # 1, 2, or 0 for any other
    LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    # int64: row * stride passes 2**31 at row 14,135 of a 151,936-entry vocabulary.
    row = (tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    lambda_t, label, active = row_options(row, mask_ptr, labels_ptr, mask_ptr, False, HAS_LABEL, HAS_MASK)
    scale = lambda_t / temperature
    teacher_alone = 1
    mk, mass, lost, centre, first, second, rest, flags = tilt_columns(
        student_ptr, teacher_ptr, student_stride_n, teacher_stride_n, V,
        row, split, active, label, scale, student_scale, temperature, teacher_alone,
        True, HAS_LABEL, TEMPERATURE, LOCKSTEP, SPLITS, BLOCK_V,
    )  # fmt: skip
    if SPLITS == 1:
        finish_reverse_kl(
            student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V,
            row, mk, mass, lost, centre, first, second, rest, flags,
            scale, label, student_scale, temperature, teacher_alone, active,
            HAS_LABEL, BLOCK_V,
        )  # fmt: skip
    else:
        store_record(parts_ptr, row * SPLITS + split, mk, mass, lost, centre, first, second, rest, flags)


@triton.jit
def reverse_kl_join_kernel(
    student_ptr, teacher_ptr, labels_ptr, mask_ptr, kl_ptr, ce_ptr, statistics_ptr, parts_ptr,
    student_stride_n, teacher_stride_n, V, student_scale, temperature,
    HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lambda_t, label, active = row_options(row, mask_ptr, labels_ptr, mask_ptr, False, HAS_LABEL, HAS_MASK)
    mk, mass, lost, centre, first, second, rest, flags = load_record(
        parts_ptr, row, temperature, True, SPLITS
    )
    finish_reverse_kl(
        student_ptr, teacher_ptr, kl_ptr, ce_ptr, statistics_ptr, student_stride_n, teacher_stride_n, V, row,
        mk, mass, lost, centre, first, second, rest, flags,
        lambda_t / temperature, label, student_scale, temperature, 1, active,
        HAS_LABEL, BLOCK_V,
    )  # fmt: skip


# Not specialised: N differs from batch to batch, and each variant is a compilation.
@triton.jit(do_not_specialize=["N"])
def reverse_kl_bwd_kernel(
    student_ptr, teacher_ptr, labels_ptr, mask_ptr, statistics_ptr,
    d_kl_ptr,  # [N] fp32
    d_ce_ptr,  # [N] fp32
    d_student_ptr,  # [N, width], the student's dtype; may alias student_ptr
    student_stride_n, teacher_stride_n, d_student_stride_n, V, width, student_scale, temperature,
    inverse_softcap,  # 1 / soft-cap of the student's logits
    N,
    HAS_KL: tl.constexpr, HAS_LABEL: tl.constexpr, HAS_MASK: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    TEMPERATURE: tl.constexpr, LOCKSTEP: tl.constexpr, SPLITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = (N - 1 - tl.program_id(0) // SPLITS).to(tl.int64)
    split = tl.program_id(0) % SPLITS
    lambda_t, label, active = row_options(row, mask_ptr, labels_ptr, mask_ptr, False, HAS_LABEL, HAS_MASK)
    write_divergence_gradient(
        student_ptr, teacher_ptr, d_student_ptr, statistics_ptr, d_kl_ptr, d_ce_ptr,
        student_stride_n, teacher_stride_n, d_student_stride_n, V, width,
        row, split, active, label, lambda_t / temperature, student_scale, temperature, 1,
        inverse_softcap,
        True, HAS_KL, HAS_LABEL, HAS_SOFTCAP, TEMPERATURE, LOCKSTEP, SPLITS, BLOCK_V,
    )  # fmt: skip
