/* Where the neighbours of a row are: the arithmetic of src/sparse/grid.c for the GPU. Compiles as plain C++ too, so
 * that it is tested against grid_neighbors on the host.
 *
 * Two forms. conv_neighbor finds one neighbour row of one cell through the tables, on every kind of level. The halo_*
 * functions describe dense tiles of side S copied to shared memory with one cell around them:
 *
 *     slot of halo cell (X,Y,Z), 0 <= X,Y,Z < H = S+2, of the t-th tile:   (t*H + X)*H*H + Y*H + Z
 *     a slot is 64 bytes: 32 bf16 channels in four 16-byte chunks, chunk c at place c ^ halo_twist(X,Y)
 *
 * so that the neighbour of a cell in a direction is a constant number of slots away. Eight consecutive rows of a tile
 * are a cube of 2x2x2 cells; the parity of Z picks one half of 128 bytes (H is even) and the twist a different quarter
 * of it for each (X,Y) of the cube: an 8x8 matrix of any chunk at any offset touches all banks once. */
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define CONV_HD __host__ __device__ __forceinline__
#else
#define CONV_HD static inline
#endif

/* A level (sparse/grid.h). code: of each row of a masked level, tile*512 + cell; NULL when dense. */
typedef struct {
    int             side, shift, words; /* side^3 == 1 << shift; words of a tile's mask */
    int64_t         n_tiles, n_rows;
    const int32_t  *nb, *first;
    const uint64_t *mask; /* NULL: dense */
    const int64_t  *code;
    int             up; /* 3: neighbours are rows of the level above, 0: of this one */
} conv_grid;

CONV_HD int conv_bits(uint64_t x) {
#ifdef __CUDA_ARCH__
    return __popcll(x);
#else
    return __builtin_popcountll(x);
#endif
}

CONV_HD int64_t conv_row_code(const conv_grid *g, int64_t row) {
    return g->code ? g->code[row] : (row >> g->shift) << 9 | (row & ((1 << g->shift) - 1));
}

/* ---- one neighbour ----------------------------------------------------------------------------------------------- */

/* One axis of a cell's Morton code, `bits` its code bits: the cell part of the neighbour at d = -1, 0, 1, and *t
 * changed by the step to its tile. */
CONV_HD int conv_axis(int cell, int bits, int d, int weight, int *t) {
    int one = bits & -bits, at = cell & bits;
    if (d < 0) {
        if (at == 0) *t -= weight;
        return (at - one) & bits;
    }
    if (d > 0) {
        if (at == bits) *t += weight;
        return ((at | ~bits) + one) & bits;
    }
    return at;
}

/* Row of a cell, or -1. */
CONV_HD int32_t conv_cell_row(const conv_grid *g, int32_t tile, int cell) {
    if (tile < 0) return -1;
    if (!g->mask) return (int32_t)(((int64_t)tile << g->shift) + cell);
    const uint64_t *mask = g->mask + (int64_t)tile * g->words;
    uint64_t        word = mask[cell >> 6], bit = (uint64_t)1 << (cell & 63);
    if (!(word & bit)) return -1;
    int before = conv_bits(word & (bit - 1));
    for (int w = 0; w < cell >> 6; w++) before += conv_bits(mask[w]);
    return g->first[tile] + before;
}

/* The cell at offset k (ops/conv3.h) of a cell of some tile: which of the tile's neighbours it lies in, *t, and its
 * code there. */
CONV_HD int conv_cell_at(const conv_grid *g, int cell, int k, int *t) {
    int all = (1 << g->shift) - 1;
    *t = 13;
    return conv_axis(cell, 0444 & all, k % 3 - 1, 1, t) | conv_axis(cell, 0222 & all, k / 3 % 3 - 1, 3, t) |
           conv_axis(cell, 0111 & all, k / 9 - 1, 9, t);
}

/* Row of the neighbour at offset k of the row with this code, or of its parent; or -1. */
CONV_HD int32_t conv_neighbor(const conv_grid *g, int64_t code, int k) {
    int t, to = conv_cell_at(g, (int)(code & 511), k, &t);
    return conv_cell_row(g, g->nb[(code >> 9) * 27 + t], to) >> g->up;
}

/* ---- halo tiles -------------------------------------------------------------------------------------------------- */

/* Three bits of a coordinate to the places of an axis in the Morton code, and back. */
CONV_HD int conv_spread(int x) {
    return (x & 1) | (x & 2) << 2 | (x & 4) << 4;
}
CONV_HD int conv_gather(int c) {
    return (c & 1) | (c >> 2 & 2) | (c >> 4 & 4);
}
CONV_HD int halo_twist(int X, int Y) {
    return (X & 1) << 1 | (Y & 1);
}

/* Which cell slot h (0 .. H^3-1) of a tile holds: neighbour number *t of the tile, cell of it; returns the twist. */
template <int S> CONV_HD int halo_source(int h, int *t, int *cell) {
    constexpr int H = S + 2;
    int           X = h / (H * H), Y = h / H % H, Z = h % H;
    int           x = X - 1, y = Y - 1, z = Z - 1;
    *t = 13 + (x < 0 ? -1 : x >= S) + 3 * (y < 0 ? -1 : y >= S) + 9 * (z < 0 ? -1 : z >= S);
    *cell = conv_spread(x & (S - 1)) << 2 | conv_spread(y & (S - 1)) << 1 | conv_spread(z & (S - 1));
    return halo_twist(X, Y);
}

/* Byte offset of chunk 0 of a row's cell: rows are numbered through the tiles of a group. Chunk c at offset k is at
 * halo_chunk(this, halo_move(k), halo_turn(k), c). */
template <int S> CONV_HD int halo_entry(int row) {
    constexpr int H = S + 2, CELLS = S * S * S;
    int           c = row % CELLS, X = conv_gather(c >> 2) + 1, Y = conv_gather(c >> 1) + 1, Z = conv_gather(c) + 1;
    return ((row / CELLS * H + X) * H * H + Y * H + Z) * 64 | halo_twist(X, Y) << 4;
}
template <int S> CONV_HD int halo_move(int k) {
    constexpr int H = S + 2;
    return ((k % 3 - 1) * H * H + (k / 3 % 3 - 1) * H + (k / 9 - 1)) * 64;
}
CONV_HD int halo_turn(int k) {
    return halo_twist(k % 3 - 1, k / 3 % 3 - 1) << 4;
}
CONV_HD int halo_chunk(int entry, int move, int turn, int c) {
    return (entry + move) ^ turn ^ (c << 4);
}
