#include "model/dinov2.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/elementwise.h"

enum { PATCH_NUMBERS = 3 * 14 * 14 };

static const char *part_name(char name[64], int block, const char *part) {
    snprintf(name, 64, "blocks.%d.%s", block, part);
    return name;
}

void dinov2_init(dinov2 *m, const dinov2_config *cfg) {
    int64_t c = cfg->width;
    char    name[64];
    CHECK(c > 0 && cfg->heads > 0 && c % cfg->heads == 0 && cfg->blocks > 0 && cfg->registers >= 0 && cfg->side > 0,
          "width %lld, %d heads, %d blocks, %d registers, %d patches a side", (long long)c, cfg->heads, cfg->blocks,
          cfg->registers, cfg->side);
    *m = (dinov2){.cfg = *cfg, .block = calloc((size_t)cfg->blocks, sizeof *m->block)};
    CHECK(m->block, "no memory for %d blocks", cfg->blocks);
    params_init(&m->p);
    m->patch = params_add(&m->p, -1, INIT_XAVIER, 0, DIMS(c, PATCH_NUMBERS), "patch_embed.proj.weight");
    m->rows = params_add(&m->p, -1, INIT_NORMAL, 0.02, DIMS(dinov2_tokens(cfg), c), "rows");
    m->rows->decay = false; /* a table stays f32 */
    for (int i = 0; i < cfg->blocks; i++) {
        int64_t mlp = cfg->mlp_width;
        m->block[i] = (dinov2_block){
            .norm1 = affine_norm(&m->p, i, c, part_name(name, i, "norm1")),
            .qkv = affine_linear(&m->p, i, 3 * c, c, part_name(name, i, "attn.qkv")),
            .out = affine_linear(&m->p, i, c, c, part_name(name, i, "attn.proj")),
            .norm2 = affine_norm(&m->p, i, c, part_name(name, i, "norm2")),
            .mlp_in = affine_linear(&m->p, i, cfg->gated ? 2 * mlp : mlp, c, part_name(name, i, "mlp.in")),
            .mlp_out = affine_linear(&m->p, i, c, mlp, part_name(name, i, "mlp.out"))};
    }
}

void dinov2_free(dinov2 *m) {
    params_free(&m->p);
    free(m->block);
    *m = (dinov2){0};
}

/* ---- batch ----------------------------------------------------------------------------------------------------- */

dinov2_batch dinov2_batch_build(arena *host, const dinov2_config *cfg, int64_t images) {
    int64_t      one = dinov2_tokens(cfg), n = images * one;
    dinov2_batch b = {.images = images,
                      .pixels = arena_tensor(host, DT_F32, DIMS(n, PATCH_NUMBERS)),
                      .index = arena_tensor(host, DT_I32, DIMS(n)),
                      .first = arena_tensor(host, DT_I32, DIMS(images + 1))};
    memset(b.pixels.data, 0, tensor_bytes(&b.pixels));
    for (int64_t i = 0; i < n; i++) I32(&b.index)[i] = (int32_t)(i % one);
    for (int64_t i = 0; i <= images; i++) I32(&b.first)[i] = (int32_t)(i * one);
    if (cfg->gated) {
        b.each = arena_tensor(host, DT_I32, DIMS(n + 1));
        for (int64_t i = 0; i <= n; i++) I32(&b.each)[i] = (int32_t)i;
    }
    return b;
}

float *dinov2_pixels(const dinov2_batch *b, const dinov2_config *cfg, int64_t i) {
    return F32(&b->pixels) + (i * dinov2_tokens(cfg) + 1 + cfg->registers) * PATCH_NUMBERS;
}

