#include "kernels/ref/ref.h"

void gate_residual_fwd_ref(ctx *c, const gate_residual_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1], b = 0;
    bool    gated = tensor_given(a->gate);
    (void)c;
    for (int64_t n = 0; n < N; n++) {
        while (gated && n >= I32(a->first)[b + 1]) b++;
        for (int64_t i = 0; i < C; i++) {
            double gate = gated ? F32(a->gate)[b * C + i] : 1;
            F32(a->y)[n * C + i] = (float)(F32(a->x)[n * C + i] + gate * F32(a->h)[n * C + i]);
        }
    }
}

void gate_residual_bwd_ref(ctx *c, const gate_residual_args *a) {
    int64_t N = a->dy->dim[0], C = a->dy->dim[1], b = 0;
    bool    gated = tensor_given(a->gate);
    (void)c;
    for (int64_t n = 0; n < N; n++) {
        while (gated && n >= I32(a->first)[b + 1]) b++;
        for (int64_t i = 0; i < C; i++) {
            double gate = gated ? F32(a->gate)[b * C + i] : 1;
            F32(a->dh)[n * C + i] = (float)(gate * F32(a->dy)[n * C + i]);
        }
    }
    if (!tensor_given(a->dgate)) return;
    for (b = 0; b < a->gate->dim[0]; b++)
        for (int64_t i = 0; i < C; i++) {
            double sum = 0;
            for (int64_t n = I32(a->first)[b]; n < I32(a->first)[b + 1]; n++)
                sum += (double)F32(a->dy)[n * C + i] * F32(a->h)[n * C + i];
            F32(a->dgate)[b * C + i] = (float)sum;
        }
}
