#include "train/tokenize.h"

#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"
#include "train/dataset.h"
#include "train/fair_lock.h"
#include "train/image_encoder.h"
#include "train/read_ahead.h"
#include "train/setup.h"
#include "train/share.h"
#include "train/write_behind.h"

typedef struct {
    options        o; /* dit.sparse_cond is tokens.foreground here, for view_prepare */
    image_encoder  e;
    dataset        d;
    place          where;
    int64_t       *first; /* [n_shards+1] views of this rank before a shard */
    fair_lock      files; /* the shards and the file of tokens: HDF5 is for one thread at a time */
    read_ahead    *views;
    write_behind  *out;
    tokens_writer *writer; /* out's, of the shard it is at */
    progress       bar;
    int64_t        done, written;
    double         network_seconds, view_seconds, file_seconds;
} tokenizer;

/* What goes to the file, in this order: the file, for each sample its views and then its end, the end. */
typedef struct {
    enum { OUT_BEGIN, OUT_VIEW, OUT_SAMPLE, OUT_END } what;
    int        shard;
    int64_t    at;
    view_input v;
} out_item;

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

/* Views; or it is complete, of these weights and options and of this very shard. */
static int64_t views_to_do(const void *user, const shard *s, const char *path) {
    const tokenizer *t = user;
    status           st = {0};
    token_file       f, want = meta_of(t, s);
    if (!tokens_open(&f, path, &st)) return s->n_views;
    bool same = f.encoder == want.encoder && f.width == want.width && f.size == want.size &&
                f.variants == want.variants && f.foreground == want.foreground && strcmp(f.shard, want.shard) == 0 &&
                f.n_samples == s->n_samples && memcmp(f.id, s->id, (size_t)s->n_samples * sizeof *s->id) == 0;
    for (int64_t i = 0; same && i <= s->n_samples; i++) same = f.view_first[i] == f.variants * s->view_first[i];
    tokens_close(&f);
    return same ? -1 : s->n_views;
}

/* ---- views, ahead of the network ------------------------------------------------------------------------------- */

/* This rank's view i: variant k % variants of view k / variants of its sample. */
static bool read_view(void *user, int64_t i, void *item, status *st) {
    tokenizer   *t = user;
    int64_t      variants = t->o.tokens.variants;
    int64_t      of = part_of(t->first, t->d.n_shards, i), in_shard = i - t->first[of];
    const shard *s = &t->d.shards[of];
    int64_t      at = part_of(s->view_first, s->n_samples, in_shard / variants);
    int64_t      k = in_shard - variants * s->view_first[at], size = 0;
    uint8_t     *png = NULL;
    float        camera[VIEW_CAMERA_FLOATS];
    char         name[PATH_CAP + 200];
    rng_key      key = {(uint64_t)t->o.tokens.seed, RNG_AUGMENT, (uint64_t)k, s->id[at]};
    snprintf(name, sizeof name, "%s sample %lld (%.120s), view %lld", s->path, (long long)at, s->source[at],
             (long long)(k / variants));
    fair_lock_get(&t->files);
    bool ok = shard_read_view(s, at, (int)(k / variants), &png, &size, camera, st);
    fair_lock_release(&t->files);
    ok = ok && view_prepare(&t->o, png, size, name, k % variants ? &key : NULL, item, st);
    free(png);
    return ok;
}

static void drop_view(void *item) {
    view_free(item);
}

/* ---- tokens, behind it ----------------------------------------------------------------------------------------- */

static bool begin_file(tokenizer *t, const shard *s, status *st) {
    token_file meta = meta_of(t, s);
    char       path[PATH_CAP];
    /* What is there is of other weights. */
    if (!join_path(t->o.tokens.output, base_name(s->path), path, st) ||
        !tokens_make_room(path, s->id, s->n_samples, st))
        return false;
    t->writer = tokens_create(path, &meta, st);
    return t->writer != NULL;
}

static bool end_file(tokenizer *t, status *st) {
    tokens_writer *w = t->writer;
    t->writer = NULL; /* gone, whatever comes of it */
    return tokens_finish(w, st);
}

static bool write_item(void *user, const void *item, status *st) {
    tokenizer      *t = user;
    const out_item *x = item;
    const shard    *s = &t->d.shards[x->shard];
    bool            ok = false;
    fair_lock_get(&t->files);
    switch (x->what) {
    case OUT_BEGIN:
        ok = begin_file(t, s, st);
        break;
    case OUT_VIEW:
        ok = tokens_append_view(t->writer, x->v.n_tokens, x->v.token, x->v.coord, st);
        break;
    case OUT_SAMPLE:
        ok = tokens_end_sample(t->writer, s->id[x->at], st);
        break;
    case OUT_END:
        ok = end_file(t, st);
        break;
    }
    fair_lock_release(&t->files);
    return ok;
}

static void drop_item(void *item) {
    out_item *x = item;
    view_free(&x->v);
}

static bool put(tokenizer *t, const out_item *x, status *st) {
    double t0 = now_seconds();
    bool   ok = write_behind_put(t->out, x, st);
    t->file_seconds += now_seconds() - t0;
    return ok;
}

/* ---- the network ----------------------------------------------------------------------------------------------- */

