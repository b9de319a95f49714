/* The `native` backend: rows of logits over threads, each row tile by tile through the first-level cache.

   C11 with POSIX threads. Called through ctypes, so the interpreter's lock is free meanwhile. */

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Vector units by the processor that the code meets. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define CLONES __attribute__((noinline, target_clones("avx512f", "avx2", "default")))
#else
#define CLONES __attribute__((noinline))
#endif

#define REAL float
#define FN(name) name##_f32
#define FABS fabsf
#define OWN_TYPE F32
#define SERIES_REACH 0.5f
#define VANISHED -87.3f /* log of the least p that is not 0 */
#define LARGEST_TILT 60 /* p underflows below exp(-87): with a larger w, p e^w may be 0 times infinity */
#include "../row_math.h"
#include "types.h"
#include "tiles.h"
#include "rows.h"
#include "divergence.h"
#include "tokens.h"
#undef REAL
#undef FN
#undef FABS
#undef OWN_TYPE
#undef LARGEST_TILT
#undef VANISHED
#undef SERIES_REACH

#define REAL double
#define FN(name) name##_f64
#define FABS fabs
#define OWN_TYPE F64
#define SERIES_REACH 0.05
#define VANISHED -700
#define LARGEST_TILT 650
#include "../row_math.h"
#include "tiles.h"
#include "rows.h"
#include "divergence.h"
#include "tokens.h"
#include "chunks.h"

/* Rows over threads: a free thread takes the next row, so results do not depend on their number. */

typedef void row_function(const void *call, int64_t row);

typedef struct {
  row_function *function;
  const void *call;
  const uint8_t *mask;
  int64_t num_rows;
  atomic_llong next;
} work;

static void *take_rows(void *argument) {
  work *todo = argument;
  for (int64_t row; (row = atomic_fetch_add(&todo->next, 1)) < todo->num_rows;)
    if (!todo->mask || todo->mask[row]) todo->function(todo->call, row);
  return NULL;
}

enum { MOST_THREADS = 256, ENTRIES_PER_THREAD = 1 << 17 }; /* less is done before a thread has started */

static void over_rows(row_function *function, const void *call, const uint8_t *mask, int64_t num_rows, int64_t vocab,
                      int num_threads) {
  work todo = {function, call, mask, num_rows, 0};
  int64_t most = num_rows * vocab / ENTRIES_PER_THREAD + 1;
  if (most > num_rows) most = num_rows;
  if (num_threads > most) num_threads = (int)most;
  if (num_threads > MOST_THREADS) num_threads = MOST_THREADS;
  pthread_t others[MOST_THREADS];
  int started = 0;
  while (started < num_threads - 1 && !pthread_create(&others[started], NULL, take_rows, &todo)) started++;
  take_rows(&todo);
  while (started > 0) pthread_join(others[--started], NULL);
}

/* Rows that are not read get gradient 0. */
static void clear_masked(const tide_rows *gradient, const uint8_t *mask, int64_t num_rows, int64_t width) {
  for (int64_t row = 0; mask && row < num_rows; row++)
    if (!mask[row]) clear(gradient, row, 0, width);
}

#define ROW_FUNCTION(name, type) \
  static void name##_row(const void *call, int64_t row) { name((const type *)call, row); }
ROW_FUNCTION(divergence_forward_f32, tide_divergence)
ROW_FUNCTION(divergence_forward_f64, tide_divergence)
ROW_FUNCTION(divergence_backward_f32, tide_divergence)
ROW_FUNCTION(divergence_backward_f64, tide_divergence)
ROW_FUNCTION(token_forward_f32, tide_tokens)
ROW_FUNCTION(token_forward_f64, tide_tokens)
ROW_FUNCTION(token_backward_f32, tide_tokens)
ROW_FUNCTION(token_backward_f64, tide_tokens)
ROW_FUNCTION(token_scores_f32, tide_tokens)
ROW_FUNCTION(token_scores_f64, tide_tokens)

#define EXPORT(name, type, before)                                                                   \
  void tide_##name(const type *call, int wide) {                                                     \
    before;                                                                                          \
    row_function *function = wide ? name##_f64_row : name##_f32_row;                                 \
    over_rows(function, call, call->mask, call->num_rows, call->vocab, call->num_threads);           \
  }
#define CLEAR_MASKED clear_masked(&call->gradient, call->mask, call->num_rows, call->width)
EXPORT(divergence_forward, tide_divergence, )
EXPORT(divergence_backward, tide_divergence, CLEAR_MASKED)
EXPORT(token_forward, tide_tokens, )
EXPORT(token_backward, tide_tokens, CLEAR_MASKED)
EXPORT(token_scores, tide_tokens, )

/* Doubles in any case. */
void tide_chunk_forward(const tide_chunks *call, int wide) {
  (void)wide;
  over_rows(chunk_forward, call, NULL, call->num_rows, call->student_length + call->teacher_length, call->num_threads);
}

void tide_chunk_backward(const tide_chunks *call, int wide) {
  (void)wide;
  over_rows(chunk_backward, call, NULL, call->num_rows, call->student_length, call->num_threads);
}

/* Of the calls, which the caller compares with its own. */
int64_t tide_size_of_divergence(void) { return sizeof(tide_divergence); }
int64_t tide_size_of_tokens(void) { return sizeof(tide_tokens); }
int64_t tide_size_of_chunks(void) { return sizeof(tide_chunks); }

/* Ask for huge pages: writing fresh memory is mostly page faults, one per 4 KiB. A hint. */
void tide_huge_pages(void *data, int64_t num_bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  uintptr_t page = (uintptr_t)2 << 20, start = ((uintptr_t)data + page - 1) / page * page;
  uintptr_t end = ((uintptr_t)data + (uintptr_t)num_bytes) / page * page;
  if (end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)num_bytes;
#endif
}
