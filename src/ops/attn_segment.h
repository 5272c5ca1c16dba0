/* Softmax attention inside ragged segments: window, cross, compression and full attention are this one op.
 *   out[n,h] = sum_j softmax_j(scale <q[n,h], k[j,g]>) v[j,g],  g = h/(H/G),  j over the keys of n's segment.
 *   Segment s: queries q_order[q_first[s] .. q_first[s+1]-1], keys k_order[k_first[s] .. k_first[s+1]-1]; an order that
 * is not given is the identity. Every query row belongs to exactly one segment. q (N,H,D), k, v (M,G,D), out (N,H,D),
 * lse (N,H) f32 natural; G divides H. No key: out = 0, lse = -inf. q, k, v may be column blocks of wider rows:
 * q_stride, k_stride, v_stride are elements between rows (0: contiguous). bwd: dq, dk, dv overwritten, with the same
 * strides as q, k, v (so that a fused qkv gradient is one tensor), dq with dq_add added to; key rows that no segment
 * names get 0. For each row n and head h, with {e, d} = stat[n,h], if that is given, else {log2(e) lse, -<dout, out>}:
 *   P_j = 2^(scale log2(e) <q, k_j> - e), dS_j = P_j (<dout, v_j> + d), dq = scale sum_j dS_j k_j;
 *   dk_j = scale sum dS_j q, dv_j = sum P_j dout, over the rows and heads that see j.
 * An e that is larger by -log2 w gives the gradient of w out, and so a gate's dout is its branches'
 * (ops/branch_gate.h). With stat, out and lse are not read. Everything but lse and stat is f32, or bf16 (on a GPU),
 * alike. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *q, *k, *v;
    int64_t       q_stride, k_stride, v_stride;
    const tensor *q_first, *k_first; /* (S+1) i32 */
    const tensor *q_order, *k_order; /* i32, optional */
    float         scale;
    tensor       *out, *lse;
    const tensor *dout, *stat; /* stat: (N,H,2) f32, optional */
    bool          dq_add;
    tensor       *dq, *dk, *dv;
} attn_segment_args;

void attn_segment_fwd(ctx *c, const attn_segment_args *a);
void attn_segment_bwd(ctx *c, const attn_segment_args *a);
