#include "train/encode.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
#include "train/write_behind.h"

enum { ITEMS = 2 };   /* take turns: one is in the network while the next one is made */
enum { WAITING = 4 }; /* samples whose latents are not written yet */

typedef struct {
    place           where;
    ssvae           m;
    arena           weights, copy; /* copy: of a batch, on the GPU */
    engine          e;
    uint64_t        fingerprint;
    dataset         d;
    int             rank;
    int            *owner;        /* [n_shards] */
    int64_t        *first;        /* [n_shards+1] samples of this rank before a shard */
    int64_t         most, of, at; /* tiles of the largest of these; its shard, and where in it */
    encode_item     item[ITEMS];
    fair_lock       files;   /* the shards and the file of latents: HDF5 is for one thread at a time */
    read_ahead     *samples; /* this rank's */
    int             threads; /* that prepare one */
    write_behind   *out;
    const char     *output;
    latents_writer *writer; /* out's, of the shard it is at */
    progress        bar;
    int64_t         done;
    double          network_seconds, sample_seconds, file_seconds;
} encoder;

/* What goes to the file, in this order: the file, its samples, the end. */
typedef struct {
    enum { OUT_BEGIN, OUT_SAMPLE, OUT_END } what;
    int       shard;
    int64_t   at, n;
    uint16_t *coord;         /* [3n] */
    float    *mean, *logvar; /* [n * channels] */
} out_item;

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

/* ---- latents, behind it ---------------------------------------------------------------------------------------- */

/* Sample `at` of a shard: moments in the network's order -> latents in the shard's. */
static out_item latents_of(const encoder *e, int k, int64_t at, const encode_item *x, const float *moments) {
    int64_t  n = x->s.n_tiles, C = e->m.cfg.latent_channels;
    size_t   coords = (size_t)(3 * n) * sizeof(uint16_t), numbers = (size_t)(n * C + 1) * sizeof(float);
    out_item out = {OUT_SAMPLE, k, at, n, malloc(coords + 1), malloc(numbers), malloc(numbers)};
    CHECK(out.coord && out.mean && out.logvar, "no memory for %lld latents", (long long)n);
    memcpy(out.coord, x->s.coord, coords);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float *mean = out.mean + x->order[i] * C, *logvar = out.logvar + x->order[i] * C;
        for (int64_t c = 0; c < C; c++) {
            mean[c] = moments[2 * C * i + c];
            logvar[c] = fminf(fmaxf(moments[2 * C * i + C + c], -30.0f), 20.0f); /* R§3.3 */
        }
    }
    return out;
}

static bool begin_file(encoder *e, const shard *s, status *st) {
    char    path[PATH_CAP];
    latents meta = {.vae = e->fingerprint,
                    .channels = e->m.cfg.latent_channels,
                    .resolution = s->meta.resolution,
                    .tau_voxels = s->meta.tau_voxels};
    snprintf(meta.shard, sizeof meta.shard, "%.255s", base_name(s->path));
    /* What is there is of another auto-encoder or an older shard. */
    if (!join_path(e->output, meta.shard, path, st) || !latents_make_room(path, s->id, s->n_samples, st)) return false;
    e->writer = latents_create(path, &meta, st);
    return e->writer != NULL;
}

static bool write_item(void *user, const void *item, status *st) {
    encoder        *e = user;
    const out_item *x = item;
    const shard    *s = &e->d.shards[x->shard];
    latents_writer *w = e->writer;
    bool            ok = false;
    fair_lock_get(&e->files);
    switch (x->what) {
    case OUT_BEGIN:
        ok = begin_file(e, s, st);
        break;
    case OUT_SAMPLE:
        ok = latents_append(w, s->id[x->at], x->n, x->coord, x->mean, x->logvar, st);
        break;
    case OUT_END:
        e->writer = NULL; /* gone, whatever comes of it */
        ok = latents_finish(w, st);
        break;
    }
    fair_lock_release(&e->files);
    return ok;
}

