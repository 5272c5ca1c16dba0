#include "kernels/ref/ref.h"

static double length(const float *x, int64_t D) {
    double sum = 0;
    for (int64_t d = 0; d < D; d++) sum += (double)x[d] * x[d];
    return sqrt(sum);
}

/* Below this length x is divided by it, so that y is linear in x there (R§7.2). NaN is not below anything. */
static const double SHORTEST = 1e-12;

void rms_norm_fwd_ref(ctx *c, const rms_norm_args *a) {
    int64_t N = a->x->dim[0], H = a->x->dim[1], D = a->x->dim[2];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) {
            const float *x = F32(a->x) + (n * H + h) * D;
            double       len = length(x, D);
            if (len < SHORTEST) len = SHORTEST;
            for (int64_t d = 0; d < D; d++)
                F32(a->y)[(n * H + h) * D + d] = (float)(x[d] / len * F32(a->gamma)[h * D + d] * sqrt((double)D));
        }
}

/* y = s gamma x/len: dx = s (gamma dy - x <x, gamma dy>/len^2)/len; the second part only while len depends on x. */
void rms_norm_bwd_ref(ctx *c, const rms_norm_args *a) {
    int64_t N = a->x->dim[0], H = a->x->dim[1], D = a->x->dim[2];
    double  s = sqrt((double)D);
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) {
            const float *x = F32(a->x) + (n * H + h) * D, *dy = F32(a->dy) + (n * H + h) * D;
            const float *gamma = F32(a->gamma) + h * D;
            double       len = length(x, D), dot = 0;
            bool         fixed = len < SHORTEST;
            if (fixed) len = SHORTEST;
            for (int64_t d = 0; d < D; d++) dot += (double)x[d] / len * gamma[d] * dy[d];
            for (int64_t d = 0; d < D; d++)
                F32(a->dx)
                [(n * H + h) * D + d] = (float)(s / len * ((double)gamma[d] * dy[d] - (fixed ? 0 : x[d] / len * dot)));
        }
    if (!tensor_given(a->dgamma)) return;
    for (int64_t h = 0; h < H; h++)
        for (int64_t d = 0; d < D; d++) {
            double sum = F32(a->dgamma)[h * D + d];
            for (int64_t n = 0; n < N; n++) {
                const float *x = F32(a->x) + (n * H + h) * D;
                double       len = length(x, D);
                if (len < SHORTEST) len = SHORTEST;
                sum += x[d] / len * s * F32(a->dy)[(n * H + h) * D + d];
            }
            F32(a->dgamma)[h * D + d] = (float)sum;
        }
}
