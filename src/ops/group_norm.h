/* Sparse GroupNorm with optional SiLU (R§3.1): statistics per sample over all its rows and the C/groups channels of a
 * group, biased variance, then affine:  y = act(xhat*gamma + beta), act is ACT_NONE or ACT_SILU.
 *   x, y (N,C); gamma, beta (C); first (B+1) i32 rows of each sample; mean, rstd (B,groups) f32: written by fwd.
 *   A sample without rows has mean 0, rstd 0.
 * bwd: dx overwritten; dgamma, dbeta accumulated.
 * x, y, dy, dx are all f32 or all bf16 (on a GPU), the others f32. */
#pragma once
#include "core/ctx.h"
#include "ops/act.h"

typedef struct {
    const tensor *x, *gamma, *beta, *first;
    int           groups;
    act_kind      act;
    double        eps;
    tensor       *y, *mean, *rstd;
    const tensor *dy;
    tensor       *dx, *dgamma, *dbeta;
} group_norm_args;

void group_norm_fwd(ctx *c, const group_norm_args *a);
void group_norm_bwd(ctx *c, const group_norm_args *a);
