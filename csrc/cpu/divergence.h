/* The divergences of a row. Included once per accumulation type. */

/* Statistics of a row that its gradient reads: `tide_divergence.statistics`. */
#ifndef TIDE_STATISTICS
#define TIDE_STATISTICS
#define MOST_OUTSIDE 1e6
enum { MAX, TOTAL, MEAN, OFFSET, PATH, LABEL_REST, LABEL_TOTAL, NUM_STATISTICS = 8 };
/* Nothing to look for; with entries at -inf, or where p is 0 and the target may not be; by the definition. */
enum { PLAIN, ODD, DEFINITION };
enum { INTERPOLATED, REVERSE };

typedef struct {
  tide_rows student, teacher, gradient;
  const void *lambda, *d_kl, *d_ce; /* per row; d_kl or d_ce may be null */
  void *kl, *ce, *statistics;
  const int64_t *labels; /* or null */
  const uint8_t *mask;   /* or null */
  int64_t num_rows, vocab, width;
  double temperature, softcap; /* softcap of the student's logits, for the gradient; 0 for none */
  int32_t kind, num_threads;
} tide_divergence;

/* Exponentials at T = 1 as a power of those at T; 0 for none. */
static int power_of(double temperature) { return temperature == 1 ? 1 : temperature == 2 ? 2 : 0; }

/* At lambda = 0 the teacher is not read. */
static const tide_rows *teacher_of(const tide_divergence *call, double lambda) {
  return call->kind == INTERPOLATED && lambda == 0 ? &call->student : &call->teacher;
}

/* exp(x - log sum exp) needs these two. */
typedef struct {
  double max, log_total;
} log_normaliser;
#endif

/* Logits over T of both sides, as doubles: the definition reads entry by entry. */
static double FN(entry)(const tide_rows *rows, int64_t row, int64_t column) {
  REAL buffer;
  return *FN(load)(rows, row, column, 1, &buffer);
}

/* The logits of the target r (kind INTERPOLATED) or of q. Shares of 0 and 1 do not read the other side. */
static double FN(target)(const tide_divergence *call, double lambda, int64_t row, int64_t column) {
  if (call->kind == REVERSE || lambda == 1) return FN(entry)(&call->teacher, row, column) / call->temperature;
  double s = FN(entry)(&call->student, row, column);
  if (lambda == 0) return s / call->temperature;
  return ((1 - lambda) * s + lambda * FN(entry)(&call->teacher, row, column)) / call->temperature;
}

static void FN(normalisers)(const tide_divergence *call, double lambda, int64_t row, log_normaliser *student,
                            log_normaliser *target) {
  double max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  for (int pass = 0; pass < 2; pass++)
    for (int64_t v = 0; v < call->vocab; v++) {
      double x[2] = {FN(entry)(&call->student, row, v) / call->temperature, FN(target)(call, lambda, row, v)};
      for (int side = 0; side < 2; side++) {
        if (pass == 0)
          max[side] = x[side] > max[side] || isnan(x[side]) ? x[side] : max[side];
        else
          total[side] += exp(x[side] - max[side]);
      }
    }
  *student = (log_normaliser){max[0], log(total[0])};
  *target = (log_normaliser){max[1], log(total[1])};
}

/* One entry of the sums: log p of the student and log r or log q of the target. */
static void FN(log_pair)(const tide_divergence *call, double lambda, int64_t row, int64_t column,
                         const log_normaliser *student, const log_normaliser *target, double *log_p, double *log_r) {
  *log_p = FN(entry)(&call->student, row, column) / call->temperature - student->max - student->log_total;
  *log_r = FN(target)(call, lambda, row, column) - target->max - target->log_total;
}

static double FN(kl_by_definition)(const tide_divergence *call, double lambda, int64_t row) {
  log_normaliser student, target;
  FN(normalisers)(call, lambda, row, &student, &target);
  double kl = 0, log_p, log_r;
  for (int64_t v = 0; v < call->vocab; v++) {
    FN(log_pair)(call, lambda, row, v, &student, &target, &log_p, &log_r);
    double share = exp(call->kind == REVERSE ? log_p : log_r);
    /* != 0: a NaN counts. */
    if (share != 0) kl += share * (call->kind == REVERSE ? log_p - log_r : log_r - log_p);
  }
  return kl;
}

/* The gradient of weight * kl in a tile. */
static void FN(gradient_by_definition)(const tide_divergence *call, double lambda, int64_t row, double weight, double kl,
                                       const log_normaliser *student, const log_normaliser *target, int64_t first, int n,
                                       REAL *g) {
  for (int i = 0; i < n; i++) {
    double log_p, log_r;
    FN(log_pair)(call, lambda, row, first + i, student, target, &log_p, &log_r);
    double p = exp(log_p), slope = p - exp(log_r);
    if (call->kind == REVERSE) slope = p != 0 ? p * (log_p - log_r - kl) : 0;
    g[i] = (REAL)(weight * slope / call->temperature);
  }
}

