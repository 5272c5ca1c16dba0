/* The hierarchy voxel -> tile -> block, as index tables of one ragged batch.
 *
 *     voxel (R grid)  --8^3-->  tile = latent token (R/8 grid)  --8^3-->  block = SSA selection block = unshifted
 * window
 *
 * Nothing hashes voxels: neighbours are found through the tile table (27 neighbour rows per tile), inside a tile they
 * are arithmetic. A `grid` is one level: tiles with side^3 cells each, side 1, 2, 4 or 8. Cells of a tile are in Morton
 * order (bit 2 = x, 1 = y, 0 = z at every level, R§3.6), so the 8 children of a cell follow each other and a coarser
 * level is cell >> 3. A level is dense (row = tile*side^3 + cell) or masked (rows of the cells whose bit is set).
 *
 * The tables live in host memory here (arena given by the caller); a GPU back end uploads them once per batch. */
#pragma once
#include "core/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int     side; /* cells per tile edge */
    int64_t n_tiles, n_rows;
    int     n_samples;
    tensor  nb;    /* (T,27) i32: tile row of the neighbour at (dx,dy,dz), k = (dx+1)+3(dy+1)+9(dz+1); -1 absent */
    tensor  first; /* (T+1) i32: first row of each tile */
    tensor mask; /* (T, words) u64: bit c%64 of word c/64 = cell c exists; data NULL: dense. words = max(1,side^3/64) */
    tensor sample_first; /* (B+1) i32: first row of each sample, at this level */
    const int32_t *near; /* (n_rows,27) neighbour rows in host memory, from grid_remember; NULL: found anew each time */
} grid;

/* Visits the tensors of a level that are there, in a fixed order. Two levels may hold views of one table (nb). */
void grid_tensors(grid *g, tensor_visit f, void *user);

/* Neighbour table of n tiles. coord (n,3) i32 rows grouped by sample, any order inside a sample, no duplicates (a
 * duplicate is fatal); sample_first (B+1) i32. Sorts once per sample. Result (n,27) i32 in `a`. */
tensor tiles_neighbors(arena *a, const tensor *coord, const tensor *sample_first);

/* The dense level of side `side` over tiles with neighbour table nb. */
grid grid_dense(arena *a, int side, const tensor *nb, const tensor *tile_sample_first);

/* The four encoder levels, side 8, 4, 2, 1, from the mask of active voxels (T,8) u64: a coarse cell exists when one of
 * its children does. level[0] is side 8. A tile without active voxel is fatal. Also pool_first[i] (rows of level i+1,
 * +1) i32: children of a coarse row are rows pool_first[i][p] .. of level i. */
void grid_pyramid(arena *a, const tensor *mask, const tensor *nb, const tensor *tile_sample_first, grid level[4],
                  tensor pool_first[3]);

/* For rows row0 .. row0+n-1 of g: out[n][27] neighbour rows or -1. Rows are found tile by tile. */
void grid_neighbors(const grid *g, int64_t row0, int64_t n, int32_t *out);

/* Keeps all neighbour rows of a masked level (108 bytes a row), for the many convolutions of a step on a CPU. */
void grid_remember(arena *a, grid *g);

/* Morton code of a cell in a tile of side 8 (or any power of two up to 8), and back. */
static inline int morton_encode(int x, int y, int z) {
    int c = 0;
    for (int b = 0; b < 3; b++) c |= ((x >> b & 1) << 2 | (y >> b & 1) << 1 | (z >> b & 1)) << (3 * b);
    return c;
}
static inline void morton_decode(int c, int *x, int *y, int *z) {
    *x = *y = *z = 0;
    for (int b = 0; b < 3; b++) {
        *x |= (c >> (3 * b + 2) & 1) << b;
        *y |= (c >> (3 * b + 1) & 1) << b;
        *z |= (c >> (3 * b) & 1) << b;
    }
}

#ifdef __cplusplus
}
#endif
