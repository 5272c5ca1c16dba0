/* The SS-VAE's parameter table and its forward pass (R§3, names as R§10.2). */
#include "model/ssvae_parts.h"

#include <stdio.h>
#include <string.h>

/* ---- rows ----------------------------------------------------------------------------------------------------- */

/* Layer ids in forward order; one segment each. */
static int layer_enc_stem(const ssvae_config *cfg) {
    return (void)cfg, SSVAE_LEVELS;
}
static int layer_enc_block(const ssvae_config *cfg, int i) {
    return layer_enc_stem(cfg) + 1 + i;
}
static int layer_enc_head(const ssvae_config *cfg) {
    return layer_enc_block(cfg, cfg->blocks_enc);
}
static int layer_dec_stem(const ssvae_config *cfg) {
    return layer_enc_head(cfg) + 1;
}
static int layer_dec_block(const ssvae_config *cfg, int i) {
    return layer_dec_stem(cfg) + 1 + i;
}
static int layer_up(const ssvae_config *cfg, int level) {
    return layer_dec_block(cfg, cfg->blocks_dec) + level;
}
int ssvae_n_layers(const ssvae_config *cfg) {
    return layer_up(cfg, SSVAE_LEVELS);
}

int ssvae_dec_width(const ssvae_config *cfg) {
    return cfg->width_dec ? cfg->width_dec : cfg->width;
}
int ssvae_dec_heads(const ssvae_config *cfg) {
    return cfg->heads_dec ? cfg->heads_dec : cfg->heads;
}

static window_block_rows *add_blocks(params *p, int n, int layer, int64_t width, const ssvae_config *cfg,
                                     const char *part) {
    window_block_rows *r = arena_alloc(&p->rows, (size_t)n * sizeof *r);
    char               name[64];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s.blocks.%d", part, i);
        r[i] = window_block_add(p, layer + i, width, width * cfg->mlp_ratio, name);
        if (cfg->blocks_start_zero) r[i].out.w->init = r[i].mlp_out.w->init = INIT_ZERO;
    }
    return r;
}

static void check_config(const ssvae_config *c) {
    int dec = ssvae_dec_width(c), dec_heads = ssvae_dec_heads(c);
    CHECK(c->heads > 0 && c->width % c->heads == 0, "SS-VAE: encoder width %d is not divisible by %d heads", c->width,
          c->heads);
    CHECK(dec_heads > 0 && dec % dec_heads == 0, "SS-VAE: decoder width %d is not divisible by %d heads", dec,
          dec_heads);
    CHECK(c->mlp_ratio > 0 && c->latent_channels > 0 && c->window > 0 && c->blocks_enc >= 0 && c->blocks_dec >= 0,
          "SS-VAE: mlp_ratio %d, latent_channels %d, window %d, blocks %d and %d", c->mlp_ratio, c->latent_channels,
          c->window, c->blocks_enc, c->blocks_dec);
    for (int i = 0; i < SSVAE_LEVELS; i++)
        CHECK(c->groups > 0 && c->enc_width[i] % c->groups == 0 && c->dec_width[i] > 0,
              "SS-VAE: level %d has width %d down and %d up, %d groups", i, c->enc_width[i], c->dec_width[i],
              c->groups);
    CHECK(c->width % c->groups == 0, "SS-VAE: width %d, %d groups", c->width, c->groups);
}

void ssvae_init(ssvae *m, const ssvae_config *cfg) {
    check_config(cfg);
    *m = (ssvae){.cfg = *cfg};
    params *p = &m->p;
    params_init(p);
    ssvae_layers *l = m->l = arena_zeros(&p->rows, sizeof *l);
    int64_t       latent = cfg->latent_channels, dec_width = ssvae_dec_width(cfg);
    char          name[64];

    l->lift = affine_linear(p, 0, cfg->enc_width[0], 1, "encoder.input_layer1");
    for (int i = 0; i < SSVAE_LEVELS; i++) {
        snprintf(name, sizeof name, "encoder.downsample.%d", i);
        l->down[i] = down_rows_add(p, i, cfg->enc_width[i], i + 1 < SSVAE_LEVELS ? cfg->enc_width[i + 1] : cfg->width,
                                   cfg->centre_gain, name);
    }
    l->enc_in = affine_linear(p, layer_enc_stem(cfg), cfg->width, cfg->width, "encoder.input_layer");
    l->enc_block = add_blocks(p, cfg->blocks_enc, layer_enc_block(cfg, 0), cfg->width, cfg, "encoder");
    l->enc_out = affine_linear(p, layer_enc_head(cfg), 2 * latent, cfg->width, "encoder.out_layer");
    l->enc_out.b->init = INIT_HALVES;
    l->enc_out.b->arg = cfg->logvar_init;

    l->dec_in = affine_linear(p, layer_dec_stem(cfg), dec_width, latent, "decoder.input_layer");
    l->dec_block = add_blocks(p, cfg->blocks_dec, layer_dec_block(cfg, 0), dec_width, cfg, "decoder");
    for (int i = 0; i < SSVAE_LEVELS; i++) {
        snprintf(name, sizeof name, "decoder.upsample.%d", i);
        l->up[i] = up_rows_add(p, layer_up(cfg, i), i ? cfg->dec_width[i - 1] : dec_width, cfg->dec_width[i],
                               cfg->up_gain > 0 ? cfg->up_gain : 1, cfg->centre_gain, name);
    }
    l->dec_out =
        affine_linear(p, layer_up(cfg, SSVAE_LEVELS - 1), 1, cfg->dec_width[SSVAE_LEVELS - 1], "decoder.out_layer");
}

