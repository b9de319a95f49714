"""Device functions of log softmax at one entry, at T = 1, for every op with labels."""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.math_kernels import LN2, log1p


@triton.jit
def label_exponentials(student, p, mk, student_scale, temperature, TEMPERATURE: tl.constexpr):
    """exp(s - max s) at T = 1, in units of 2^(mk T): a power of p if T is 1 or 2."""
    if TEMPERATURE == 1:
        e = p
    elif TEMPERATURE == 2:
        e = p * p
    else:
        e = tl.exp2(student * (student_scale * temperature) - mk * temperature)
    return e


@triton.jit
def label_value(row_ptr, label, V, active, mk, rest, student_scale, temperature):
    """log softmax(s) at the label, 1 / sum of exp(s - max s), and 1 - p_label, at T = 1.

    NaN for a label outside the vocabulary, which is not checked on a GPU.
    """
    known = (label >= 0) & (label < V)
    label_logit = tl.load(row_ptr + label, mask=active & known, other=float("nan")).to(tl.float32)
    return label_value_of(label_logit, mk, rest, student_scale, temperature)


@triton.jit
def label_value_of(label_logit, mk, rest, student_scale, temperature):
    """`label_value` from the label's logit."""
    base = tl.where(mk == float("-inf"), 0.0, mk)
    log2_e = label_logit * (student_scale * temperature) - base * temperature
    e = tl.exp2(log2_e)
    inverse = 1.0 / (rest + e)
    # log1p keeps the precision near p = 1, from which chunk likelihoods compute 1 - P.
    log_p = tl.where(e > 1e-30, -log1p(rest / e), log2_e * LN2 - tl.log2(rest) * LN2)
    return log_p, inverse, rest * inverse
