#include "train/tokenize.h"

#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"
#include "train/dataset.h"
#include "train/image_encoder.h"
#include "train/setup.h"
#include "train/share.h"

typedef struct {
    options       o; /* dit.sparse_cond is tokens.foreground here, for view_prepare */
    image_encoder e;
    dataset       d;
    place         where;
    progress      bar;
    int64_t       done, written;
    double        network_seconds;
} tokenizer;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static token_file meta_of(const tokenizer *t, const shard *s) {
    token_file m = {.encoder = t->e.fingerprint,
                    .width = t->e.m.cfg.width,
                    .size = t->e.size,
                    .special = 1 + t->e.m.cfg.registers,
                    .variants = (int)t->o.tokens.variants,
                    .foreground = t->o.tokens.foreground};
    snprintf(m.shard, sizeof m.shard, "%.255s", base_name(s->path));
    return m;
}

/* Complete, of these weights and options and of this very shard. */
static bool is_done(const tokenizer *t, const shard *s, const char *path) {
    status     st = {0};
    token_file f, want = meta_of(t, s);
    if (!tokens_open(&f, path, &st)) return false;
    bool same = f.encoder == want.encoder && f.width == want.width && f.size == want.size &&
                f.variants == want.variants && f.foreground == want.foreground && strcmp(f.shard, want.shard) == 0 &&
                f.n_samples == s->n_samples && memcmp(f.id, s->id, (size_t)s->n_samples * sizeof *s->id) == 0;
    for (int64_t i = 0; same && i <= s->n_samples; i++) same = f.view_first[i] == f.variants * s->view_first[i];
    tokens_close(&f);
    return same;
}

/* View k of sample `at`: variant k % variants of view k / variants. */
static bool read_view(const tokenizer *t, const shard *s, int64_t at, int64_t k, view_input *v, status *st) {
    int      variants = (int)t->o.tokens.variants;
    uint8_t *png = NULL;
    int64_t  size = 0;
    float    camera[VIEW_CAMERA_FLOATS];
    char     name[PATH_CAP + 200];
    rng_key  key = {(uint64_t)t->o.tokens.seed, RNG_AUGMENT, (uint64_t)k, s->id[at]};
    snprintf(name, sizeof name, "%s sample %lld (%.120s), view %lld", s->path, (long long)at, s->source[at],
             (long long)(k / variants));
    bool ok = shard_read_view(s, at, (int)(k / variants), &png, &size, camera, st) &&
              view_prepare(&t->o, png, size, name, k % variants ? &key : NULL, v, st);
    free(png);
    return ok;
}

static bool encode_sample(tokenizer *t, const shard *s, int64_t at, tokens_writer *w, status *st) {
    int64_t      n = (s->view_first[at + 1] - s->view_first[at]) * t->o.tokens.variants, batch = t->o.tokens.batch;
    view_input  *v = calloc((size_t)batch, sizeof *v);
    view_input **each = calloc((size_t)batch, sizeof *each);
    bool         ok = true;
    CHECK(v && each, "no memory for %lld views", (long long)batch);
    for (int64_t first = 0; ok && first < n; first += batch) {
        int here = (int)(n - first < batch ? n - first : batch);
        for (int i = 0; i < here && ok; i++) {
            each[i] = &v[i];
            ok = read_view(t, s, at, first + i, &v[i], st);
        }
        double t0 = now_seconds();
        if (ok) image_encoder_run(&t->e, each, here, t->o.tokens.foreground);
        t->network_seconds += now_seconds() - t0;
        for (int i = 0; i < here; i++) {
            ok = ok && tokens_append_view(w, v[i].n_tokens, v[i].token, v[i].coord, st);
            t->written += ok ? v[i].n_tokens : 0;
            view_free(&v[i]);
        }
        if (ok) progress_step(&t->bar, t->done += here, NULL);
    }
    free(v);
    free(each);
    return ok && tokens_end_sample(w, s->id[at], st);
}

static bool encode_shard(tokenizer *t, const shard *s, const char *path, status *st) {
    token_file meta = meta_of(t, s);
    if (!tokens_make_room(path, s->id, s->n_samples, st)) return false; /* what went was of other weights */
    tokens_writer *w = tokens_create(path, &meta, st);
    bool           ok = w != NULL;
    for (int64_t i = 0; i < s->n_samples && ok; i++) ok = encode_sample(t, s, i, w, st);
    if (ok) return tokens_finish(w, st);
    tokens_abandon(w);
    return false;
}

