/* Whole rows: statistics, values and gradients. Included once per accumulation type; sums over tiles are doubles. */

#define LOAD(name, type, convert)                                     \
  CLONES static void FN(name)(const type *x, int n, REAL *buffer) {   \
    _Pragma("omp simd") for (int i = 0; i < n; i++) buffer[i] = (REAL)convert(x[i]); \
  }
LOAD(load_f32, float, )
LOAD(load_bf16, uint16_t, from_bf16)
LOAD(load_f16, uint16_t, from_f16)
LOAD(load_f64, double, )
#undef LOAD

#define STORE(name, type, convert)                                           \
  CLONES static void FN(name)(const REAL *buffer, int n, type *x) {          \
    _Pragma("omp simd") for (int i = 0; i < n; i++) x[i] = (type)convert(buffer[i]); \
  }
STORE(store_f32, float, )
STORE(store_bf16, uint16_t, to_bf16)
STORE(store_f16, uint16_t, to_f16)
STORE(store_f64, double, )
#undef STORE

/* n entries in the accumulation type: the row itself if it has it, else the buffer. */
static const REAL *FN(load)(const tide_rows *rows, int64_t row, int64_t column, int n, REAL *buffer) {
  const void *x = row_at(rows, row, column);
  if (rows->type == OWN_TYPE) return x;
  switch (rows->type) {
    case F32: FN(load_f32)(x, n, buffer); break;
    case BF16: FN(load_bf16)(x, n, buffer); break;
    case F16: FN(load_f16)(x, n, buffer); break;
    default: FN(load_f64)(x, n, buffer);
  }
  return buffer;
}

static void FN(store)(const REAL *buffer, const tide_rows *rows, int64_t row, int64_t column, int n) {
  void *x = row_at(rows, row, column);
  switch (rows->type) {
    case F32: FN(store_f32)(buffer, n, x); break;
    case BF16: FN(store_bf16)(buffer, n, x); break;
    case F16: FN(store_f16)(buffer, n, x); break;
    default: FN(store_f64)(buffer, n, x);
  }
}

/* Sum of exp(x - max) but for entry `label`, which may lie outside. */
static double FN(mass_but)(const REAL *x, int n, int64_t label, REAL max) {
  if (label < 0 || label >= n) return FN(tile_mass)(x, n, max);
  return (double)FN(tile_mass)(x, (int)label, max) + FN(tile_mass)(x + label + 1, n - (int)label - 1, max);
}
