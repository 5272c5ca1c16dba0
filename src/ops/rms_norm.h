/* Per-head RMS norm of queries and keys (R§7.2):  y[n,h,:] = x[n,h,:] / max(|x[n,h,:]|, 1e-12) * gamma[h,:] * sqrt(D).
 *   x, y (N,H,D), gamma (H,D). bwd: dx overwritten, dgamma accumulated.
 *   x, y, dy, dx are all f32 or all bf16 (on a GPU); gamma, dgamma f32. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x, *gamma;
    tensor       *y;
    const tensor *dy;
    tensor       *dx, *dgamma;
} rms_norm_args;

void rms_norm_fwd(ctx *c, const rms_norm_args *a);
void rms_norm_bwd(ctx *c, const rms_norm_args *a);
