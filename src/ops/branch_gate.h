/* SSA gated sum (R§4.5): w = sigmoid(z);  out[n,h,:] = sum_i w[n,i] o_i[n,h,:], i = compression, selection, window.
 *   o[3], out (N,H,D); z (N,3) before the sigmoid. All f32 or all bf16 (on a GPU).
 * bwd: do_[i] = w_i dout overwritten (may alias nothing); dz[n,i] = w_i (1-w_i) <o_i[n], dout[n]> overwritten. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *o[3], *z;
    tensor       *out;
    const tensor *dout;
    tensor       *do_[3], *dz;
} branch_gate_args;

void branch_gate_fwd(ctx *c, const branch_gate_args *a);
void branch_gate_bwd(ctx *c, const branch_gate_args *a);