void ssvae_free(ssvae *m) {
    params_free(&m->p);
    *m = (ssvae){.l = NULL};
}

/* ---- forward -------------------------------------------------------------------------------------------------- */

/* Input Linear and position embedding, in front of the transformer blocks. */
typedef struct {
    const affine *r;
    const tensor *coord;
    double        factor;
} stem_args;

static var *stem(tape *t, const void *args, var *const *in) {
    const stem_args *a = args;
    return nn_embed_ape(t, nn_linear(t, in[0], a->r->w, a->r->b, ACT_NONE), a->coord, a->factor);
}

/* LayerNorm without affine, then the output Linear: the moments, f32. */
static var *head(tape *t, const void *args, var *const *in) {
    const affine *const *r = args;
    return nn_linear_as(t, nn_layer_norm(t, in[0], NULL, NULL, 1e-5), (*r)->w, (*r)->b, ACT_NONE, DT_F32);
}

var *ssvae_down(tape *t, ssvae *m, const ssvae_batch *b, int level, var *x) {
    down_args a = {.r = &m->l->down[level],
                   .lift = level == 0 ? &m->l->lift : NULL,
                   .fine = &b->enc[level],
                   .coarse = &b->enc[level + 1],
                   .pool_first = &b->pool_first[level],
                   .groups = m->cfg.groups,
                   .pool_add_one = m->cfg.pool_add_one};
    return tape_segment(t, level, down_block, &a, sizeof a, &x, 1);
}

var *ssvae_enc_stem(tape *t, ssvae *m, const ssvae_batch *b, var *x) {
    stem_args a = {&m->l->enc_in, &b->coord, b->factor};
    return tape_segment(t, layer_enc_stem(&m->cfg), stem, &a, sizeof a, &x, 1);
}

var *ssvae_enc_block(tape *t, ssvae *m, const ssvae_batch *b, int i, var *x) {
    window_block_args a = {&m->l->enc_block[i], &b->window[i % 2], m->cfg.heads};
    return tape_segment(t, layer_enc_block(&m->cfg, i), window_block, &a, sizeof a, &x, 1);
}

var *ssvae_enc_head(tape *t, ssvae *m, var *x) {
    const affine *r = &m->l->enc_out;
    return tape_segment(t, layer_enc_head(&m->cfg), head, &r, sizeof r, &x, 1);
}

var *ssvae_dec_stem(tape *t, ssvae *m, const ssvae_batch *b, var *z) {
    stem_args a = {&m->l->dec_in, &b->coord, b->factor};
    return tape_segment(t, layer_dec_stem(&m->cfg), stem, &a, sizeof a, &z, 1);
}

var *ssvae_dec_block(tape *t, ssvae *m, const ssvae_batch *b, int i, var *x) {
    window_block_args a = {&m->l->dec_block[i], &b->window[i % 2], ssvae_dec_heads(&m->cfg)};
    return tape_segment(t, layer_dec_block(&m->cfg, i), window_block, &a, sizeof a, &x, 1);
}

var *ssvae_up(tape *t, ssvae *m, const grid dec[4], int level, var *x) {
    up_args a = {.r = &m->l->up[level],
                 .head = level == SSVAE_LEVELS - 1 ? &m->l->dec_out : NULL,
                 .coarse = &dec[level],
                 .fine = &dec[level + 1]};
    return tape_segment(t, layer_up(&m->cfg, level), up_block, &a, sizeof a, &x, 1);
}

var *ssvae_encode_values(tape *t, ssvae *m, const ssvae_batch *b, var *x) {
    x = nn_cast(t, x, t->c->act);
    for (int i = 0; i < SSVAE_LEVELS; i++) x = ssvae_down(t, m, b, i, x);
    x = ssvae_enc_stem(t, m, b, x);
    for (int i = 0; i < m->cfg.blocks_enc; i++) x = ssvae_enc_block(t, m, b, i, x);
    return ssvae_enc_head(t, m, x);
}

var *ssvae_encode(tape *t, ssvae *m, const ssvae_batch *b) {
    CHECK(tensor_given(&b->sdf), "SS-VAE: a batch without voxels cannot be encoded");
    return ssvae_encode_values(t, m, b, tape_leaf(t, b->sdf, false));
}

var *ssvae_decode_tokens(tape *t, ssvae *m, const ssvae_batch *b, var *z) {
    var *x = ssvae_dec_stem(t, m, b, nn_cast(t, z, t->c->act));
    for (int i = 0; i < m->cfg.blocks_dec; i++) x = ssvae_dec_block(t, m, b, i, x);
    return x;
}

var *ssvae_decode_voxels(tape *t, ssvae *m, const grid dec[4], var *x) {
    for (int i = 0; i < SSVAE_LEVELS; i++) x = ssvae_up(t, m, dec, i, x);
    return x;
}

var *ssvae_decode(tape *t, ssvae *m, const ssvae_batch *b, var *z) {
    return ssvae_decode_voxels(t, m, b->dec, ssvae_decode_tokens(t, m, b, z));
}