/* Factor of z - s in the tilt. */
static REAL FN(scale_of)(const tide_divergence *call, REAL lambda) {
  return call->kind == REVERSE ? (REAL)(1 / call->temperature) : lambda / (REAL)call->temperature;
}

static void FN(divergence_forward)(const tide_divergence *call, int64_t row) {
  REAL s_buffer[TILE], z_buffer[TILE];
  REAL lambda = ((const REAL *)call->lambda)[row], inverse_t = (REAL)(1 / call->temperature);
  REAL scale = FN(scale_of)(call, lambda);
  const tide_rows *teacher = teacher_of(call, lambda);
  int64_t label = call->labels ? call->labels[row] : -1;
  int power = power_of(call->temperature), path = PLAIN, of_student = 0;
  REAL max = -(REAL)INFINITY, high = -(REAL)INFINITY;
  double total = 0, inside = 0, outside = 0, moment = 0, rest = 0;

  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first), odd;
    const REAL *s = FN(load)(&call->student, row, first, n, s_buffer);
    const REAL *z = FN(load)(teacher, row, first, n, z_buffer);
    REAL highest = FN(tile_bounds)(s, z, n, &odd);
    if (highest > max) {
      double below = (double)max - highest, factor = exp(below / call->temperature);
      total *= factor, inside *= factor, outside *= factor, moment *= factor;
      rest *= exp(below);
      max = highest;
    }
    REAL centre = max > -(REAL)INFINITY ? max : 0; /* no finite entry so far */
    FN(tilt_sums) sums;
    if (odd)
      FN(tile_tilt_odd)(s, z, n, centre, inverse_t, &sums);
    else if (call->labels)
      FN(tile_tilt_label)(s, z, n, centre, inverse_t, power, &sums);
    else
      FN(tile_tilt)(s, z, n, centre, inverse_t, &sums);
    total += sums.total, inside += sums.inside, outside += sums.outside, moment += sums.moment;
    high = sums.high > high ? sums.high : high;
    of_student |= sums.of_student;
    if (odd) path = ODD;
    int in_tile = label >= first && label < first + n;
    if (call->labels) rest += in_tile ? FN(mass_but)(s, n, label - first, centre) : (double)sums.label;
  }

  REAL mean = (REAL)(moment / inside);
  if ((high - mean) * scale > LARGEST_TILT) path = ODD;
  double first_moment = 0, product = 0, excess = 0, elsewhere = 0;
  REAL highest_tilt = 0, s_inside[TILE], z_inside[TILE];
  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first);
    const REAL *s = FN(load)(&call->student, row, first, n, s_buffer);
    const REAL *z = FN(load)(teacher, row, first, n, z_buffer);
    FN(moment_sums) sums;
    if (path == ODD) {
      elsewhere += FN(tile_inside)(s, z, n, max, inverse_t, mean, scale, s_inside, z_inside, &highest_tilt);
      s = s_inside, z = z_inside;
    }
    FN(tile_moments)(s, z, n, max, inverse_t, mean, scale, &sums);
    first_moment += sums.w, product += sums.product, excess += sums.excess;
  }
  /* The mean is rounded; what is left of E_p[w] belongs to D. */
  first_moment /= inside, product /= inside, excess /= inside;
  double grown = first_moment + excess, log_grown = log1p(grown), log_share = log1p(outside / inside), kl, offset;
  elsewhere /= inside * (1 + grown);
  if (call->kind == REVERSE) {
    /* Mass of q where p is 0 lowers q at every other entry alike. */
    kl = log_grown - first_moment + log1p(elsewhere);
    offset = first_moment;
  } else {
    kl = (first_moment + product) / (1 + grown) - log_grown + log_share;
    /* r is normalised without the entries outside the teacher's support, where p - r = p. */
    offset = log_grown - log_share;
  }
  int trusted = highest_tilt <= LARGEST_TILT && isfinite(kl) && isfinite(total);
  trusted &= outside <= MOST_OUTSIDE * inside; /* what is left of p has its digits, and -offset stays small */
  if (call->kind == REVERSE)
    trusted &= outside == 0; /* +inf */
  else
    trusted &= !(of_student && lambda == 1) && elsewhere == 0; /* +inf; log r/p where p is 0 */
  if (!trusted) {
    path = DEFINITION;
    kl = FN(kl_by_definition)(call, lambda, row);
  }
  REAL *statistics = (REAL *)call->statistics + row * NUM_STATISTICS;
  ((REAL *)call->kl)[row] = (REAL)kl;
  statistics[MAX] = max, statistics[TOTAL] = (REAL)total, statistics[MEAN] = mean;
  statistics[OFFSET] = (REAL)offset;
  statistics[PATH] = (REAL)path, statistics[LABEL_REST] = statistics[LABEL_TOTAL] = 0, statistics[7] = 0;
  if (call->labels) {
    double below = FN(entry)(&call->student, row, label) - max;
    ((REAL *)call->ce)[row] = (REAL)-label_log_p(below, rest);
    statistics[LABEL_REST] = (REAL)rest;
    statistics[LABEL_TOTAL] = (REAL)(rest + exp(below));
  }
}

