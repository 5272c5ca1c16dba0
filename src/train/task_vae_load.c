/* Micro-batches of the auto-encoder. A sample at R = 1024 has 50 MB of half values, so its cells are passed over twice
 * only: for the mask, and, once the tables say where they go, for the values that a step needs. Tiles are independent;
 * loops over them run on the threads that OpenMP gives the caller, and sums are of integers. */
#include "train/task_vae.h"
#include "data/symmetry.h"
#include "data/tile_cells.h"
#include "train/setup.h"

#include <stdlib.h>
#include <string.h>

vae_reading *vae_reading_new(void) {
    vae_reading *r = calloc(1, sizeof *r);
    CHECK(r, "no memory for the loader");
    return r;
}

void vae_reading_free(vae_reading *r) {
    if (!r) return;
    for (int64_t i = 0; i < r->n_samples; i++) sample_free(&r->s[i]);
    free(r->s);
    free(r->value);
    free(r->sharp);
    free(r);
}

static void reading_room(vae_reading *r, int64_t n_samples, int64_t n_rows) {
    if (n_samples > r->n_samples) {
        r->s = realloc(r->s, (size_t)n_samples * sizeof *r->s);
        CHECK(r->s, "no memory for %lld samples", (long long)n_samples);
        for (; r->n_samples < n_samples; r->n_samples++) r->s[r->n_samples] = (sample){0};
    }
    if (n_rows <= r->n_rows) return;
    r->n_rows = n_rows;
    r->value = realloc(r->value, (size_t)n_rows * sizeof *r->value);
    r->sharp = realloc(r->sharp, (size_t)n_rows * sizeof *r->sharp);
    CHECK(r->value && r->sharp, "no memory for %lld tiles", (long long)n_rows);
}

/* Whether a batch keeps the neighbour rows of the encoder's levels: the kernels of a GPU work them out, and for large
 * batches they would be most of its memory. */
enum { REMEMBER_TILES = 1024 };
static bool remembers(const task *t, int64_t tiles) {
    return t->p->dev == DEV_CPU && tiles <= REMEMBER_TILES;
}

/* Does not fall with the number of tiles: memory made for the largest batch serves all. */
size_t vae_host_bytes(const task *t, int64_t tiles, int64_t samples) {
    const vae_task *v = (const vae_task *)t;
    /* target and active values, sharp bits, masks and offsets of four levels, 27 neighbours twice (parts), windows */
    size_t          tile = 2 * TILE_CELLS * sizeof(float) + TILE_SHARP_BYTES + 2048 + 8 * 27 * sizeof(int32_t) +
                  (size_t)v->m.cfg.latent_channels * sizeof(float);
    size_t near = (TILE_CELLS + 64 + 8) * 27 * sizeof(int32_t); /* of three levels */
    size_t kept = t->p->dev == DEV_CPU ? (size_t)(tiles < REMEMBER_TILES ? tiles : REMEMBER_TILES) : 0;
    return ((size_t)1 << 20) + (size_t)tiles * tile + kept * near + (size_t)samples * 4096;
}

static bool in_box(const uint16_t *p, const int32_t *box) {
    for (int i = 0; i < 3; i++)
        if (p[i] < box[i] || p[i] >= box[3 + i]) return false;
    return true;
}

/* A box with at least one tile: origin uniform per axis, drawn again until one lies inside. */
static void choose_box(const vae_task *v, rng_key key, const sample *s, int across, int32_t box[6]) {
    int32_t edge = v->chunk < across ? v->chunk : across;
    for (uint64_t draw = 0;; draw++) {
        for (int i = 0; i < 3; i++) {
            box[i] = (int32_t)(rng_uniform(key, 3 * draw + (uint64_t)i) * (across - edge + 1));
            box[3 + i] = box[i] + edge;
        }
        for (int64_t r = 0; r < s->n_tiles; r++)
            if (in_box(s->coord + 3 * r, box)) return;
    }
}

