#include "kernels/layer_norm_input.h"
#include "kernels/ref/ref.h"

/* Rows of sample b; without modulation all rows are one sample. */
static int64_t n_samples(const layer_norm_args *a) {
    return tensor_given(a->scale) ? a->first->dim[0] - 1 : 1;
}
static int64_t row_of(const layer_norm_args *a, int64_t b) {
    return tensor_given(a->scale) ? I32(a->first)[b] : b * a->x->dim[0];
}

void layer_norm_fwd_ref(ctx *c, const layer_norm_args *a) {
    int64_t       C = a->x->dim[1];
    bool          affine = tensor_given(a->gamma), modulated = tensor_given(a->scale);
    const tensor *of = layer_norm_input(c, a, gate_residual_fwd_ref);
    for (int64_t b = 0; b < n_samples(a); b++)
        for (int64_t n = row_of(a, b); n < row_of(a, b + 1); n++) {
            const float *x = F32(of) + n * C;
            double       mean = 0, var = 0;
            for (int64_t i = 0; i < C; i++) mean += x[i];
            mean /= (double)C;
            for (int64_t i = 0; i < C; i++) var += (x[i] - mean) * (x[i] - mean);
            double rstd = 1 / sqrt(var / (double)C + a->eps);
            F32(a->mean)[n] = (float)mean;
            F32(a->rstd)[n] = (float)rstd;
            for (int64_t i = 0; i < C; i++) {
                double u = (x[i] - mean) * rstd;
                if (affine) u = u * F32(a->gamma)[i] + F32(a->beta)[i];
                if (modulated) u = u * (1 + (double)F32(a->scale)[b * C + i]) + F32(a->shift)[b * C + i];
                F32(a->y)[n * C + i] = (float)u;
            }
        }
}

void layer_norm_bwd_ref(ctx *c, const layer_norm_args *a) {
    int64_t C = a->x->dim[1];
    bool    affine = tensor_given(a->gamma), modulated = tensor_given(a->scale);
    (void)c;
    for (int64_t b = 0; b < n_samples(a); b++)
        for (int64_t n = row_of(a, b); n < row_of(a, b + 1); n++) {
            const float *x = F32(a->x) + n * C, *dy = F32(a->dy) + n * C;
            double       mean = F32(a->mean)[n], rstd = F32(a->rstd)[n], s0 = 0, s1 = 0;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t i = 0; i < C; i++) {
                    double xhat = (x[i] - mean) * rstd, g = dy[i];
                    if (modulated) g *= 1 + (double)F32(a->scale)[b * C + i];
                    if (affine) g *= F32(a->gamma)[i];
                    if (pass == 0) {
                        s0 += g;
                        s1 += g * xhat;
                    } else {
                        double before = tensor_given(a->dx_add) ? F32(a->dx_add)[n * C + i] : 0;
                        F32(a->dx)[n * C + i] = (float)(before + rstd * (g - s0 / (double)C - xhat * s1 / (double)C));
                    }
                }
        }
    if (tensor_given(a->dgamma))
        for (int64_t i = 0; i < C; i++) {
            double dgamma = F32(a->dgamma)[i], dbeta = F32(a->dbeta)[i];
            for (int64_t b = 0; b < n_samples(a); b++)
                for (int64_t n = row_of(a, b); n < row_of(a, b + 1); n++) {
                    double du = F32(a->dy)[n * C + i];
                    if (modulated) du *= 1 + (double)F32(a->scale)[b * C + i];
                    dgamma += du * (F32(a->x)[n * C + i] - (double)F32(a->mean)[n]) * F32(a->rstd)[n];
                    dbeta += du;
                }
            F32(a->dgamma)[i] = (float)dgamma;
            F32(a->dbeta)[i] = (float)dbeta;
        }
    if (tensor_given(a->dscale))
        for (int64_t b = 0; b < n_samples(a); b++)
            for (int64_t i = 0; i < C; i++) {
                double dscale = 0, dshift = 0;
                for (int64_t n = row_of(a, b); n < row_of(a, b + 1); n++) {
                    double u = (F32(a->x)[n * C + i] - (double)F32(a->mean)[n]) * F32(a->rstd)[n];
                    if (affine) u = u * F32(a->gamma)[i] + F32(a->beta)[i];
                    dscale += F32(a->dy)[n * C + i] * u;
                    dshift += F32(a->dy)[n * C + i];
                }
                F32(a->dscale)[b * C + i] = (float)dscale;
                F32(a->dshift)[b * C + i] = (float)dshift;
            }
}
