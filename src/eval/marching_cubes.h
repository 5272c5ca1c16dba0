/* The surface of decoded tiles as a triangle mesh (R§7.6), tile by tile: no dense grid, memory grows with the tiles.
 *
 * Corners of a cell are voxels. A voxel of a tile that was not decoded is unknown, and a cell with an unknown corner is
 * left out, so that neither an inner shell nor a wall appears where the tiles end. One thing is known about such a
 * voxel: |value| >= 1, else its tile would be active. When the values are a distance field with a narrow band (a few
 * voxels), the surface may come within one cell of such a tile; tau_voxels > 0 lets the corner count as +1 or -1 when
 * |value - value'| <= distance/tau to its decoded neighbours leaves only one of the two signs.
 *
 * Vertices are shared, lie in the [-1,1] frame of corner aligned grids (x = 2 i/(R-1) - 1) and carry the normal of the
 * field's gradient. Faces are counter-clockwise seen from outside (values above the level). Every edge between two
 * cells has two faces; the surface is open only where cells are left out or at the border of the grid. */
#pragma once
#include "io/mesh.h"

typedef struct {
    int    resolution; /* R, a multiple of 8 */
    double level;      /* in (-1,1); R§7.6: 0.2 */
    double tau_voxels; /* 0: never complete a corner */
} mc_options;

/* coord [T,3] tiles without duplicates in [0,R/8), value [T,512] in Morton order; a NaN value is unknown. *out is
 * overwritten; no surface gives an empty mesh (arrays are not NULL). Same bits for any number of threads. */
void marching_cubes(const int32_t *coord, const float *value, int64_t n_tiles, const mc_options *opt, mesh *out);
