#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

static inline double gate(const tensor *z, int64_t n, int i) {
    return 1 / (1 + exp(-(double)F32(z)[n * 3 + i]));
}

void branch_gate_fwd_cpu(ctx *c, const branch_gate_args *a) {
    int64_t N = a->z->dim[0], W = a->o[0]->dim[1] * a->o[0]->dim[2];
    (void)c;
#pragma omp parallel for schedule(static) if (N * W > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++) {
        const float *o0 = F32(a->o[0]) + n * W, *o1 = F32(a->o[1]) + n * W, *o2 = F32(a->o[2]) + n * W;
        float       *out = F32(a->out) + n * W;
        float        w0 = (float)gate(a->z, n, 0), w1 = (float)gate(a->z, n, 1), w2 = (float)gate(a->z, n, 2);
        for (int64_t j = 0; j < W; j++) out[j] = w0 * o0[j] + w1 * o1[j] + w2 * o2[j];
    }
}

void branch_gate_bwd_cpu(ctx *c, const branch_gate_args *a) {
    int64_t N = a->z->dim[0], W = a->o[0]->dim[1] * a->o[0]->dim[2];
    (void)c;
#pragma omp parallel for schedule(static) if (N * W > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++)
        for (int i = 0; i < 3; i++) {
            const float *dout = F32(a->dout) + n * W;
            float       *d = F32(a->do_[i]) + n * W;
            double       w = gate(a->z, n, i);
            float        w32 = (float)w;
            for (int64_t j = 0; j < W; j++) d[j] = w32 * dout[j];
            F32(a->dz)[n * 3 + i] = (float)(w * (1 - w) * row_dot(F32(a->o[i]) + n * W, dout, W));
        }
}
