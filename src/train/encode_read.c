#include "train/encode_read.h"

#include <stdio.h>

#include "data/tile_cells.h"
#include "io/atomic_file.h"
#include "train/setup.h"

/* Tables of a batch (most of them windows and neighbours), and the moments that come back. */
static size_t host_bytes(const ssvae_config *cfg, int64_t tiles) {
    size_t tile = TILE_CELLS * sizeof(float) + 4096 + 2 * (size_t)cfg->latent_channels * sizeof(float);
    return ((size_t)1 << 20) + (size_t)tiles * tile;
}

void encode_item_init(encode_item *x, const ssvae_config *cfg, device_kind dev, int64_t tiles) {
    size_t bytes = host_bytes(cfg, tiles);
    *x = (encode_item){.host = dev == DEV_CPU ? arena_new("host batch", bytes) : arena_new_pinned("host batch", bytes)};
}

void encode_item_free(encode_item *x) {
    sample_free(&x->s);
    if (x->host.base) arena_free(&x->host);
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

bool encode_item_read(encode_item *x, const ssvae_config *cfg, const shard *s, int64_t i, fair_lock *files,
                      status *st) {
    char name[PATH_CAP + 200];
    fair_lock_get(files);
    bool ok = shard_read_again(s, i, &x->s, st);
    fair_lock_release(files);
    if (!ok) return false;
    snprintf(name, sizeof name, "%s sample %lld (%.120s)", s->path, (long long)i, x->s.source);
    arena_reset(&x->host, 0);
    return prepare(cfg, s, name, x, st);
}