/* One tile of factor p (...) + label_factor exp(s - max); power < 0 leaves the second term out. */
static void FN(gradient_tile)(const REAL *s, const REAL *z, int n, const REAL *statistics, REAL inverse_t, REAL scale,
                              REAL factor, REAL label_factor, int linear, int power, REAL *g) {
  typedef void gradient(const REAL *, const REAL *, int, REAL, REAL, REAL, REAL, REAL, REAL, REAL, REAL *);
  static gradient *const TILES[2][4] = {
      {FN(gradient_tilt), FN(gradient_tilt_label), FN(gradient_tilt_square), FN(gradient_tilt_odd)},
      {FN(gradient_linear), FN(gradient_linear_label), FN(gradient_linear_square), FN(gradient_linear_odd)},
  };
  int odd = statistics[PATH] == ODD, which = odd ? 3 : power < 0 ? 0 : power == 2 ? 2 : 1;
  TILES[linear][which](s, z, n, statistics[MAX], inverse_t, statistics[MEAN], scale, statistics[OFFSET], factor,
                       label_factor, g);
}

static void FN(divergence_backward)(const tide_divergence *call, int64_t row) {
  REAL s_buffer[TILE], z_buffer[TILE], g_buffer[TILE];
  const REAL *statistics = (const REAL *)call->statistics + row * NUM_STATISTICS;
  REAL lambda = ((const REAL *)call->lambda)[row], inverse_t = (REAL)(1 / call->temperature);
  REAL scale = FN(scale_of)(call, lambda);
  const tide_rows *teacher = teacher_of(call, lambda);
  int with_kl = call->d_kl != NULL, with_label = call->labels && call->d_ce;
  REAL d_kl = with_kl ? ((const REAL *)call->d_kl)[row] : 0, d_ce = with_label ? ((const REAL *)call->d_ce)[row] : 0;
  REAL factor = -d_kl / ((REAL)call->temperature * statistics[TOTAL]);
  REAL label_factor = with_label ? d_ce / statistics[LABEL_TOTAL] : 0;
  int64_t label = with_label ? call->labels[row] : -1;
  int linear = call->kind == REVERSE, power = with_label ? power_of(call->temperature) : -1;
  if (power == 1) power = 0; /* rare: another exponential is cheaper than a variant */
  int by_definition = with_kl && statistics[PATH] == DEFINITION;
  log_normaliser of_student, of_target;
  double kl = by_definition && linear ? FN(kl_by_definition)(call, lambda, row) : 0;
  if (by_definition) FN(normalisers)(call, lambda, row, &of_student, &of_target);

  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first);
    const REAL *s = FN(load)(&call->student, row, first, n, s_buffer);
    const REAL *z = with_kl ? FN(load)(teacher, row, first, n, z_buffer) : NULL;
    int in_tile = label >= first && label < first + n;
    int at = in_tile ? (int)(label - first) : 0;
    REAL *g = g_buffer, at_label = 0;
    if (!with_kl) {
      FN(tile_softmax)(s, n, statistics[MAX], label_factor, g);
    } else if (by_definition) {
      FN(gradient_by_definition)(call, lambda, row, d_kl, kl, &of_student, &of_target, first, n, g);
      at_label = g[at];
      if (with_label) {
        REAL of_label[TILE];
        FN(tile_softmax)(s, n, statistics[MAX], label_factor, of_label);
        for (int i = 0; i < n; i++) g[i] += of_label[i];
      }
    } else {
      if (in_tile)
        FN(gradient_tile)(s + at, z + at, 1, statistics, inverse_t, scale, factor, 0, linear, -1, &at_label);
      FN(gradient_tile)(s, z, n, statistics, inverse_t, scale, factor, label_factor, linear, power, g);
    }
    /* p - 1 at the label as the mass of the others: accurate where p rounds to 1. */
    if (in_tile) g[at] = at_label - label_factor * statistics[LABEL_REST];
    if (call->softcap != 0) FN(tile_cap)(s, n, (REAL)(1 / call->softcap), g);
    FN(store)(g, &call->gradient, row, first, n);
  }
  clear(&call->gradient, row, call->vocab, call->width);
}
