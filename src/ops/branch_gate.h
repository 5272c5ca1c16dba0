/* SSA gated sum (R§4.5): w = sigmoid(z);  out[n,h,:] = sum_i w[n,i] o_i[n,h,:], i = compression, selection, window.
 *   o[3], out (N,H,D); z (N,3) before the sigmoid. All f32 or all bf16 (on a GPU).
 * bwd: dz[n,i] = w_i (1-w_i) <o_i[n], dout[n]> overwritten. o_i are results of attention with log-sum-exps lse[i] (N,H)
 * f32; stat[i] (N,H,2) f32 is what their backwards take beside this dout (ops/attn_segment.h), overwritten:
 *   stat[i][n,h] = {log2(e) lse_i[n,h] - log2 w[n,i], -<o_i[n,h], dout[n,h]>}. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *o[3], *z;
    tensor       *out;
    const tensor *dout, *lse[3];
    tensor       *stat[3], *dz;
} branch_gate_args;

void branch_gate_fwd(ctx *c, const branch_gate_args *a);
void branch_gate_bwd(ctx *c, const branch_gate_args *a);