static void share(const tokenizer *t, const comm *c, int *owner) {
    int64_t *size = calloc((size_t)t->d.n_shards + 1, sizeof *size);
    CHECK(size, "no memory for %d shards", t->d.n_shards);
    for (int k = 0; c->rank == 0 && k < t->d.n_shards; k++) {
        const shard *s = &t->d.shards[k];
        char         path[PATH_CAP];
        status       st = {0};
        bool         done = join_path(t->o.tokens.output, base_name(s->path), path, &st) && is_done(t, s, path);
        size[k] = done ? -1 : s->n_views;
    }
    comm_bcast(c, size, t->d.n_shards * (int64_t)sizeof *size, 0);
    share_by_size(size, t->d.n_shards, c->size, owner);
    free(size);
}

static bool open_all(tokenizer *t, const comm *c, status *st) {
    const options *o = &t->o;
    if (!o->tokens.input[0] || !o->tokens.output[0])
        status_set(st, ST_USAGE, "tokens.input (shards) and tokens.output (folder for tokens) are needed");
    else if (o->cond.encoder == opt_cond_encoder_patches)
        status_set(st, ST_USAGE, "the patches encoder needs no stored tokens: give --encoder dinov2 --weights FILE");
    if (!comm_agree(c, st) || !place_open(&t->where, o, c, false, st)) return false;
    dataset_request r = {.c = c, .shards = o->tokens.input};
    (void)(dataset_open(&t->d, &r, st) && image_encoder_open(&t->e, o->cond.weights, (int)o->cond.size, &t->where, st));
    if (!comm_agree(c, st)) return false;
    if (c->rank == 0 && !o->command.dry_run) make_folder(o->tokens.output, st);
    return comm_agree(c, st);
}

static int64_t tally(const tokenizer *t, const int *owner, int rank, tokenize_report *r) {
    int64_t mine = 0, variants = t->o.tokens.variants;
    for (int k = 0; k < t->d.n_shards; k++) {
        const shard *s = &t->d.shards[k];
        r->n_shards++;
        if (owner[k] < 0) {
            r->n_skipped++;
            continue;
        }
        r->n_samples += s->n_samples;
        r->n_views += s->n_views * variants;
        if (owner[k] == rank) mine += s->n_views * variants;
    }
    return mine;
}

static void encode_mine(tokenizer *t, const int *owner, int rank, status *st) {
    char path[PATH_CAP];
    bool ok = true;
    for (int k = 0; k < t->d.n_shards && ok; k++) {
        const shard *s = &t->d.shards[k];
        if (owner[k] == rank)
            ok = join_path(t->o.tokens.output, base_name(s->path), path, st) && encode_shard(t, s, path, st);
    }
    if (ok) progress_end(&t->bar, NULL);
}

bool tokenize_run(const options *o, const comm *c, tokenize_report *r, status *st) {
    tokenizer *t = calloc(1, sizeof *t);
    double     t0 = now_seconds();
    CHECK(t, "no memory for the options");
    t->o = *o;
    t->o.dit.sparse_cond = o->tokens.foreground;
    *r = (tokenize_report){0};
    bool ok = open_all(t, c, st);
    if (ok) {
        const dinov2_config *m = &t->e.m.cfg;
        int                 *owner = malloc((size_t)t->d.n_shards * sizeof *owner);
        CHECK(owner, "no memory for %d shards", t->d.n_shards);
        double begin = now_seconds();
        share(t, c, owner);
        r->n_mine = tally(t, owner, c->rank, r);
        r->network_tokens = dinov2_tokens(m);
        log_info(
            "tokens: DINOv2 of width %d, %d blocks, %d heads, %d registers, on %s; %lld views of %lld shards to do, "
            "%lld shards are there",
            m->width, m->blocks, m->heads, m->registers, t->where.text, (long long)r->n_views,
            (long long)(r->n_shards - r->n_skipped), (long long)r->n_skipped);
        if (!o->command.dry_run) {
            progress_begin(&t->bar, "tokens", 0, r->n_mine);
            encode_mine(t, owner, c->rank, st);
        }
        free(owner);
        ok = comm_agree(c, st);
        r->run_seconds = now_seconds() - begin;
        r->network_seconds = t->network_seconds;
    }
    image_encoder_close(&t->e);
    dataset_close(&t->d);
    r->n_tokens = t->written;
    r->seconds = now_seconds() - t0;
    free(t);
    return ok;
}
