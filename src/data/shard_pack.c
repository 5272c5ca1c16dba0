/* The tables of shards as bytes and back, in one pass over the fields: counting, writing or reading. */
#include "data/shard_internal.h"

#include <stdlib.h>
#include <string.h>

typedef enum { COUNT, WRITE, READ } direction;

typedef struct {
    direction to;
    char     *at, *end; /* of the bytes; COUNT: NULL */
    int64_t   n;        /* bytes so far */
} packing;

static void put(packing *p, void *x, size_t bytes) {
    p->n += (int64_t)bytes;
    if (p->to == COUNT || bytes == 0) return;
    CHECK(bytes <= (size_t)(p->end - p->at), "packed tables of shards end early");
    if (p->to == WRITE)
        memcpy(p->at, x, bytes);
    else
        memcpy(x, p->at, bytes);
    p->at += bytes;
}

/* A malloc'ed table. */
static void put_table(packing *p, void **x, int64_t count, size_t width) {
    size_t bytes = (size_t)count * width;
    if (p->to == READ) *x = malloc(bytes + 1);
    CHECK(*x, "no memory for a table of %lld rows", (long long)count);
    put(p, *x, bytes);
}
#define TABLE(x, count) put_table(p, (void **)&(x), count, sizeof *(x))

static void put_texts(packing *p, char ***x, int64_t count) {
    if (p->to == READ) *x = calloc((size_t)count + 1, sizeof **x);
    CHECK(*x, "no memory for %lld texts", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        int64_t bytes = p->to == READ ? 0 : (int64_t)strlen((*x)[i]) + 1;
        put(p, &bytes, sizeof bytes);
        put_table(p, (void **)&(*x)[i], bytes, 1);
    }
}

static void put_shard(packing *p, shard *s) {
    put(p, s->path, sizeof s->path);
    put(p, &s->meta, sizeof s->meta);
    put(p, &s->n_samples, sizeof s->n_samples);
    put(p, &s->n_tiles, sizeof s->n_tiles);
    put(p, &s->n_views, sizeof s->n_views);
    int64_t n = s->n_samples;
    TABLE(s->id, n);
    TABLE(s->hash, n);
    TABLE(s->source_hash, n);
    TABLE(s->first, n + 1);
    TABLE(s->view_first, n + 1);
    TABLE(s->n_in, n);
    TABLE(s->n_sharp, n);
    TABLE(s->center, 3 * n);
    TABLE(s->scale, n);
    put_texts(p, &s->source, n);
    put_texts(p, &s->category, n);
    put_texts(p, &s->report, n);
    shard_handle *h = s->file;
    TABLE(h->png_first, s->n_views + 1);
}

/* The shards are only read from, but for READ. */
static void put_all(packing *p, const shard *shards, int n) {
    put(p, &n, sizeof n);
    for (int i = 0; i < n; i++) {
        shard s = shards[i];
        put_shard(p, &s);
    }
}

char *shard_pack_all(const shard *shards, int n, int64_t *bytes) {
    packing count = {.to = COUNT};
    put_all(&count, shards, n);
    char *packed = malloc((size_t)count.n);
    CHECK(packed, "no memory for %lld bytes of tables", (long long)count.n);
    packing p = {.to = WRITE, .at = packed, .end = packed + count.n};
    put_all(&p, shards, n);
    *bytes = count.n;
    return packed;
}

void shard_unpack_all(const char *packed, int64_t bytes, shard **out, int *n_out) {
    packing     p = {.to = READ, .at = (char *)(uintptr_t)packed, .end = (char *)(uintptr_t)packed + bytes};
    shard_pool *pool = shard_pool_new();
    put(&p, n_out, sizeof *n_out);
    *out = calloc((size_t)*n_out, sizeof **out);
    CHECK(*out, "no memory for %d shards", *n_out);
    for (int i = 0; i < *n_out; i++) {
        (*out)[i].file = shard_handle_new(pool);
        put_shard(&p, &(*out)[i]);
    }
    shard_pool_release(pool);
    CHECK(p.at == p.end, "packed tables of shards are longer than told");
}
