/* The update, over flat slabs.
 *   sum_squares: out (1) f64 = sum x^2 (non-finite input gives a non-finite result).
 *   adamw: torch.optim.AdamW with gradient scale and EMA in one pass:
 *     g' = grad * grad_scale;  w *= 1 - lr*wd (only where decay);  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2;
 *     w -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps);  ema = ema_decay ema + (1-ema_decay) w  (ema optional).
 *     All f32 (n); step t >= 1; arithmetic in f32 as torch's, exact to rounding.
 *     w16 (n) bf16, optional: the new w rounded to nearest even, what the matrix products of the next step read. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x;
    tensor       *out;
} sum_squares_args;

typedef struct {
    tensor       *w, *m, *v, *ema, *w16;
    const tensor *grad;
    double        grad_scale, lr, beta1, beta2, eps, weight_decay, ema_decay;
    int64_t       step;
} adamw_args;

void sum_squares_fwd(ctx *c, const sum_squares_args *a);
void adamw_fwd(ctx *c, const adamw_args *a);
