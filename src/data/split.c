#include "data/split.h"
#include "core/rng.h"

#include <stdlib.h>
#include <string.h>

bool split_in_share(const char *name, double share) {
    /* another hash than the id, which also decides views and order */
    return share > 0 && (double)(hash_bytes(name, strlen(name), 1) >> 11) * 0x1p-53 < share;
}

typedef struct {
    uint64_t    hash;
    const char *name;
    int64_t     at;
} pick;

static int by_hash(const void *a, const void *b) {
    const pick *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : strcmp(x->name, y->name);
}

void split_lowest(char *const *name, int64_t n, int64_t count, bool *held) {
    pick *p = malloc(sizeof *p * (size_t)(n + 1));
    CHECK(p, "no memory for %lld names", (long long)n);
    for (int64_t i = 0; i < n; i++) p[i] = (pick){hash_text(name[i]), name[i], i};
    qsort(p, (size_t)n, sizeof *p, by_hash);
    for (int64_t i = 0; i < n; i++) held[p[i].at] = i < count;
    free(p);
}
