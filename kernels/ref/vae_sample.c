#include "kernels/ref/ref.h"

static const double LOGVAR_MIN = -30, LOGVAR_MAX = 20;

/* NaN stays NaN. */
static double clamped(double x) {
    return x < LOGVAR_MIN ? LOGVAR_MIN : x > LOGVAR_MAX ? LOGVAR_MAX : x;
}

void vae_sample_fwd_ref(ctx *c, const vae_sample_args *a) {
    int64_t N = a->z->dim[0], C = a->z->dim[1];
    double  kl = 0;
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++) {
            double mean = F32(a->moments)[n * 2 * C + i], logvar = clamped(F32(a->moments)[n * 2 * C + C + i]);
            double noise = tensor_given(a->eps) ? exp(0.5 * logvar) * F32(a->eps)[n * C + i] : 0;
            F32(a->z)[n * C + i] = (float)(mean + noise);
            kl += 0.5 * (mean * mean + exp(logvar) - 1 - logvar);
        }
    ref_store_f64(a->kl, 0, kl);
}

void vae_sample_bwd_ref(ctx *c, const vae_sample_args *a) {
    int64_t N = a->moments->dim[0], C = a->moments->dim[1] / 2;
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++) {
            const float *row = F32(a->moments) + n * 2 * C;
            double       mean = row[i], logvar = clamped(row[C + i]);
            double       dz = tensor_given(a->dz) ? F32(a->dz)[n * C + i] : 0;
            double       eps = tensor_given(a->eps) ? F32(a->eps)[n * C + i] : 0;
            double       dlogvar = dz * eps * 0.5 * exp(0.5 * logvar) + a->kl_scale * 0.5 * (exp(logvar) - 1);
            if (row[C + i] < LOGVAR_MIN || row[C + i] > LOGVAR_MAX) dlogvar = 0;
            F32(a->dmoments)[n * 2 * C + i] = (float)(dz + a->kl_scale * mean);
            F32(a->dmoments)[n * 2 * C + C + i] = (float)dlogvar;
        }
}
