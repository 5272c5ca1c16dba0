#include "kernels/ref/ref.h"

static double gate(const tensor *z, int64_t n, int i) {
    return 1 / (1 + exp(-(double)F32(z)[n * 3 + i]));
}

/* log2 of it, for any z. */
static double log2_gate(const tensor *z, int64_t n, int i) {
    const double log2_e = 1.44269504088896340736;
    double       x = (double)F32(z)[n * 3 + i];
    return (x < 0 ? x * log2_e : 0) - log2(1 + exp(-fabs(x)));
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
    const double log2_e = 1.44269504088896340736;
    int64_t      N = a->z->dim[0], H = a->o[0]->dim[1], D = a->o[0]->dim[2];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int i = 0; i < 3; i++) {
            double w = gate(a->z, n, i), all = 0;
            for (int64_t h = 0; h < H; h++) {
                double dot = 0;
                for (int64_t d = (n * H + h) * D; d < (n * H + h + 1) * D; d++)
                    dot += (double)F32(a->o[i])[d] * F32(a->dout)[d];
                F32(a->stat[i])[2 * (n * H + h)] = (float)(log2_e * F32(a->lse[i])[n * H + h] - log2_gate(a->z, n, i));
                F32(a->stat[i])[2 * (n * H + h) + 1] = (float)-dot;
                all += dot;
            }
            F32(a->dz)[n * 3 + i] = (float)(w * (1 - w) * all);
        }
}
