/* Plates: where a solid part is thin, face by face, so that a thin board of a fat solid can be kept on a grid that
 * would miss it. */
#pragma once
#include "data_prep/bvh.h"

/* way[n_faces]: of a face of a solid part, the way through the solid to a wall of the same part that faces the other
 * way (within 25 degrees); +inf for other faces and from `limit` on. */
void plates_measure(const surface *s, const bvh *tree, double limit, float *way);
