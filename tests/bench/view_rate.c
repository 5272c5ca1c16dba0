/* What `d3s2 tokens` does beside its network, timed: view_rate SHARDS FOLDER THREADS
 *
 * Milliseconds of a view on one thread, of each step before the network (reading, decoding, preprocessing, pixels to
 * numbers) and behind it (a file of all tokens of ViT-L in FOLDER), then views/s of 1..THREADS threads that read,
 * decode and preprocess ahead of nothing, and of the same with tokens written behind: what the verb would do with a
 * network that takes no time. Views of the shards are used over and over. */
#include "data/shard.h"
#include "data/tokens.h"
#include "io/atomic_file.h"
#include "train/fair_lock.h"
#include "train/read_ahead.h"
#include "train/view_input.h"
#include "train/write_behind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VIEWS = 64, WIDTH = 1024, SPECIAL = 5, STEPS = 5 };

typedef struct {
    options       *o;
    shard         *shards;
    int            n_shards;
    fair_lock      files;
    double         seconds[STEPS];
    int64_t        png_bytes;
    int            width, height; /* of the last view */
    int64_t        n;             /* tokens of a view */
    float         *token;         /* [n,WIDTH] */
    int32_t       *coord;
    tokens_writer *w;
} rig;

/* View i of all, again from the first one behind the last. */
static bool read_png(rig *r, int64_t i, uint8_t **png, int64_t *size, status *st) {
    float   camera[VIEW_CAMERA_FLOATS];
    int64_t all = 0, at = 0;
    int     k = 0;
    for (int s = 0; s < r->n_shards; s++) all += r->shards[s].n_views;
    for (i %= all; i >= r->shards[k].n_views; k++) i -= r->shards[k].n_views;
    const shard *s = &r->shards[k];
    while (s->view_first[at + 1] <= i) at++;
    fair_lock_get(&r->files);
    bool ok = shard_read_view(s, at, (int)(i - s->view_first[at]), png, size, camera, st);
    fair_lock_release(&r->files);
    return ok;
}

static bool make_view(void *user, int64_t i, void *item, status *st) {
    rig     *r = user;
    uint8_t *png = NULL;
    int64_t  size;
    bool     ok = read_png(r, i, &png, &size, st) && view_prepare(r->o, png, size, "view", NULL, item, st);
    free(png);
    return ok;
}

static void drop_view(void *item) {
    view_free(item);
}

static bool one_view(rig *r, int64_t i, float *numbers, status *st) {
    uint8_t   *png = NULL;
    int64_t    size;
    image      im;
    view_input v;
    double     t[STEPS + 1] = {now_seconds()};
    if (!read_png(r, i, &png, &size, st)) return false;
    t[1] = now_seconds();
    bool ok = image_decode(png, size, "view", &im, st);
    t[2] = now_seconds();
    ok = ok && view_prepare(r->o, png, size, "view", NULL, &v, st); /* decodes again */
    t[3] = now_seconds();
    r->seconds[2] -= t[2] - t[1];
    if (ok) patches_fill(&v.rgb, v.mask, false, numbers, NULL);
    t[4] = now_seconds();
    ok = ok && tokens_append_view(r->w, r->n, r->token, r->coord, st);
    t[5] = now_seconds();
    for (int k = 0; k < STEPS; k++) r->seconds[k] += t[k + 1] - t[k];
    if (ok) {
        r->png_bytes += size;
        r->width = im.width, r->height = im.height;
        image_free(&im);
        view_free(&v);
    }
    free(png);
    return ok;
}

