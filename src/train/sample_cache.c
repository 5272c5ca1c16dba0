#include "train/sample_cache.h"

#include <stdlib.h>
#include <string.h>

struct sample_cache {
    sample *at; /* [n]; n_tiles is 0 where there is none */
    int64_t n;
    size_t  bytes, most;
};

sample_cache *sample_cache_new(int64_t n, size_t most_bytes) {
    if (n == 0 || most_bytes == 0) return NULL;
    sample_cache *c = calloc(1, sizeof *c);
    CHECK(c, "no memory for a cache of samples");
    *c = (sample_cache){.at = calloc((size_t)n, sizeof *c->at), .n = n, .most = most_bytes};
    CHECK(c->at, "no memory for a list of %lld samples", (long long)n);
    return c;
}

void sample_cache_free(sample_cache *c) {
    if (!c) return;
    for (int64_t i = 0; i < c->n; i++) sample_free(&c->at[i]);
    free(c->at);
    free(c);
}

static size_t tile_bytes(const sample *s) {
    return (size_t)s->n_tiles * (3 * sizeof *s->coord + TILE_CELLS * sizeof *s->value + TILE_SHARP_BYTES);
}

const sample *sample_cache_find(const sample_cache *c, int64_t i) {
    return c && c->at[i].n_tiles > 0 ? &c->at[i] : NULL;
}

void sample_cache_keep(sample_cache *c, int64_t i, const sample *s) {
    if (!c || s->n_tiles == 0 || c->at[i].n_tiles > 0 || c->bytes + tile_bytes(s) > c->most) return;
    sample_assign(&c->at[i], s);
    c->bytes += tile_bytes(s);
}
