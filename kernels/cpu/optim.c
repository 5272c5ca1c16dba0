#include "core/half.h"
#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

enum { PIECE = 65536 };

/* Pieces of fixed length, added in order: the sum doesn't depend on the number of threads. */
void sum_squares_fwd_cpu(ctx *c, const sum_squares_args *a) {
    int64_t n = tensor_count(a->x), n_pieces = (n + PIECE - 1) / PIECE;
    double *piece = arena_alloc(&c->scratch, (size_t)n_pieces * sizeof *piece), sum = 0;
#pragma omp parallel for schedule(static) if (n_pieces > 1)
    for (int64_t p = 0; p < n_pieces; p++) {
        const float *x = F32(a->x) + p * PIECE;
        piece[p] = row_dot(x, x, p + 1 < n_pieces ? PIECE : n - p * PIECE);
    }
    for (int64_t p = 0; p < n_pieces; p++) sum += piece[p];
    F64(a->out)[0] = sum;
}

/* The reference's arithmetic, bit for bit, on vectors. */
static void adamw_piece(const adamw_args *a, float *restrict w, float *restrict m, float *restrict v,
                        float *restrict ema, uint16_t *restrict w16, const float *restrict grad, int64_t n) {
    float gs = (float)a->grad_scale, shrink = (float)(1 - a->lr * a->weight_decay), eps = (float)a->eps;
    float b1c = (float)(1 - a->beta1), b2 = (float)a->beta2, b2c = (float)(1 - a->beta2);
    float step = (float)(a->lr / (1 - pow(a->beta1, (double)a->step)));
    float root = (float)sqrt(1 - pow(a->beta2, (double)a->step));
    float keep = (float)a->ema_decay, mix = (float)(1 - a->ema_decay);
    for (int64_t i = 0; i < n; i++) {
        float g = fmaf(grad[i], gs, -0.0f);
        m[i] = fmaf(b1c, g - m[i], m[i]);
        v[i] = fmaf(b2c * g, g, v[i] * b2);
        w[i] = fmaf(w[i], shrink, -0.0f) - step * m[i] / (sqrtf(v[i]) / root + eps);
    }
    if (ema)
        for (int64_t i = 0; i < n; i++) ema[i] = fmaf(mix, w[i], keep * ema[i]);
    if (w16)
        for (int64_t i = 0; i < n; i++) w16[i] = f32_to_bf16(w[i]);
}

void adamw_fwd_cpu(ctx *c, const adamw_args *a) {
    enum { STEP = 4096 };
    int64_t   n = tensor_count(a->w), n_pieces = (n + STEP - 1) / STEP;
    float    *ema = tensor_given(a->ema) ? F32(a->ema) : NULL;
    uint16_t *w16 = tensor_given(a->w16) ? BF16(a->w16) : NULL;
    (void)c;
#pragma omp parallel for schedule(static) if (n > SMALL_LOOP)
    for (int64_t p = 0; p < n_pieces; p++) {
        int64_t i = p * STEP, len = p + 1 < n_pieces ? STEP : n - i;
        adamw_piece(a, F32(a->w) + i, F32(a->m) + i, F32(a->v) + i, ema ? ema + i : NULL, w16 ? w16 + i : NULL,
                    F32(a->grad) + i, len);
    }
}
