#include "kernels/ref/ref.h"

void sum_squares_fwd_ref(ctx *c, const sum_squares_args *a) {
    double sum = 0;
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->x); i < n; i++) sum += (double)F32(a->x)[i] * F32(a->x)[i];
    ref_store_f64(a->out, 0, sum);
}

/* In float, operation by operation as torch does it: scalars are computed in double and rounded once; a fused
 * multiply-add stands where its vector code has one, and only there (fmaf with -0 keeps the compiler from fusing more).
 */
void adamw_fwd_ref(ctx *c, const adamw_args *a) {
    float gs = (float)a->grad_scale, shrink = (float)(1 - a->lr * a->weight_decay), eps = (float)a->eps;
    float b1c = (float)(1 - a->beta1), b2 = (float)a->beta2, b2c = (float)(1 - a->beta2);
    float step = (float)(a->lr / (1 - pow(a->beta1, (double)a->step)));
    float root = (float)sqrt(1 - pow(a->beta2, (double)a->step));
    float keep = (float)a->ema_decay, mix = (float)(1 - a->ema_decay);
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->w); i < n; i++) {
        float g = fmaf(F32(a->grad)[i], gs, -0.0f);
        float m = fmaf(b1c, g - F32(a->m)[i], F32(a->m)[i]);
        float v = fmaf(b2c * g, g, F32(a->v)[i] * b2);
        float w = fmaf(F32(a->w)[i], shrink, -0.0f) - step * m / (sqrtf(v) / root + eps);
        F32(a->w)[i] = w;
        F32(a->m)[i] = m;
        F32(a->v)[i] = v;
        if (tensor_given(a->w16)) BF16(a->w16)[i] = f32_to_bf16(w);
        if (tensor_given(a->ema)) F32(a->ema)[i] = fmaf(mix, w, keep * F32(a->ema)[i]);
    }
}
