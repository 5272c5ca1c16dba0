#include "train/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "io/atomic_file.h"
#include "train/engine.h"
#include "train/infer.h"
#include "train/setup.h"
#include "train/share.h"
#include "train/upload.h"

typedef struct {
    place    where;
    ssvae    m;
    arena    weights, host, copy; /* copy: of a batch, on the GPU */
    engine   e;
    uint64_t fingerprint;
    dataset  d;
    progress bar;
    int64_t  done;
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

/* Forward without recording; the step arena grows to what a dry pass counts. */
static const float *encode_batch(encoder *e, ssvae_batch *b) {
    tensor moments = {0};
    if (e->where.dev != DEV_CPU) {
        memory_move to = upload_once(e->where.dev, &e->host, &e->copy);
        ssvae_batch_tensors(b, tensor_move, &to);
    }
    for (int pass = 0; pass < 2; pass++) {
        arena counting = arena_counting_on("step", e->where.dev);
        tape  t = {.c = &e->e.c, .step = pass == 0 ? &counting : &e->e.step, .book = &e->e.book};
        e->e.c.dry = pass == 0;
        tape_begin(&t);
        moments = ssvae_encode(&t, &e->m, b)->v;
        if (pass == 0) engine_room(&e->e, counting.peak, b->n_tiles);
    }
    return download_f32(&moments, &e->host);
}

static void host_at_least(encoder *e, size_t bytes) {
    arena *a = &e->host;
    if (a->size < bytes) {
        if (a->base) arena_free(a);
        *a = e->where.dev == DEV_CPU ? arena_new("host batch", bytes) : arena_new_pinned("host batch", bytes);
    }
    arena_reset(a, 0);
}

/* One sample as a batch of its own; order says which of its rows comes where. */
static bool prepare(encoder *e, const shard *sh, const sample *s, const char *name, ssvae_batch *b, int32_t **order,
                    status *st) {
    int64_t n = s->n_tiles;
    host_at_least(e, ((size_t)1 << 20) + (size_t)n * (3 * TILE_CELLS * sizeof(float) + 4096));
    if (!tile_order(&e->host, s->coord, n, e->m.cfg.window, sh->meta.resolution / 8, name, order, st)) return false;
    tensor coord = arena_tensor(&e->host, DT_I32, DIMS(n, 3)), first = arena_tensor(&e->host, DT_I32, DIMS(2));
    float *value = arena_alloc(&e->host, (size_t)(n * TILE_CELLS) * sizeof *value);
    for (int64_t i = 0; i < n; i++) {
        int64_t from = (*order)[i];
        bool    active = false;
        for (int c = 0; c < 3; c++) I32(&coord)[3 * i + c] = s->coord[3 * from + c];
        for (int c = 0; c < TILE_CELLS; c++) {
            value[i * TILE_CELLS + c] = f16_to_f32(s->value[from * TILE_CELLS + c]);
            active |= fabsf(value[i * TILE_CELLS + c]) < 1.0f;
        }
        if (!active)
            return status_set(st, ST_DATA, "%s: tile %lld has no cell within the truncation distance: run `d3s2 check`",
                              name, (long long)from);
    }
    I32(&first)[0] = 0;
    I32(&first)[1] = (int32_t)n;
    *b = ssvae_batch_build(&e->host, &e->m.cfg, &coord, &first, value);
    return true;
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
    bool ok = latents_append(w, s->id, n, s->coord, mean, logvar, st);
    free(mean);
    free(logvar);
    return ok;
}

static bool encode_sample(encoder *e, int shard_number, int64_t at, latents_writer *w, status *st) {
    const shard *sh = &e->d.shards[shard_number];
    sample       s = {0};
    ssvae_batch  b;
    int32_t     *order;
    char         name[PATH_CAP + 200];
    if (!shard_read_sample(sh, at, false, &s, st)) return false;
    snprintf(name, sizeof name, "%s sample %lld (%.120s)", sh->path, (long long)at, s.source);
    bool ok = prepare(e, sh, &s, name, &b, &order, st) && append_moments(e, &s, encode_batch(e, &b), order, w, st);
    sample_free(&s);
    return ok;
}

static bool encode_shard(encoder *e, int k, const char *path, status *st) {
    const shard *s = &e->d.shards[k];
    latents      meta = {.vae = e->fingerprint,
                         .channels = e->m.cfg.latent_channels,
                         .resolution = s->meta.resolution,
                         .tau_voxels = s->meta.tau_voxels};
    snprintf(meta.shard, sizeof meta.shard, "%.255s", base_name(s->path));
    if (remove_tree(path, st)) { /* of another auto-encoder or an older shard */
        latents_writer *w = latents_create(path, &meta, st);
        for (int64_t i = 0; w && i < s->n_samples; i++) {
            if (!encode_sample(e, k, i, w, st)) {
                latents_abandon(w);
                return false;
            }
            progress_step(&e->bar, ++e->done, NULL);
        }
        return w && latents_finish(w, st);
    }
    return false;
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
    dataset_request r = {.shards = o->encode.input};
    if (!place_open(&e->where, o, c, false, st)) return false;
    engine_init(&e->e, &e->where, 0, RECOMPUTE_OFF);
    (void)(dataset_open(&e->d, &r, st) && load_vae(o->encode.vae, o->encode.ema, &e->e.c, &e->m, &e->weights, st));
    if (!comm_agree(c, st)) return false;
    if (c->rank == 0 && !o->command.dry_run) make_folder(o->encode.output, st);
    return comm_agree(c, st);
}

/* What there is to do, over all ranks; returns this rank's samples. */
static int64_t tally(const encoder *e, const int *owner, int rank, encode_report *r) {
    int64_t mine = 0;
    for (int k = 0; k < e->d.n_shards; k++) {
        const shard *s = &e->d.shards[k];
        r->n_shards++;
        r->n_skipped += owner[k] == -1;
        r->n_samples += owner[k] == -1 ? 0 : s->n_samples;
        r->n_tiles += owner[k] == -1 ? 0 : s->n_tiles;
        mine += owner[k] == rank ? s->n_samples : 0;
    }
    return mine;
}

static void encode_mine(encoder *e, const char *output, const int *owner, int rank, status *st) {
    char path[PATH_CAP];
    bool ok = true;
    for (int k = 0; ok && k < e->d.n_shards; k++)
        if (owner[k] == rank)
            ok = join_path(output, base_name(e->d.shards[k].path), path, st) && encode_shard(e, k, path, st);
    if (ok) progress_end(&e->bar, NULL);
}

bool encode_run(const options *o, const comm *c, encode_report *r, status *st) {
    encoder e = {0};
    double  t0 = now_seconds();
    *r = (encode_report){0};
    bool ok = open_all(o, &e, c, st);
    if (ok) {
        int *owner = malloc((size_t)e.d.n_shards * sizeof *owner);
        CHECK(owner, "no memory for %d shards", e.d.n_shards);
        e.fingerprint = params_fingerprint(&e.m.p);
        e.e.gpu_per_tile = ssvae_scratch_per_tile(&e.m.cfg, e.where.act);
        share(&e, o->encode.output, c, owner);
        int64_t mine = tally(&e, owner, c->rank, r);
        if (o->command.dry_run) {
            log_info("encode: %lld samples, %lld tokens of %lld shards to do, %lld shards are there",
                     (long long)r->n_samples, (long long)r->n_tiles, (long long)r->n_shards, (long long)r->n_skipped);
        } else {
            progress_begin(&e.bar, "encode", 0, mine);
            encode_mine(&e, o->encode.output, owner, c->rank, st);
        }
        free(owner);
        ok = comm_agree(c, st);
    }
    if (e.weights.base) {
        ssvae_free(&e.m);
        arena_free(&e.weights);
    }
    if (e.host.base) arena_free(&e.host);
    if (e.copy.base) arena_free(&e.copy);
    if (e.e.book.base) engine_free(&e.e);
    dataset_close(&e.d);
    r->seconds = now_seconds() - t0;
    return ok;
}
