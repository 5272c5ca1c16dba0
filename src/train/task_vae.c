/* Training of the sparse SDF auto-encoder (R§3.9):
 *   L = w_in L_in + w_ext L_ext + w_sharp L_sharp + w_kl L_kl, each a mean over the global batch; an empty set gives 0.
 * With vae.crop_tiles a step sees a part of each sample; with vae.chunk_tiles it decodes one box per sample (R§3.8);
 * the counts are then those of the boxes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "data/crop.h"
#include "data/symmetry.h"
#include "model/ssvae_chunk.h"
#include "train/setup.h"

enum { SUM_IN, SUM_EXT, SUM_SHARP, SUM_KL, SUMS };

typedef struct {
    task    base;
    ssvae   m;
    double  weight[SUMS];
    int64_t crop; /* tiles of a sample that a step sees; 0: all */
    int     chunk, padding, grid;
    int     augment; /* opt_vae_augment_*: a random symmetry for each sample of a step */
} vae_task;

typedef struct {
    ssvae_batch b;
    tensor      target, sharp, eps; /* (512T) f32, (64T) u8 (T: of the part, if there is one), (T,C) f32 */
    bool        mean;               /* decode the mean: held-out data */
    int32_t    *box;                /* (B,2,3), NULL: everything is decoded */
    ssvae_part  part;               /* with box */
} vae_body;

/* Whether a batch keeps the neighbour rows of the encoder's levels: the kernels of a GPU work them out, and for large
 * batches they would be most of its memory. */
enum { REMEMBER_TILES = 1024 };
static bool remembers(const task *t, int64_t tiles) {
    return t->p->dev == DEV_CPU && tiles <= REMEMBER_TILES;
}

/* Does not fall with the number of tiles: memory made for the largest batch serves all. */
static size_t host_bytes(const task *t, int64_t tiles, int64_t samples) {
    const vae_task *v = (const vae_task *)t;
    /* values, their active ones, sharp bits, masks and offsets of four levels, 27 neighbours twice (parts), windows,
     * and the target of a part */
    size_t          tile = 3 * TILE_CELLS * sizeof(float) + 2 * TILE_SHARP_BYTES + 2048 + 8 * 27 * sizeof(int32_t) +
                  (size_t)v->m.cfg.latent_channels * sizeof(float);
    size_t near = (TILE_CELLS + 64 + 8) * 27 * sizeof(int32_t); /* of three levels */
    size_t kept = t->p->dev == DEV_CPU ? (size_t)(tiles < REMEMBER_TILES ? tiles : REMEMBER_TILES) : 0;
    return ((size_t)1 << 20) + (size_t)tiles * tile + kept * near + (size_t)samples * 4096;
}

/* Cells of one tile by class. */
static void count_tile(const uint16_t *value, const uint8_t *sharp, double n[SUMS]) {
    for (int c = 0; c < TILE_CELLS; c++) {
        bool in = fabsf(f16_to_f32(value[c])) < 1.0f;
        n[in ? SUM_IN : SUM_EXT]++;
        if (in && sharp[c / 8] >> (c % 8) & 1) n[SUM_SHARP]++;
    }
}

static bool in_box(const uint16_t *p, const int32_t *box) {
    for (int i = 0; i < 3; i++)
        if (p[i] < box[i] || p[i] >= box[3 + i]) return false;
    return true;
}

/* A box with at least one tile: origin uniform per axis, drawn again until one lies inside. */
static void choose_box(const vae_task *v, rng_key key, const sample *s, int32_t box[6]) {
    int32_t edge = v->chunk < v->grid ? v->chunk : v->grid;
    for (uint64_t draw = 0;; draw++) {
        for (int i = 0; i < 3; i++) {
            box[i] = (int32_t)(rng_uniform(key, 3 * draw + (uint64_t)i) * (v->grid - edge + 1));
            box[3 + i] = box[i] + edge;
        }
        for (int64_t r = 0; r < s->n_tiles; r++)
            if (in_box(s->coord + 3 * r, box)) return;
    }
}

static void turn(const vae_task *v, rng_key key, sample *s) {
    double draw = rng_uniform(key, 0);
    if (v->augment == opt_vae_augment_cube) sample_turn(s, 8 * v->grid, (int)(draw * CUBE_SYMMETRIES));
    if (v->augment == opt_vae_augment_upright)
        sample_turn(s, 8 * v->grid, upright_symmetry((int)(draw * UPRIGHT_SYMMETRIES)));
}

