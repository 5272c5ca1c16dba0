/* What layer_norm norms, for back ends that add in a pass of its own: x, or the sum behind a residual, made first. */
#pragma once
#include "ops/gate_residual.h"
#include "ops/layer_norm.h"

static inline const tensor *layer_norm_input(ctx *c, const layer_norm_args *a,
                                             void (*add)(ctx *c, const gate_residual_args *a)) {
    if (!tensor_given(a->h)) return a->x;
    add(c, &(gate_residual_args){.x = a->x, .h = a->h, .gate = a->gate, .first = a->first, .y = a->sum});
    return a->sum;
}
