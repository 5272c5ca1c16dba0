/* Triangles of one marching-cubes cell, for every case and every decision on its ambiguous faces.
 *
 * Corner c of a cell sits at (c & 1, c >> 1 & 1, c >> 2 & 1); edge 4*a + i runs along axis a. A case has bit c set when
 * corner c is inside (below the level). A face is ambiguous when its two diagonals differ; whether its two outside
 * corners are joined across the face depends on the four values of that face alone (asymptotic decider: the sign at the
 * saddle of the bilinear interpolant), so both cells of a face decide alike and the surface has no cracks.
 *
 * The table is derived, not typed in: crossings are joined face by face into closed loops; a loop is triangulated
 * without a diagonal between two points of one face (the neighbour could draw the same one, and the edge would have
 * four triangles), or, where no such triangulation exists, as a fan around the loop's centre. */
#pragma once
#include "core/base.h"

enum { MC_EDGES = 12, MC_FACES = 6, MC_CENTER = 12 /* the centre point, as an index beside the 12 edges */ };

typedef struct {
    uint8_t n_triangles, n_center; /* n_center: points of the loop whose centre is a vertex, 0: no centre */
    uint8_t triangle[12][3];       /* counter-clockwise seen from outside */
    uint8_t center[MC_EDGES];      /* edges of that loop */
} mc_case;

extern const uint8_t mc_edge_corner[MC_EDGES][2]; /* lower corner first */
extern const uint8_t mc_face_corner[MC_FACES][4]; /* counter-clockwise seen from outside the cell */

/* Call before mc_lookup; cheap when already built. Not for concurrent first calls. */
void mc_table_build(void);

/* Bit f set: face f is ambiguous in this case. */
int            mc_ambiguous(int inside);
/* joined: bit f set when the outside corners of ambiguous face f are joined; other bits are ignored. */
const mc_case *mc_lookup(int inside, int joined);
