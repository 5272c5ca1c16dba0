#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

/* As in the reference: shorter vectors are divided by this. */
static const double SHORTEST = 1e-12;

void rms_norm_fwd_cpu(ctx *c, const rms_norm_args *a) {
    int64_t N = a->x->dim[0], H = a->x->dim[1], D = a->x->dim[2];
    (void)c;
#pragma omp parallel for schedule(static) if (N * H * D > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) {
            const float *x = F32(a->x) + (n * H + h) * D, *gamma = F32(a->gamma) + h * D;
            float       *y = F32(a->y) + (n * H + h) * D;
            double       len = sqrt(row_dot(x, x, D)), k = sqrt((double)D) / (len < SHORTEST ? SHORTEST : len);
            for (int64_t d = 0; d < D; d++) y[d] = (float)(x[d] * k) * gamma[d];
        }
}

void rms_norm_bwd_cpu(ctx *c, const rms_norm_args *a) {
    int64_t  N = a->x->dim[0], H = a->x->dim[1], D = a->x->dim[2];
    bool     want = tensor_given(a->dgamma);
    row_sums sums = row_sums_new(&c->scratch, want ? H * D : 0);
    float   *tmp = arena_alloc(&c->scratch, (size_t)(2 * D * omp_get_max_threads()) * sizeof *tmp);
    int      n_threads = 1;
#pragma omp        parallel if (N * H * D > SMALL_LOOP)
    {
               int64_t lo, hi;
               double *restrict mine = row_sums_mine(&sums);
               float *restrict xhat = tmp + 2 * D * omp_get_thread_num(), *restrict g = xhat + D;
               rows_part(N, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t n = lo; n < hi; n++)
            for (int64_t h = 0; h < H; h++) {
                       const float *x = F32(a->x) + (n * H + h) * D, *dy = F32(a->dy) + (n * H + h) * D;
                       const float *gamma = F32(a->gamma) + h * D;
                       float       *dx = F32(a->dx) + (n * H + h) * D;
                       double       len = sqrt(row_dot(x, x, D)), inv = 1 / (len < SHORTEST ? SHORTEST : len);
                       double       k = sqrt((double)D) * inv;
                       for (int64_t d = 0; d < D; d++) {
                           xhat[d] = (float)(x[d] * inv);
                           g[d] = gamma[d] * dy[d];
                }
                       float dot = len < SHORTEST ? 0 : (float)row_dot(xhat, g, D);
                       if (want)
                    for (int64_t d = 0; d < D; d++) mine[h * D + d] += xhat[d] * dy[d];
                for (int64_t d = 0; d < D; d++) dx[d] = (float)(k * (g[d] - xhat[d] * dot));
            }
    }
    for (int64_t i = 0; want && i < H * D; i++)
        F32(a->dgamma)[i] = (float)(F32(a->dgamma)[i] + sqrt((double)D) * row_sums_total(&sums, i, n_threads));
}
