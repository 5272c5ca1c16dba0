#include "train/encode.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "data/latents.h"
#include "io/atomic_file.h"
#include "train/encode_read.h"
#include "train/engine.h"
#include "train/infer.h"
#include "train/pass_need.h"
#include "train/read_ahead.h"
#include "train/setup.h"
#include "train/share.h"
#include "train/upload.h"

enum { ITEMS = 2 }; /* take turns: one is in the network while the next one is made */

typedef struct {
    place       where;
    ssvae       m;
    arena       weights, copy; /* copy: of a batch, on the GPU */
    engine      e;
    uint64_t    fingerprint;
    dataset     d;
    int         rank;
    int        *owner;        /* [n_shards] */
    int64_t    *first;        /* [n_shards+1] samples of this rank before a shard */
    int64_t     most, of, at; /* tiles of the largest of these; its shard, and where in it */
    encode_item item[ITEMS];
    fair_lock   files;   /* the shards and the file of latents: HDF5 is for one thread at a time */
    read_ahead *samples; /* this rank's */
    int         threads; /* that prepare one */
    progress    bar;
    int64_t     done;
} encoder;

/* Tiles; or it is complete, of this auto-encoder and of this very shard. */
static int64_t tiles_to_do(const void *user, const shard *s, const char *path) {
    const encoder *e = user;
    status         st = {0};
    latents        l;
    if (!latents_open(&l, path, &st)) return s->n_tiles;
    bool same = l.vae == e->fingerprint && l.n_samples == s->n_samples && l.channels == e->m.cfg.latent_channels &&
                l.resolution == s->meta.resolution && l.tau_voxels == s->meta.tau_voxels &&
                strcmp(l.shard, base_name(s->path)) == 0 &&
                memcmp(l.id, s->id, (size_t)s->n_samples * sizeof *s->id) == 0 &&
                memcmp(l.first, s->first, (size_t)(s->n_samples + 1) * sizeof *s->first) == 0;
    latents_close(&l);
    return same ? -1 : s->n_tiles;
}

/* ---- the network ----------------------------------------------------------------------------------------------- */

/* Forward without recording. */
static tensor pass(encoder *e, ssvae_batch *b, arena *step, bool dry) {
    tape t = {.c = &e->e.c, .step = step, .book = &e->e.book};
    e->e.c.dry = dry;
    tape_begin(&t);
    tensor moments = ssvae_encode(&t, &e->m, b)->v;
    e->e.c.dry = false;
    return moments;
}

/* Bytes of activations. */
static size_t count_pass(encoder *e, ssvae_batch *b) {
    arena counting = arena_counting_on("step", e->where.dev);
    pass(e, b, &counting, true);
    return counting.peak;
}

/* The step arena grows to what a dry pass counts; that is told, with what was used. */
static const float *encode_item_on(encoder *e, encode_item *x) {
    ssvae_batch *b = &x->b;
    if (e->where.dev != DEV_CPU) {
        memory_move to = upload_once(e->where.dev, &x->host, &e->copy);
        ssvae_batch_tensors(b, tensor_move, &to);
    }
    pass_need   need = {.tiles = b->n_tiles, .activations = count_pass(e, b)};
    pass_memory m = {e->where.dev, &e->e.step, &e->e.c.scratch, &e->copy};
    bool        more = need.activations > e->e.step.size;
    size_t      all, base = more ? pass_gpu_base(&m, &all) : 0;
    engine_room(&e->e, need.activations, b->n_tiles);
    tensor moments = pass(e, b, &e->e.step, false);
    if (more) pass_taken_print("encoding", &need, &m, base);
    return download_f32(&moments, &x->host);
}

