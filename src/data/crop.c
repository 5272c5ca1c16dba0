#include "data/crop.h"

#include <stdlib.h>
#include <string.h>
#include "sparse/grid.h"

typedef struct {
    int64_t distance, row;
} near_tile;

static int by_distance(const void *pa, const void *pb) {
    const near_tile *a = pa, *b = pb;
    if (a->distance != b->distance) return a->distance < b->distance ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

static int by_row(const void *pa, const void *pb) {
    const near_tile *a = pa, *b = pb;
    return (a->row > b->row) - (a->row < b->row);
}

void sample_crop(sample *s, int64_t n, int64_t centre) {
    CHECK(n > 0 && centre >= 0 && centre < s->n_tiles, "%lld tiles around tile %lld of %lld", (long long)n,
          (long long)centre, (long long)s->n_tiles);
    if (s->n_tiles <= n) return;
    near_tile *all = malloc((size_t)s->n_tiles * sizeof *all);
    CHECK(all, "no memory for %lld tiles", (long long)s->n_tiles);
    for (int64_t i = 0; i < s->n_tiles; i++) {
        all[i] = (near_tile){.row = i};
        for (int a = 0; a < 3; a++) {
            int64_t d = (int64_t)s->coord[3 * i + a] - s->coord[3 * centre + a];
            all[i].distance += d * d;
        }
    }
    qsort(all, (size_t)s->n_tiles, sizeof *all, by_distance);
    qsort(all, (size_t)n, sizeof *all, by_row);
    for (int64_t i = 0; i < n; i++) { /* rows only move down */
        int64_t from = all[i].row;
        memmove(s->coord + 3 * i, s->coord + 3 * from, 3 * sizeof *s->coord);
        memmove(s->value + TILE_CELLS * i, s->value + TILE_CELLS * from, TILE_CELLS * sizeof *s->value);
        memmove(s->sharp + TILE_SHARP_BYTES * i, s->sharp + TILE_SHARP_BYTES * from, TILE_SHARP_BYTES);
    }
    s->n_tiles = n;
    free(all);
}