static bool steps(rig *r, status *st) {
    static const char *const name[STEPS] = {"reading", "decoding", "preprocessing", "pixels to numbers", "to the file"};
    float                   *numbers = malloc((size_t)r->n * PATCH_WIDTH * sizeof *numbers);
    bool                     ok = numbers != NULL;
    for (int64_t i = 0; ok && i < VIEWS; i++) ok = one_view(r, i, numbers, st);
    free(numbers);
    if (!ok) return false;
    printf("%d views of %d x %d pixels, %.0f KB each, to %lld: milliseconds of one on one thread\n", (int)VIEWS,
           r->width, r->height, (double)r->png_bytes / VIEWS / 1e3, (long long)r->o->cond.size);
    for (int k = 0; k < STEPS; k++) printf("  %-18s %6.2f\n", name[k], 1e3 * r->seconds[k] / VIEWS);
    return true;
}

static bool write_view(void *user, const void *item, status *st) {
    rig *r = user;
    (void)item;
    fair_lock_get(&r->files);
    bool ok = tokens_append_view(r->w, r->n, r->token, r->coord, st);
    fair_lock_release(&r->files);
    return ok;
}

static bool rate(rig *r, int threads, bool write, status *st) {
    read_ahead   *a = read_ahead_new(&(read_ahead_config){.n = VIEWS * threads,
                                                          .item_bytes = sizeof(view_input),
                                                          .threads = threads,
                                                          .room = 4 + 2 * threads,
                                                          .user = r,
                                                          .make = make_view,
                                                          .drop = drop_view});
    write_behind *b = write_behind_new(&(write_behind_config){
        .item_bytes = sizeof(view_input), .room = 8, .user = r, .write = write_view, .drop = drop_view});
    bool          ok = true;
    double        t0 = now_seconds();
    for (int i = 0; i < VIEWS * threads && ok; i++) {
        view_input v;
        ok = read_ahead_take(a, &v, st);
        if (ok && write)
            ok = write_behind_put(b, &v, st);
        else if (ok)
            view_free(&v);
    }
    ok = ok && write_behind_flush(b, st);
    double t = now_seconds() - t0;
    write_behind_free(b);
    read_ahead_free(a);
    if (ok) printf("%d threads%s: %.0f views/s\n", threads, write ? ", and one that writes" : "", VIEWS * threads / t);
    return ok;
}

/* All patches of ViT-L. */
static bool make_tokens(rig *r, const char *folder, status *st) {
    int64_t    side = r->o->cond.size / PATCH_SIDE;
    token_file meta = {.encoder = 1,
                       .width = WIDTH,
                       .size = (int)r->o->cond.size,
                       .special = SPECIAL,
                       .variants = 1,
                       .shard = "rate.h5"};
    char       path[PATH_CAP];
    r->n = SPECIAL + side * side;
    r->token = malloc((size_t)r->n * WIDTH * sizeof *r->token);
    r->coord = calloc((size_t)r->n * 3, sizeof *r->coord);
    if (!r->token || !r->coord) return status_set(st, ST_MEMORY, "no memory for %lld tokens", (long long)r->n);
    for (int64_t k = 0; k < r->n * WIDTH; k++) r->token[k] = (float)k * 1e-3f;
    r->w = join_path(folder, "view-rate.h5", path, st) ? tokens_create(path, &meta, st) : NULL;
    return r->w != NULL;
}

int main(int argc, char **argv) {
    rig    r = {.o = malloc(sizeof *r.o)};
    status st = {0};
    if (argc != 4 || !r.o) {
        fputs("view_rate SHARDS FOLDER THREADS\n", stderr);
        return 64;
    }
    options_default(r.o);
    fair_lock_init(&r.files);
    bool ok = shard_open_all(argv[1], &r.shards, &r.n_shards, &st);
    if (ok && r.shards[0].n_views == 0) ok = status_set(&st, ST_DATA, "%s: has no views in its first shard", argv[1]);
    ok = ok && make_tokens(&r, argv[2], &st) && steps(&r, &st);
    for (int n = 1; ok && n <= atoi(argv[3]); n++) ok = rate(&r, n, false, &st) && rate(&r, n, true, &st);
    if (!ok) fprintf(stderr, "%s\n", st.text);
    tokens_abandon(r.w);
    shard_close_all(r.shards, r.n_shards);
    free(r.token), free(r.coord), free(r.o);
    return st.code;
}
