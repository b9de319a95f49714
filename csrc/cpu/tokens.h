/* Log-probabilities and scores of the tokens of a row. Included once per accumulation type. */

#ifndef TIDE_TOKENS
#define TIDE_TOKENS
enum { TOKEN_LOG_P, TOKEN_MAX, TOKEN_REST, TOKEN_TOTAL, NUM_TOKEN_STATISTICS };

typedef struct {
  tide_rows logits, gradient;
  const int64_t *token_ids; /* one outside [0, vocab) is at -inf */
  const uint8_t *mask; /* or null */
  const void *d_log_p;
  void *log_p, *statistics;
  int64_t *best; /* scores */
  void *entropy, *margin;
  int64_t num_rows, vocab, width;
  double softcap; /* of the logits, for the gradient; 0 for none */
  int32_t num_threads, unused;
} tide_tokens;
#endif

static void FN(token_forward)(const tide_tokens *call, int64_t row) {
  REAL buffer[TILE], max = -(REAL)INFINITY;
  int64_t token = call->token_ids[row];
  double rest = 0;
  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first), odd;
    const REAL *x = FN(load)(&call->logits, row, first, n, buffer);
    REAL highest = FN(tile_bounds)(x, x, n, &odd);
    if (highest > max) {
      rest *= exp((double)max - highest);
      max = highest;
    }
    /* Without a finite entry so far, only a NaN counts. */
    rest += FN(mass_but)(x, n, token - first, max > -(REAL)INFINITY ? max : 0);
  }
  double below = -INFINITY;
  if (token >= 0 && token < call->vocab) below = (double)*FN(load)(&call->logits, row, token, 1, buffer) - max;
  REAL *statistics = (REAL *)call->statistics + row * NUM_TOKEN_STATISTICS;
  statistics[TOKEN_LOG_P] = ((REAL *)call->log_p)[row] = (REAL)label_log_p(below, rest);
  statistics[TOKEN_MAX] = max, statistics[TOKEN_REST] = (REAL)rest, statistics[TOKEN_TOTAL] = (REAL)(rest + exp(below));
}

static void FN(token_backward)(const tide_tokens *call, int64_t row) {
  REAL buffer[TILE], g[TILE];
  const REAL *statistics = (const REAL *)call->statistics + row * NUM_TOKEN_STATISTICS;
  REAL factor = ((const REAL *)call->d_log_p)[row] / statistics[TOKEN_TOTAL];
  int64_t token = call->token_ids[row];
  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first);
    const REAL *x = FN(load)(&call->logits, row, first, n, buffer);
    FN(tile_softmax)(x, n, statistics[TOKEN_MAX], -factor, g);
    if (token >= first && token < first + n) g[token - first] = factor * statistics[TOKEN_REST];
    if (call->softcap != 0) FN(tile_cap)(x, n, (REAL)(1 / call->softcap), g);
    FN(store)(g, &call->gradient, row, first, n);
  }
  clear(&call->gradient, row, call->vocab, call->width);
}

static void FN(token_scores)(const tide_tokens *call, int64_t row) {
  REAL buffer[TILE], max = -(REAL)INFINITY, second = -(REAL)INFINITY;
  int64_t best = 0, not_a_number = -1;
  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first), odd;
    const REAL *x = FN(load)(&call->logits, row, first, n, buffer);
    REAL highest = FN(tile_bounds)(x, x, n, &odd);
    for (int i = 0; odd && i < n && not_a_number < 0; i++)
      if (x[i] != x[i]) not_a_number = first + i;
    if (highest <= second) continue;
    /* The two best of this tile; the lowest id wins a tie. */
    for (int i = 0; i < n; i++) {
      if (x[i] > max) {
        second = max;
        max = x[i], best = first + i;
      } else if (x[i] > second) {
        second = x[i];
      }
    }
  }
  double rest = 0, spread = 0;
  for (int64_t first = 0; first < call->vocab; first += TILE) {
    int n = tile_size(call->vocab, first);
    const REAL *x = FN(load)(&call->logits, row, first, n, buffer);
    /* The winner is left out: its exponential is 1. */
    int64_t at = best - first;
    int split = at >= 0 && at < n ? (int)at : n;
    REAL mass, weighted;
    FN(tile_spread)(x, split, max, &mass, &weighted);
    rest += mass, spread += weighted;
    if (split < n) {
      FN(tile_spread)(x + split + 1, n - split - 1, max, &mass, &weighted);
      rest += mass, spread += weighted;
    }
  }
  double log_total = log1p(rest);
  if (not_a_number >= 0 || !(max > -(REAL)INFINITY) || !(max < (REAL)INFINITY)) {
    best = not_a_number >= 0 ? not_a_number : best;
    rest = log_total = spread = NAN;
  }
  call->best[row] = best;
  ((REAL *)call->log_p)[row] = (REAL)-log_total;
  ((REAL *)call->entropy)[row] = (REAL)(log_total + spread / (1 + rest));
  ((REAL *)call->margin)[row] = (REAL)(-expm1((double)second - max) / (1 + rest));
}
