#include "model/ssdit.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/ssa.h"

typedef struct {
    param *w, *b;
} linear_rows;

typedef struct {
    ssa_layer   attn;
    linear_rows norm2, to_q, to_kv, to_out, mlp0, mlp2, mod; /* mod: NULL rows with a shared modulation */
    param      *q_gamma, *k_gamma;                           /* NULL without cross_norm */
} block_rows;

struct ssdit_layers {
    linear_rows time0, time2, input, cond, mod, out; /* cond, mod: NULL rows when the configuration has none */
    block_rows  block[];
};

static linear_rows add_linear(params *p, int layer, init_kind init, double arg, int64_t out, int64_t in,
                              const char *prefix, const char *name) {
    linear_rows r;
    r.w = params_add(p, layer, init, arg, DIMS(out, in), "%s%s.weight", prefix, name);
    r.b = params_add(p, layer, INIT_ZERO, 0, DIMS(out), "%s%s.bias", prefix, name);
    return r;
}

static linear_rows add_xavier(params *p, int layer, int64_t out, int64_t in, const char *prefix, const char *name) {
    return add_linear(p, layer, INIT_XAVIER, 0, out, in, prefix, name);
}

static void add_block(block_rows *r, params *p, const ssdit_config *cfg, int b) {
    char    at[32], attn[48];
    int64_t c = cfg->ssa.width, cond = cfg->sparse_cond ? c : cfg->cond_width, mlp = c * cfg->mlp_ratio;
    snprintf(at, sizeof at, "blocks.%d.", b);
    snprintf(attn, sizeof attn, "%sself_attn.", at);
    r->norm2.w = params_add(p, b, INIT_ONE, 0, DIMS(c), "%snorm2.weight", at);
    r->norm2.b = params_add(p, b, INIT_ZERO, 0, DIMS(c), "%snorm2.bias", at);
    ssa_add_params(&r->attn, p, &cfg->ssa, b, attn);
    r->to_q = add_xavier(p, b, c, c, at, "cross_attn.to_q");
    r->to_kv = add_xavier(p, b, 2 * c, cond, at, "cross_attn.to_kv");
    if (cfg->cross_norm) {
        int64_t heads = cfg->ssa.heads;
        r->q_gamma = params_add(p, b, INIT_ONE, 0, DIMS(heads, c / heads), "%scross_attn.q_rms_norm.gamma", at);
        r->k_gamma = params_add(p, b, INIT_ONE, 0, DIMS(heads, c / heads), "%scross_attn.k_rms_norm.gamma", at);
    }
    r->to_out = add_xavier(p, b, c, c, at, "cross_attn.to_out");
    r->mlp0 = add_xavier(p, b, mlp, c, at, "mlp.mlp.0");
    r->mlp2 = add_xavier(p, b, c, mlp, at, "mlp.mlp.2");
    if (!cfg->share_mod) r->mod = add_linear(p, b, INIT_ZERO, 0, 6 * c, c, at, "adaLN_modulation.1");
}

static int time_width(const ssdit_config *cfg) {
    return cfg->time_width ? cfg->time_width : 256;
}

int ssdit_n_layers(const ssdit_config *cfg) {
    return cfg->blocks + 1;
}

void ssdit_init(ssdit *m, const ssdit_config *cfg) {
    int64_t c = cfg->ssa.width;
    CHECK(cfg->blocks > 0 && c > 0 && cfg->in_channels > 0 && cfg->out_channels > 0 && cfg->mlp_ratio > 0 &&
              cfg->cond_width > 0 && cfg->resolution > 0,
          "SS-DiT: blocks %d, width %lld, channels %d -> %d, mlp ratio %d, condition %d, resolution %d", cfg->blocks,
          (long long)c, cfg->in_channels, cfg->out_channels, cfg->mlp_ratio, cfg->cond_width, cfg->resolution);
    CHECK(c % cfg->ssa.heads == 0, "SS-DiT: %d heads do not divide width %lld", cfg->ssa.heads, (long long)c);
    *m = (ssdit){.cfg = *cfg};
    params_init(&m->p);
    ssdit_layers *l = calloc(1, sizeof *l + (size_t)cfg->blocks * sizeof l->block[0]);
    CHECK(l, "SS-DiT: no memory for %d blocks", cfg->blocks);
    m->l = l;
    l->time0 = add_linear(&m->p, -1, INIT_NORMAL, 0.02, c, time_width(cfg), "t_embedder.", "mlp.0");
    l->time2 = add_linear(&m->p, -1, INIT_NORMAL, 0.02, c, c, "t_embedder.", "mlp.2");
    l->input = add_xavier(&m->p, -1, c, cfg->in_channels, "", "input_layer");
    if (cfg->sparse_cond) l->cond = add_xavier(&m->p, -1, c, cfg->cond_width, "", "cond_proj");
    if (cfg->share_mod) l->mod = add_linear(&m->p, -1, INIT_ZERO, 0, 6 * c, c, "", "adaLN_modulation.1");
    for (int b = 0; b < cfg->blocks; b++) add_block(&l->block[b], &m->p, cfg, b);
    l->out = add_linear(&m->p, cfg->blocks, INIT_ZERO, 0, cfg->out_channels, c, "", "out_layer");
}

