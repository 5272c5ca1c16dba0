/* y = x + gate[b]*h, gate (B,C) by sample with first (B+1); without gate: y = x + h.  x, h, y (N,C).
 * All f32 or all bf16 (on a GPU).
 * bwd: the gradient of x is dy itself (not written here); dh overwritten; dgate (B,C) overwritten. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x, *h, *gate, *first;
    tensor       *y;
    const tensor *dy;
    tensor       *dh, *dgate;
} gate_residual_args;

void gate_residual_fwd(ctx *c, const gate_residual_args *a);
void gate_residual_bwd(ctx *c, const gate_residual_args *a);
