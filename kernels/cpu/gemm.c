#include "kernels/cpu/gemm.h"
#include "kernels/cpu/rows.h"

#include <cblas.h>

__attribute__((constructor)) static void one_blas_thread(void) {
    openblas_set_num_threads(1);
}

void gemm_f32_one(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc) {
    if (m == 0 || n == 0) return;
    if (k == 0) { /* OpenBLAS leaves C as it is for an empty product; beta 0 must still clear it */
        for (int64_t i = 0; i < m && beta == 0; i++) memset(c + i * ldc, 0, (size_t)n * sizeof *c);
        return;
    }
    CHECK(m <= INT32_MAX && n <= INT32_MAX && k <= INT32_MAX, "product of %lld x %lld x %lld", (long long)m,
          (long long)n, (long long)k);
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n,
                (blasint)k, 1.0f, a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

void gemm_f32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
              int64_t ldb, float beta, float *c, int64_t ldc) {
    bool by_rows = m >= n;
#pragma omp parallel if ((double)m * (double)n * (double)k > 1e6)
    {
        int64_t lo, hi;
        rows_part(by_rows ? m : n, 16, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        if (by_rows)
            gemm_f32_one(ta, tb, hi - lo, n, k, a + (ta ? lo : lo * lda), lda, b, ldb, beta, c + lo * ldc, ldc);
        else
            gemm_f32_one(ta, tb, m, hi - lo, k, a, lda, b + (tb ? lo * ldb : lo), ldb, beta, c + lo, ldc);
    }
}