/* Moments in the network's order -> latents in the shard's. */
static bool append_moments(encoder *e, const sample *s, const float *moments, const int32_t *order, latents_writer *w,
                           status *st) {
    int64_t n = s->n_tiles, C = e->m.cfg.latent_channels;
    float  *mean = malloc((size_t)(n * C + 1) * sizeof *mean), *logvar = malloc((size_t)(n * C + 1) * sizeof *logvar);
    CHECK(mean && logvar, "no memory for %lld latents", (long long)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c++) {
            mean[order[i] * C + c] = moments[2 * C * i + c];
            logvar[order[i] * C + c] = fminf(fmaxf(moments[2 * C * i + C + c], -30.0f), 20.0f); /* R§3.3 */
        }
    fair_lock_get(&e->files);
    bool ok = latents_append(w, s->id, n, s->coord, mean, logvar, st);
    fair_lock_release(&e->files);
    free(mean);
    free(logvar);
    return ok;
}

/* This rank's sample i. */
static bool read_sample(void *user, int64_t i, void *item, status *st) {
    encoder     *e = user;
    int64_t      k = part_of(e->first, e->d.n_shards, i);
    encode_item *x = *(encode_item **)item = &e->item[i % ITEMS];
    omp_set_num_threads(e->threads); /* of this thread's loops */
    return encode_item_read(x, &e->m.cfg, &e->d.shards[k], i - e->first[k], &e->files, st);
}

static void keep_item(void *item) {
    (void)item; /* the encoder's */
}

static bool encode_next(encoder *e, latents_writer *w, status *st) {
    encode_item *x;
    return read_ahead_take(e->samples, &x, st) && append_moments(e, &x->s, encode_item_on(e, x), x->order, w, st);
}

static bool encode_shard(encoder *e, int k, const char *path, status *st) {
    const shard *s = &e->d.shards[k];
    latents      meta = {.vae = e->fingerprint,
                         .channels = e->m.cfg.latent_channels,
                         .resolution = s->meta.resolution,
                         .tau_voxels = s->meta.tau_voxels};
    snprintf(meta.shard, sizeof meta.shard, "%.255s", base_name(s->path));
    fair_lock_get(&e->files);
    /* What is there is of another auto-encoder or an older shard. */
    latents_writer *w = latents_make_room(path, s->id, s->n_samples, st) ? latents_create(path, &meta, st) : NULL;
    fair_lock_release(&e->files);
    bool ok = w != NULL;
    for (int64_t i = 0; ok && i < s->n_samples; i++) {
        ok = encode_next(e, w, st);
        if (ok) progress_step(&e->bar, ++e->done, NULL);
    }
    fair_lock_get(&e->files);
    if (ok)
        ok = latents_finish(w, st);
    else if (w)
        latents_abandon(w);
    fair_lock_release(&e->files);
    return ok;
}

/* ---- the verb -------------------------------------------------------------------------------------------------- */

static bool open_all(const options *o, encoder *e, const comm *c, status *st) {
    if (!o->encode.input[0] || !o->encode.output[0] || !o->encode.vae[0])
        status_set(st, ST_USAGE,
                   "encode.input (shards), encode.output (folder for latents) and encode.vae (checkpoint) are "
                   "needed");
    if (!comm_agree(c, st)) return false;
    dataset_request r = {.c = c, .shards = o->encode.input};
    if (!place_open(&e->where, o, c, false, st)) return false;
    engine_init(&e->e, &e->where, 0, RECOMPUTE_OFF);
    grid_range trained;
    (void)(dataset_open(&e->d, &r, st) && load_grid(o->encode.vae, &trained, st) &&
           load_vae(o->encode.vae, o->encode.ema, &e->e.c, &e->m, &e->weights, st));
    if (!comm_agree(c, st)) return false;
    if (c->rank == 0) grid_range_warn(&trained, o->encode.vae, &e->d);
    if (c->rank == 0 && !o->command.dry_run) make_folder(o->encode.output, st);
    return comm_agree(c, st);
}

/* What there is to do, over all ranks and of this one. */
static void tally(encoder *e, encode_report *r) {
    for (int k = 0; k < e->d.n_shards; k++) {
        const shard *s = &e->d.shards[k];
        bool         mine = e->owner[k] == e->rank, there = e->owner[k] == -1;
        r->n_shards++;
        r->n_skipped += there;
        r->n_samples += there ? 0 : s->n_samples;
        r->n_tiles += there ? 0 : s->n_tiles;
        e->first[k + 1] = e->first[k] + (mine ? s->n_samples : 0);
        for (int64_t i = 0; mine && i < s->n_samples; i++)
            if (s->first[i + 1] - s->first[i] > e->most) {
                e->most = s->first[i + 1] - s->first[i];
                e->of = k;
                e->at = i;
            }
    }
}

