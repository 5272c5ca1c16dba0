/* Which sheets close a volume together: loose panels, sides that meet in T-junctions, walls drawn twice, pieces with
 * gaps. Independent of the grid, so that every resolution decides alike.
 *
 * First the faces are turned: those that share an edge with one other alike, each patch of them with its front to the
 * side from which more rays get away (Takayama 2014). Then sample points of every part are asked for the winding number
 * of the parts that are left: before and behind a wall it is near two different integers. Parts where that holds for
 * under 80 % of the area are dropped, in rounds of rising strictness, down to 0.1 from an integer. A lampshade or a
 * leaf drops out and stays a sheet; a box of six panels stays and has an inside. */
#pragma once
#include "data_prep/bvh.h"
#include "data_prep/winding.h"

typedef struct {
    uint8_t *closed;    /* [n_parts] 1: not solid by itself, but a wall of a volume */
    uint8_t *hidden;    /* [n_parts] 1: a sheet that lies on solid or closed parts (drawn twice, a decal): no shell */
    uint8_t *rim;       /* [n_faces] 1: of a sheet, with a side that no other face shares */
    double  *thickness; /* [n_parts] of closed parts: median way through to the wall behind, unit-cube units */
    double   area;      /* of the closed parts */
    winding  number;    /* of the closed parts; number.n = 0: there are none */
} closure;

/* `tree` is of s. False: out of memory. */
bool closure_build(const surface *s, const bvh *tree, closure *c);
void closure_free(closure *c);