void ssdit_free(ssdit *m) {
    params_free(&m->p);
    free(m->l);
    *m = (ssdit){0};
}

/* ---- batch ---------------------------------------------------------------------------------------------------- */

ssdit_batch ssdit_batch_build(arena *host, const ssdit_config *cfg, const tensor *coord, const tensor *sample_first,
                              const tensor *cond_first, const tensor *cond_coord) {
    const ssa_config *a = &cfg->ssa;
    const int32_t    *xyz = I32(coord), *cf = I32(cond_first);
    int64_t           n = coord->dim[0], n_samples = sample_first->dim[0] - 1;
    for (int64_t i = 0; i < 3 * n; i++)
        CHECK(xyz[i] >= 0 && xyz[i] < cfg->resolution, "token %lld (%d,%d,%d) is outside the latent grid of %d",
              (long long)i / 3, xyz[i / 3 * 3], xyz[i / 3 * 3 + 1], xyz[i / 3 * 3 + 2], cfg->resolution);
    CHECK(cond_first->dim[0] == n_samples + 1 && cf[0] == 0, "condition rows of %lld samples for %lld samples",
          (long long)cond_first->dim[0] - 1, (long long)n_samples);
    for (int64_t s = 0; s < n_samples; s++)
        CHECK(cf[s] <= cf[s + 1], "condition rows of sample %lld run from %d to %d", (long long)s, cf[s], cf[s + 1]);
    ssdit_batch b = {.n_samples = (int)n_samples,
                     .n_tokens = n,
                     .n_cond = cf[n_samples],
                     .coord = *coord,
                     .sample_first = *sample_first,
                     .cond_first = *cond_first};
    if (cfg->sparse_cond) {
        CHECK(tensor_given(cond_coord) && cond_coord->dt == DT_I32 && cond_coord->n_dims == 2 &&
                  cond_coord->dim[0] == b.n_cond && cond_coord->dim[1] == 3,
              "a sparse condition of %lld rows needs coordinates (%lld,3)", (long long)b.n_cond, (long long)b.n_cond);
        b.cond_coord = *cond_coord;
    }
    b.blocks = blocks_build(host, coord, sample_first, a->m_cmp, a->m_slc, a->compression == COMPRESSION_V2);
    if (cfg->shift != SHIFT_ALWAYS) b.window[0] = windows_build(host, coord, sample_first, a->m_win, 0, true, a->m_slc);
    if (cfg->shift == SHIFT_ALWAYS || (cfg->shift == SHIFT_ALTERNATE && cfg->blocks > 1))
        b.window[1] = windows_build(host, coord, sample_first, a->m_win, a->m_win / 2, true, a->m_slc);
    return b;
}

void ssdit_batch_tensors(ssdit_batch *b, tensor_visit f, void *user) {
    tensor *all[] = {&b->coord, &b->sample_first, &b->cond_coord, &b->cond_first};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_visit_given(all[i], f, user);
    block_tensors(&b->blocks, f, user);
    for (int i = 0; i < 2; i++) window_tensors(&b->window[i], f, user);
}

/* ---- forward (R§5.2) ------------------------------------------------------------------------------------------ */

typedef struct {
    const ssdit_config  *cfg;
    const block_rows    *rows;
    const ssdit_batch   *b;
    const window_tables *window;
    ssa_trace           *trace;
} block_args;

static var *linear(tape *t, var *x, linear_rows r, act_kind act) {
    return nn_linear(t, x, r.w, r.b, act);
}

