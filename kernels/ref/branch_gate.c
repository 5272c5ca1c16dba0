#include "kernels/ref/ref.h"

static double gate(const tensor *z, int64_t n, int i) {
    return 1 / (1 + exp(-(double)F32(z)[n * 3 + i]));
}

void branch_gate_fwd_ref(ctx *c, const branch_gate_args *a) {
    int64_t N = a->z->dim[0], W = a->o[0]->dim[1] * a->o[0]->dim[2];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t j = 0; j < W; j++) {
            double sum = 0;
            for (int i = 0; i < 3; i++) sum += gate(a->z, n, i) * F32(a->o[i])[n * W + j];
            F32(a->out)[n * W + j] = (float)sum;
        }
}

void branch_gate_bwd_ref(ctx *c, const branch_gate_args *a) {
    int64_t N = a->z->dim[0], W = a->o[0]->dim[1] * a->o[0]->dim[2];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int i = 0; i < 3; i++) {
            double w = gate(a->z, n, i), dot = 0;
            for (int64_t j = 0; j < W; j++) {
                dot += (double)F32(a->o[i])[n * W + j] * F32(a->dout)[n * W + j];
                F32(a->do_[i])[n * W + j] = (float)(w * F32(a->dout)[n * W + j]);
            }
            F32(a->dz)[n * 3 + i] = (float)(w * (1 - w) * dot);
        }
}
