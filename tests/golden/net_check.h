/* What the golden tests of networks share: weights out of a case group into a parameter table,
 * and comparison with the bounds that the file itself carries (five times the error of the published code in
 * float32). */
#pragma once
#include "harness/h5.h"
#include "harness/harness.h"
#include "nn/rig.h"

enum { NET_BOUND = 5, NET_MB = 1024 /* of each arena of a test */ };

/* Weights of /<group>/weights into p, which is allocated here for training. The names of file and table must be the
 * same set, with equal shapes. */
void net_load(rig *n, params *p, h5_file f, const char *group);

/* got against the data set `path`: relative L2 error and largest error within NET_BOUND times the attributes
 * fp32_rel_l2 and fp32_max_abs of that data set; with analytically_zero only the latter. Returns error / bound, the
 * larger of the two. */
double net_compare(h5_file f, const char *path, const float *got, int64_t n);
/* The same for a data set without such attributes: relative L2 within `bound`. */
double net_compare_rel(h5_file f, const char *path, const float *got, int64_t n, double bound);
/* All gradients of p against /<group>/grads. Returns the worst error / bound. */
double net_compare_grads(h5_file f, const char *group, const params *p);

/* A data set as tensor in the arena (f32, or i32). */
tensor net_f32(arena *a, h5_file f, const char *path);
/* coords (N,4): columns x, y, z as (N,3), and the first row of each sample as (B+1). B < 0: one more than the last
 * sample. */
void   net_coords(arena *a, h5_file f, const char *path, int n_samples, tensor *coord, tensor *first);

/* An integer attribute of a case; fatal when missing. */
int net_int(h5_file f, const char *group, const char *name);

/* Runs `fn` for each case group of golden file `name` on each back end, as CMocka tests "<case> on <back end>". */
typedef struct {
    h5_file     f;
    const char *group, *backend;
} net_case;
int net_run_cases(const char *name, void (*fn)(void **state));
