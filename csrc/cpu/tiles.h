/* Loops over a tile of a row, which the compiler vectorises. Included once per accumulation type. */


/* Largest s, and nonzero if an entry of either side is not finite. */
CLONES static REAL FN(tile_bounds)(const REAL *s, const REAL *z, int n, int *odd) {
  REAL max = -(REAL)INFINITY;
  int found = 0;
#pragma omp simd reduction(max : max) reduction(| : found)
  for (int i = 0; i < n; i++) {
    max = s[i] > max ? s[i] : max;
    found |= !(FABS(s[i]) < (REAL)INFINITY) | !(FABS(z[i]) < (REAL)INFINITY);
  }
  *odd = found;
  return max;
}

typedef struct {
  REAL total;      /* sum of p */
  REAL inside;     /* of entries finite on both sides */
  REAL outside;    /* of those where only the teacher is not */
  REAL moment;     /* sum of p (z - s) over these */
  REAL high;       /* largest z - s of these */
  REAL label;      /* sum of exp(s - max), T = 1 */
  int of_student;  /* the teacher is finite where the student is not */
} FN(tilt_sums);

/* T = 1 from p: 1, p itself; 2, its square; 0, another exponential. */
TIDE_FUNCTION REAL FN(untempered)(REAL s, REAL p, REAL max, int power) {
  return power == 1 ? p : power == 2 ? p * p : FN(tide_exp)(s - max);
}

TIDE_FUNCTION void FN(add_tilt)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, int with_label, int power,
                                int odd, FN(tilt_sums) *sums) {
  REAL total = 0, inside = 0, outside = 0, moment = 0, label = 0, high = -(REAL)INFINITY;
  int of_student = 0;
#pragma omp simd reduction(+ : total, inside, outside, moment, label) \
    reduction(max : high) reduction(| : of_student)
  for (int i = 0; i < n; i++) {
    REAL p = FN(tide_mass)(s[i], max, inverse_t), d = z[i] - s[i];
    total += p;
    if (with_label) label += FN(untempered)(s[i], p, max, power);
    if (odd) {
      int student = s[i] != -(REAL)INFINITY, teacher = z[i] != -(REAL)INFINITY; /* a NaN counts */
      of_student |= teacher && !student;
      int both = student & teacher;
      outside += both ? 0 : p;
      p = both ? p : 0;
      inside += p;
      moment += p * (both ? d : 0);
      REAL present = both ? d : -(REAL)INFINITY;
      high = present > high ? present : high;
    } else {
      moment += p * d;
      high = d > high ? d : high;
    }
  }
  *sums = (FN(tilt_sums)){total, odd ? inside : total, outside, moment, high, label, of_student};
}

CLONES static void FN(tile_tilt)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, FN(tilt_sums) *sums) {
  FN(add_tilt)(s, z, n, max, inverse_t, 0, 0, 0, sums);
}

CLONES static void FN(tile_tilt_label)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, int power,
                                       FN(tilt_sums) *sums) {
  if (power == 2)
    FN(add_tilt)(s, z, n, max, inverse_t, 1, 2, 0, sums);
  else if (power == 1)
    FN(add_tilt)(s, z, n, max, inverse_t, 1, 1, 0, sums);
  else
    FN(add_tilt)(s, z, n, max, inverse_t, 1, 0, 0, sums);
}

CLONES static void FN(tile_tilt_odd)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t,
                                     FN(tilt_sums) *sums) {
  FN(add_tilt)(s, z, n, max, inverse_t, 1, 0, 1, sums);
}

/* Sum of exp(s - max). */
CLONES static REAL FN(tile_mass)(const REAL *s, int n, REAL max) {
  REAL total = 0;
#pragma omp simd reduction(+ : total)
  for (int i = 0; i < n; i++) total += FN(tide_exp)(s[i] - max);
  return total;
}

typedef struct {
  REAL w;        /* sum of p w */
  REAL product;  /* of p w expm1(w) */
  REAL excess;   /* of p (expm1(w) - w) */
} FN(moment_sums);

CLONES static void FN(tile_moments)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, REAL mean, REAL scale,
                                    FN(moment_sums) *sums) {
  REAL first = 0, product = 0, excess = 0;
#pragma omp simd reduction(+ : first, product, excess)
  for (int i = 0; i < n; i++) {
    REAL p = FN(tide_mass)(s[i], max, inverse_t), w = FN(tide_tilt)(s[i], z[i], mean, scale);
    REAL e = FN(tide_expm1)(w);
    first += p * w;
    product += p * w * e;
    excess += p * FN(tide_excess)(w, e);
  }
  *sums = (FN(moment_sums)){first, product, excess};
}

