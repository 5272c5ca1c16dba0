/* GroupNorm over ragged samples: two passes over the rows, channel sums in double. */
#include "kernels/cpu/act_array.h"
#include "kernels/cpu/rows.h"

/* Channel sums of x - x0 and its square, x0 the sample's first row: the shift keeps the one-pass variance exact even
 * when the mean is far from zero. Then the channels of each group are joined. */
static void sample_moments(const group_norm_args *a, int64_t b, const row_sums *sums) {
    int64_t      C = a->x->dim[1], W = C / a->groups, r0 = I32(a->first)[b], rows = I32(a->first)[b + 1] - r0;
    const float *x0 = F32(a->x) + r0 * C;
    int          n_threads = 1;
#pragma omp        parallel if (rows * C > SMALL_LOOP)
    {
               int64_t lo, hi;
               double *restrict s = row_sums_mine(sums), *restrict q = s + C;
               rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t n = lo; n < hi; n++) {
                   const float *x = F32(a->x) + (r0 + n) * C;
                   for (int64_t i = 0; i < C; i++) {
                       double d = (double)x[i] - x0[i];
                       s[i] += d;
                       q[i] += d * d;
            }
        }
    }
    for (int64_t g = 0; g < a->groups; g++) {
        double mean = 0, m2 = 0, n = (double)rows;
        for (int64_t i = g * W; i < (g + 1) * W; i++) mean += x0[i] + row_sums_total(sums, i, n_threads) / n;
        mean /= (double)W;
        for (int64_t i = g * W; i < (g + 1) * W; i++) {
            double s = row_sums_total(sums, i, n_threads), q = row_sums_total(sums, C + i, n_threads);
            double off = x0[i] + s / n - mean;
            m2 += q - s * s / n + n * off * off;
        }
        F32(a->mean)[b * a->groups + g] = (float)mean;
        /* Not fmax: it would turn a NaN into 0. */
        F32(a->rstd)[b * a->groups + g] = (float)(1 / sqrt((m2 < 0 ? 0 : m2) / (n * (double)W) + a->eps));
    }
}

void group_norm_fwd_cpu(ctx *c, const group_norm_args *a) {
    int64_t  C = a->x->dim[1], W = C / a->groups, B = a->first->dim[0] - 1;
    row_sums sums = row_sums_new(&c->scratch, 2 * C);
    float   *factor = arena_alloc(&c->scratch, (size_t)(2 * C) * sizeof *factor), *mean = factor + C;
    for (int64_t b = 0; b < B; b++) {
        int64_t r0 = I32(a->first)[b], rows = I32(a->first)[b + 1] - r0;
        if (rows == 0) {
            memset(F32(a->mean) + b * a->groups, 0, (size_t)a->groups * sizeof(float));
            memset(F32(a->rstd) + b * a->groups, 0, (size_t)a->groups * sizeof(float));
            continue;
        }
        sample_moments(a, b, &sums);
        for (int64_t i = 0; i < C; i++) {
            mean[i] = F32(a->mean)[b * a->groups + i / W];
            factor[i] = F32(a->rstd)[b * a->groups + i / W] * F32(a->gamma)[i];
        }
        const float *beta = F32(a->beta);
#pragma omp parallel for schedule(static) if (rows * C > SMALL_LOOP)
        for (int64_t n = r0; n < r0 + rows; n++) {
            const float *x = F32(a->x) + n * C;
            float       *y = F32(a->y) + n * C;
            for (int64_t i = 0; i < C; i++) y[i] = (x[i] - mean[i]) * factor[i] + beta[i];
            if (a->act != ACT_NONE) act_array_fwd(a->act, y, NULL, NULL, y, C);
        }
    }
}

void group_norm_bwd_cpu(ctx *c, const group_norm_args *a) {
    int64_t      C = a->x->dim[1], W = C / a->groups, B = a->first->dim[0] - 1;
    const float *gamma = F32(a->gamma), *beta = F32(a->beta);
    row_sums     sums = row_sums_new(&c->scratch, 2 * C);
    double      *total = arena_zeros(&c->scratch, (size_t)(4 * C) * sizeof *total), *now = total + 2 * C;
    float       *tmp = arena_alloc(&c->scratch, (size_t)(2 * C * omp_get_max_threads()) * sizeof *tmp);
    float       *mean = arena_alloc(&c->scratch, (size_t)(4 * C) * sizeof *mean);
    float       *rstd = mean + C, *s0 = rstd + C, *s1 = s0 + C;
    for (int64_t b = 0; b < B; b++) {
        int64_t r0 = I32(a->first)[b], rows = I32(a->first)[b + 1] - r0;
        int     n_threads = 1;
        if (rows == 0) continue;
        for (int64_t i = 0; i < C; i++) {
            mean[i] = F32(a->mean)[b * a->groups + i / W];
            rstd[i] = F32(a->rstd)[b * a->groups + i / W];
        }
        /* First pass: dz = dy act'(z) waits in dx. */
#pragma omp        parallel if (rows * C > SMALL_LOOP)
        {
                   int64_t lo, hi;
                   double *restrict sz = row_sums_mine(&sums), *restrict sx = sz + C;
                   float *restrict xhat = tmp + 2 * C * omp_get_thread_num(), *restrict z = xhat + C;
                   rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
            n_threads = omp_get_num_threads();
            for (int64_t n = r0 + lo; n < r0 + hi; n++) {
                       const float *x = F32(a->x) + n * C;
                       float       *dx = F32(a->dx) + n * C;
                       for (int64_t i = 0; i < C; i++) xhat[i] = (x[i] - mean[i]) * rstd[i];
                for (int64_t i = 0; i < C; i++) z[i] = xhat[i] * gamma[i] + beta[i];
                act_array_bwd(a->act, z, F32(a->dy) + n * C, dx, C);
                       for (int64_t i = 0; i < C; i++) {
                           sz[i] += dx[i];
                           sx[i] += (double)dx[i] * xhat[i];
                }
            }
        }
        for (int64_t i = 0; i < 2 * C; i++) {
            now[i] = row_sums_total(&sums, i, n_threads);
            total[i] += now[i];
        }
        for (int64_t g = 0; g < a->groups; g++) {
            double sum0 = 0, sum1 = 0, count = (double)(rows * W);
            for (int64_t i = g * W; i < (g + 1) * W; i++) {
                sum0 += now[i] * gamma[i];
                sum1 += now[C + i] * gamma[i];
            }
            for (int64_t i = g * W; i < (g + 1) * W; i++) {
                s0[i] = (float)(sum0 / count);
                s1[i] = (float)(sum1 / count);
            }
        }
#pragma omp parallel for schedule(static) if (rows * C > SMALL_LOOP)
        for (int64_t n = r0; n < r0 + rows; n++) {
            const float *x = F32(a->x) + n * C;
            float       *dx = F32(a->dx) + n * C;
            for (int64_t i = 0; i < C; i++)
                dx[i] = rstd[i] * (gamma[i] * dx[i] - s0[i] - (x[i] - mean[i]) * rstd[i] * s1[i]);
        }
    }
    for (int64_t i = 0; tensor_given(a->dgamma) && i < C; i++) {
        F32(a->dbeta)[i] = (float)(F32(a->dbeta)[i] + total[i]);
        F32(a->dgamma)[i] = (float)(F32(a->dgamma)[i] + total[C + i]);
    }
}