/* Rows row0.. of the batch: coordinates and masks of one sample, sorted, and where its cells are. */
static bool place_sample(const vae_task *v, const dataset *d, const plan_item *item, const sample *s, int64_t row0,
                         tensor *coord, tensor *mask, const int32_t *box, micro_batch *b, status *st) {
    const char *name = sample_name(d, item->index);
    int32_t    *order;
    if (!tile_order(b->host, s->coord, s->n_tiles, v->m.cfg.window, dataset_resolution(d, item->index) / 8, name,
                    &order, st))
        return false;
    int64_t all_in = 0, all_sharp = 0, n_in = 0, n_sharp = 0, n_tiles = 0, empty = s->n_tiles;
#pragma omp parallel for schedule(static) reduction(+ : all_in, all_sharp, n_in, n_sharp, n_tiles) reduction(min : empty)
    for (int64_t i = 0; i < s->n_tiles; i++) {
        int64_t         from = order[i], to = row0 + i;
        const uint16_t *at = s->coord + 3 * from, *value = s->value + from * TILE_CELLS;
        const uint8_t  *sharp = s->sharp + from * TILE_SHARP_BYTES;
        uint64_t       *bits = U64(mask) + to * TILE_WORDS;
        for (int c = 0; c < 3; c++) I32(coord)[3 * to + c] = at[c];
        v->reading->value[to] = value;
        v->reading->sharp[to] = sharp;
        int in = cells_mask(value, bits), sharp_in = cells_sharp(bits, sharp);
        if (in == 0 && i < empty) empty = i;
        all_in += in;
        all_sharp += sharp_in;
        if (box && !in_box(at, box)) continue;
        n_in += in;
        n_sharp += sharp_in;
        n_tiles++;
    }
    if (empty < s->n_tiles)
        return status_set(st, ST_DATA, "%s: tile %d has no cell within the truncation distance: run `d3s2 check`", name,
                          order[empty]);
    const data_entry *e = &d->entry[item->index];
    if (s->n_tiles == e->tiles && (all_in != e->n_in || all_sharp != e->n_sharp))
        return status_set(st, ST_DATA,
                          "%s: %lld active and %lld sharp cells, its table says %lld and %lld: run "
                          "`d3s2 check`",
                          name, (long long)all_in, (long long)all_sharp, (long long)e->n_in, (long long)e->n_sharp);
    b->count[SUM_IN] += (double)n_in;
    b->count[SUM_EXT] += (double)(n_tiles * TILE_CELLS - n_in);
    b->count[SUM_SHARP] += (double)n_sharp;
    return true;
}

static void turn(const vae_task *v, rng_key key, int resolution, sample *s) {
    double draw = rng_uniform(key, 0);
    if (v->augment == opt_vae_augment_cube) sample_turn(s, resolution, (int)(draw * CUBE_SYMMETRIES));
    if (v->augment == opt_vae_augment_upright)
        sample_turn(s, resolution, upright_symmetry((int)(draw * UPRIGHT_SYMMETRIES)));
}

/* Reads a sample and makes of it what the step sees. */
static bool read_sample(const vae_task *v, const dataset *d, batch_purpose why, const plan_item *item, sample *s,
                        int32_t *box, status *st) {
    const task *t = &v->base;
    int         resolution = dataset_resolution(d, item->index);
    if (why.eval || v->crop == 0) {
        if (!dataset_read_again(d, item->index, s, st) || why.eval) return status_ok(st);
    } else {
        double  draw = rng_uniform(item_key(t, d, RNG_CHUNK, why, item), 0);
        int64_t centre = (int64_t)(draw * (double)d->entry[item->index].tiles);
        if (!dataset_read_part(d, item->index, v->crop, centre, s, st)) return false;
    }
    turn(v, item_key(t, d, RNG_AUGMENT, why, item), resolution, s);
    if (box) choose_box(v, item_key(t, d, RNG_CHUNK, why, item), s, resolution / 8, box);
    return true;
}

/* Elements of a stream of noise belong to their number, whoever draws them. */
static void fill_noise(rng_key key, int64_t n, float *out) {
    enum { PIECE = 4096 };
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += PIECE) rng_fill_normal(key, (uint64_t)i, n - i < PIECE ? n - i : PIECE, out + i);
}

