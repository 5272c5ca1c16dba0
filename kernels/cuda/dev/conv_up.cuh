/* conv3 of the level above (ops/conv3.h): which parents a child meets. Along each axis a child meets two of the three
 * parents around it, its own and the one on its side, and the three offsets of the kernel fall on these two: the lower
 * parent of child bit 0 has offset -1, the upper one 0 and 1; of child bit 1 the lower has -1 and 0, the upper 1. So of
 * 27 matrices a child has 8 left, sums of the old ones, and all children together 64:
 *
 *     matrix 8 * child + j,  child = 4x + 2y + z (Morton),  parent j = jx + 2jy + 4jz (lower 0, upper 1)
 *
 * Seen from a parent these are the 4^3 cells around its middle. */
#pragma once
#include "kernels/cuda/dev/conv_index.cuh"

enum { UP_CHILDREN = 8, UP_PARENTS = 8, UP_MATRICES = UP_CHILDREN * UP_PARENTS };

/* Number (0 to 26, as k in ops/conv3.h) of the offset from a child's own parent to parent j. */
CONV_HD int up_offset(int child, int j) {
    return (child >> 2 & 1) + (j & 1) + 3 * ((child >> 1 & 1) + (j >> 1 & 1)) + 9 * ((child & 1) + (j >> 2 & 1));
}
/* The parent on which offset k of a child falls. */
CONV_HD int up_parent(int child, int k) {
    return (k % 3 + 1 - (child >> 2 & 1)) >> 1 | (k / 3 % 3 + 1 - (child >> 1 & 1)) >> 1 << 1 |
           (k / 9 + 1 - (child & 1)) >> 1 << 2;
}
