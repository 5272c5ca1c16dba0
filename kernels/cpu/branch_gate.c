#include "kernels/backend.h"
#include "kernels/cpu/attn_tile.h"
#include "kernels/cpu/rows.h"

static const double LOG2_E = 1.44269504088896340736;

static inline double gate(const tensor *z, int64_t n, int i) {
    return 1 / (1 + exp(-(double)F32(z)[n * 3 + i]));
}

/* log2 of it, for any z. */
static inline double log2_gate(const tensor *z, int64_t n, int i) {
    double x = (double)F32(z)[n * 3 + i];
    return (x < 0 ? x * LOG2_E : 0) - log2(1 + exp(-fabs(x)));
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
    int64_t N = a->z->dim[0], H = a->o[0]->dim[1], D = a->o[0]->dim[2];
    (void)c;
#pragma omp parallel for schedule(static) if (N * H * D > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++)
        for (int i = 0; i < 3; i++) {
            double w = gate(a->z, n, i), log2_w = log2_gate(a->z, n, i), all = 0;
            for (int64_t r = n * H; r < (n + 1) * H; r++) {
                float dot = attn_delta(F32(a->o[i]) + r * D, F32(a->dout) + r * D, D);
                F32(a->stat[i])[2 * r] = (float)(LOG2_E * (double)F32(a->lse[i])[r] - log2_w);
                F32(a->stat[i])[2 * r + 1] = -dot;
                all += (double)dot;
            }
            F32(a->dz)[n * 3 + i] = (float)(w * (1 - w) * all);
        }
}
