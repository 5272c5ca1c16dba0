#include "train/share.h"

#include <stdlib.h>

#include "core/base.h"

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
