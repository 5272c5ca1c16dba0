/* On which grids a network was trained, as its checkpoints tell, and whether data are of such a grid. */
#pragma once
#include "io/checkpoint_file.h"
#include "train/dataset.h"

/* Resolutions, and truncation distances in millionths of R/256 voxels, so that grids of one shape have one. */
typedef struct {
    int64_t least, most; /* 0: not known */
    int64_t tau_least, tau_most;
} grid_range;

enum { GRID_NUMBERS = 4 };
extern const char *const grid_number_names[GRID_NUMBERS]; /* in a checkpoint, in the order of the fields */

grid_range grid_range_of(const dataset *d);
grid_range grid_range_join(grid_range a, grid_range b);
grid_range grid_range_read(const ckpt_manifest *m);
/* Warns when d has another grid than those of g, whose checkpoint is at `path`: then a network computes all the same,
 * with positions or values that it has not seen. */
void       grid_range_warn(const grid_range *g, const char *path, const dataset *d);
