/* Small matrix products on one thread, the inside of tiles: operands live in the first two caches, so nothing is
 * packed.
 *
 *   mm_add:  C (M,N) += A (M,K) B (K,N)          mm_set:  C = A B
 *
 * A may be read across (a_row, a_col are its strides: a transposed A costs nothing, its elements are broadcast). N is a
 * multiple of 8; B and C have contiguous rows of stride ldb, ldc. Register tiles of 6 x 16: 12 accumulators hide the
 * latency of two fused multiply-adds a cycle. The order of additions depends on K alone; each
 * product is summed up by itself before it is added to C, so that a sum over many tiles rounds like a tree of two
 * levels. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef float v8f __attribute__((vector_size(32)));
typedef float v8f_any __attribute__((vector_size(32), aligned(4), may_alias)); /* at any float address */

static inline v8f v8_load(const float *p) {
    return *(const v8f_any *)p;
}
static inline void v8_store(float *p, v8f v) {
    *(v8f_any *)p = v;
}
static inline v8f v8_set(float x) {
    return (v8f){x, x, x, x, x, x, x, x};
}

typedef struct {
    const float *A;
    int64_t      a_row, a_col;
    const float *B;
    int64_t      ldb;
    float       *C;
    int64_t      ldc, K;
    bool         add;
} mm_part;

/* R rows, W vectors of 8 columns at C; R and W are constants at every call. */
static inline __attribute__((always_inline)) void mm_tile(const int R, const int W, const mm_part *m, const float *A,
                                                          const float *B, float *C) {
    v8f     acc[6][2];
    int64_t a_row = m->a_row, a_col = m->a_col, ldb = m->ldb, ldc = m->ldc, K = m->K;
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int w = 0; w < W; w++) acc[r][w] = v8_set(0);
    for (int64_t k = 0; k < K; k++, A += a_col, B += ldb) {
        v8f b[2];
#pragma GCC unroll 2
        for (int w = 0; w < W; w++) b[w] = v8_load(B + 8 * w);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            v8f x = v8_set(A[r * a_row]);
#pragma GCC unroll 2
            for (int w = 0; w < W; w++) acc[r][w] += x * b[w];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int w = 0; w < W; w++)
            v8_store(C + r * ldc + 8 * w, m->add ? v8_load(C + r * ldc + 8 * w) + acc[r][w] : acc[r][w]);
}

static inline void mm_rows(int R, int W, const mm_part *m, const float *A, const float *B, float *C) {
    switch (R * 2 + W - 1) {
#define MM_CASE(r)                                                                                                     \
    case 2 * r:                                                                                                        \
        mm_tile(r, 1, m, A, B, C);                                                                                     \
        break;                                                                                                         \
    case 2 * r + 1:                                                                                                    \
        mm_tile(r, 2, m, A, B, C);                                                                                     \
        break;
        MM_CASE(1)
        MM_CASE(2) MM_CASE(3) MM_CASE(4) MM_CASE(5) MM_CASE(6)
#undef MM_CASE
            default : break;
    }
}

static inline void mm_run(int64_t M, int64_t N, const mm_part *m) {
    for (int64_t j = 0; j < N; j += 16)
        for (int64_t i = 0; i < M; i += 6)
            mm_rows(M - i < 6 ? (int)(M - i) : 6, N - j < 16 ? 1 : 2, m, m->A + i * m->a_row, m->B + j,
                    m->C + i * m->ldc + j);
}

static inline int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}