/* Of up to n views, how many came. */
static int take_views(tokenizer *t, view_input *v, view_input **each, int n, status *st) {
    double t0 = now_seconds();
    int    i = 0;
    while (i < n && read_ahead_take(t->views, &v[i], st)) {
        each[i] = &v[i];
        i++;
    }
    t->view_seconds += now_seconds() - t0;
    return i;
}

static bool encode_views(tokenizer *t, out_item x, view_input *v, view_input **each, int n, status *st) {
    int    here = take_views(t, v, each, n, st);
    bool   ok = here == n;
    double t0 = now_seconds();
    if (ok) image_encoder_run(&t->e, each, n, t->o.tokens.foreground);
    t->network_seconds += now_seconds() - t0;
    x.what = OUT_VIEW;
    for (int i = 0; i < here; i++) {
        x.v = v[i];
        t->written += v[i].n_tokens;
        if (ok)
            ok = put(t, &x, st);
        else
            view_free(&v[i]);
    }
    if (ok) progress_step(&t->bar, t->done += n, NULL);
    return ok;
}

static bool encode_sample(tokenizer *t, int k, int64_t at, status *st) {
    const shard *s = &t->d.shards[k];
    int64_t      n = (s->view_first[at + 1] - s->view_first[at]) * t->o.tokens.variants, batch = t->o.tokens.batch;
    view_input  *v = calloc((size_t)batch, sizeof *v);
    view_input **each = calloc((size_t)batch, sizeof *each);
    out_item     x = {.shard = k, .at = at};
    bool         ok = true;
    CHECK(v && each, "no memory for %lld views", (long long)batch);
    for (int64_t first = 0; ok && first < n; first += batch)
        ok = encode_views(t, x, v, each, (int)(n - first < batch ? n - first : batch), st);
    free(v);
    free(each);
    x.what = OUT_SAMPLE;
    return ok && put(t, &x, st);
}

static bool encode_shard(tokenizer *t, int k, status *st) {
    bool ok = put(t, &(out_item){.what = OUT_BEGIN, .shard = k}, st);
    for (int64_t i = 0; i < t->d.shards[k].n_samples && ok; i++) ok = encode_sample(t, k, i, st);
    return ok && put(t, &(out_item){.what = OUT_END, .shard = k}, st);
}

/* ---- the verb -------------------------------------------------------------------------------------------------- */

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

static void encode_mine(tokenizer *t, const int *owner, int rank, int threads, status *st) {
    int  batch = (int)t->o.tokens.batch;
    bool ok = true;
    t->first = calloc((size_t)t->d.n_shards + 1, sizeof *t->first);
    CHECK(t->first, "no memory for %d shards", t->d.n_shards);
    for (int k = 0; k < t->d.n_shards; k++)
        t->first[k + 1] = t->first[k] + (owner[k] == rank ? t->d.shards[k].n_views * t->o.tokens.variants : 0);
    fair_lock_init(&t->files);
    t->views = read_ahead_new(&(read_ahead_config){.n = t->first[t->d.n_shards],
                                                   .item_bytes = sizeof(view_input),
                                                   .threads = threads,
                                                   .room = batch + 2 * threads,
                                                   .user = t,
                                                   .make = read_view,
                                                   .drop = drop_view});
    t->out = write_behind_new(&(write_behind_config){
        .item_bytes = sizeof(out_item), .room = batch + 4, .user = t, .write = write_item, .drop = drop_item});
    for (int k = 0; k < t->d.n_shards && ok; k++)
        if (owner[k] == rank) ok = encode_shard(t, k, st);
    double t0 = now_seconds();
    status quiet = {0};
    ok = write_behind_flush(t->out, ok ? st : &quiet) && ok; /* shards before one that failed are whole */
    t->file_seconds += now_seconds() - t0;
    write_behind_free(t->out);
    read_ahead_free(t->views);
    tokens_abandon(t->writer);
    fair_lock_free(&t->files);
    free(t->first);
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
        share_shards(&t->d, t->o.tokens.output, c, views_to_do, t, owner);
        r->n_mine = tally(t, owner, c->rank, r);
        r->network_tokens = dinov2_tokens(m);
        r->threads = place_spare_threads(&t->where, c);
        if (o->data.threads > 0) r->threads = (int)o->data.threads;
        log_info(
            "tokens: DINOv2 of width %d, %d blocks, %d heads, %d registers, on %s; %lld views of %lld shards to do, "
            "%lld shards are there",
            m->width, m->blocks, m->heads, m->registers, t->where.text, (long long)r->n_views,
            (long long)(r->n_shards - r->n_skipped), (long long)r->n_skipped);
        if (!o->command.dry_run) {
            progress_begin(&t->bar, "tokens", 0, r->n_mine);
            encode_mine(t, owner, c->rank, r->threads, st);
        }
        free(owner);
        ok = comm_agree(c, st);
        r->run_seconds = now_seconds() - begin;
        r->network_seconds = t->network_seconds;
        r->view_seconds = t->view_seconds;
        r->file_seconds = t->file_seconds;
    }
    image_encoder_close(&t->e);
    dataset_close(&t->d);
    r->n_tokens = t->written;
    r->seconds = now_seconds() - t0;
    free(t);
    return ok;
}