/* Values of the active voxels, and target and sharp bits of the tiles that are decoded. */
static void fill_values(const vae_reading *from, vae_body *body, arena *host) {
    const ssvae_batch *b = &body->b;
    const int32_t     *kept = body->box ? I32(&body->part.kept_row) : NULL, *first = I32(&b->enc[0].first);
    int64_t            n = body->box ? body->part.n_kept : b->n_tiles;
    body->target = arena_tensor(host, DT_F32, DIMS(n * TILE_CELLS));
    body->sharp = arena_tensor(host, DT_U8, DIMS(n * TILE_SHARP_BYTES));
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < b->n_tiles; r++)
            cells_active(from->value[r], U64(&b->enc[0].mask) + r * TILE_WORDS, F32(&b->sdf) + first[r]);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            int64_t r = kept ? kept[i] : i;
            cells_values(from->value[r], F32(&body->target) + i * TILE_CELLS);
            memcpy(U8(&body->sharp) + i * TILE_SHARP_BYTES, from->sharp[r], TILE_SHARP_BYTES);
        }
    }
}

/* Tiles that boxes of this edge, one in each of n samples, hold at most. */
static int64_t most_in_boxes(const vae_task *v, int64_t edge, int64_t n, int64_t tiles) {
    if (edge > v->grid) edge = v->grid;
    int64_t most = edge * edge * edge * n;
    return most < tiles ? most : tiles;
}

static void build_part(const vae_task *v, vae_body *body, int64_t largest, arena *host) {
    int64_t tiles = body->b.n_tiles;
    if (largest > 0)
        body->part = ssvae_part_of_size(host, &body->b, most_in_boxes(v, v->chunk + 2 * v->padding, largest, tiles),
                                        most_in_boxes(v, v->chunk, largest, tiles));
    else
        body->part = ssvae_part_build(host, &body->b, body->box, v->padding);
}

bool vae_load(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
              micro_batch *b, status *st) {
    const vae_task *v = (const vae_task *)t;
    int64_t         C = v->m.cfg.latent_channels, row = 0;
    vae_body       *body = b->body = arena_zeros(b->host, sizeof *body);
    b->n_samples = n;
    b->n_tiles = 0;
    memset(b->count, 0, sizeof b->count);
    for (int64_t i = 0; i < n; i++) b->n_tiles += why.eval ? d->entry[item[i]->index].tiles : d->tokens[item[i]->index];
    reading_room(v->reading, n, b->n_tiles);
    tensor coord = arena_tensor(b->host, DT_I32, DIMS(b->n_tiles, 3));
    tensor first = arena_tensor(b->host, DT_I32, DIMS(n + 1));
    tensor mask = arena_tensor(b->host, DT_U64, DIMS(b->n_tiles, TILE_WORDS));
    body->eps = arena_tensor(b->host, DT_F32, DIMS(b->n_tiles, C));
    body->mean = why.eval;
    if (v->chunk > 0 && !why.eval) body->box = arena_alloc(b->host, (size_t)n * 6 * sizeof(int32_t));
    I32(&first)[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        sample  *s = &v->reading->s[i];
        int32_t *box = body->box ? body->box + 6 * i : NULL;
        if (!read_sample(v, d, why, item[i], s, box, st) ||
            !place_sample(v, d, item[i], s, row, &coord, &mask, box, b, st))
            return false;
        fill_noise(item_key(t, d, RNG_POSTERIOR, why, item[i]), s->n_tiles * C, F32(&body->eps) + row * C);
        row += s->n_tiles;
        I32(&first)[i + 1] = (int32_t)row;
    }
    b->count[SUM_KL] = (double)(b->n_tiles * C);
    if (why.largest > 0 && v->crop > 0) memset(U64(&mask), 0xff, tensor_bytes(&mask)); /* who knows which tiles */
    /* A step's samples are of one resolution; in dry passes, which take the largest of all, it does not matter. */
    body->b = ssvae_batch_of_mask(b->host, &v->m.cfg, dataset_resolution(d, item[0]->index), &coord, &first, &mask);
    for (int i = 0; i < 3 && remembers(t, b->n_tiles); i++) grid_remember(b->host, &body->b.enc[i]);
    if (body->box) build_part(v, body, why.largest, b->host);
    fill_values(v->reading, body, b->host);
    b->n_values = SUMS; /* as forward returns them */
    b->into = arena_alloc(b->host, SUMS * sizeof *b->into);
    for (int i = 0; i < SUMS; i++) {
        b->into[i][0] = (uint8_t)i;
        b->into[i][1] = NO_SUM;
    }
    return true;
}
