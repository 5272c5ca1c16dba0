#include <math.h>

#include "core/half.h"
#include "kernels/backend.h"

/* y (r,c) = A (r,k) B (k,c) */
static void product(int64_t r, int64_t k, int64_t c, const double *a, const double *b, double *y) {
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < c; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++) sum += a[i * k + l] * b[l * c + j];
            y[i * c + j] = sum;
        }
}

void muon_fwd_ref(ctx *c, const muon_args *a) {
    int64_t R = a->w->dim[0], C = a->w->dim[1], n = R * C;
    float  *w = F32(a->w), *m = F32(a->m);
    double *x = arena_alloc(&c->scratch, (size_t)n * sizeof *x), *y = arena_alloc(&c->scratch, (size_t)n * sizeof *y);
    double *t = arena_alloc(&c->scratch, (size_t)n * sizeof *t),
           *g = arena_alloc(&c->scratch, (size_t)(R * R) * sizeof *g);
    double norm = 0, step = a->lr * MUON_SIZE * sqrt((double)(R > C ? R : C));
    for (int64_t i = 0; i < n; i++) {
        double grad = (double)F32(a->grad)[i] * a->grad_scale, moment = a->momentum * (double)m[i] + grad;
        m[i] = (float)moment;
        x[i] = grad + a->momentum * moment;
        norm += x[i] * x[i];
    }
    for (int64_t i = 0; i < n; i++) x[i] = norm != 0 ? x[i] / sqrt(norm) : 0; /* NaN stays NaN */
    for (int round = 0; round < MUON_ROUNDS; round++) {
        for (int64_t i = 0; i < R; i++)
            for (int64_t j = 0; j < C; j++) t[j * R + i] = x[i * C + j];
        product(R, C, R, x, t, g);
        product(R, R, C, g, x, y);
        product(R, R, C, g, y, t);
        for (int64_t i = 0; i < n; i++) x[i] = MUON_A * x[i] + MUON_B * y[i] + MUON_C * t[i];
    }
    for (int64_t i = 0; i < n; i++) {
        w[i] = (float)((double)w[i] * (1 - a->lr * a->weight_decay) - step * x[i]);
        if (tensor_given(a->ema))
            F32(a->ema)[i] = (float)(a->ema_decay * (double)F32(a->ema)[i] + (1 - a->ema_decay) * (double)w[i]);
        if (tensor_given(a->w16)) BF16(a->w16)[i] = f32_to_bf16(w[i]);
    }
}