/* What this rank's largest sample will take. */
static bool print_need(encoder *e, status *st) {
    encode_item *x = &e->item[0];
    if (e->most == 0) return true;
    if (!encode_item_read(x, &e->m.cfg, &e->d.shards[e->of], e->at, &e->files, st)) return false;
    pass_need   need = {.tiles = e->most, .scratch = place_scratch_bytes(e->where.dev, e->most, e->e.gpu_per_tile)};
    memory_move to = upload_once_pretend(e->where.dev, &x->host, &need.tables);
    if (e->where.dev != DEV_CPU) ssvae_batch_tensors(&x->b, tensor_move, &to);
    need.activations = count_pass(e, &x->b);
    pass_need_print("encoding", &need);
    return true;
}

static void encode_mine(encoder *e, const char *output, status *st) {
    char path[PATH_CAP];
    bool ok = true;
    progress_begin(&e->bar, "encode", 0, e->first[e->d.n_shards]);
    e->samples = read_ahead_new(&(read_ahead_config){.n = e->first[e->d.n_shards],
                                                     .item_bytes = sizeof(encode_item *),
                                                     .threads = 1,
                                                     .room = ITEMS - 1,
                                                     .user = e,
                                                     .make = read_sample,
                                                     .drop = keep_item});
    for (int k = 0; ok && k < e->d.n_shards; k++)
        if (e->owner[k] == e->rank)
            ok = join_path(output, base_name(e->d.shards[k].path), path, st) && encode_shard(e, k, path, st);
    read_ahead_free(e->samples);
    if (ok) progress_end(&e->bar, NULL);
}

/* Everything is open: shares out, and does or says it. */
static void encode_all(encoder *e, const options *o, const comm *c, encode_report *r, status *st) {
    e->rank = c->rank;
    e->owner = malloc((size_t)e->d.n_shards * sizeof *e->owner);
    e->first = calloc((size_t)e->d.n_shards + 1, sizeof *e->first);
    CHECK(e->owner && e->first, "no memory for %d shards", e->d.n_shards);
    e->fingerprint = params_fingerprint(&e->m.p);
    e->e.gpu_per_tile = ssvae_scratch_per_tile(&e->m.cfg, e->where.act);
    e->threads = place_spare_threads(&e->where, c);
    share_shards(&e->d, o->encode.output, c, tiles_to_do, e, e->owner);
    tally(e, r);
    fair_lock_init(&e->files);
    for (int i = 0; i < ITEMS; i++) encode_item_init(&e->item[i], &e->m.cfg, e->where.dev, e->most);
    if (o->command.dry_run) {
        log_info("encode: %lld samples, %lld tokens of %lld shards to do, %lld shards are there",
                 (long long)r->n_samples, (long long)r->n_tiles, (long long)r->n_shards, (long long)r->n_skipped);
        print_need(e, st);
    } else {
        encode_mine(e, o->encode.output, st);
    }
    for (int i = 0; i < ITEMS; i++) encode_item_free(&e->item[i]);
    fair_lock_free(&e->files);
    free(e->owner);
    free(e->first);
}

bool encode_run(const options *o, const comm *c, encode_report *r, status *st) {
    encoder e = {0};
    double  t0 = now_seconds();
    *r = (encode_report){0};
    bool ok = open_all(o, &e, c, st);
    if (ok) {
        encode_all(&e, o, c, r, st);
        ok = comm_agree(c, st);
    }
    if (e.weights.base) {
        ssvae_free(&e.m);
        arena_free(&e.weights);
    }
    if (e.copy.base) arena_free(&e.copy);
    if (e.e.book.base) engine_free(&e.e);
    dataset_close(&e.d);
    r->seconds = now_seconds() - t0;
    return ok;
}
