#include "train/encode_read.h"

#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "data/tile_cells.h"
#include "io/atomic_file.h"
#include "train/fair_lock.h"
#include "train/setup.h"

struct encode_reader {
    ssvae_config    cfg;
    int             threads;
    pthread_t       thread;
    int64_t         most_tiles;
    pthread_mutex_t mutex;
    fair_lock       files;
    pthread_cond_t  changed;
    encode_item     item[2]; /* take turns */
    int             started; /* so many times */
    const shard    *from;    /* of the sample that is asked for; NULL: none */
    int64_t         at;
    bool            ready, stop;
    status          st;
};

/* Tables of a batch (most of them windows and neighbours), and the moments that come back. */
static size_t host_bytes(const ssvae_config *cfg, int64_t tiles) {
    size_t tile = TILE_CELLS * sizeof(float) + 4096 + 2 * (size_t)cfg->latent_channels * sizeof(float);
    return ((size_t)1 << 20) + (size_t)tiles * tile;
}

/* The sample as a batch of its own: masks first, then, where the tables say, the values of the active cells. */
static bool prepare(const ssvae_config *cfg, const shard *sh, const char *name, encode_item *x, status *st) {
    int64_t n = x->s.n_tiles, empty = n;
    if (!tile_order(&x->host, x->s.coord, n, cfg->window, sh->meta.resolution / 8, name, &x->order, st)) return false;
    tensor coord = arena_tensor(&x->host, DT_I32, DIMS(n, 3)), first = arena_tensor(&x->host, DT_I32, DIMS(2));
    tensor mask = arena_tensor(&x->host, DT_U64, DIMS(n, TILE_WORDS));
    I32(&first)[0] = 0;
    I32(&first)[1] = (int32_t)n;
#pragma omp parallel for schedule(static) reduction(min : empty)
    for (int64_t i = 0; i < n; i++) {
        int64_t from = x->order[i];
        for (int c = 0; c < 3; c++) I32(&coord)[3 * i + c] = x->s.coord[3 * from + c];
        if (cells_mask(x->s.value + from * TILE_CELLS, U64(&mask) + i * TILE_WORDS) == 0 && i < empty) empty = i;
    }
    if (empty < n)
        return status_set(st, ST_DATA, "%s: tile %d has no cell within the truncation distance: run `d3s2 check`", name,
                          x->order[empty]);
    x->b = ssvae_batch_of_mask(&x->host, cfg, sh->meta.resolution, &coord, &first, &mask);
    const grid *g = &x->b.enc[0];
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        cells_active(x->s.value + x->order[i] * (int64_t)TILE_CELLS, U64(&g->mask) + i * TILE_WORDS,
                     F32(&x->b.sdf) + I32(&g->first)[i]);
    return true;
}

static bool read_one(encode_reader *r, const shard *sh, int64_t at, encode_item *x, status *st) {
    char name[PATH_CAP + 200];
    fair_lock_get(&r->files);
    bool ok = shard_read_again(sh, at, &x->s, st);
    fair_lock_release(&r->files);
    if (!ok) return false;
    snprintf(name, sizeof name, "%s sample %lld (%.120s)", sh->path, (long long)at, x->s.source);
    return prepare(&r->cfg, sh, name, x, st);
}

static void *run(void *arg) {
    encode_reader *r = arg;
    omp_set_num_threads(r->threads); /* of this thread's loops */
    pthread_mutex_lock(&r->mutex);
    while (!r->stop) {
        if (!r->from || r->ready) {
            pthread_cond_wait(&r->changed, &r->mutex);
            continue;
        }
        const shard *from = r->from;
        encode_item *x = &r->item[(r->started - 1) % 2];
        status       st = {0};
        int64_t      at = r->at;
        pthread_mutex_unlock(&r->mutex);
        read_one(r, from, at, x, &st);
        pthread_mutex_lock(&r->mutex);
        r->st = st;
        r->ready = true;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

encode_reader *encode_reader_new(const ssvae_config *cfg, device_kind dev, int threads, int64_t most_tiles) {
    encode_reader *r = calloc(1, sizeof *r);
    CHECK(r, "no memory for a reader");
    r->cfg = *cfg;
    r->threads = threads;
    r->most_tiles = most_tiles;
    size_t bytes = host_bytes(cfg, most_tiles);
    for (int i = 0; i < 2; i++) /* pinned memory belongs to the GPU that is open here, and takes long to get */
        r->item[i].host = dev == DEV_CPU ? arena_new("host batch", bytes) : arena_new_pinned("host batch", bytes);
    pthread_mutex_init(&r->mutex, NULL);
    fair_lock_init(&r->files);
    pthread_cond_init(&r->changed, NULL);
    int rc = pthread_create(&r->thread, NULL, run, r);
    CHECK(rc == 0, "no thread for a reader: error %d", rc);
    return r;
}

void encode_reader_free(encode_reader *r) {
    if (!r) return;
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    for (int i = 0; i < 2; i++) {
        sample_free(&r->item[i].s);
        arena_free(&r->item[i].host);
    }
    pthread_mutex_destroy(&r->mutex);
    fair_lock_free(&r->files);
    pthread_cond_destroy(&r->changed);
    free(r);
}

void encode_reader_start(encode_reader *r, const shard *s, int64_t i) {
    pthread_mutex_lock(&r->mutex);
    CHECK(!r->from, "%s: a sample is asked for while another is on its way", s->path);
    CHECK(s->first[i + 1] - s->first[i] <= r->most_tiles, "%s: sample %lld is larger than was said", s->path,
          (long long)i);
    arena_reset(&r->item[r->started++ % 2].host, 0);
    r->from = s;
    r->at = i;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

encode_item *encode_reader_take(encode_reader *r, status *st) {
    pthread_mutex_lock(&r->mutex);
    CHECK(r->from, "no sample was asked for");
    while (!r->ready) pthread_cond_wait(&r->changed, &r->mutex);
    r->ready = false;
    r->from = NULL;
    encode_item *x = &r->item[(r->started - 1) % 2];
    *st = r->st;
    pthread_mutex_unlock(&r->mutex);
    return status_ok(st) ? x : NULL;
}

void encode_reader_lock(encode_reader *r) {
    fair_lock_get(&r->files);
}
void encode_reader_unlock(encode_reader *r) {
    fair_lock_release(&r->files);
}
