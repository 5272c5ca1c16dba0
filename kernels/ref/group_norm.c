#include "kernels/ref/act_math.h"

void group_norm_fwd_ref(ctx *c, const group_norm_args *a) {
    int64_t C = a->x->dim[1], W = C / a->groups, B = a->first->dim[0] - 1;
    (void)c;
    for (int64_t b = 0; b < B; b++)
        for (int64_t g = 0; g < a->groups; g++) {
            int64_t lo = I32(a->first)[b], hi = I32(a->first)[b + 1];
            double  mean = 0, var = 0, count = (double)((hi - lo) * W), rstd = 0;
            for (int64_t n = lo; n < hi; n++)
                for (int64_t i = g * W; i < (g + 1) * W; i++) mean += F32(a->x)[n * C + i];
            if (hi > lo) mean /= count;
            for (int64_t n = lo; n < hi; n++)
                for (int64_t i = g * W; i < (g + 1) * W; i++) {
                    double d = F32(a->x)[n * C + i] - mean;
                    var += d * d;
                }
            if (hi > lo) rstd = 1 / sqrt(var / count + a->eps);
            F32(a->mean)[b * a->groups + g] = (float)mean;
            F32(a->rstd)[b * a->groups + g] = (float)rstd;
            for (int64_t n = lo; n < hi; n++)
                for (int64_t i = g * W; i < (g + 1) * W; i++) {
                    double z = (F32(a->x)[n * C + i] - mean) * rstd * F32(a->gamma)[i] + F32(a->beta)[i];
                    F32(a->y)[n * C + i] = (float)act_value(a->act, z);
                }
        }
}

void group_norm_bwd_ref(ctx *c, const group_norm_args *a) {
    int64_t C = a->x->dim[1], W = C / a->groups, B = a->first->dim[0] - 1;
    (void)c;
    for (int64_t b = 0; b < B; b++)
        for (int64_t g = 0; g < a->groups; g++) {
            int64_t lo = I32(a->first)[b], hi = I32(a->first)[b + 1];
            double  mean = F32(a->mean)[b * a->groups + g], rstd = F32(a->rstd)[b * a->groups + g];
            double  count = (double)((hi - lo) * W), s0 = 0, s1 = 0;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t n = lo; n < hi; n++)
                    for (int64_t i = g * W; i < (g + 1) * W; i++) {
                        double gamma = F32(a->gamma)[i], xhat = (F32(a->x)[n * C + i] - mean) * rstd;
                        double d = F32(a->dy)[n * C + i] * act_slope(a->act, xhat * gamma + F32(a->beta)[i]) * gamma;
                        if (pass == 0) {
                            s0 += d;
                            s1 += d * xhat;
                        } else {
                            F32(a->dx)[n * C + i] = (float)(rstd * (d - s0 / count - xhat * s1 / count));
                        }
                    }
        }
    if (!tensor_given(a->dgamma)) return;
    for (int64_t i = 0; i < C; i++) {
        double dgamma = F32(a->dgamma)[i], dbeta = F32(a->dbeta)[i];
        for (int64_t b = 0; b < B; b++) {
            double mean = F32(a->mean)[b * a->groups + i / W], rstd = F32(a->rstd)[b * a->groups + i / W];
            for (int64_t n = I32(a->first)[b]; n < I32(a->first)[b + 1]; n++) {
                double xhat = (F32(a->x)[n * C + i] - mean) * rstd;
                double dz = F32(a->dy)[n * C + i] * act_slope(a->act, xhat * F32(a->gamma)[i] + F32(a->beta)[i]);
                dgamma += dz * xhat;
                dbeta += dz;
            }
        }
        F32(a->dgamma)[i] = (float)dgamma;
        F32(a->dbeta)[i] = (float)dbeta;
    }
}
