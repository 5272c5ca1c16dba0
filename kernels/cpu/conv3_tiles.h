/* Tiles of dense levels in raster order, for conv3_dense.c and conv3_up.c: a tile is copied once, with a border of one
 * cell, (z fastest) into planes of 8 channels, [C/8][(side+2)^3][8]; cells of absent tiles are zero. Every neighbour is
 * then a constant distance away and nothing is looked up. The work goes in units of 8 cells that follow each other in
 * raster order: one z-line of side 8, two of side 4, four of side 2. */
#pragma once
#include <string.h>

#include "kernels/cpu/conv3_parts.h"
#include "kernels/cpu/mm.h"
#include "kernels/cpu/vmath.h"

enum {
    UNIT = 8,                         /* cells */
    CHAIN_UNITS = CONV3_CHAIN / UNIT, /* of a sum of dw */
    DW_PARTS = 64,
    DW_PART_ROWS = 256,      /* below, clearing and adding the parts costs more than a few % */
    DW_PART_FLOATS = 8 << 20 /* all partial sums together */
};

/* One level as all threads see it. */
typedef struct {
    const grid *g;
    int         side, cells, plane; /* cells of a tile, floats of a plane of 8 channels with border */
    int         batch;              /* tiles a thread takes at a time: 64 cells or more */
    int32_t     unit_at[64];        /* place of a unit's corner (-1,-1,-1) in a plane with border, in floats */
    uint16_t    morton[512];        /* of the cells in raster order */
} level;

/* Of g's tiles with side^3 cells: g->side, or that of the level above. */
static inline level level_new(const grid *g, int side) {
    int   edge = side + 2, cells = side * side * side;
    level l = {.g = g,
               .side = side,
               .cells = cells,
               .plane = edge * edge * edge * 8,
               .batch = cells < CONV3_CHAIN ? CONV3_CHAIN / cells : 1};
    for (int i = 0; i < cells; i++) l.morton[i] = (uint16_t)morton_encode(i / side / side, i / side % side, i % side);
    for (int u = 0; u < cells / UNIT; u++) {
        int line = u * UNIT / side;
        l.unit_at[u] = (line / side * edge + line % side) * edge * 8;
    }
    return l;
}

/* n <= 8 channels of one cell; from NULL: an absent one. */
static inline __attribute__((always_inline)) void copy_cell(const float *from, int64_t n, float *to) {
    if (from && n == 8) {
        v8_store(to, v8_load(from));
        return;
    }
    v8_store(to, v8_set(0));
    if (from) memcpy(to, from, (size_t)n * sizeof *to);
}

/* Copies one tile of x, whose cells have C channels `row` floats apart, with a border of 0 or 1 cells into
 * [C/8][cells][8], zeros behind the last channel. */
static inline __attribute__((always_inline)) void gather_side(const int S, const int border, const level *l,
                                                              int64_t tile, const float *x, int64_t C, int64_t row,
                                                              float *to) {
    const int32_t *nb = I32(&l->g->nb) + tile * 27;
    for (int64_t i = 0; i < C; i += 8) {
        int64_t n = C - i < 8 ? C - i : 8;
        for (int line = 0; line < (S + 2 * border) * (S + 2 * border); line++) {
            int          lx = line / (S + 2 * border) - border, ly = line % (S + 2 * border) - border;
            int          column = (lx >= 0) + (lx >= S) + 3 * ((ly >= 0) + (ly >= S));
            int          first = l->morton[((lx & (S - 1)) * S + (ly & (S - 1))) * S];
            const float *from[3];
            for (int t = 0; t < 3; t++) {
                int64_t other = nb[column + 9 * t];
                from[t] = other < 0 ? NULL : x + (other * l->cells + first) * row + i;
            }
            if (border) copy_cell(from[0] ? from[0] + l->morton[S - 1] * row : NULL, n, to), to += 8;
#pragma GCC unroll 8
            for (int z = 0; z < S; z++, to += 8) copy_cell(from[1] ? from[1] + l->morton[z] * row : NULL, n, to);
            if (border) copy_cell(from[2], n, to), to += 8;
        }
    }
}

static inline void gather(const level *l, int border, int64_t tile, const float *x, int64_t C, int64_t row, float *to) {
#define GATHER(S)                                                                                                      \
    if (border)                                                                                                        \
        gather_side(S, 1, l, tile, x, C, row, to);                                                                     \
    else                                                                                                               \
        gather_side(S, 0, l, tile, x, C, row, to)
    if (l->side == 8) {
        GATHER(8);
    } else if (l->side == 4) {
        GATHER(4);
    } else {
        GATHER(2);
    }
#undef GATHER
}

/* The lines of a unit lie 8 * LINE_AT floats from its corner. */
#define LINE_AT(S, line) (((line) / (S) * ((S) + 2) + (line) % (S)) * ((S) + 2))

/* Columns [o, o + n) of a unit's cells into the rows row0 + step * cell of y and pre. */
static inline void put_unit(const conv3_sum *a, int64_t row0, const uint16_t *cell, int64_t step, int64_t o, int64_t n,
                            const v8f total[UNIT]) {
    float sum[UNIT * 8], out[UNIT * 8];
    for (int j = 0; j < UNIT; j++) v8_store(sum + 8 * j, total[j]);
    if (a->pre) {
        vsigmoid_array(sum, out, UNIT * 8);
        for (int j = 0; j < UNIT * 8; j++) out[j] *= sum[j];
    }
    const float *y = a->pre ? out : sum;
    for (int j = 0; j < UNIT; j++) {
        int64_t at = (row0 + step * cell[j]) * a->Cout + o;
        if (n == 8) {
            v8_store(a->y + at, v8_load(y + 8 * j));
            if (a->pre) v8_store(a->pre + at, total[j]);
        } else {
            memcpy(a->y + at, y + 8 * j, (size_t)n * sizeof *y);
            if (a->pre) memcpy(a->pre + at, sum + 8 * j, (size_t)n * sizeof *sum);
        }
    }
}
