#include "kernels/backend.h"
#include "kernels/cpu/rows.h"
#include "kernels/layer_norm_input.h"

/* Sample of row n, walking on from b; without modulation there is none. */
static inline int64_t sample_of(const layer_norm_args *a, int64_t n, int64_t b) {
    while (n >= I32(a->first)[b + 1]) b++;
    return b;
}

/* Variance from centred values: nothing cancels however large the mean is. */
static inline void row_moments(const float *x, int64_t n, double eps, double *mean, double *rstd) {
    double  m = row_sum(x, n) / (double)n, q = 0;
    int64_t i = 0;
#ifdef VMATH_AVX2
    double  lane[4];
    __m256d s0 = _mm256_setzero_pd(), s1 = s0, vm = _mm256_set1_pd(m);
    for (; i + 8 <= n; i += 8) {
        __m256d d0 = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), vm);
        __m256d d1 = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)), vm);
        s0 = _mm256_fmadd_pd(d0, d0, s0);
        s1 = _mm256_fmadd_pd(d1, d1, s1);
    }
    _mm256_storeu_pd(lane, _mm256_add_pd(s0, s1));
    q = (lane[0] + lane[1]) + (lane[2] + lane[3]);
#endif
    for (; i < n; i++) q += (x[i] - m) * (x[i] - m);
    *mean = m;
    *rstd = 1 / sqrt(q / (double)n + eps);
}

