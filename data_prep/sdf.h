/* Signed truncated distance of any triangle mesh on the tiles (8^3 voxels) near its surface (R§2.3, R§3.6, R§4.2).
 *
 * Grid: point i sits at i/(R-1) - 0.5 in unit-cube units, tau = tau_voxels/R. Let a mesh be parts p (surface.h), u_p
 * the unsigned distance to part p, sigma_p = -1 inside a solid part, else +1. Then
 *
 *     s = min_p ( sigma_p u_p - h_p ),     h_p = half_thickness for a sheet, max(0, min_half_thickness - t_p/2) for a
 *                                          solid of mean thickness t_p = 2 volume / area
 *
 * and where a wall of a solid is still thinner than that, s <= u - min_half_thickness to this wall (plates.h). It
 * is exact outside the union and zero exactly on its hull: overlapping and inner parts vanish inside, sheets and
 * plates thinner than the grid can hold become thin shells. A flood from the border of the grid through s > 0 then
 * tells what can be seen from outside; sealed pockets are filled (negative), their inner walls are pushed below zero.
 * So the zero level is closed and separates inside (negative) from the outside (positive), whatever the mesh. */
#pragma once
#include "data_prep/closure.h"

typedef struct {
    int    resolution;         /* R: 16..4096, multiple of 8 */
    double tau_voxels;         /* > 0, <= 16 */
    double half_thickness;     /* of sheets, voxels: 1 */
    double min_half_thickness; /* of solids, voxels: 0.6, so that a plate always holds a grid point */
    double cap_share;          /* surface.h: 0.05 */
    double sharp_degrees;      /* 30 */
    double sharp_voxels;       /* 2 */
    bool   unsigned_only;      /* s = distance to the mesh as it is: no parts, no thickness, no flood */
} sdf_options;

sdf_options sdf_default_options(int resolution, double tau_voxels);

enum tile_mark { TILE_CLOSED = 1, TILE_DOUBT = 2 }; /* has walls of the closure; has voxels in doubt */

/* The field before quantisation. Tile t covers voxels 8*coord .. 8*coord+7; value of voxel (x,y,z) of it at
 * 64x + 8y + z, in unit-cube units, exact for |s| < band and +-band beyond. */
typedef struct {
    int      resolution;
    double   tau, band; /* unit-cube units */
    int64_t  n_tiles;
    int32_t *coord;   /* [n_tiles,3] lexicographic */
    float   *s;       /* [n_tiles,512] */
    uint8_t *mark;    /* [n_tiles] tile_mark bits */
    int32_t *tile_at; /* [(R/8)^3]: tile index; -1 far outside, -2 far inside */
    /* figures */
    int64_t  n_pocket, n_near; /* voxels sealed off though no part contains them; voxels with |s| < tau */
    int64_t  n_doubt;          /* voxels near closed parts whose winding number is no clear integer */
    int64_t  n_thick_parts;    /* solids that were thickened */
    int64_t  n_thin_faces;     /* and faces that got a shell, since the grid would miss what is behind them */
    bool     leaks;            /* the closed parts have a gap that this grid cannot close: they were taken as sheets */
} sdf_field;

/* What a shard stores (src/data/shard.h): tiles in final order. */
typedef struct {
    int64_t   n_tiles;
    uint16_t *coord; /* [n_tiles,3] */
    uint16_t *value; /* [n_tiles,512] half, Morton order of R§3.6; |value| = 1 only where |s| >= tau */
    uint8_t  *sharp; /* [n_tiles,64] */
} sdf_tiles;

/* What all resolutions of a mesh share. */
typedef struct {
    surface s;
    bvh     tree;
    closure c;     /* empty with unsigned_only, */
    float  *plate; /* NULL then; else [n_faces] of plates.h */
} sdf_shape;

/* `m` is normalised (v_norm), o of the coarsest grid. ST_DATA: no triangle is left, or out of memory. */
bool sdf_shape_build(const mesh *m, const sdf_options *o, const char *name, sdf_shape *shape, status *st);
void sdf_shape_free(sdf_shape *shape);

/* ST_DATA: out of memory, named. */
bool sdf_field_build(const sdf_shape *shape, const sdf_options *o, const char *name, sdf_field *f, status *st);
void sdf_field_free(sdf_field *f);

/* Active tiles (some |s| < tau) of the field, quantised, ordered, with sharp bits. */
bool sdf_tiles_build(const sdf_field *f, const surface *s, const sdf_options *o, const char *name, sdf_tiles *t,
                     status *st);
void sdf_tiles_free(sdf_tiles *t);

/* Fills sealed pockets of the field (sdf_flood.c); *leaks: what is inside by its closed parts is reached from outside,
 * and nothing was filled. */
bool sdf_flood(sdf_field *f, bool *leaks);

/* 9-bit Morton code of R§3.6: x of each bit triple highest. */
int      sdf_morton(int x, int y, int z);
/* Order key of R§4.2 of a tile: block lexicographic, then place in the block. */
uint64_t sdf_order_key(int x, int y, int z, int block);
