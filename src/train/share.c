#include "train/share.h"

#include <stdlib.h>

#include "io/atomic_file.h"

typedef struct {
    int64_t size, at;
} piece;

static int largest_first(const void *pa, const void *pb) {
    const piece *a = pa, *b = pb;
    if (a->size != b->size) return a->size > b->size ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

void share_by_size(const int64_t *size, int64_t n, int ranks, int *owner) {
    int64_t *load = calloc((size_t)ranks, sizeof *load);
    piece   *p = malloc((size_t)(n + 1) * sizeof *p);
    CHECK(load && p, "no memory for %lld pieces on %d ranks", (long long)n, ranks);
    for (int64_t i = 0; i < n; i++) p[i] = (piece){size[i], i};
    qsort(p, (size_t)n, sizeof *p, largest_first);
    for (int64_t i = 0; i < n; i++) {
        int least = 0;
        owner[p[i].at] = -1;
        if (p[i].size < 0) continue;
        for (int r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        owner[p[i].at] = least;
        load[least] += p[i].size + 1;
    }
    free(load);
    free(p);
}

void share_shards(const dataset *d, const char *output, const comm *c, shard_size size, const void *user, int *owner) {
    int64_t *todo = calloc((size_t)d->n_shards + 1, sizeof *todo);
    CHECK(todo, "no memory for %d shards", d->n_shards);
    for (int k = 0; c->rank == 0 && k < d->n_shards; k++) {
        char   path[PATH_CAP];
        status st = {0}; /* of a path that is too long: told by who writes there */
        if (join_path(output, base_name(d->shards[k].path), path, &st)) todo[k] = size(user, &d->shards[k], path);
    }
    comm_bcast(c, todo, d->n_shards * (int64_t)sizeof *todo, 0);
    share_by_size(todo, d->n_shards, c->size, owner);
    free(todo);
}

int64_t part_of(const int64_t *first, int64_t n, int64_t x) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (first[middle] <= x)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