/* Copies one sample to rows row0.. of the batch, sorted. */
static bool place_sample(const vae_task *v, const dataset *d, const plan_item *item, const sample *s, int64_t row0,
                         vae_body *body, tensor *coord, float *value, const int32_t *box, micro_batch *b, status *st) {
    const char *name = sample_name(d, item->index);
    int32_t    *order;
    if (!tile_order(b->host, s->coord, s->n_tiles, v->m.cfg.window, v->grid, name, &order, st)) return false;
    double whole[SUMS] = {0};
    for (int64_t i = 0; i < s->n_tiles; i++) {
        int64_t         from = order[i], to = row0 + i;
        const uint16_t *half = s->value + from * TILE_CELLS;
        const uint8_t  *sharp = s->sharp + from * TILE_SHARP_BYTES;
        double          n[SUMS] = {0};
        for (int c = 0; c < 3; c++) I32(coord)[3 * to + c] = s->coord[3 * from + c];
        for (int c = 0; c < TILE_CELLS; c++) value[to * TILE_CELLS + c] = f16_to_f32(half[c]);
        memcpy(U8(&body->sharp) + to * TILE_SHARP_BYTES, sharp, TILE_SHARP_BYTES);
        count_tile(half, sharp, n);
        if (n[SUM_IN] == 0)
            return status_set(st, ST_DATA, "%s: tile %lld has no cell within the truncation distance: run `d3s2 check`",
                              name, (long long)from);
        for (int k = 0; k < SUM_KL; k++) {
            whole[k] += n[k];
            if (!box || in_box(s->coord + 3 * from, box)) b->count[k] += n[k];
        }
    }
    const data_entry *e = &d->entry[item->index];
    bool              all = s->n_tiles == e->tiles;
    if (all && (whole[SUM_IN] != (double)e->n_in || whole[SUM_SHARP] != (double)e->n_sharp))
        return status_set(st, ST_DATA,
                          "%s: %.0f active and %.0f sharp cells, its table says %lld and %lld: run "
                          "`d3s2 check`",
                          name, whole[SUM_IN], whole[SUM_SHARP], (long long)e->n_in, (long long)e->n_sharp);
    return true;
}

/* Target and sharp bits of the tiles a part kept, in the place of all. */
static void gather_target(arena *host, vae_body *body) {
    const tensor *kept = &body->part.kept_row;
    int64_t       n = kept->dim[0];
    tensor        target = arena_tensor(host, DT_F32, DIMS(n * TILE_CELLS));
    tensor        sharp = arena_tensor(host, DT_U8, DIMS(n * TILE_SHARP_BYTES));
    for (int64_t i = 0; i < n; i++) {
        int64_t r = I32(kept)[i];
        memcpy(F32(&target) + i * TILE_CELLS, F32(&body->target) + r * TILE_CELLS, TILE_CELLS * sizeof(float));
        memcpy(U8(&sharp) + i * TILE_SHARP_BYTES, U8(&body->sharp) + r * TILE_SHARP_BYTES, TILE_SHARP_BYTES);
    }
    body->target = target;
    body->sharp = sharp;
}

static bool load(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                 micro_batch *b, status *st) {
    const vae_task *v = (const vae_task *)t;
    int64_t         C = v->m.cfg.latent_channels, row = 0;
    vae_body       *body = b->body = arena_zeros(b->host, sizeof *body);
    b->n_samples = n;
    b->n_tiles = 0;
    memset(b->count, 0, sizeof b->count);
    for (int64_t i = 0; i < n; i++) b->n_tiles += why.eval ? d->entry[item[i]->index].tiles : d->tokens[item[i]->index];
    tensor coord = arena_tensor(b->host, DT_I32, DIMS(b->n_tiles, 3));
    tensor first = arena_tensor(b->host, DT_I32, DIMS(n + 1));
    body->target = arena_tensor(b->host, DT_F32, DIMS(b->n_tiles * TILE_CELLS));
    body->sharp = arena_tensor(b->host, DT_U8, DIMS(b->n_tiles * TILE_SHARP_BYTES));
    body->eps = arena_tensor(b->host, DT_F32, DIMS(b->n_tiles, C));
    body->mean = why.eval;
    if (v->chunk > 0 && !why.eval) body->box = arena_alloc(b->host, (size_t)n * 6 * sizeof(int32_t));
    I32(&first)[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        sample s = {0};
        if (!dataset_read(d, item[i]->index, &s, st)) return false;
        if (v->crop > 0 && !why.eval)
            sample_crop(&s, v->crop,
                        (int64_t)(rng_uniform(item_key(t, d, RNG_CHUNK, why, item[i]), 0) * (double)s.n_tiles));
        if (!why.eval) turn(v, item_key(t, d, RNG_AUGMENT, why, item[i]), &s);
        int32_t *box = body->box ? body->box + 6 * i : NULL;
        if (box) choose_box(v, item_key(t, d, RNG_CHUNK, why, item[i]), &s, box);
        bool ok = place_sample(v, d, item[i], &s, row, body, &coord, F32(&body->target), box, b, st);
        rng_fill_normal(item_key(t, d, RNG_POSTERIOR, why, item[i]), 0, s.n_tiles * C, F32(&body->eps) + row * C);
        row += s.n_tiles;
        I32(&first)[i + 1] = (int32_t)row;
        sample_free(&s);
        if (!ok) return false;
    }
    b->count[SUM_KL] = (double)(b->n_tiles * C);
    body->b = ssvae_batch_build(b->host, &v->m.cfg, &coord, &first, F32(&body->target));
    for (int i = 0; i < 3 && remembers(t, b->n_tiles); i++) grid_remember(b->host, &body->b.enc[i]);
    if (body->box) {
        body->part = ssvae_part_build(b->host, &body->b, body->box, v->padding);
        gather_target(b->host, body);
    }
    b->n_values = SUMS; /* as forward returns them */
    b->into = arena_alloc(b->host, SUMS * sizeof *b->into);
    for (int i = 0; i < SUMS; i++) {
        b->into[i][0] = (uint8_t)i;
        b->into[i][1] = NO_SUM;
    }
    return true;
}

