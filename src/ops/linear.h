/* y = act(x W^T + b).  x (N,I), y (N,O), b (O) optional.
 *   x, W, dx have one dtype, f32 or bf16 (on a GPU); y, pre, dy have it too, or are f32 together (the output layers of
 * a network); b, dw, db are f32. W is (O,I), or (I,O) with `w_in_out` set (the 1x1x1 convolution's storage, R§3.1). pre
 * (N,O): x W^T + b, written by fwd when act != ACT_NONE and read by bwd; not given otherwise. bwd: dx (N,I)
 * overwritten, or added to with `dx_add`, optional; dw, db accumulated, optional. dy is not changed. N = 0 is allowed.
 *   Two layers in a row, in_act != ACT_NONE: x is in_act(in_pre), in_pre (N,I) of x's dtype, dx the gradient of in_pre,
 * (d W) in_act'(in_pre); no dx_add. If in_pre is x (one memory), fwd and bwd read in_act(x) where this says x. */
#pragma once
#include "core/ctx.h"
#include "ops/act.h"

typedef struct {
    const tensor *x, *w, *b;
    bool          w_in_out;
    act_kind      act;
    tensor       *y, *pre;
    const tensor *dy;
    tensor       *dx, *dw, *db;
    bool          dx_add; /* dx is added to */
    act_kind      in_act;
    const tensor *in_pre;
} linear_args;

void linear_fwd(ctx *c, const linear_args *a);
void linear_bwd(ctx *c, const linear_args *a);
