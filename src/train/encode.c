#include "train/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/latents.h"
#include "io/atomic_file.h"
#include "train/encode_read.h"
#include "train/engine.h"
#include "train/infer.h"
#include "train/setup.h"
#include "train/share.h"
#include "train/upload.h"

/* A sample of the data set; shard n_shards: behind the last. */
typedef struct {
    int     shard;
    int64_t at;
} data_place;

typedef struct {
    place          where;
    ssvae          m;
    arena          weights, copy; /* copy: of a batch, on the GPU */
    engine         e;
    uint64_t       fingerprint;
    dataset        d;
    int           *owner; /* [n_shards] */
    int            rank;
    encode_reader *reader;
    data_place     next; /* to be read */
    progress       bar;
    int64_t        done;
} encoder;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Complete, of this auto-encoder and of this very shard. */
static bool is_done(const encoder *e, const shard *s, const char *path) {
    status  st = {0};
    latents l;
    if (!latents_open(&l, path, &st)) return false;
    bool same = l.vae == e->fingerprint && l.n_samples == s->n_samples && l.channels == e->m.cfg.latent_channels &&
                l.resolution == s->meta.resolution && l.tau_voxels == s->meta.tau_voxels &&
                strcmp(l.shard, base_name(s->path)) == 0 &&
                memcmp(l.id, s->id, (size_t)s->n_samples * sizeof *s->id) == 0 &&
                memcmp(l.first, s->first, (size_t)(s->n_samples + 1) * sizeof *s->first) == 0;
    latents_close(&l);
    return same;
}

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

static void tell(const encoder *e, int64_t tiles, size_t predicted) {
    char   gpu[128] = "";
    size_t free_bytes, all;
    if (e->where.dev != DEV_CPU) {
        device_memory(&free_bytes, &all);
        snprintf(gpu, sizeof gpu, ", %.0f scratch, %.0f tables; %.0f of the GPU's %.0f in use",
                 (double)e->e.c.scratch.size / 1e6, (double)e->copy.size / 1e6, (double)(all - free_bytes) / 1e6,
                 (double)all / 1e6);
    }
    log_info("encoding %lld tiles: predicted %.1f MB for activations, used %.1f of %.1f%s", (long long)tiles,
             (double)predicted / 1e6, (double)e->e.step.peak / 1e6, (double)e->e.step.size / 1e6, gpu);
}

/* The step arena grows to what a dry pass counts; that is told, with what was used. */
static const float *encode_item_on(encoder *e, encode_item *x) {
    ssvae_batch *b = &x->b;
    if (e->where.dev != DEV_CPU) {
        memory_move to = upload_once(e->where.dev, &x->host, &e->copy);
        ssvae_batch_tensors(b, tensor_move, &to);
    }
    size_t bytes = count_pass(e, b);
    bool   more = bytes > e->e.step.size;
    engine_room(&e->e, bytes, b->n_tiles);
    tensor moments = pass(e, b, &e->e.step, false);
    if (more) tell(e, b->n_tiles, bytes);
    return download_f32(&moments, &x->host);
}

/* Moments in the network's order -> latents in the shard's. */
static bool append_moments(const encoder *e, const sample *s, const float *moments, const int32_t *order,
                           latents_writer *w, status *st) {
    int64_t n = s->n_tiles, C = e->m.cfg.latent_channels;
    float  *mean = malloc((size_t)(n * C + 1) * sizeof *mean), *logvar = malloc((size_t)(n * C + 1) * sizeof *logvar);
    CHECK(mean && logvar, "no memory for %lld latents", (long long)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c++) {
            mean[order[i] * C + c] = moments[2 * C * i + c];
            logvar[order[i] * C + c] = fminf(fmaxf(moments[2 * C * i + C + c], -30.0f), 20.0f); /* R§3.3 */
        }
    encode_reader_lock(e->reader);
    bool ok = latents_append(w, s->id, n, s->coord, mean, logvar, st);
    encode_reader_unlock(e->reader);
    free(mean);
    free(logvar);
    return ok;
}

/* Asks for the sample at e->next, if it is one of this rank's, or for the first of them behind it. */
static void read_next(encoder *e) {
    data_place *p = &e->next;
    while (p->shard < e->d.n_shards && (e->owner[p->shard] != e->rank || p->at == e->d.shards[p->shard].n_samples)) {
        p->shard++;
        p->at = 0;
    }
    if (p->shard < e->d.n_shards) encode_reader_start(e->reader, &e->d.shards[p->shard], p->at++);
}

static bool encode_next(encoder *e, latents_writer *w, status *st) {
    encode_item *x = encode_reader_take(e->reader, st);
    if (!x) return false;
    read_next(e);
    return append_moments(e, &x->s, encode_item_on(e, x), x->order, w, st);
}

