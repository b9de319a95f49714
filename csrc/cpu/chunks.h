/* Divergence between the chunk likelihoods of a sequence, and its slope. In doubles: 1 - P of a likely chunk is
   inaccurate in fp32, and chunks are few. */

enum { CHUNK_FORWARD, CHUNK_REVERSE, CHUNK_KL, CHUNK_INTERPOLATED };

typedef struct {
  tide_rows student, teacher, loss, d_loss, gradient; /* of tokens, tokens, chunks, chunks, the student's tokens */
  const int64_t *student_chunks, *teacher_chunks;     /* of each token; negative for none */
  const uint8_t *chunk_mask;                          /* chunks at 0 have loss and slope 0 */
  const double *lambda;                               /* per sequence, of the interpolated objective */
  double *slope;                                      /* per chunk, in the sum of the student's log-probabilities */
  double *sums;                                       /* per chunk, scratch */
  int64_t num_rows, student_length, teacher_length, num_chunks;
  double temperature, low, high; /* log eps, log(1 - eps) */
  int32_t objective, num_threads;
} tide_chunks;

typedef struct {
  double p, not_p, log_p, log_not_p;
} likelihood;

/* Of log P clamped to [low, high]. A NaN stays one. */
static likelihood likelihood_of(double log_p, double low, double high) {
  log_p = log_p < low ? low : log_p > high ? high : log_p;
  double p = exp(log_p), not_p = -expm1(log_p);
  return (likelihood){p, not_p, log_p, p > 0.5 ? log(not_p) : log1p(-p)};
}

/* Sums of the token log-probabilities of each chunk. */
static void span_sums(const tide_rows *tokens, const int64_t *chunks, int64_t row, int64_t length, int64_t num_chunks,
                      double *sums) {
  double buffer[TILE];
  memset(sums, 0, (size_t)num_chunks * sizeof *sums);
  for (int64_t first = 0; first < length; first += TILE) {
    int n = tile_size(length, first);
    const double *log_p = load_f64(tokens, row, first, n, buffer);
    for (int i = 0; i < n; i++) {
      int64_t chunk = chunks[row * length + first + i];
      if (chunk >= 0 && chunk < num_chunks) sums[chunk] += log_p[i];
    }
  }
}

/* The loss of a chunk, and its slope in log P of the student. */
static double chunk_loss(const likelihood *s, const likelihood *t, int objective, double share, double *slope) {
  if (objective == CHUNK_REVERSE) {
    *slope = s->p * (t->log_not_p - t->log_p);
    return -(s->p * t->log_p + s->not_p * t->log_not_p);
  }
  if (objective == CHUNK_KL) {
    double of_p = s->log_p - t->log_p, of_not_p = s->log_not_p - t->log_not_p;
    *slope = s->p * (of_p - of_not_p);
    return s->p * of_p + s->not_p * of_not_p;
  }
  /* P - Q of both sides without cancellation, whichever of P and 1 - P is small. */
  *slope = share * (s->p * t->not_p - t->p * s->not_p) / s->not_p;
  /* The target is held constant: the student's share of it adds nothing to the slope. */
  double target = share * t->p + (1 - share) * s->p, target_not = share * t->not_p + (1 - share) * s->not_p;
  return -(target * s->log_p + target_not * s->log_not_p);
}

static void chunk_forward(const void *argument, int64_t row) {
  const tide_chunks *call = argument;
  int64_t start = row * call->num_chunks;
  const uint8_t *active = call->chunk_mask + start;
  double *slope = call->slope + start, *of_teacher = call->sums + start, losses[TILE];
  double share = call->objective == CHUNK_INTERPOLATED ? call->lambda[row] : 1;
  span_sums(&call->student, call->student_chunks, row, call->student_length, call->num_chunks, slope);
  span_sums(&call->teacher, call->teacher_chunks, row, call->teacher_length, call->num_chunks, of_teacher);
  for (int64_t first = 0; first < call->num_chunks; first += TILE) {
    int n = tile_size(call->num_chunks, first);
    for (int i = 0; i < n; i++) {
      int64_t chunk = first + i;
      double log_p = slope[chunk] / call->temperature, in_log_p;
      likelihood s = likelihood_of(log_p, call->low, call->high);
      likelihood t = likelihood_of(of_teacher[chunk] / call->temperature, call->low, call->high);
      double loss = chunk_loss(&s, &t, call->objective, share, &in_log_p);
      int inside = log_p >= call->low && log_p <= call->high;
      losses[i] = active[chunk] ? loss : 0;
      slope[chunk] = active[chunk] && inside ? in_log_p / call->temperature : 0;
    }
    store_f64(losses, &call->loss, row, first, n);
  }
}

static void chunk_backward(const void *argument, int64_t row) {
  const tide_chunks *call = argument;
  double d_loss, g[TILE];
  for (int64_t first = 0; first < call->student_length; first += TILE) {
    int n = tile_size(call->student_length, first);
    for (int i = 0; i < n; i++) {
      int64_t chunk = call->student_chunks[row * call->student_length + first + i];
      double slope = chunk >= 0 && chunk < call->num_chunks ? call->slope[row * call->num_chunks + chunk] : 0;
      /* An upstream NaN of an inactive chunk is not read. */
      g[i] = slope != 0 ? slope * *load_f64(&call->d_loss, row, chunk, 1, &d_loss) : 0;
    }
    store_f64(g, &call->gradient, row, first, n);
  }
}
