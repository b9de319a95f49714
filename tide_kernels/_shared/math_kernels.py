"""Elementwise device functions, accurate where the hardware's exponential and logarithm are not."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# e^w - 1 - w by its series below this |w|, by subtraction above: relative errors of 2.5e-7 and, at the
# boundary, 2e-6.
SERIES_W = tl.constexpr(0.4)
# Stand-in for the denominator of an empty sum.
TINY = tl.constexpr(1e-37)


@triton.jit
def series_excess(w):
    """(e^w - 1 - w) / w^2 on |w| < SERIES_W, minimax of degree 4."""
    return 0.5 + w * (0.16666508 + w * (0.041667 + w * (0.00837305 + w * 0.00139054)))


@triton.jit
def exp_excess(w):
    """e^w - 1 - w."""
    return tl.where(tl.abs(w) < SERIES_W, w * w * series_excess(w), tl.exp2(w * LOG2E) - 1.0 - w)


@triton.jit
def log1p(x):
    """log(1 + x), x >= -1, with a small relative error; the hardware's is absolute near 1."""
    t = x / (2.0 + x)
    q = t * t
    series = 2.0 * t * (1.0 + q * (1 / 3 + q * (0.2 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11))))))
    return tl.where(tl.abs(x) < 0.5, series, tl.log2(1.0 + x) * LN2)


@triton.jit
def finite(x):
    """True if x is neither infinite nor NaN."""
    return tl.abs(x) < float("inf")


@triton.jit
def tanh(x):
    """tanh x, with a small relative error near 0."""
    q = x * x
    series = x * (1.0 + q * (-1 / 3 + q * (2 / 15 + q * (-17 / 315))))
    # For a large |x| the exponential is infinite and the quotient 0.
    far = 1.0 - 2.0 / (tl.exp2(tl.abs(x) * (2 * LOG2E)) + 1.0)
    return tl.where(tl.abs(x) < 0.2, series, tl.where(x < 0, -far, far))


@triton.jit
def softcap_slope(capped, inverse_softcap):
    """Derivative of capped = cap tanh(x / cap) in x: 1 - (capped / cap)^2."""
    share = capped * inverse_softcap
    return 1.0 - share * share
