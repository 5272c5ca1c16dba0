/* Definition of segment pooling and subdivision (ops/pool.h). */
#include "kernels/backend.h"

static int64_t member(const pool_args *a, int64_t at) {
    return tensor_given(a->order) ? I32(a->order)[at] : at;
}

void pool_fwd_ref(ctx *c, const pool_args *a) {
    (void)c;
    int64_t        P = a->y->dim[0], C = a->y->dim[1];
    const int32_t *first = I32(a->first);
    for (int64_t p = 0; p < P; p++)
        for (int64_t j = 0; j < C; j++) {
            double sum = 0, n = first[p + 1] - first[p];
            for (int64_t i = first[p]; i < first[p + 1]; i++) sum += (double)F32(a->x)[member(a, i) * C + j];
            F32(a->y)[p * C + j] = n == 0 ? 0 : (float)(sum / (a->add_one ? n + 1 : n));
        }
}

void pool_bwd_ref(ctx *c, const pool_args *a) {
    (void)c;
    int64_t        P = a->dy->dim[0], C = a->dy->dim[1];
    const int32_t *first = I32(a->first);
    for (int64_t p = 0; p < P; p++)
        for (int64_t i = first[p]; i < first[p + 1]; i++)
            for (int64_t j = 0; j < C; j++) {
                double n = first[p + 1] - first[p];
                F32(a->dx)[member(a, i) * C + j] = (float)((double)F32(a->dy)[p * C + j] / (a->add_one ? n + 1 : n));
            }
}

void subdivide_fwd_ref(ctx *c, const subdivide_args *a) {
    (void)c;
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    for (int64_t i = 0; i < 8 * N; i++)
        for (int64_t j = 0; j < C; j++) F32(a->y)[i * C + j] = F32(a->x)[i / 8 * C + j];
}

void subdivide_bwd_ref(ctx *c, const subdivide_args *a) {
    (void)c;
    int64_t N = a->dx->dim[0], C = a->dx->dim[1];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < C; j++) {
            double sum = 0;
            for (int child = 0; child < 8; child++) sum += (double)F32(a->dy)[(8 * i + child) * C + j];
            F32(a->dx)[i * C + j] = (float)sum;
        }
}