void dinov2_batch_tensors(dinov2_batch *b, tensor_visit f, void *user) {
    tensor *all[] = {&b->pixels, &b->index, &b->first, &b->each};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tensor_visit_given(all[i], f, user);
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

typedef struct {
    const dinov2_block *r;
    const dinov2_batch *b;
    int                 heads;
    int64_t             mlp_width;
    bool                gated;
} block_args;

/* SiLU(a) * b of the halves of h: the gate of a residual onto zeros, a gate a row. */
static var *gated_halves(tape *t, var *h, const block_args *a) {
    const int64_t half[2] = {a->mlp_width, a->mlp_width};
    var          *part[2], *zero = tape_new(t, h->v.dim[0], a->mlp_width, false);
    nn_split(t, h, 2, half, part);
    zero_fwd(t->c, &(xy_args){.y = &zero->v});
    return nn_gate_residual(t, zero, part[1], nn_act(t, part[0], ACT_SILU), &a->b->each);
}

static var *block(tape *t, const void *args, var *const *in) {
    const block_args   *a = args;
    const dinov2_block *r = a->r;
    var                *x = in[0];

    var *h = nn_layer_norm(t, x, r->norm1.w, r->norm1.b, 1e-6);
    h = nn_linear(t, h, r->qkv.w, r->qkv.b, ACT_NONE);
    h = nn_attn_qkv(t, h, a->heads, &a->b->first, NULL);
    h = nn_linear(t, h, r->out.w, r->out.b, ACT_NONE);
    x = nn_gate_residual(t, x, h, NULL, NULL);

    h = nn_layer_norm(t, x, r->norm2.w, r->norm2.b, 1e-6);
    h = nn_linear(t, h, r->mlp_in.w, r->mlp_in.b, a->gated ? ACT_NONE : ACT_GELU_ERF);
    if (a->gated) h = gated_halves(t, h, a);
    h = nn_linear(t, h, r->mlp_out.w, r->mlp_out.b, ACT_NONE);
    return nn_gate_residual(t, x, h, NULL, NULL);
}

var *dinov2_forward(tape *t, const dinov2 *m, const dinov2_batch *b, var **prenorm) {
    var *x = nn_cast(t, tape_leaf(t, b->pixels, false), t->c->act);
    x = nn_linear(t, x, m->patch, NULL, ACT_NONE);
    x = nn_add_table(t, x, m->rows, &b->index, NULL, NULL);
    for (int i = 0; i < m->cfg.blocks; i++) {
        block_args a = {&m->block[i], b, m->cfg.heads, m->cfg.mlp_width, m->cfg.gated};
        x = tape_segment(t, i, block, &a, sizeof a, (var *[]){x}, 1);
    }
    if (prenorm) *prenorm = x;
    return nn_cast(t, nn_layer_norm(t, x, NULL, NULL, 1e-5), DT_F32);
}

/* ---- positions ------------------------------------------------------------------------------------------------- */

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* Lines of `from` elements, `step` numbers apart, to lines of `to`. */
static void resize_line(const float *in, int from, int64_t in_step, float *out, int to, int64_t out_step, int64_t n) {
    double scale = (double)from / to, wide = scale > 1 ? scale : 1;
    for (int i = 0; i < to; i++) {
        double centre = scale * (i + 0.5), sum = 0;
        int    lo = (int)(centre - 2 * wide + 0.5), hi = (int)(centre + 2 * wide + 0.5);
        if (lo < 0) lo = 0;
        if (hi > from) hi = from;
        for (int k = lo; k < hi; k++) sum += cubic((k - centre + 0.5) / wide);
        for (int64_t c = 0; c < n; c++) {
            double v = 0;
            for (int k = lo; k < hi; k++) v += cubic((k - centre + 0.5) / wide) * (double)in[k * in_step + c];
            out[i * out_step + c] = (float)(v / sum);
        }
    }
}

void dinov2_resize_positions(const float *in, int from, int64_t width, float *out, int to) {
    if (from == to) {
        memcpy(out, in, (size_t)from * (size_t)from * (size_t)width * sizeof *out);
        return;
    }
    float *wide = malloc((size_t)from * (size_t)to * (size_t)width * sizeof *wide);
    CHECK(wide, "no memory for %d x %d positions", from, to);
    for (int y = 0; y < from; y++)
        resize_line(in + (int64_t)y * from * width, from, width, wide + (int64_t)y * to * width, to, width, width);
    resize_line(wide, from, to * width, out, to, to * width, to * width);
    free(wide);
}
