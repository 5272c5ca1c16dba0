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

/* total[cell] += the sum over all steps of 8 input channels and NZ neighbours in z, which begin at x + at[step] for
 * the unit's first cell. w [step][ci 8][tap][co 8]. An input, once loaded, serves NZ outputs. */
static inline __attribute__((always_inline)) void unit_sum(const int S, const int NZ, const float *x, const int32_t *at,
                                                           int n_steps, const float *w, v8f total[UNIT]) {
    const int line_inputs = S + NZ - 1, inputs = UNIT / S * line_inputs, chain = CONV3_CHAIN / (8 * NZ);
    for (int s = 0; s < n_steps;) {
        v8f acc[UNIT];
#pragma GCC unroll 8
        for (int j = 0; j < UNIT; j++) acc[j] = v8_set(0);
        for (int end = s + chain < n_steps ? s + chain : n_steps; s < end; s++) {
            const float *in = x + at[s];
            for (int i = 0; i < 8; i++, w += 8 * NZ) {
                v8f k[3];
#pragma GCC unroll 3
                for (int tap = 0; tap < NZ; tap++) k[tap] = v8_load(w + 8 * tap);
#pragma GCC unroll 16
                for (int p = 0; p < inputs; p++) {
                    int line = p / line_inputs, z = p % line_inputs;
                    v8f v = v8_set(in[8 * (LINE_AT(S, line) + z) + i]);
#pragma GCC unroll 3
                    for (int tap = 0; tap < NZ; tap++)
                        if (z >= tap && z - tap < S) acc[line * S + z - tap] += v * k[tap];
                }
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < UNIT; j++) total[j] += acc[j];
    }
}

/* sum[ci 4][tap][co 8] += x^T d over units that begin at x_at and d_at. x: four channels at the first neighbour in z.
 */
static inline __attribute__((always_inline)) void dw_units(const int S, const int NZ, const float *x,
                                                           const int32_t *x_at, const float *d, const int32_t *d_at,
                                                           int n, float *sum) {
    v8f acc[4][3];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 3
        for (int tap = 0; tap < NZ; tap++) acc[i][tap] = v8_set(0);
    for (int u = 0; u < n; u++) {
        const float *xu = x + x_at[u], *du = d + d_at[u];
        for (int line = 0; line < UNIT / S; line++) {
            v8f d0 = v8_set(0), d1 = d0, d2 = d0; /* d at z, z - 1, z - 2 */
#pragma GCC unroll 10
            for (int z = 0; z < S + NZ - 1; z++) {
                d2 = d1;
                d1 = d0;
                if (z < S) d0 = v8_load(du + 8 * (S * line + z));
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    v8f v = v8_set(xu[8 * (LINE_AT(S, line) + z) + i]);
                    if (z < S) acc[i][0] += v * d0;
                    if (z > 0 && z <= S) acc[i][1] += v * d1;
                    if (NZ > 2 && z > 1) acc[i][2] += v * d2;
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 3
        for (int tap = 0; tap < NZ; tap++, sum += 8) v8_store(sum, v8_load(sum) + acc[i][tap]);
}
