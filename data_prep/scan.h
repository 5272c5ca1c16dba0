/* Scan conversion of the solid parts: where the grid lines of one axis cross the surface. Counting crossings gives the
 * inside of every part by parity. Vertices are snapped to 2^-16 of a voxel and the coverage test is exact integer
 * arithmetic with one rule per edge, so a part with closed edges (surface.h) is crossed an even number of times by
 * every line: no leaking rays, no votes. */
#pragma once
#include "data_prep/surface.h"

typedef struct {
    float   at; /* voxel units along the line: grid point i is at i */
    int32_t part;
} scan_hit;

/* Line (j,k) of axis a runs along a through grid points j of axis (a+1)%3 and k of axis (a+2)%3; its hits are
 * first[j*R+k] .. first[j*R+k+1]-1, sorted by `at`. */
typedef struct {
    int       resolution;
    int64_t  *first; /* [R*R+1] */
    scan_hit *hit;
} scan_lines;

bool scan_axis(const surface *s, int resolution, int axis, scan_lines *out); /* false: out of memory */
void scan_free(scan_lines *l);

/* volume[p] = volume of part p in cubic voxels as seen by these lines. */
bool scan_volumes(const scan_lines *l, int32_t n_parts, double *volume);
