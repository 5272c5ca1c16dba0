/* LayerNorm over C, optional affine, optional modulation by sample (adaLN, R§5.2):
 *   xhat = (x - mean)/sqrt(var + eps) (biased variance);  u = xhat*gamma + beta;  y = u*(1 + scale[b]) + shift[b].
 *   x, y (N,C); gamma, beta (C) both or neither; scale, shift (B,C) both or neither with first (B+1) i32: rows
 *   first[b]..first[b+1]-1 belong to sample b.
 *   mean, rstd (N) f32: written by fwd, read by bwd.
 * fwd behind a residual, with h (N,C): x is first made x + gate[b] h as gate_residual does it, gate (B,C) or none with
 * `first` as above; it goes to sum (N,C), whose norm y is. bwd then takes sum for x.
 * bwd: dx overwritten, with `dx_add` (N,C) by the sum with that, which may be dx itself; dgamma, dbeta accumulated;
 * dscale, dshift (B,C) overwritten. x, y, scale, shift and their gradients are all f32 or all bf16 (on a GPU), the
 * others f32. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x, *gamma, *beta, *scale, *shift, *first;
    double        eps;
    tensor       *y, *mean, *rstd;
    const tensor *h, *gate; /* fwd only, optional */
    tensor       *sum;
    const tensor *dy;
    tensor       *dx, *dgamma, *dbeta, *dscale, *dshift;
    const tensor *dx_add; /* optional */
} layer_norm_args;

void layer_norm_fwd(ctx *c, const layer_norm_args *a);
void layer_norm_bwd(ctx *c, const layer_norm_args *a);
