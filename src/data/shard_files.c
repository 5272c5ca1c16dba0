/* Which files of a list of shards are open: those that were read from last. */
#include "core/fault.h"
#include "data/shard_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const hid_t CLOSED = -1;

static void forget_tables(shard_handle *h) {
    h->file = h->coord = h->value = h->sharp = h->png = h->camera = h->view_hash = CLOSED;
}

shard_pool *shard_pool_new(void) {
    shard_pool *p = calloc(1, sizeof *p);
    CHECK(p, "no memory for a list of open files");
    p->n_holders = 1;
    return p;
}

void shard_pool_release(shard_pool *p) {
    if (p && --p->n_holders == 0) free(p);
}

shard_handle *shard_handle_new(shard_pool *pool) {
    shard_handle *h = calloc(1, sizeof *h);
    CHECK(h, "no memory for a shard");
    forget_tables(h);
    h->pool = pool;
    if (pool) pool->n_holders++;
    return h;
}

static void file_close(shard_handle *h) {
    shard_pool *p = h->pool;
    if (h->file < 0) return;
    h5_file_close(h->file);
    forget_tables(h);
    for (int i = 0; p && i < p->n_open; i++)
        if (p->open[i] == h) {
            p->open[i] = p->open[--p->n_open];
            break;
        }
}

void shard_handle_free(shard_handle *h) {
    if (!h) return;
    file_close(h);
    shard_pool_release(h->pool);
    free(h->png_first);
    free(h);
}

static void make_place(shard_pool *p) {
    shard_handle *oldest = p->open[0];
    if (p->n_open < SHARD_FILES) return;
    for (int i = 1; i < p->n_open; i++)
        if (p->open[i]->used < oldest->used) oldest = p->open[i];
    file_close(oldest);
}

bool shard_file_open(const shard *s, status *st) {
    shard_handle *h = s->file;
    if (h->pool) make_place(h->pool);
    if (fault_at("shard.open"))
        status_set(st, ST_NO_INPUT, "%s: cannot open: %s", s->path, strerror(errno));
    else
        h->file = h5_file_open(s->path, st);
    if (h->file < 0) return false;
    if (!h->pool) return true;
    h->pool->open[h->pool->n_open++] = h;
    h->used = ++h->pool->turn;
    return true;
}

/* Their numbers of rows say that the file is the one whose tables were read; that its content is, the hashes of its
 * samples say. */
static bool open_tables(const shard *s, shard_handle *h, status *st) {
    hid_t f = h->file;
    h->coord = h5_table_open(f, "tile/coord", H5T_NATIVE_UINT16, 3, s->n_tiles, NULL, st);
    h->value = h5_table_open(f, "tile/value", h5_half(), TILE_CELLS, s->n_tiles, NULL, st);
    h->sharp = h5_table_open(f, "tile/sharp", H5T_NATIVE_UINT8, TILE_SHARP_BYTES, s->n_tiles, NULL, st);
    h->camera = h5_table_open(f, "view/camera", H5T_NATIVE_FLOAT, VIEW_CAMERA_FLOATS, s->n_views, NULL, st);
    h->view_hash = h5_table_open(f, "view/hash", H5T_NATIVE_UINT64, 0, s->n_views, NULL, st);
    h->png = h5_table_open(f, "view/png", H5T_NATIVE_UINT8, 0, h->png_first[s->n_views], NULL, st);
    return h->coord >= 0 && h->value >= 0 && h->sharp >= 0 && h->camera >= 0 && h->view_hash >= 0 && h->png >= 0;
}

const shard_handle *shard_file(const shard *s, status *st) {
    shard_handle *h = s->file;
    if (h->file < 0 && !shard_file_open(s, st)) return NULL;
    if (h->pool) h->used = ++h->pool->turn;
    if (h->coord >= 0 || open_tables(s, h, st)) return h;
    file_close(h);
    return NULL;
}
