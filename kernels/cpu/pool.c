/* Segment pooling and subdivision (ops/pool.h): memory traffic only; parents are shared out over threads. */
#include <string.h>

#include "kernels/backend.h"

enum { COLUMNS = 64 };

static inline int64_t member(const int32_t *order, int64_t at) {
    return order ? order[at] : at;
}

void pool_fwd_cpu(ctx *c, const pool_args *a) {
    (void)c;
    int64_t        P = a->y->dim[0], C = a->y->dim[1];
    const int32_t *first = I32(a->first), *order = tensor_given(a->order) ? I32(a->order) : NULL;
    const float   *x = F32(a->x);
    float         *y = F32(a->y);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < P; p++) {
        int64_t n = first[p + 1] - first[p];
        double  by = n == 0 ? 0 : 1.0 / (double)(a->add_one ? n + 1 : n);
        for (int64_t j0 = 0; j0 < C; j0 += COLUMNS) {
            int64_t m = C - j0 < COLUMNS ? C - j0 : COLUMNS;
            double  sum[COLUMNS] = {0};
            for (int64_t i = first[p]; i < first[p + 1]; i++) {
                const float *row = x + member(order, i) * C + j0;
                for (int64_t j = 0; j < m; j++) sum[j] += (double)row[j];
            }
            for (int64_t j = 0; j < m; j++) y[p * C + j0 + j] = (float)(sum[j] * by);
        }
    }
}

void pool_bwd_cpu(ctx *c, const pool_args *a) {
    (void)c;
    int64_t        P = a->dy->dim[0], C = a->dy->dim[1];
    const int32_t *first = I32(a->first), *order = tensor_given(a->order) ? I32(a->order) : NULL;
    const float   *dy = F32(a->dy);
    float         *dx = F32(a->dx);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < P; p++) {
        int64_t n = first[p + 1] - first[p];
        float   by = 1.0f / (float)(a->add_one ? n + 1 : n);
        for (int64_t i = first[p]; i < first[p + 1]; i++) {
            float *row = dx + member(order, i) * C;
            for (int64_t j = 0; j < C; j++) row[j] = dy[p * C + j] * by;
        }
    }
}

void subdivide_fwd_cpu(ctx *c, const subdivide_args *a) {
    (void)c;
    int64_t      N = a->x->dim[0], C = a->x->dim[1];
    const float *x = F32(a->x);
    float       *y = F32(a->y);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < 8 * N; i++) memcpy(y + i * C, x + i / 8 * C, (size_t)C * sizeof *y);
}

void subdivide_bwd_cpu(ctx *c, const subdivide_args *a) {
    (void)c;
    int64_t      N = a->dx->dim[0], C = a->dx->dim[1];
    const float *dy = F32(a->dy);
    float       *dx = F32(a->dx);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < N; i++) {
        const float *d = dy + 8 * i * C;
        for (int64_t j = 0; j < C; j++)
            dx[i * C + j] = ((d[j] + d[C + j]) + (d[2 * C + j] + d[3 * C + j])) +
                            ((d[4 * C + j] + d[5 * C + j]) + (d[6 * C + j] + d[7 * C + j]));
    }
}
