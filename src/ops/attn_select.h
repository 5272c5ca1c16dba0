/* SSA selection branch (R§4.5): softmax attention over all tokens of the selected blocks, shared by the heads of a
 * group. out[n,h] = sum_t softmax_t(scale <q[n,h], k[t,g]>) v[t,g], t over the rows of the blocks block[g,n,:], g =
 * h/(H/G). q (N,H,D), k, v (N,G,D), block (G,N,K) i32 global block numbers, -1 unused, first (NB+1) i32: block m owns
 * rows first[m]..first[m+1]-1. out (N,H,D), lse (N,H) f32 natural. No block: out = 0, lse = -inf. bwd: dq, dk, dv
 * overwritten, dq added to with dq_add; stat as in ops/attn_segment.h. The selection is constant. Everything but lse
 * and stat is f32, or bf16 (on a GPU), alike. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *q, *k, *v, *block, *first;
    float         scale;
    tensor       *out, *lse;
    const tensor *dout, *stat; /* stat: (N,H,2) f32, optional */
    bool          dq_add;
    tensor       *dq, *dk, *dv;
} attn_select_args;

void attn_select_fwd(ctx *c, const attn_select_args *a);
void attn_select_bwd(ctx *c, const attn_select_args *a);