static void counts(const task *t, const dataset *d, const plan_step *s, double count[TASK_SUMS]) {
    const vae_task *v = (const vae_task *)t;
    for (int64_t i = 0; i < s->n_items; i++) {
        const data_entry *e = &d->entry[s->item[i].index];
        count[SUM_IN] += (double)e->n_in;
        count[SUM_EXT] += (double)(e->tiles * TILE_CELLS - e->n_in);
        count[SUM_SHARP] += (double)e->n_sharp;
        count[SUM_KL] += (double)(e->tiles * v->m.cfg.latent_channels);
    }
}

static void tensors(const task *t, micro_batch *b, tensor_visit f, void *user) {
    vae_body *body = b->body;
    (void)t;
    tensor_visit_given(&body->target, f, user);
    tensor_visit_given(&body->sharp, f, user);
    tensor_visit_given(&body->eps, f, user);
    ssvae_batch_tensors(&body->b, f, user);
    if (body->box) ssvae_part_tensors(&body->part, f, user);
}

static int forward(task *t, tape *tp, const micro_batch *b, const double count[TASK_SUMS], tensor value[TASK_TENSORS]) {
    vae_task *v = (vae_task *)t;
    vae_body *body = b->body;
    double    scale[SUMS];
    for (int i = 0; i < SUMS; i++) scale[i] = count[i] > 0 ? v->weight[i] / count[i] : 0.0;
    var *moments = ssvae_encode(tp, &v->m, &body->b);
    var *z = nn_vae_sample(tp, moments, body->mean ? NULL : &body->eps, scale[SUM_KL], &value[1]);
    var *pred =
        body->box ? ssvae_part_decode(tp, &v->m, &body->b, &body->part, z) : ssvae_decode(tp, &v->m, &body->b, z);
    nn_sdf_loss(tp, pred, &body->target, &body->sharp, scale, &value[0]);
    return 2;
}

static double loss(const task *t, const double mean[TASK_SUMS]) {
    const vae_task *v = (const vae_task *)t;
    double          l = 0;
    for (int i = 0; i < SUMS; i++) l += v->weight[i] * mean[i];
    return l;
}

static size_t scratch_per_tile(const task *t) {
    return ssvae_scratch_per_tile(&((const vae_task *)t)->m.cfg, t->p->act);
}

static void task_free(task *t) {
    ssvae_free(&((vae_task *)t)->m);
    free(t);
}

task *task_vae_new(const options *o, const dataset *d, status *st) {
    vae_task *v = calloc(1, sizeof *v);
    CHECK(v, "no memory for the task");
    if (d->resolution % 8 != 0) {
        status_set(st, ST_DATA, "%s: resolution %d is not a multiple of 8", d->shards[0].path, d->resolution);
        free(v);
        return NULL;
    }
    ssvae_config cfg = ssvae_config_of(o);
    ssvae_init(&v->m, &cfg);
    v->crop = o->vae.crop_tiles;
    v->chunk = (int)o->vae.chunk_tiles;
    v->augment = o->vae.augment;
    v->padding = (int)o->vae.chunk_padding;
    v->grid = d->resolution / 8;
    memcpy(v->weight, (double[SUMS]){o->vae.in_weight, o->vae.ext_weight, o->vae.sharp_weight, o->vae.kl_weight},
           sizeof v->weight);
    v->base = (task){.name = "vae",
                     .p = &v->m.p,
                     .n_layers = ssvae_n_layers(&cfg),
                     .n_sums = SUMS,
                     .sum_name = {"loss_in", "loss_ext", "loss_sharp", "kl"},
                     .count_batches = v->chunk > 0 || v->crop > 0,
                     .seed = (uint64_t)o->train.seed,
                     .host_bytes = host_bytes,
                     .load = load,
                     .counts = counts,
                     .forward = forward,
                     .scratch_per_tile = scratch_per_tile,
                     .tensors = tensors,
                     .loss = loss,
                     .free = task_free};
    return &v->base;
}
