/* The SS-VAE of a golden file on one back end: configuration, weights, batch and the order of its rows. Golden rows
 * come in the published order with coordinates; ours are found by coordinate. */
#pragma once
#include "golden/net_check.h"
#include "model/ssvae_parts.h"

/* Row of each (sample, x, y, z). */
typedef struct {
    uint64_t key;
    int64_t  row;
} row_at;

typedef struct {
    row_at *at;
    int64_t n;
} row_map;

typedef struct {
    h5_file     file;
    rig         r;
    ssvae       m;
    ssvae_batch b, sent; /* in host memory; on the back end's device */
    row_map     tile_row;
} vae_case;

/* Model and weights of group `vae` on a back end of rig_open, arenas of `mb` megabytes. */
void vae_case_open(vae_case *v, const char *backend, size_t mb);
void vae_case_close(vae_case *v);
/* The batch of n tokens coord4 (n,4), in our order. sdf (n_voxels) at voxel4 (n_voxels,4), or NULL. Clears the host
 * arena. */
void vae_case_batch(vae_case *v, const int32_t *coord4, int64_t n, const int32_t *voxel4, const float *sdf,
                    int64_t n_voxels);

/* Rows of a level; side as in g. free(map.at) */
row_map row_map_level(const vae_case *v, const grid *g);
int64_t row_map_find(const row_map *m, const int32_t coord4[4]); /* fatal when absent */

/* ours[row of coord4[i]] = golden[i], rows of `width`; the reverse is to_golden. Malloc'ed. */
float *to_ours(const row_map *m, const float *golden, const int32_t *coord4, int64_t n, int64_t width);
float *to_golden(const row_map *m, const float *ours, const int32_t *coord4, int64_t n, int64_t width);

/* The error of the published code in the rig's form is stored with most arrays: net_bound. `like` names the array whose
 * stored error counts. */
void expect_golden(const rig *r, h5_file f, const char *path, const char *like, const float *got, int64_t n);
