/* Rows of any floating type, read and written tile by tile in the accumulation type. */

#define TILE 1024 /* entries: three buffers of doubles fit the first-level cache */

enum { F32, BF16, F16, F64 };

static const int SIZES[] = {4, 2, 2, 8};

typedef struct {
  void *data; /* columns are adjacent */
  int64_t stride; /* entries from row to row */
  int32_t type, unused;
} tide_rows;

static inline void *row_at(const tide_rows *rows, int64_t row, int64_t column) {
  return (char *)rows->data + (row * rows->stride + column) * SIZES[rows->type];
}

/* Entries of the tile that begins at `first`. */
static inline int tile_size(int64_t vocab, int64_t first) { return (int)(vocab - first < TILE ? vocab - first : TILE); }

static inline void clear(const tide_rows *rows, int64_t row, int64_t column, int64_t end) {
  if (end > column) memset(row_at(rows, row, column), 0, (size_t)(end - column) * SIZES[rows->type]);
}

TIDE_FUNCTION float from_bf16(uint16_t x) { return tide_from_bits((uint32_t)x << 16); }

TIDE_FUNCTION float from_f16(uint16_t x) {
  uint32_t magnitude = x & 0x7fffu, sign = (uint32_t)(x & 0x8000u) << 16;
  float scaled = tide_from_bits(magnitude << 13) * tide_from_bits(0x77800000u); /* 2^112, exact */
  uint32_t bits = magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : tide_bits(scaled);
  return tide_from_bits(bits | sign);
}

TIDE_FUNCTION uint16_t to_bf16(float x) {
  uint32_t bits = tide_bits(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

TIDE_FUNCTION uint16_t to_f16(float x) {
  uint32_t bits = tide_bits(x), magnitude = bits & 0x7fffffffu;
  float half = tide_from_bits(0x3f000000u); /* its ulp is the least subnormal of fp16 */
  uint32_t subnormal = tide_bits(tide_from_bits(magnitude) + half) - tide_bits(half);
  uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t value = magnitude < 0x38800000u ? subnormal : normal;
  value = magnitude >= 0x477ff000u ? 0x7c00u : value;
  value = magnitude > 0x7f800000u ? 0x7e00u : value;
  return (uint16_t)(value | ((bits >> 16) & 0x8000u));
}

/* log softmax at the label from its distance below the maximum and the mass of the others; rest keeps the
   digits of a probability near 1. */
static double label_log_p(double below, double rest) {
  double own = exp(below);
  return own == 1.0 ? below - log1p(rest) : below - log(rest + own);
}
