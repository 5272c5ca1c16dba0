#include "train/dinov2_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "kernels/backend.h"

enum {
    MOST_WIDTH = 16384,
    MOST_BLOCKS = 256,
    MOST_REGISTERS = 256,
    MOST_SIDE = 1024,
    HEAD_WIDTH = 64,
    PATCH_EDGE = 14
};

typedef enum {
    PART_CLASS,
    PART_REGISTERS,
    PART_POSITIONS,
    PART_PATCH_W,
    PART_PATCH_B,
    PART_NORM1,
    PART_QKV, /* one matrix in the hub's files, three in the others */
    PART_QUERY,
    PART_KEY,
    PART_VALUE,
    PART_PROJ,
    PART_SCALE1,
    PART_NORM2,
    PART_FC1,
    PART_FC2,
    PART_GATED_IN,
    PART_GATED_OUT,
    PART_SCALE2
} part;

/* %d is the block. */
static const struct {
    const char *hub, *hf;
} names[] = {
    [PART_CLASS] = {"cls_token", "embeddings.cls_token"},
    [PART_REGISTERS] = {"register_tokens", "embeddings.register_tokens"},
    [PART_POSITIONS] = {"pos_embed", "embeddings.position_embeddings"},
    [PART_PATCH_W] = {"patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"},
    [PART_PATCH_B] = {"patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"},
    [PART_NORM1] = {"blocks.%d.norm1", "encoder.layer.%d.norm1"},
    [PART_QKV] = {"blocks.%d.attn.qkv", NULL},
    [PART_QUERY] = {NULL, "encoder.layer.%d.attention.attention.query"},
    [PART_KEY] = {NULL, "encoder.layer.%d.attention.attention.key"},
    [PART_VALUE] = {NULL, "encoder.layer.%d.attention.attention.value"},
    [PART_PROJ] = {"blocks.%d.attn.proj", "encoder.layer.%d.attention.output.dense"},
    [PART_SCALE1] = {"blocks.%d.ls1.gamma", "encoder.layer.%d.layer_scale1.lambda1"},
    [PART_NORM2] = {"blocks.%d.norm2", "encoder.layer.%d.norm2"},
    [PART_FC1] = {"blocks.%d.mlp.fc1", "encoder.layer.%d.mlp.fc1"},
    [PART_FC2] = {"blocks.%d.mlp.fc2", "encoder.layer.%d.mlp.fc2"},
    [PART_GATED_IN] = {"blocks.%d.mlp.w12", "encoder.layer.%d.mlp.weights_in"},
    [PART_GATED_OUT] = {"blocks.%d.mlp.w3", "encoder.layer.%d.mlp.weights_out"},
    [PART_SCALE2] = {"blocks.%d.ls2.gamma", "encoder.layer.%d.layer_scale2.lambda1"},
};

typedef struct {
    safetensors s;
    bool        hf;
    int         stored_side; /* of the positions in the file */
} source;

/* ".weight" or ".bias" follows where a layer has both; "" for a tensor alone. */
static const char *full_name(const source *f, part p, int block, const char *end, char out[128]) {
    const char *form = f->hf ? names[p].hf : names[p].hub, *at = strstr(form, "%d");
    if (at)
        snprintf(out, 128, "%.*s%d%s%s", (int)(at - form), form, block, at + 2, end);
    else
        snprintf(out, 128, "%s%s", form, end);
    return out;
}

static const safe_tensor *find(const source *f, part p, int block, const char *end) {
    char name[128];
    return safetensors_find(&f->s, full_name(f, p, block, end, name));
}

/* ---- shapes ---------------------------------------------------------------------------------------------------- */

static bool strange(const source *f, const char *what, status *st) {
    return status_set(st, ST_DATA,
                      "%.300s: %s: is it DINOv2 with registers (ViT-S/B/L/g of 14x14 patches), under the names of its "
                      "hub or of Hugging Face?",
                      f->s.path, what);
}

/* The length of dim `axis` of a tensor of that rank, 0 when there is none. */
static int64_t length(const source *f, part p, int block, const char *end, int rank, int axis) {
    const safe_tensor *t = find(f, p, block, end);
    return t && t->rank == rank ? t->shape[axis] : 0;
}

static int side_of(int64_t positions) {
    int side = 0;
    while ((int64_t)(side + 1) * (side + 1) <= positions && side < MOST_SIDE) side++;
    return (int64_t)side * side == positions ? side : 0;
}

