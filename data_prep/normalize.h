/* Normalisation of a mesh, R§2.2: centre of the axis-aligned bounding box to the origin, longest edge to 2*0.95, so
 * that v_norm = (v - center) * scale lies in [-0.95,0.95]^3. Voxels live in the unit cube [-0.5,0.5]^3, that is v_norm
 * / 2. */
#pragma once
#include "io/mesh.h"

#define NORMALIZE_HALF_EXTENT 0.95

/* center[3], scale of a mesh; ST_DATA when it is a single point or not finite. All vertices count. */
bool normalize_of(const mesh *m, const char *name, double center[3], double *scale, status *st);

/* v_norm in place, computed in double and rounded to float. */
void normalize_apply(mesh *m, const double center[3], double scale);
