#include "model/ssa.h"

#include <math.h>
#include <stdio.h>

static param *add_linear(params *p, int layer, int64_t out, int64_t in, const char *prefix, const char *name) {
    return params_add(p, layer, INIT_XAVIER, 0, DIMS(out, in), "%s%s.weight", prefix, name);
}

/* Convolutions start uniform in +-1/sqrt(fan in), weights and biases (R§3.1). */
static double conv_bound(int64_t channels, int taps) {
    return 1.0 / sqrt((double)(channels * taps));
}

static void add_norm(params *p, int layer, int64_t c, const char *prefix, const char *name, param **g, param **b) {
    *g = params_add(p, layer, INIT_ONE, 0, DIMS(c), "%s%s.weight", prefix, name);
    *b = params_add(p, layer, INIT_ZERO, 0, DIMS(c), "%s%s.bias", prefix, name);
}

static void add_conv3(params *p, int layer, int64_t c, const char *prefix, const char *name, param **w, param **b) {
    *w = params_add(p, layer, INIT_UNIFORM, conv_bound(c, 27), DIMS(27, c, c), "%s%s.conv.kernel", prefix, name);
    *b = params_add(p, layer, INIT_UNIFORM, conv_bound(c, 27), DIMS(c), "%s%s.conv.bias", prefix, name);
}

static void add_compression(ssa_compression *n, params *p, const ssa_config *cfg, int layer, const char *prefix,
                            const char *which) {
    char    at[112];
    int64_t c = (int64_t)cfg->kv_heads * ssa_head_dim(cfg);
    snprintf(at, sizeof at, "%s%s.", prefix, which);
    *n = (ssa_compression){0};
    if (cfg->compression == COMPRESSION_V1) {
        n->w = params_add(p, layer, INIT_UNIFORM, conv_bound(c, 1), DIMS(c, c), "%sact_layers.0.conv.kernel", at);
        n->b = params_add(p, layer, INIT_UNIFORM, conv_bound(c, 1), DIMS(c), "%sact_layers.0.conv.bias", at);
        return;
    }
    CHECK(cfg->groups > 0 && c % cfg->groups == 0, "%s: %d groups do not divide %lld channels", at, cfg->groups,
          (long long)c);
    add_norm(p, layer, c, at, "act_layers.0", &n->norm0_g, &n->norm0_b);
    add_conv3(p, layer, c, at, "out_layers.0", &n->conv0_w, &n->conv0_b);
    add_norm(p, layer, c, at, "out_layers.1", &n->norm1_g, &n->norm1_b);
    add_conv3(p, layer, c, at, "out_layers.3", &n->conv1_w, &n->conv1_b);
}

void ssa_add_params(ssa_layer *l, params *p, const ssa_config *cfg, int layer, const char *prefix) {
    CHECK(cfg->width > 0 && cfg->heads > 0 && cfg->kv_heads > 0 && cfg->heads % cfg->kv_heads == 0,
          "SSA of width %d: %d key heads have to divide %d heads", cfg->width, cfg->kv_heads, cfg->heads);
    CHECK(cfg->head_dim || cfg->width % cfg->heads == 0, "SSA: %d heads do not divide width %d", cfg->heads,
          cfg->width);
    CHECK(cfg->top_k > 0, "SSA: top-k is %d", cfg->top_k);
    int64_t d = ssa_head_dim(cfg), q = cfg->heads * d, kv = cfg->kv_heads * d, m = cfg->m_cmp;
    l->pe = params_add(p, layer, INIT_ZERO, 0, DIMS(m, m, m, kv), "%sintra_block_pe", prefix);
    l->pe->decay = false; /* a table */
    l->proj_q = add_linear(p, layer, q, cfg->width, prefix, "proj_q");
    l->proj_k = add_linear(p, layer, kv, cfg->width, prefix, "proj_k");
    l->proj_v = add_linear(p, layer, kv, cfg->width, prefix, "proj_v");
    l->proj_o = add_linear(p, layer, cfg->width, q, prefix, "proj_o");
    l->gate = add_linear(p, layer, 3, cfg->width, prefix, "gate.0");
    add_compression(&l->key, p, cfg, layer, prefix, "compression_key");
    add_compression(&l->value, p, cfg, layer, prefix, "compression_value");
}

/* u (N,G*D) -> (M,G*D), R§4.4. v1 convolves, then pools; v2 pools, then convolves over the grid of blocks. */
static var *compress(tape *t, const ssa_config *cfg, const ssa_compression *n, var *u, const block_tables *b) {
    const tensor *first = &b->cmp_first, *order = b->cmp_order.data ? &b->cmp_order : NULL;
    if (cfg->compression == COMPRESSION_V1)
        return nn_pool(t, nn_act(t, nn_conv1(t, u, n->w, n->b), ACT_SILU), first, order, cfg->pool_add_one);
    var *a = nn_group_norm(t, u, n->norm0_g, n->norm0_b, &b->sample_first, cfg->groups, ACT_SILU);
    a = nn_pool(t, a, first, order, cfg->pool_add_one);
    var *r = nn_pool(t, u, first, order, cfg->pool_add_one);
    var *y = nn_conv3(t, a, &b->cmp_grid, n->conv0_w, n->conv0_b, ACT_NONE);
    y = nn_group_norm(t, y, n->norm1_g, n->norm1_b, &b->cmp_sample_first, cfg->groups, ACT_SILU);
    y = nn_conv3(t, y, &b->cmp_grid, n->conv1_w, n->conv1_b, ACT_NONE);
    return nn_gate_residual(t, r, y, NULL, NULL);
}

var *ssa_forward(tape *t, const ssa_config *cfg, const ssa_layer *l, var *x, const block_tables *b,
                 const window_tables *w, ssa_trace *trace) {
    int  heads = cfg->heads, kv = cfg->kv_heads;
    var *q = nn_linear(t, x, l->proj_q, NULL, ACT_NONE);
    var *thin[3];
    nn_linear_many(t, x, 3, (param *const[]){l->proj_k, l->proj_v, l->gate}, thin);
    var *k = thin[0], *v = thin[1], *gate = thin[2];

    /* The place in the block is added to the keys that are compressed only. */
    var *placed = nn_add_table(t, k, l->pe, &b->pe_index, &b->pe_order, &b->pe_first);
    var *ck = compress(t, cfg, &l->key, placed, b);
    var *cv = compress(t, cfg, &l->value, v, b);

    tensor        block;
    const tensor *order = w->order.data ? &w->order : NULL;
    attn_rows     rows[3];
    var          *o[3];
    o[0] = nn_attn(t, q, ck, cv, heads, kv, (segments){.q_first = &b->sample_first, .k_first = &b->cmp_sample_first},
                   &rows[0]);
    block = nn_topk(t, q, ck, rows[0].lse, heads, kv, cfg->top_k, b);
    o[1] = nn_attn_select(t, q, k, v, heads, kv, &block, b, &rows[1]);
    o[2] = nn_attn(t, q, k, v, heads, kv, (segments){&w->first, &w->first, order, order}, &rows[2]);
    if (trace)
        *trace = (ssa_trace){
            .ck = ck, .cv = cv, .branch = {o[0], o[1], o[2]}, .gate = gate, .cmp_lse = *rows[0].lse, .block = block};
    return nn_linear(t, nn_branch_gate(t, o, rows, gate), l->proj_o, NULL, ACT_NONE);
}
