/* Single precision matrix product on all threads.
 *
 * OpenBLAS itself runs on one thread here (set when the program starts): the OpenMP threads of these kernels each
 * multiply a part. So its pool and ours don't fight for the cores, and bits depend on our number of threads only. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* C (m,n) = A B + beta C, row-major; A is (m,k), or stored (k,m) with ta; B is (k,n), or stored (n,k) with tb.
 * beta 0 does not read C. The larger of m and n is cut between the threads. Not for use inside a parallel region. */
void gemm_f32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
              int64_t ldb, float beta, float *c, int64_t ldc);

/* The same on the calling thread. */
void gemm_f32_one(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc);