/* Copies of s and z that have p = 0 and w = 0, to rounding, where p is 0 or the teacher at -inf, and the
   largest w of the others. Returns the target's sum of p e^w where p is 0, from the logarithms, or inf where
   that is too large: a target of share 1 (scale = 1/T) does not ask the student. */
CLONES static REAL FN(tile_inside)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, REAL mean, REAL scale,
                                   REAL *s_inside, REAL *z_inside, REAL *high) {
  REAL elsewhere = 0, highest = *high, own = inverse_t - scale, far = max + 2 * VANISHED / inverse_t;
#pragma omp simd reduction(+ : elsewhere) reduction(max : highest)
  for (int i = 0; i < n; i++) {
    int gone = (s[i] - max) * inverse_t < VANISHED, teacher = z[i] != -(REAL)INFINITY; /* a NaN counts */
    REAL log_target = own != 0 ? (s[i] - max) * own + (z[i] - max - mean) * scale : (z[i] - max - mean) * scale;
    REAL target = log_target <= LARGEST_TILT ? FN(tide_exp)(log_target) : (REAL)INFINITY;
    elsewhere += gone & teacher ? target : 0;
    int both = teacher & !gone;
    s_inside[i] = both ? s[i] : far;
    z_inside[i] = both ? z[i] : far + mean;
    REAL w = FN(tide_tilt)(s_inside[i], z_inside[i], mean, scale);
    highest = w > highest ? w : highest;
  }
  *high = highest;
  return elsewhere;
}

/* g = factor p (expm1(w - offset), or w - offset if linear) + label_factor exp(s - max). g may be s or z. */
TIDE_FUNCTION void FN(write_gradient)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, REAL mean, REAL scale,
                                      REAL offset, REAL factor, REAL label_factor, int linear, int power, int odd,
                                      REAL *g) {
#pragma omp simd
  for (int i = 0; i < n; i++) {
    REAL p = FN(tide_mass)(s[i], max, inverse_t), w = FN(tide_tilt)(s[i], z[i], mean, scale) - offset;
    if (odd) w = p != 0 ? w : 0; /* where p = 0 the target has no mass (INTERPOLATED) or no share (REVERSE) */
    REAL value = factor * p * (linear ? w : FN(tide_expm1)(w));
    if (power >= 0) value += label_factor * FN(untempered)(s[i], p, max, power);
    g[i] = value;
  }
}

#define GRADIENT(name, linear, power, odd)                                                                         \
  CLONES static void FN(name)(const REAL *s, const REAL *z, int n, REAL max, REAL inverse_t, REAL mean, REAL scale, \
                              REAL offset, REAL factor, REAL label_factor, REAL *g) {                              \
    FN(write_gradient)(s, z, n, max, inverse_t, mean, scale, offset, factor, label_factor, linear, power, odd, g); \
  }
GRADIENT(gradient_tilt, 0, -1, 0)
GRADIENT(gradient_tilt_odd, 0, 0, 1)
GRADIENT(gradient_tilt_label, 0, 0, 0)
GRADIENT(gradient_tilt_square, 0, 2, 0)
GRADIENT(gradient_linear, 1, -1, 0)
GRADIENT(gradient_linear_odd, 1, 0, 1)
GRADIENT(gradient_linear_label, 1, 0, 0)
GRADIENT(gradient_linear_square, 1, 2, 0)
#undef GRADIENT

/* g = factor exp(x - max) */
CLONES static void FN(tile_softmax)(const REAL *x, int n, REAL max, REAL factor, REAL *g) {
#pragma omp simd
  for (int i = 0; i < n; i++) g[i] = factor * FN(tide_exp)(x[i] - max);
}

/* g *= slope of the soft-cap at its output s */
CLONES static void FN(tile_cap)(const REAL *s, int n, REAL inverse_cap, REAL *g) {
#pragma omp simd
  for (int i = 0; i < n; i++) g[i] *= FN(tide_cap_slope)(s[i], inverse_cap);
}

/* Sums of exp(x - max) and of (max - x) exp(x - max); entries at -inf add nothing. */
CLONES static void FN(tile_spread)(const REAL *x, int n, REAL max, REAL *rest, REAL *spread) {
  REAL total = 0, weighted = 0;
#pragma omp simd reduction(+ : total, weighted)
  for (int i = 0; i < n; i++) {
    REAL below = x[i] - max;
    below = below < (REAL)-1000 ? (REAL)-1000 : below;
    REAL e = FN(tide_exp)(below);
    total += e;
    weighted -= e * below;
  }
  *rest = total;
  *spread = weighted;
}
