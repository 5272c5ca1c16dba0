/* Small pieces of the row-wise CPU kernels: how a loop is cut between threads, sums of a row in double, and column sums
 * over many rows. The cut depends on the number of threads only, so results are repeatable for a given number. */
#pragma once
#include <omp.h>
#include "core/arena.h"
#include "kernels/cpu/vmath.h"

/* Below this many elements a parallel region costs more than it saves. */
enum { SMALL_LOOP = 32768 };

/* The part of 0..n-1 of thread `part` of `parts`; cuts are multiples of quantum. */
static inline void rows_part(int64_t n, int64_t quantum, int part, int parts, int64_t *lo, int64_t *hi) {
    int64_t q = (n + quantum - 1) / quantum;
    *lo = q * part / parts * quantum;
    *hi = q * (part + 1) / parts * quantum;
    if (*lo > n) *lo = n;
    if (*hi > n) *hi = n;
}

/* One accumulator row of `width` doubles per thread, cleared by its thread, added up in thread order. */
typedef struct {
    double *sum;
    int64_t width;
} row_sums;

static inline row_sums row_sums_new(arena *scratch, int64_t width) {
    int64_t stride = (width + 7) / 8 * 8; /* whole cache lines: threads don't share one */
    return (row_sums){arena_alloc(scratch, (size_t)(stride * omp_get_max_threads()) * sizeof(double)), stride};
}
static inline double *row_sums_mine(const row_sums *s) {
    double *mine = s->sum + s->width * omp_get_thread_num();
    memset(mine, 0, (size_t)s->width * sizeof *mine);
    return mine;
}
static inline double row_sums_total(const row_sums *s, int64_t i, int n_threads) {
    double total = 0;
    for (int t = 0; t < n_threads; t++) total += s->sum[t * s->width + i];
    return total;
}

/* sum x and sum y*z of a row, in double, four lanes in a fixed order. */
static inline double row_sum(const float *x, int64_t n) {
    double  lane[4] = {0, 0, 0, 0}, rest = 0;
    int64_t i = 0;
#ifdef VMATH_AVX2
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    for (; i + 8 <= n; i += 8) {
        s0 = _mm256_add_pd(s0, _mm256_cvtps_pd(_mm_loadu_ps(x + i)));
        s1 = _mm256_add_pd(s1, _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)));
    }
    _mm256_storeu_pd(lane, _mm256_add_pd(s0, s1));
#endif
    for (; i < n; i++) rest += x[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]) + rest;
}

static inline double row_dot(const float *x, const float *y, int64_t n) {
    double  lane[4] = {0, 0, 0, 0}, rest = 0;
    int64_t i = 0;
#ifdef VMATH_AVX2
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    for (; i + 8 <= n; i += 8) {
        s0 = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), _mm256_cvtps_pd(_mm_loadu_ps(y + i)), s0);
        s1 = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)), _mm256_cvtps_pd(_mm_loadu_ps(y + i + 4)), s1);
    }
    _mm256_storeu_pd(lane, _mm256_add_pd(s0, s1));
#endif
    for (; i < n; i++) rest += (double)x[i] * y[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]) + rest;
}
