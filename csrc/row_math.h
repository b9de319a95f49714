/* The formulas of a vocabulary row, entry by entry: docs/kernels/divergences.md derives them.

   For the host and for CUDA. Define REAL, FN(name) and SERIES_REACH, and include it once per accumulation
   type (float, double).
   s, z: logits of student and teacher; T: temperature; p = exp((s - max s) / T), not normalised.

   With u = scale (z - s), c = E_p[u] and w = u - c:
     D = log E_p[e^u] = c + log1p(E_p[expm1(w) - w])
     KL(r || p) = E_p[w expm1(w)] / E_p[e^w] - log1p(E_p[expm1(w) - w]),   KL(p || q) = log1p(E_p[expm1(w) - w])
   No term is a difference of log-sum-exps. */

#ifndef TIDE_FUNCTION
#ifdef __CUDACC__
#define TIDE_FUNCTION static __device__ __forceinline__
#else
#define TIDE_FUNCTION static inline __attribute__((always_inline))
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Reduced exponential of x <= 88: x = n ln 2 + r, |r| <= ln 2 / 2. Garbage below -87.3, where callers select. */
typedef struct {
  float rest;  /* exp(r) - 1, within an ulp */
  float scale; /* 2^n */
} tide_reduced_exp;

TIDE_FUNCTION float tide_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

TIDE_FUNCTION uint32_t tide_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

TIDE_FUNCTION tide_reduced_exp tide_reduce_exp(float x) {
  float shifted = x * 1.44269504f + 12582912.0f; /* n in the low bits */
  float n = shifted - 12582912.0f;
  float r = n * -0.693145752f + x;
  r = n * -1.42860677e-6f + r;
  float series = r * 1.98412698e-4f + 1.38888889e-3f;
  series = series * r + 8.33333333e-3f;
  series = series * r + 4.16666667e-2f;
  series = series * r + 1.66666667e-1f;
  series = series * r + 0.5f;
  return (tide_reduced_exp){series * r * r + r, tide_from_bits((tide_bits(shifted) << 23) + 0x3f800000u)};
}

/* 0 below exp(-87.3), the least normal number. A NaN stays one. */
TIDE_FUNCTION float tide_exp_f32(float x) {
  tide_reduced_exp e = tide_reduce_exp(x);
  float value = e.rest * e.scale + e.scale;
  return x < -87.3f ? 0.0f : value;
}

TIDE_FUNCTION float tide_expm1_f32(float x) {
  tide_reduced_exp e = tide_reduce_exp(x);
  float value = e.rest * e.scale + (e.scale - 1.0f);
  return x < -87.3f ? -1.0f : value;
}

TIDE_FUNCTION double tide_exp_f64(double x) { return exp(x); }
TIDE_FUNCTION double tide_expm1_f64(double x) { return expm1(x); }
#endif

/* exp((s - max) / T). Subtracted first, which is exact near the maximum however large both are. */
TIDE_FUNCTION REAL FN(tide_mass)(REAL s, REAL max, REAL inverse_t) { return FN(tide_exp)((s - max) * inverse_t); }

/* w of an entry. Centre, then scale: at an entry that holds most of p the two differences cancel exactly. */
TIDE_FUNCTION REAL FN(tide_tilt)(REAL s, REAL z, REAL mean, REAL scale) { return (z - s - mean) * scale; }

/* expm1(w) - w from expm1(w); where the subtraction would lose digits, by a series of relative error
   w^6 / 600,000. */
TIDE_FUNCTION REAL FN(tide_excess)(REAL w, REAL expm1_w) {
  REAL square = w * w;
  REAL series = (REAL)0.5 + w * ((REAL)(-1.0 / 12) + square * ((REAL)(1.0 / 720) - square * (REAL)(1.0 / 30240)));
  return w < SERIES_REACH && w > -SERIES_REACH ? w * expm1_w * series : expm1_w - w;
}

/* Derivative of c tanh(x / c) from its value. */
TIDE_FUNCTION REAL FN(tide_cap_slope)(REAL capped, REAL inverse_cap) {
  REAL share = capped * inverse_cap;
  return (REAL)1 - share * share;
}
