/* All powers of X X^T commute, so the rounds run on the small square matrix: G = X X^T, P = a + b G + c G^2,
 * Q = P Q, G = P G P; the step is Q X at the end. Two products with the long side instead of fifteen. */
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"

/* c = a b, all (n,n); a is symmetric */
static void square(int64_t n, const float *a, const float *b, float *c) {
    gemm_f32_one(false, false, n, n, n, a, n, b, n, 0, c, n);
}

/* q (n,n) with q X = the orthogonalised X, from g = X X^T, which is overwritten. The first Q is the identity, and no
 * round follows the last. */
static void rounds(ctx *c, int64_t n, float *g, float *q) {
    size_t bytes = (size_t)(n * n) * sizeof(float);
    float *p = arena_alloc(&c->scratch, bytes), *t = arena_alloc(&c->scratch, bytes);
    for (int round = 0; round < MUON_ROUNDS; round++) {
        square(n, g, g, p);
        for (int64_t i = 0; i < n * n; i++) p[i] = (float)MUON_B * g[i] + (float)MUON_C * p[i];
        for (int64_t i = 0; i < n; i++) p[i * n + i] += (float)MUON_A;
        if (round == 0) {
            memcpy(q, p, bytes);
        } else {
            square(n, p, q, t);
            memcpy(q, t, bytes);
        }
        if (round == MUON_ROUNDS - 1) break;
        square(n, p, g, t);
        square(n, t, p, g);
    }
}

/* In eight chains, so that no addition waits for the one before. */
static double sum_of_squares(const float *x, int64_t n) {
    double  sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++) sum[0] += (double)x[i] * (double)x[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

void muon_fwd_cpu(ctx *c, const muon_args *a) {
    int64_t R = a->w->dim[0], C = a->w->dim[1], n = R * C, small = R < C ? R : C;
    bool    tall = R > C;
    float  *w = F32(a->w), *m = F32(a->m), *restrict x = arena_alloc(&c->scratch, (size_t)n * sizeof *x);
    float  *y = arena_alloc(&c->scratch, (size_t)n * sizeof *y);
    float  *g = arena_alloc(&c->scratch, (size_t)(small * small) * sizeof *g);
    float  *q = arena_alloc(&c->scratch, (size_t)(small * small) * sizeof *q);
    float   scale = (float)a->grad_scale, mu = (float)a->momentum;
    float   step = (float)(a->lr * MUON_SIZE * sqrt((double)(tall ? R : C)));
    float   shrink = (float)(1 - a->lr * a->weight_decay), keep = (float)a->ema_decay, mix = (float)(1 - a->ema_decay);
    const float *grad = F32(a->grad);
    for (int64_t i = 0; i < n; i++) {
        float g_i = grad[i] * scale;
        m[i] = mu * m[i] + g_i;
        x[i] = g_i + mu * m[i];
    }
    double norm = sum_of_squares(x, n);
    float  inverse = norm != 0 ? (float)(1 / sqrt(norm)) : 0.0f;
    for (int64_t i = 0; i < n; i++) x[i] *= inverse;
    if (tall) { /* X^T X on the right */
        gemm_f32_one(true, false, C, C, R, x, C, x, C, 0, g, C);
        rounds(c, C, g, q);
        gemm_f32_one(false, false, R, C, C, x, C, q, C, 0, y, C);
    } else {
        gemm_f32_one(false, true, R, R, C, x, C, x, C, 0, g, R);
        rounds(c, R, g, q);
        gemm_f32_one(false, false, R, C, R, q, R, x, C, 0, y, C);
    }
    for (int64_t i = 0; i < n; i++) w[i] = w[i] * shrink - step * y[i];
    float *ema = tensor_given(a->ema) ? F32(a->ema) : NULL;
    for (int64_t i = 0; ema && i < n; i++) ema[i] = keep * ema[i] + mix * w[i];
    if (tensor_given(a->w16))
        for (int64_t i = 0; i < n; i++) BF16(a->w16)[i] = f32_to_bf16(w[i]);
}