void layer_norm_fwd_cpu(ctx *c, const layer_norm_args *a) {
    int64_t       N = a->x->dim[0], C = a->x->dim[1];
    bool          modulated = tensor_given(a->scale);
    const float  *gamma = tensor_given(a->gamma) ? F32(a->gamma) : NULL, *beta = gamma ? F32(a->beta) : NULL;
    const tensor *of = layer_norm_input(c, a, gate_residual_fwd_cpu);
#pragma omp parallel if (N * C > SMALL_LOOP)
    {
        int64_t lo, hi, b = 0;
        rows_part(N, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        for (int64_t n = lo; n < hi; n++) {
            const float *x = F32(of) + n * C, *scale = NULL, *shift = NULL;
            float       *y = F32(a->y) + n * C;
            double       mean, rstd;
            if (modulated) {
                b = sample_of(a, n, b);
                scale = F32(a->scale) + b * C;
                shift = F32(a->shift) + b * C;
            }
            row_moments(x, C, a->eps, &mean, &rstd);
            F32(a->mean)[n] = (float)mean;
            F32(a->rstd)[n] = (float)rstd;
            /* (x - mean) in float would lose digits when the mean is large. */
            for (int64_t i = 0; i < C; i++) y[i] = (float)(((double)x[i] - mean) * rstd);
            if (gamma)
                for (int64_t i = 0; i < C; i++) y[i] = y[i] * gamma[i] + beta[i];
            if (modulated)
                for (int64_t i = 0; i < C; i++) y[i] = y[i] * (1 + scale[i]) + shift[i];
        }
    }
}

/* Column sums of one row into the thread's accumulators (2C): the parts of dgamma and dbeta, or of dscale and dshift.
 */
static inline void add_columns(double *restrict acc, const float *restrict p, const float *restrict q, int64_t C) {
    for (int64_t i = 0; i < C; i++) acc[i] += p[i];
    for (int64_t i = 0; i < C; i++) acc[C + i] += q[i];
}

/* dx and, when asked for, the column sums of rows lo..hi-1 of one sample. `tmp` holds 3 C floats. */
static void bwd_rows(const layer_norm_args *a, int64_t b, int64_t lo, int64_t hi, float *tmp, double *affine_sums,
                     double *mod_sums) {
    int64_t      C = a->x->dim[1];
    const float *gamma = tensor_given(a->gamma) ? F32(a->gamma) : NULL, *beta = gamma ? F32(a->beta) : NULL;
    const float *scale = tensor_given(a->scale) ? F32(a->scale) + b * C : NULL;
    float       *xhat = tmp, *g = tmp + C, *part = tmp + 2 * C;
    for (int64_t n = lo; n < hi; n++) {
        const float *x = F32(a->x) + n * C, *dy = F32(a->dy) + n * C;
        const float *before = tensor_given(a->dx_add) ? F32(a->dx_add) + n * C : NULL;
        float       *dx = F32(a->dx) + n * C, rstd = F32(a->rstd)[n], mean = F32(a->mean)[n];
        for (int64_t i = 0; i < C; i++) xhat[i] = (x[i] - mean) * rstd;
        if (mod_sums) {
            if (gamma)
                for (int64_t i = 0; i < C; i++) part[i] = dy[i] * (xhat[i] * gamma[i] + beta[i]);
            else
                for (int64_t i = 0; i < C; i++) part[i] = dy[i] * xhat[i];
            add_columns(mod_sums, part, dy, C);
        }
        if (scale)
            for (int64_t i = 0; i < C; i++) g[i] = dy[i] * (1 + scale[i]);
        else
            memcpy(g, dy, (size_t)C * sizeof *g);
        if (affine_sums) {
            for (int64_t i = 0; i < C; i++) part[i] = g[i] * xhat[i];
            add_columns(affine_sums, part, g, C);
        }
        if (gamma)
            for (int64_t i = 0; i < C; i++) g[i] *= gamma[i];
        float s0 = (float)(row_sum(g, C) / (double)C), s1 = (float)(row_dot(g, xhat, C) / (double)C);
        if (before)
            for (int64_t i = 0; i < C; i++) dx[i] = before[i] + rstd * (g[i] - s0 - xhat[i] * s1);
        else
            for (int64_t i = 0; i < C; i++) dx[i] = rstd * (g[i] - s0 - xhat[i] * s1);
    }
}

void layer_norm_bwd_cpu(ctx *c, const layer_norm_args *a) {
    int64_t  N = a->x->dim[0], C = a->x->dim[1], B = tensor_given(a->scale) ? a->first->dim[0] - 1 : 1;
    bool     affine = tensor_given(a->dgamma), mod = tensor_given(a->dscale);
    float   *tmp = arena_alloc(&c->scratch, (size_t)(3 * C * omp_get_max_threads()) * sizeof *tmp);
    row_sums affine_sums = row_sums_new(&c->scratch, affine ? 2 * C : 0);
    row_sums mod_sums = row_sums_new(&c->scratch, mod ? 2 * C : 0);
    double  *total = arena_zeros(&c->scratch, (size_t)(2 * C) * sizeof *total);
    for (int64_t b = 0; b < B; b++) {
        int64_t r0 = tensor_given(a->scale) ? I32(a->first)[b] : 0,
                r1 = tensor_given(a->scale) ? I32(a->first)[b + 1] : N;
        int n_threads = 1;
#pragma omp        parallel if ((r1 - r0) * C > SMALL_LOOP)
        {
                   int     me = omp_get_thread_num();
                   int64_t lo, hi;
                   double *mine_affine = row_sums_mine(&affine_sums), *mine_mod = row_sums_mine(&mod_sums);
#pragma omp single nowait
            n_threads = omp_get_num_threads();
            rows_part(r1 - r0, 1, me, omp_get_num_threads(), &lo, &hi);
            bwd_rows(a, b, r0 + lo, r0 + hi, tmp + 3 * C * me, affine ? mine_affine : NULL, mod ? mine_mod : NULL);
        }
        for (int64_t i = 0; affine && i < 2 * C; i++) total[i] += row_sums_total(&affine_sums, i, n_threads);
        for (int64_t i = 0; mod && i < C; i++) {
            F32(a->dscale)[b * C + i] = (float)row_sums_total(&mod_sums, i, n_threads);
            F32(a->dshift)[b * C + i] = (float)row_sums_total(&mod_sums, C + i, n_threads);
        }
    }
    for (int64_t i = 0; affine && i < C; i++) {
        F32(a->dgamma)[i] = (float)(F32(a->dgamma)[i] + total[i]);
        F32(a->dbeta)[i] = (float)(F32(a->dbeta)[i] + total[C + i]);
    }
}