static bool read_heads(const source *f, dinov2_config *c, status *st) {
    c->heads = c->width / HEAD_WIDTH;
    bool known = c->width % HEAD_WIDTH == 0;
    for (int i = 0; i < f->s.n_meta; i++)
        if (strcmp(f->s.meta_key[i], "num_attention_heads") == 0) {
            long n = strtol(f->s.meta_value[i], NULL, 10);
            known = n > 0 && n <= c->width;
            c->heads = known ? (int)n : 0;
        }
    return (known && c->width % c->heads == 0) || strange(f, "the width is not a number of heads", st);
}

static bool read_config(source *f, dinov2_config *c, status *st) {
    f->hf = safetensors_find(&f->s, names[PART_CLASS].hf) != NULL;
    int64_t width = length(f, PART_CLASS, 0, "", 3, 2), registers = length(f, PART_REGISTERS, 0, "", 3, 1);
    int64_t positions = length(f, PART_POSITIONS, 0, "", 3, 1), edge = length(f, PART_PATCH_W, 0, "", 4, 3);
    if (width < 1 || width > MOST_WIDTH) return strange(f, "no class token", st);
    if (registers < 1 || registers > MOST_REGISTERS) return strange(f, "no register tokens", st);
    if (edge != PATCH_EDGE) return strange(f, "no patch embedding of 14x14 pixels", st);
    f->stored_side = side_of(positions - 1);
    if (f->stored_side < 1) return strange(f, "the positions are not those of a square", st);
    c->width = (int)width;
    c->registers = (int)registers;
    while (c->blocks < MOST_BLOCKS && find(f, PART_NORM1, c->blocks, ".weight")) c->blocks++;
    if (c->blocks < 1) return strange(f, "no block", st);
    c->gated = find(f, PART_GATED_IN, 0, ".weight") != NULL;
    int64_t mlp = c->gated ? length(f, PART_GATED_IN, 0, ".weight", 2, 0) / 2 : length(f, PART_FC1, 0, ".weight", 2, 0);
    if (mlp < 1 || mlp > 16 * width) return strange(f, "no MLP of a known kind in block 0", st);
    c->mlp_width = (int)mlp;
    return read_heads(f, c, st);
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* A tensor of that shape into out. */
static bool read_part(const source *f, part p, int block, const char *end, const int64_t *shape, int rank, float *out,
                      status *st) {
    char               name[128];
    const safe_tensor *t = safetensors_find(&f->s, full_name(f, p, block, end, name));
    if (!t) return status_set(st, ST_DATA, "%.300s: no tensor %s: the file is not whole", f->s.path, name);
    bool same = t->rank == rank;
    for (int i = 0; i < rank && same; i++) same = t->shape[i] == shape[i];
    if (!same) return status_set(st, ST_DATA, "%.300s: %s has another shape than the rest asks for", f->s.path, name);
    return safetensors_read(&f->s, t, out, st);
}

typedef struct {
    const source *f;
    params       *p;
    float        *room; /* for one row of the table */
} filler;

static void put(const filler *l, const param *row) {
    slab_write(l->p->dev, l->p->w, row->offset, row->count, l->room);
}

static bool fill_norm(const filler *l, part p, int block, affine a, status *st) {
    const param *row[2] = {a.w, a.b};
    for (int i = 0; i < 2; i++) {
        if (!read_part(l->f, p, block, i ? ".bias" : ".weight", row[i]->dim, 1, l->room, st)) return false;
        put(l, row[i]);
    }
    return true;
}

/* n parts stacked along the outputs; `scale` (one number an output) multiplies, PART_CLASS for none. */
static bool fill_linear(const filler *l, const part *p, int n, part scale, int block, affine a, status *st) {
    int64_t out = a.w->dim[0], in = a.w->dim[1], rows = out / n;
    float  *by = malloc((size_t)out * sizeof *by);
    CHECK(by, "no memory for %lld numbers", (long long)out);
    bool ok = scale == PART_CLASS || read_part(l->f, scale, block, "", DIMS(out), by, st);
    for (int bias = 0; bias < 2 && ok; bias++) {
        int64_t width = bias ? 1 : in;
        for (int i = 0; i < n && ok; i++)
            ok = read_part(l->f, p[i], block, bias ? ".bias" : ".weight", (const int64_t[]){rows, in}, bias ? 1 : 2,
                           l->room + i * rows * width, st);
        for (int64_t k = 0; k < out * width && ok && scale != PART_CLASS; k++) l->room[k] *= by[k / width];
        if (ok) put(l, bias ? a.b : a.w);
    }
    free(by);
    return ok;
}

static bool fill_block(const filler *l, const dinov2_config *c, int i, const dinov2_block *b, status *st) {
    static const part hub[] = {PART_QKV}, hf[] = {PART_QUERY, PART_KEY, PART_VALUE}, out[] = {PART_PROJ};
    part              in = c->gated ? PART_GATED_IN : PART_FC1, last = c->gated ? PART_GATED_OUT : PART_FC2;
    return fill_norm(l, PART_NORM1, i, b->norm1, st) &&
           fill_linear(l, l->f->hf ? hf : hub, l->f->hf ? 3 : 1, PART_CLASS, i, b->qkv, st) &&
           fill_linear(l, out, 1, PART_SCALE1, i, b->out, st) && fill_norm(l, PART_NORM2, i, b->norm2, st) &&
           fill_linear(l, &in, 1, PART_CLASS, i, b->mlp_in, st) &&
           fill_linear(l, &last, 1, PART_SCALE2, i, b->mlp_out, st);
}

/* What is added to each row: see dinov2.h. */
static bool fill_rows(const filler *l, const dinov2 *m, status *st) {
    const dinov2_config *c = &m->cfg;
    const source        *f = l->f;
    int64_t              w = c->width, S = f->stored_side;
    float *stored = malloc((size_t)((1 + S * S) * w) * sizeof *stored), *bias = malloc((size_t)w * sizeof *bias);
    CHECK(stored && bias, "no memory for the positions");
    float *registers = l->room + w, *patches = registers + c->registers * w;
    bool   ok = read_part(f, PART_CLASS, 0, "", DIMS(1, 1, w), l->room, st) &&
              read_part(f, PART_REGISTERS, 0, "", DIMS(1, c->registers, w), registers, st) &&
              read_part(f, PART_POSITIONS, 0, "", DIMS(1, 1 + S * S, w), stored, st) &&
              read_part(f, PART_PATCH_B, 0, "", DIMS(w), bias, st);
    if (ok) {
        for (int64_t k = 0; k < w; k++) l->room[k] += stored[k];
        dinov2_resize_positions(stored + w, f->stored_side, w, patches, c->side);
        for (int64_t k = 0; k < (int64_t)c->side * c->side * w; k++) patches[k] += bias[k % w];
        put(l, m->rows);
    }
    free(stored);
    free(bias);
    return ok;
}

static bool fill(const source *f, dinov2 *m, status *st) {
    int64_t most = 0;
    for (int i = 0; i < m->p.n; i++)
        if (m->p.row[i]->count > most) most = m->p.row[i]->count;
    filler l = {f, &m->p, malloc((size_t)most * sizeof *l.room)};
    CHECK(l.room, "no memory for %lld weights", (long long)most);
    bool ok = fill_rows(&l, m, st) &&
              read_part(f, PART_PATCH_W, 0, "", DIMS(m->cfg.width, 3, PATCH_EDGE, PATCH_EDGE), l.room, st);
    if (ok) put(&l, m->patch);
    for (int i = 0; i < m->cfg.blocks && ok; i++) ok = fill_block(&l, &m->cfg, i, &m->block[i], st);
    free(l.room);
    return ok;
}

/* Before memory is taken for what the shapes of a few tensors promise. */
static bool is_whole(const source *f, const dinov2 *m, status *st) {
    int64_t stored = 0, wanted = -m->rows->count;
    for (int i = 0; i < f->s.n; i++) stored += f->s.tensor[i].count;
    for (int i = 0; i < m->p.n; i++) wanted += m->p.row[i]->count;
    return wanted <= stored ||
           status_set(st, ST_DATA, "%.300s: holds %lld numbers, %d blocks of width %d need %lld: the file is not whole",
                      f->s.path, (long long)stored, m->cfg.blocks, m->cfg.width, (long long)wanted);
}

bool dinov2_load(const char *path, int side, ctx *c, dinov2 *m, arena *weights, status *st) {
    source        f = {0};
    dinov2_config cfg = {.side = side};
    if (!safetensors_open(&f.s, path, st)) return false;
    bool ok = read_config(&f, &cfg, st);
    if (ok) {
        dinov2_init(m, &cfg);
        ok = is_whole(&f, m, st);
        if (!ok) dinov2_free(m);
    }
    if (ok) {
        arena count = arena_counting_on("weights", c->be->dev);
        m->p.act = c->act;
        params_alloc(&m->p, &count, false, false);
        *weights = arena_new_on("weights", count.peak, c->be->dev);
        params_alloc(&m->p, weights, false, false);
        ok = fill(&f, m, st);
        if (ok) {
            params_refresh16(c, &m->p);
        } else {
            dinov2_free(m);
            arena_free(weights);
        }
    }
    safetensors_close(&f.s);
    return ok;
}
