#pragma once
#include "data_prep/closure.h"

/* inside[512] of the tile around `center` from d2[512], the squared distances of its voxels (64x + 8y + z) to the
 * closed parts in voxels; careful: there are rims near. Returns the number of voxels whose winding number is no clear
 * integer. */
int sdf_closed_signs(const closure *c, const double center[3], double voxel, const double *d2, bool careful,
                     uint8_t *inside);
