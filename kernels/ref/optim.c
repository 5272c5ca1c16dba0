#include "kernels/ref/ref.h"

void sum_squares_fwd_ref(ctx *c, const sum_squares_args *a) {
    double sum = 0;
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->x); i < n; i++) sum += (double)F32(a->x)[i] * F32(a->x)[i];
    ref_store_f64(a->out, 0, sum);
}

/* In float, operation by operation as torch does it (scalars are computed in double and rounded once). */
void adamw_fwd_ref(ctx *c, const adamw_args *a) {
    float gs = (float)a->grad_scale, shrink = (float)(1 - a->lr * a->weight_decay), eps = (float)a->eps;
    float b1c = (float)(1 - a->beta1), b2 = (float)a->beta2, b2c = (float)(1 - a->beta2);
    float step = (float)(a->lr / (1 - pow(a->beta1, (double)a->step)));
    float root = (float)sqrt(1 - pow(a->beta2, (double)a->step));
    float keep = (float)a->ema_decay, mix = (float)(1 - a->ema_decay);
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->w); i < n; i++) {
        float g = F32(a->grad)[i] * gs, w = F32(a->w)[i] * shrink;
        float m = F32(a->m)[i] + b1c * (g - F32(a->m)[i]);
        float v = F32(a->v)[i] * b2 + b2c * g * g;
        w -= step * m / (sqrtf(v) / root + eps);
        F32(a->w)[i] = w;
        F32(a->m)[i] = m;
        F32(a->v)[i] = v;
        if (tensor_given(a->ema)) F32(a->ema)[i] = keep * F32(a->ema)[i] + mix * w;
    }
}
