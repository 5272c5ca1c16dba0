/* The tables of shards as bytes and back. */
#include "data/pack.h"
#include "data/shard_internal.h"

static void pack_shard(packing *p, void *item) {
    shard *s = item;
    if (p->reading) s->file = shard_handle_new(p->pool);
    shard_handle *h = s->file;
    PACK_FIELD(p, s->path);
    PACK_FIELD(p, s->meta);
    PACK_FIELD(p, s->n_samples);
    PACK_FIELD(p, s->n_tiles);
    PACK_FIELD(p, s->n_views);
    int64_t n = s->n_samples;
    PACK_TABLE(p, s->id, n);
    PACK_TABLE(p, s->hash, n);
    PACK_TABLE(p, s->source_hash, n);
    PACK_TABLE(p, s->first, n + 1);
    PACK_TABLE(p, s->view_first, n + 1);
    PACK_TABLE(p, s->n_in, n);
    PACK_TABLE(p, s->n_sharp, n);
    PACK_TABLE(p, s->center, 3 * n);
    PACK_TABLE(p, s->scale, n);
    PACK_FIELD(p, h->path);
    PACK_FIELD(p, h->n_tiles);
    PACK_FIELD(p, h->n_views);
    PACK_TABLE(p, h->png_first, h->n_views + 1);
    PACK_TABLE(p, h->tile_at, n);
    PACK_TABLE(p, h->view_at, n);
    s->source = pack_texts(p, s->source, n);
    s->category = pack_texts(p, s->category, n);
    s->report = pack_texts(p, s->report, n);
}

char *shard_pack_all(const shard *shards, int n, int64_t *bytes) {
    return pack_list(shards, n, sizeof *shards, pack_shard, bytes);
}

shard *shard_unpack_all(const char *packed, int64_t bytes, int *n) {
    return unpack_list(packed, bytes, sizeof(shard), pack_shard, n);
}
