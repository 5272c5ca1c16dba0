/* The 48 symmetries of the cube on a sample: free augmentation of the auto-encoder's data. Views do not turn with it.
 */
#pragma once
#include "data/shard.h"

enum { CUBE_SYMMETRIES = 48, UPRIGHT_SYMMETRIES = 8 };

/* Number of the i-th symmetry that keeps the second axis, which is up in most meshes: quarter turns and mirror images.
 */
int upright_symmetry(int i);

/* Turns the tiles of s in place: g = 8 * permutation + flips; new axis a shows old axis permutation[a], mirrored when
 * bit a of the flips is set. Voxel i of an axis goes to R-1-i (the grid is corner aligned). Tiles keep their rows, so
 * the order of R§4.2 has to be made anew. */
void sample_turn(sample *s, int resolution, int g);
