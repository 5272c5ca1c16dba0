#include "data/crop.h"

#include <stdlib.h>
#include <string.h>
#include "sparse/grid.h"

/* Squares of distances are small numbers, so the nearest are found by counting, in the order of their rows. row has
 * room for n; false: all of s. */
static bool nearest_rows(const sample *s, int64_t n, int64_t centre, int64_t *row) {
    if (s->n_tiles <= n) return false;
    int64_t *distance = malloc((size_t)s->n_tiles * sizeof *distance), most = 0, k = 0;
    CHECK(distance, "no memory for %lld tiles", (long long)s->n_tiles);
    for (int64_t i = 0; i < s->n_tiles; i++) {
        distance[i] = 0;
        for (int a = 0; a < 3; a++) {
            int64_t d = (int64_t)s->coord[3 * i + a] - s->coord[3 * centre + a];
            distance[i] += d * d;
        }
        if (distance[i] > most) most = distance[i];
    }
    int64_t *count = calloc((size_t)most + 1, sizeof *count), limit = 0;
    CHECK(count, "no memory for %lld distances", (long long)most);
    for (int64_t i = 0; i < s->n_tiles; i++) count[distance[i]]++;
    int64_t left = n; /* of those at the limit, the earlier rows */
    while (count[limit] < left) left -= count[limit++];
    for (int64_t i = 0; i < s->n_tiles && k < n; i++)
        if (distance[i] < limit || (distance[i] == limit && left-- > 0)) row[k++] = i;
    free(count);
    free(distance);
    return true;
}

static int64_t *rows(const sample *s, int64_t n, int64_t centre) {
    CHECK(n > 0 && centre >= 0 && centre < s->n_tiles, "%lld tiles around tile %lld of %lld", (long long)n,
          (long long)centre, (long long)s->n_tiles);
    int64_t *row = malloc((size_t)n * sizeof *row);
    CHECK(row, "no memory for %lld tiles", (long long)n);
    return row;
}

void sample_crop(sample *s, int64_t n, int64_t centre) {
    int64_t *row = rows(s, n, centre);
    if (nearest_rows(s, n, centre, row)) {
        for (int64_t i = 0; i < n; i++) { /* rows only move down */
            memmove(s->coord + 3 * i, s->coord + 3 * row[i], 3 * sizeof *s->coord);
            memmove(s->value + TILE_CELLS * i, s->value + TILE_CELLS * row[i], TILE_CELLS * sizeof *s->value);
            memmove(s->sharp + TILE_SHARP_BYTES * i, s->sharp + TILE_SHARP_BYTES * row[i], TILE_SHARP_BYTES);
        }
        s->n_tiles = n;
    }
    free(row);
}

void sample_assign_crop(sample *io, const sample *s, int64_t n, int64_t centre) {
    int64_t *row = rows(s, n, centre);
    if (nearest_rows(s, n, centre, row))
        sample_assign_rows(io, s, n, row);
    else
        sample_assign(io, s);
    free(row);
}
