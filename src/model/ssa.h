/* One SSA layer (R§4): three attention branches over the same q, k, v - compressed blocks, selected blocks, window -
 * summed with gates per token. Parameter names as R§10.1 under a prefix. */
#pragma once
#include "model/ssdit.h"

/* Rows of one compression network (R§4.4); those of the other version are NULL. */
typedef struct {
    param *w, *b;                                                                         /* v1: 1x1 convolution */
    param *norm0_g, *norm0_b, *conv0_w, *conv0_b, *norm1_g, *norm1_b, *conv1_w, *conv1_b; /* v2 */
} ssa_compression;

typedef struct {
    param          *proj_q, *proj_k, *proj_v, *proj_o, *gate, *pe;
    ssa_compression key, value;
} ssa_layer;

/* What happens inside, for tests and analysis: step memory, valid until the next tape_begin (with recording and without
 * recompute). */
typedef struct ssa_trace {
    var   *ck, *cv, *branch[3], *gate; /* (M,G*D) twice; compression, selection, window (N,H*D); (N,3) before sigmoid */
    tensor cmp_lse, block;             /* (N,H) f32; (G,N,K) i32 global selection blocks */
} ssa_trace;

static inline int ssa_head_dim(const ssa_config *c) {
    return c->head_dim ? c->head_dim : c->width / c->heads;
}

/* Adds the layer's rows with names that start with `prefix` ("blocks.3.self_attn.", or "" alone). */
void ssa_add_params(ssa_layer *l, params *p, const ssa_config *cfg, int layer, const char *prefix);

/* x (N,width) -> (N,width). `b` was built with cfg's m_cmp, m_slc (and its grid for v2), `w` with the layer's shift;
 * both outlive the micro-batch. trace may be NULL. */
var *ssa_forward(tape *t, const ssa_config *cfg, const ssa_layer *l, var *x, const block_tables *b,
                 const window_tables *w, ssa_trace *trace);