static bool encode_shard(encoder *e, int k, const char *path, status *st) {
    const shard *s = &e->d.shards[k];
    latents      meta = {.vae = e->fingerprint,
                         .channels = e->m.cfg.latent_channels,
                         .resolution = s->meta.resolution,
                         .tau_voxels = s->meta.tau_voxels};
    snprintf(meta.shard, sizeof meta.shard, "%.255s", base_name(s->path));
    encode_reader_lock(e->reader);
    /* What is there is of another auto-encoder or an older shard. */
    latents_writer *w = latents_make_room(path, s->id, s->n_samples, st) ? latents_create(path, &meta, st) : NULL;
    encode_reader_unlock(e->reader);
    bool ok = w != NULL;
    for (int64_t i = 0; ok && i < s->n_samples; i++) {
        ok = encode_next(e, w, st);
        if (ok) progress_step(&e->bar, ++e->done, NULL);
    }
    encode_reader_lock(e->reader);
    if (ok)
        ok = latents_finish(w, st);
    else if (w)
        latents_abandon(w);
    encode_reader_unlock(e->reader);
    return ok;
}

/* owner[k] is -1 for what is done already. */
static void share(const encoder *e, const char *output, const comm *c, int *owner) {
    int64_t *size = calloc((size_t)e->d.n_shards + 1, sizeof *size);
    CHECK(size, "no memory for %d shards", e->d.n_shards);
    for (int k = 0; c->rank == 0 && k < e->d.n_shards; k++) {
        char   path[PATH_CAP];
        status st = {0};
        bool   done = join_path(output, base_name(e->d.shards[k].path), path, &st) && is_done(e, &e->d.shards[k], path);
        size[k] = done ? -1 : e->d.shards[k].n_tiles;
    }
    comm_bcast(c, size, e->d.n_shards * (int64_t)sizeof *size, 0);
    share_by_size(size, e->d.n_shards, c->size, owner);
    free(size);
}

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

/* What there is to do, over all ranks; returns this rank's samples. */
static int64_t tally(const encoder *e, encode_report *r) {
    int64_t mine = 0;
    for (int k = 0; k < e->d.n_shards; k++) {
        const shard *s = &e->d.shards[k];
        r->n_shards++;
        r->n_skipped += e->owner[k] == -1;
        r->n_samples += e->owner[k] == -1 ? 0 : s->n_samples;
        r->n_tiles += e->owner[k] == -1 ? 0 : s->n_tiles;
        mine += e->owner[k] == e->rank ? s->n_samples : 0;
    }
    return mine;
}

/* What this rank's largest sample will take. */
static bool print_need(encoder *e, status *st) {
    const shard *largest = NULL;
    int64_t      at = 0, most = 0;
    for (int k = 0; k < e->d.n_shards; k++) {
        const shard *s = &e->d.shards[k];
        for (int64_t i = 0; e->owner[k] == e->rank && i < s->n_samples; i++)
            if (s->first[i + 1] - s->first[i] > most) {
                largest = s;
                at = i;
                most = s->first[i + 1] - s->first[i];
            }
    }
    if (!largest) return true;
    encode_reader_start(e->reader, largest, at);
    encode_item *x = encode_reader_take(e->reader, st);
    if (!x) return false;
    size_t tables = x->host.used;
    if (e->where.dev != DEV_CPU) {
        memory_move to = {x->host.base, tables, (char *)(uintptr_t)4096, e->where.dev};
        ssvae_batch_tensors(&x->b, tensor_move, &to);
        tables = upload_bytes(tables);
    }
    log_info("encoding the largest sample, %lld tiles: %.1f MB for activations, %.0f scratch, %.0f tables",
             (long long)most, (double)count_pass(e, &x->b) / 1e6,
             (double)place_scratch_bytes(e->where.dev, most, e->e.gpu_per_tile) / 1e6, (double)tables / 1e6);
    return true;
}

static void encode_mine(encoder *e, const char *output, status *st) {
    char path[PATH_CAP];
    bool ok = true;
    read_next(e);
    for (int k = 0; ok && k < e->d.n_shards; k++)
        if (e->owner[k] == e->rank)
            ok = join_path(output, base_name(e->d.shards[k].path), path, st) && encode_shard(e, k, path, st);
    if (ok) progress_end(&e->bar, NULL);
}

bool encode_run(const options *o, const comm *c, encode_report *r, status *st) {
    encoder e = {0};
    double  t0 = now_seconds();
    *r = (encode_report){0};
    bool ok = open_all(o, &e, c, st);
    if (ok) {
        e.rank = c->rank;
        e.owner = malloc((size_t)e.d.n_shards * sizeof *e.owner);
        CHECK(e.owner, "no memory for %d shards", e.d.n_shards);
        e.fingerprint = params_fingerprint(&e.m.p);
        e.e.gpu_per_tile = ssvae_scratch_per_tile(&e.m.cfg, e.where.act);
        share(&e, o->encode.output, c, e.owner);
        int64_t mine = tally(&e, r);
        int     threads = place_spare_threads(&e.where, c);
        e.reader = encode_reader_new(&e.m.cfg, e.where.dev, threads);
        if (o->command.dry_run) {
            log_info("encode: %lld samples, %lld tokens of %lld shards to do, %lld shards are there",
                     (long long)r->n_samples, (long long)r->n_tiles, (long long)r->n_shards, (long long)r->n_skipped);
            print_need(&e, st);
        } else {
            progress_begin(&e.bar, "encode", 0, mine);
            encode_mine(&e, o->encode.output, st);
        }
        encode_reader_free(e.reader);
        free(e.owner);
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
