#include "train/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/latents.h"
#include "io/atomic_file.h"
#include "train/encode_read.h"
#include "train/engine.h"
#include "train/infer.h"
#include "train/setup.h"
#include "train/share.h"
#include "train/upload.h"
#include "train/write_behind.h"

/* A sample of the data set; shard n_shards: behind the last. */
typedef struct {
    int     shard;
    int64_t at;
} data_place;

typedef struct {
    place           where;
    ssvae           m;
    arena           weights, copy; /* copy: of a batch, on the GPU */
    engine          e;
    uint64_t        fingerprint;
    dataset         d;
    int            *owner; /* [n_shards] */
    int             rank;
    encode_reader  *reader;
    data_place      next; /* to be read */
    write_behind   *out;
    const char     *output;
    latents_writer *writer; /* out's, of the shard it is at */
    progress        bar;
    int64_t         done;
    double          network_seconds, wait_seconds, file_seconds;
} encoder;

/* What goes to the file, in this order: the file, its samples, the end. */
typedef struct {
    enum { OUT_BEGIN, OUT_SAMPLE, OUT_END } what;
    int       shard;
    int64_t   at, n;
    uint16_t *coord;         /* [3n] */
    float    *mean, *logvar; /* [n * channels] */
} out_item;

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

/* ---- latents, behind the network ------------------------------------------------------------------------------- */

/* Moments in the network's order -> latents in the shard's. */
static out_item latents_of(const encoder *e, data_place at, const encode_item *x, const float *moments) {
    int64_t  n = x->s.n_tiles, C = e->m.cfg.latent_channels;
    size_t   coords = (size_t)(3 * n) * sizeof(uint16_t), numbers = (size_t)(n * C + 1) * sizeof(float);
    out_item out = {OUT_SAMPLE, at.shard, at.at, n, malloc(coords + 1), malloc(numbers), malloc(numbers)};
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
    encode_reader_lock(e->reader);
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
    encode_reader_unlock(e->reader);
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

/* ---- the loop -------------------------------------------------------------------------------------------------- */

/* Asks for the sample at e->next, if it is one of this rank's, or for the first of them behind it. */
static void read_next(encoder *e) {
    data_place *p = &e->next;
    while (p->shard < e->d.n_shards && (e->owner[p->shard] != e->rank || p->at == e->d.shards[p->shard].n_samples)) {
        p->shard++;
        p->at = 0;
    }
    if (p->shard < e->d.n_shards) encode_reader_start(e->reader, &e->d.shards[p->shard], p->at++);
}

static bool encode_next(encoder *e, data_place at, status *st) {
    double       t0 = now_seconds();
    encode_item *x = encode_reader_take(e->reader, st);
    e->wait_seconds += now_seconds() - t0;
    if (!x) return false;
    read_next(e);
    t0 = now_seconds();
    out_item out = latents_of(e, at, x, encode_item_on(e, x));
    e->network_seconds += now_seconds() - t0;
    return put(e, &out, st);
}

static bool encode_shard(encoder *e, int k, status *st) {
    bool ok = put(e, &(out_item){.what = OUT_BEGIN, .shard = k}, st);
    for (int64_t i = 0; ok && i < e->d.shards[k].n_samples; i++) {
        ok = encode_next(e, (data_place){k, i}, st);
        if (ok) progress_step(&e->bar, ++e->done, NULL);
    }
    return ok && put(e, &(out_item){.what = OUT_END, .shard = k}, st);
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
        struct stat  file;
        r->n_shards++;
        r->n_skipped += e->owner[k] == -1;
        if (e->owner[k] == -1) continue;
        r->n_samples += s->n_samples;
        r->n_tiles += s->n_tiles;
        r->bytes += stat(s->path, &file) == 0 ? file.st_size : 0;
        mine += e->owner[k] == e->rank ? s->n_samples : 0;
    }
    return mine;
}

/* Tiles of this rank's largest sample, and where it is. */
static int64_t largest(const encoder *e, data_place *at) {
    int64_t most = 0;
    *at = (data_place){e->d.n_shards, 0};
    for (int k = 0; k < e->d.n_shards; k++) {
        const shard *s = &e->d.shards[k];
        for (int64_t i = 0; e->owner[k] == e->rank && i < s->n_samples; i++)
            if (s->first[i + 1] - s->first[i] > most) {
                *at = (data_place){k, i};
                most = s->first[i + 1] - s->first[i];
            }
    }
    return most;
}

/* What this rank's largest sample will take. */
static bool print_need(encoder *e, data_place at, int64_t most, status *st) {
    if (most == 0) return true;
    encode_reader_start(e->reader, &e->d.shards[at.shard], at.at);
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

static void encode_mine(encoder *e, status *st) {
    enum { WAITING = 4 }; /* samples */
    bool   ok = true;
    status quiet = {0};
    e->out = write_behind_new(&(write_behind_config){
        .item_bytes = sizeof(out_item), .room = WAITING, .user = e, .write = write_item, .drop = drop_item});
    read_next(e);
    for (int k = 0; ok && k < e->d.n_shards; k++)
        if (e->owner[k] == e->rank) ok = encode_shard(e, k, st);
    double t0 = now_seconds();
    ok = write_behind_flush(e->out, ok ? st : &quiet) && ok; /* shards before one that failed are whole */
    e->file_seconds += now_seconds() - t0;
    write_behind_free(e->out);
    if (e->writer) latents_abandon(e->writer);
    if (ok) progress_end(&e->bar, NULL);
}

bool encode_run(const options *o, const comm *c, encode_report *r, status *st) {
    encoder e = {.output = o->encode.output};
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
        double     begin = now_seconds();
        data_place at;
        int64_t    mine = tally(&e, r), most = largest(&e, &at);
        r->threads = place_spare_threads(&e.where, c);
        e.reader = encode_reader_new(&e.m.cfg, e.where.dev, r->threads, most);
        if (o->command.dry_run) {
            log_info("encode: %lld samples, %lld tokens of %lld shards to do, %lld shards are there",
                     (long long)r->n_samples, (long long)r->n_tiles, (long long)r->n_shards, (long long)r->n_skipped);
            print_need(&e, at, most, st);
        } else {
            progress_begin(&e.bar, "encode", 0, mine);
            encode_mine(&e, st);
        }
        encode_reader_free(e.reader);
        free(e.owner);
        ok = comm_agree(c, st);
        r->run_seconds = now_seconds() - begin;
        r->network_seconds = e.network_seconds;
        r->wait_seconds = e.wait_seconds;
        r->file_seconds = e.file_seconds;
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
