/* Elementwise functions. SiLU(x) = x sigmoid(x); GELU is the tanh form (R§3.2) or the erf form (image encoder).
 * y = act(x), any shape, y may not alias x. bwd: dx = dy act'(x), overwritten. All f32 or all bf16 (on a GPU). */
#pragma once
#include "core/ctx.h"

typedef enum { ACT_NONE, ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_SIGMOID, ACT_TANH } act_kind;

typedef struct {
    act_kind      act;
    const tensor *x;
    tensor       *y;
    const tensor *dy;
    tensor       *dx;
} act_args;

void act_fwd(ctx *c, const act_args *a);
void act_bwd(ctx *c, const act_args *a);