static var *cross_attention(tape *t, const block_args *a, var *h, var *cond) {
    const block_rows *r = a->rows;
    int               heads = a->cfg->ssa.heads;
    int64_t           c = a->cfg->ssa.width;
    segments          s = {.q_first = &a->b->sample_first, .k_first = &a->b->cond_first};
    var              *q = linear(t, h, r->to_q, ACT_NONE), *kv = linear(t, cond, r->to_kv, ACT_NONE), *o;
    if (a->cfg->cross_norm) {
        var *part[2];
        nn_split(t, kv, 2, (const int64_t[]){c, c}, part);
        o = nn_attn(t, nn_rms_norm(t, q, r->q_gamma), nn_rms_norm(t, part[0], r->k_gamma), part[1], heads, heads, s,
                    NULL);
    } else {
        o = nn_attn_cross(t, q, kv, heads, s);
    }
    return linear(t, o, r->to_out, ACT_NONE);
}

/* in: x (N,C); SiLU of the time embedding (B,C), or the shared modulation (B,6C); condition. */
static var *block_forward(tape *t, const void *args, var *const *in) {
    const block_args *a = args;
    const block_rows *r = a->rows;
    const tensor     *first = &a->b->sample_first;
    int64_t           c = a->cfg->ssa.width;
    var              *x = in[0], *mod[6];
    nn_split(t, r->mod.w ? linear(t, in[1], r->mod, ACT_NONE) : in[1], 6, (const int64_t[]){c, c, c, c, c, c}, mod);
    var *h = nn_norm_modulate(t, x, mod[0], mod[1], first, 1e-6);
    h = ssa_forward(t, &a->cfg->ssa, &r->attn, h, &a->b->blocks, a->window, a->trace);
    h = nn_residual_layer_norm(t, &x, h, mod[2], first, r->norm2.w, r->norm2.b, 1e-6);
    h = cross_attention(t, a, h, in[2]);
    h = nn_residual_norm_modulate(t, &x, h, NULL, mod[3], mod[4], first, 1e-6);
    h = nn_mlp(t, h, r->mlp0.w, r->mlp0.b, ACT_GELU_TANH, r->mlp2.w, r->mlp2.b);
    return nn_gate_residual(t, x, h, mod[5], first);
}

static var *output_forward(tape *t, const void *args, var *const *in) {
    const linear_rows *out = args;
    return nn_linear_as(t, nn_layer_norm(t, in[0], NULL, NULL, 1e-5), out->w, out->b, ACT_NONE, DT_F32);
}

static const window_tables *window_of(const ssdit_config *cfg, const ssdit_batch *b, int block) {
    return &b->window[cfg->shift == SHIFT_ALWAYS || (cfg->shift == SHIFT_ALTERNATE && block % 2)];
}

var *ssdit_forward_traced(tape *t, ssdit *m, const ssdit_batch *b, var *x, const tensor *time, var *cond,
                          ssdit_trace *trace) {
    const ssdit_config *cfg = &m->cfg;
    const ssdit_layers *l = m->l;
    CHECK(x->v.dim[0] == b->n_tokens && cond->v.dim[0] == b->n_cond && tensor_count(time) == b->n_samples,
          "%lld latents, %lld condition rows, %lld times for a batch of %lld, %lld, %d", (long long)x->v.dim[0],
          (long long)cond->v.dim[0], (long long)tensor_count(time), (long long)b->n_tokens, (long long)b->n_cond,
          b->n_samples);
    x = nn_cast(t, x, t->c->act);
    cond = nn_cast(t, cond, t->c->act);
    var *emb = linear(t, nn_embed_time(t, time, time_width(cfg)), l->time0, ACT_SILU);
    emb = linear(t, emb, l->time2, ACT_NONE);
    var *source = nn_act(t, emb, ACT_SILU);
    if (cfg->share_mod) source = linear(t, source, l->mod, ACT_NONE);
    if (cfg->sparse_cond) cond = nn_embed_ape(t, linear(t, cond, l->cond, ACT_NONE), &b->cond_coord, 1.0);
    x = nn_embed_ape(t, linear(t, x, l->input, ACT_NONE), &b->coord, cfg->factor);
    if (trace) {
        trace->time = emb;
        trace->in = x;
    }
    for (int i = 0; i < cfg->blocks; i++) {
        block_args a = {.cfg = cfg,
                        .rows = &l->block[i],
                        .b = b,
                        .window = window_of(cfg, b, i),
                        .trace = trace ? &trace->ssa[i] : NULL};
        x = tape_segment(t, i, block_forward, &a, sizeof a, (var *const[]){x, source, cond}, 3);
        if (trace) trace->out[i] = x;
    }
    return tape_segment(t, cfg->blocks, output_forward, &l->out, sizeof l->out, (var *const[]){x}, 1);
}

var *ssdit_forward(tape *t, ssdit *m, const ssdit_batch *b, var *x, const tensor *time, var *cond) {
    return ssdit_forward_traced(t, m, b, x, time, cond, NULL);
}