static void drop_item(void *item) {
    out_item *x = item;
    free(x->coord);
    free(x->mean);
    free(x->logvar);
}

static bool put(encoder *e, const out_item *x, status *st) {
    double t0 = now_seconds();
    bool   ok = write_behind_put(e->out, x, st);
    e->file_seconds += now_seconds() - t0;
    return ok;
}

/* ---- samples, ahead of it -------------------------------------------------------------------------------------- */

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

static bool encode_next(encoder *e, int k, int64_t at, status *st) {
    encode_item *x;
    double       t0 = now_seconds();
    bool         there = read_ahead_take(e->samples, &x, st);
    e->sample_seconds += now_seconds() - t0;
    if (!there) return false;
    t0 = now_seconds();
    out_item out = latents_of(e, k, at, x, encode_item_on(e, x));
    e->network_seconds += now_seconds() - t0;
    return put(e, &out, st);
}

static bool encode_shard(encoder *e, int k, status *st) {
    bool ok = put(e, &(out_item){.what = OUT_BEGIN, .shard = k}, st);
    for (int64_t i = 0; ok && i < e->d.shards[k].n_samples; i++) {
        ok = encode_next(e, k, i, st);
        if (ok) progress_step(&e->bar, ++e->done, NULL);
    }
    return ok && put(e, &(out_item){.what = OUT_END, .shard = k}, st);
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
        struct stat  file;
        r->n_shards++;
        r->n_skipped += there;
        r->n_samples += there ? 0 : s->n_samples;
        r->n_tiles += there ? 0 : s->n_tiles;
        r->bytes += !there && stat(s->path, &file) == 0 ? file.st_size : 0;
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

static void encode_mine(encoder *e, status *st) {
    bool   ok = true;
    status quiet = {0};
    progress_begin(&e->bar, "encode", 0, e->first[e->d.n_shards]);
    e->samples = read_ahead_new(&(read_ahead_config){.n = e->first[e->d.n_shards],
                                                     .item_bytes = sizeof(encode_item *),
                                                     .threads = 1,
                                                     .room = ITEMS - 1,
                                                     .user = e,
                                                     .make = read_sample,
                                                     .drop = keep_item});
    e->out = write_behind_new(&(write_behind_config){
        .item_bytes = sizeof(out_item), .room = WAITING, .user = e, .write = write_item, .drop = drop_item});
    for (int k = 0; ok && k < e->d.n_shards; k++)
        if (e->owner[k] == e->rank) ok = encode_shard(e, k, st);
    double t0 = now_seconds();
    ok = write_behind_flush(e->out, ok ? st : &quiet) && ok; /* shards before one that failed are whole */
    e->file_seconds += now_seconds() - t0;
    write_behind_free(e->out);
    read_ahead_free(e->samples);
    if (e->writer) latents_abandon(e->writer);
    if (ok) progress_end(&e->bar, NULL);
}

/* Everything is open: shares out, and does or says it. */
static void encode_all(encoder *e, const options *o, const comm *c, encode_report *r, status *st) {
    double t0 = now_seconds();
    e->rank = c->rank;
    e->output = o->encode.output;
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
        encode_mine(e, st);
    }
    for (int i = 0; i < ITEMS; i++) encode_item_free(&e->item[i]);
    fair_lock_free(&e->files);
    free(e->owner);
    free(e->first);
    comm_agree(c, st);
    r->run_seconds = now_seconds() - t0;
    r->network_seconds = e->network_seconds;
    r->sample_seconds = e->sample_seconds;
    r->file_seconds = e->file_seconds;
    r->threads = e->threads;
}

bool encode_run(const options *o, const comm *c, encode_report *r, status *st) {
    encoder e = {0};
    double  t0 = now_seconds();
    *r = (encode_report){0};
    bool ok = open_all(o, &e, c, st);
    if (ok) {
        encode_all(&e, o, c, r, st);
        ok = status_ok(st);
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
