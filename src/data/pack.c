#include "data/pack.h"

#include <stdlib.h>
#include <string.h>

void pack_bytes(packing *p, void *x, size_t bytes) {
    p->n += (int64_t)bytes;
    if (p->counting || bytes == 0) return;
    CHECK(bytes <= (size_t)(p->end - p->at), "packed tables end early");
    if (p->reading)
        memcpy(x, p->at, bytes);
    else
        memcpy(p->at, x, bytes);
    p->at += bytes;
}

void *pack_table(packing *p, void *x, int64_t count, size_t width) {
    size_t bytes = (size_t)count * width;
    if (p->reading) x = malloc(bytes + 1);
    CHECK(x, "no memory for a table of %lld rows", (long long)count);
    pack_bytes(p, x, bytes);
    return x;
}

char **pack_texts(packing *p, char **x, int64_t count) {
    if (p->reading) x = calloc((size_t)count + 1, sizeof *x);
    CHECK(x, "no memory for %lld texts", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        int64_t bytes = p->reading ? 0 : (int64_t)strlen(x[i]) + 1;
        PACK_FIELD(p, bytes);
        x[i] = pack_table(p, x[i], bytes, 1);
    }
    return x;
}

static void all_items(packing *p, const char *items, int n, size_t width, pack_item f) {
    char *copy = malloc(width);
    CHECK(copy, "no memory for %zu bytes", width);
    PACK_FIELD(p, n);
    for (int i = 0; i < n; i++) {
        memcpy(copy, items + (size_t)i * width, width);
        f(p, copy);
    }
    free(copy);
}

char *pack_list(const void *items, int n, size_t width, pack_item f, int64_t *bytes) {
    packing count = {.counting = true};
    all_items(&count, items, n, width, f);
    char *packed = malloc((size_t)count.n);
    CHECK(packed, "no memory for %lld bytes of tables", (long long)count.n);
    packing p = {.at = packed, .end = packed + count.n};
    all_items(&p, items, n, width, f);
    *bytes = count.n;
    return packed;
}

void *unpack_list(const char *packed, int64_t bytes, size_t width, pack_item f, int *n) {
    char   *from = (char *)(uintptr_t)packed; /* only read */
    packing p = {.at = from, .end = from + bytes, .reading = true, .pool = file_pool_new()};
    PACK_FIELD(&p, *n);
    char *items = calloc((size_t)*n + 1, width);
    CHECK(items, "no memory for %d tables", *n);
    for (int i = 0; i < *n; i++) f(&p, items + (size_t)i * width);
    file_pool_release(p.pool);
    CHECK(p.at == p.end, "packed tables are longer than told");
    return items;
}
