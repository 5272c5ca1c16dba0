#include "app/bench_shell.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sparse/blocks.h"

/* Cells of a shell for each cell of its area: the sphere of R§15 at R = 1024 has 107,536 tiles and a radius of 60.8. */
static const double THICKNESS = 2.315;

static double radius_of(int64_t n) {
    return sqrt((double)n / (12.566370614359172 * THICKNESS));
}

int shell_edge(int64_t n) {
    return ((int)ceil(2 * (radius_of(n) + 2) + 1) + 7) / 8 * 8;
}

typedef struct {
    double  off; /* distance of its nearest voxel from the sphere, below 0: the sphere cuts it */
    int32_t at[3];
} shell_cell;

static double distance_off(int x, int y, int z, double radius) {
    double r = sqrt((double)(x * x + y * y + z * z)), half = 7.0 / 16 * (abs(x) + abs(y) + abs(z));
    return fabs(r - radius) - (r > 0 ? half / r : 0);
}

static int nearest_first(const void *pa, const void *pb) {
    const shell_cell *a = pa, *b = pb;
    if (a->off != b->off) return a->off < b->off ? -1 : 1;
    return memcmp(a->at, b->at, sizeof a->at);
}

double shell_cells(int64_t n, int edge, int block, int32_t *coord) {
    double      radius = radius_of(n);
    int         reach = (int)ceil(radius) + 2;
    int64_t     found = 0, room = 0;
    shell_cell *cell = NULL;
    for (int pass = 0; pass < 2; pass++) { /* count, then take */
        found = 0;
        for (int x = -reach; x <= reach; x++)
            for (int y = -reach; y <= reach; y++)
                for (int z = -reach; z <= reach; z++) {
                    double off = distance_off(x, y, z, radius);
                    if (off > 1) continue;
                    if (pass) cell[found] = (shell_cell){off, {x + edge / 2, y + edge / 2, z + edge / 2}};
                    found++;
                }
        if (pass) break;
        room = found;
        cell = malloc((size_t)room * sizeof *cell);
        CHECK(cell && room >= n, "no memory for a shell of %lld tokens", (long long)n);
    }
    qsort(cell, (size_t)found, sizeof *cell, nearest_first);
    int32_t *plain = malloc((size_t)n * 3 * sizeof *plain + 1), *order = malloc((size_t)n * sizeof *order + 1);
    int32_t  first[2] = {0, (int32_t)n};
    CHECK(plain && order, "no memory for a shell of %lld tokens", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++)
            CHECK(cell[i].at[k] >= 0 && cell[i].at[k] < edge, "%lld tokens do not fit a grid of %d", (long long)n,
                  edge);
        memcpy(plain + 3 * i, cell[i].at, sizeof cell[i].at);
    }
    blocks_sort(plain, first, 1, block, order);
    for (int64_t i = 0; i < n; i++) memcpy(coord + 3 * i, plain + 3 * (int64_t)order[i], 3 * sizeof *plain);
    free(plain);
    free(order);
    free(cell);
    return radius;
}

double level_pairs(const grid *g) {
    enum { PIECE = 4096 };
    double pairs = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : pairs)
    for (int64_t row = 0; row < g->n_rows; row += PIECE) {
        static _Thread_local int32_t nb[PIECE * 27];
        int64_t                      n = g->n_rows - row < PIECE ? g->n_rows - row : PIECE;
        grid_neighbors(g, row, n, nb);
        for (int64_t i = 0; i < 27 * n; i++) pairs += nb[i] >= 0;
    }
    return pairs;
}
