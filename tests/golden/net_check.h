/* What the golden tests of networks share: weights out of a case group into a parameter table, and comparison with the
 * bounds that the file itself carries: five times the error of the published code in float32, or in bf16 twice its
 * error in bf16.
 *
 * In bf16 a stored error is one draw: of an array of a few elements, or of a sum whose terms cancel (the bias of the
 * key compression: softmax hardly sees it), the next draw may be several times as large, and our gradients between ops
 * are bf16 where the published run keeps some in float32. So a bf16 case runs on gpu/sim16.h first, and twice the error
 * that it has is allowed as well: what conventions call the reference with its intermediates rounded to the working
 * dtype. */
#pragma once
#include "harness/h5.h"
#include "harness/harness.h"
#include "nn/rig.h"

enum { NET_BOUND = 5, NET_BOUND_16 = 2, NET_MB = 1024 /* of each arena of a test */ };

/* Weights of /<group>/weights into p, which is allocated here for training. The names of file and table must be the
 * same set, with equal shapes. */
void net_load(rig *n, params *p, h5_file f, const char *group);

/* The bound that the attributes <prefix>_<name> give in the rig's form: NET_BOUND times fp32_<name>, NET_BOUND_16 times
 * bf16_<name>. */
double net_bound(const rig *n, h5_file f, const char *path, const char *name);
/* One error against the bound: fails the test, or, while a case is measured on sim16, is noted for what follows.
 * Returns error / bound. */
double net_judge(const rig *n, double error, double bound, const char *what);
/* While it is on, net_judge notes. Turning it on forgets what was noted. */
void   net_measure(bool on);

/* got (on any device) against the data set `path`: relative L2 error and largest error within net_bound of rel_l2 and
 * max_abs; with analytically_zero only the latter. Returns error / bound, the larger of the two. */
double net_compare(rig *n, h5_file f, const char *path, const tensor *got);
/* The same for a data set without such attributes: relative L2 within `bound`. */
double net_compare_rel(rig *n, h5_file f, const char *path, const tensor *got, double bound);
/* All gradients of p against /<group>/grads. Returns the worst error / bound. */
double net_compare_grads(rig *n, h5_file f, const char *group, const params *p);

/* A data set as tensor in the arena (f32, or i32). */
tensor net_f32(arena *a, h5_file f, const char *path);
/* coords (N,4): columns x, y, z as (N,3), and the first row of each sample as (B+1). B < 0: one more than the last
 * sample. */
void   net_coords(arena *a, h5_file f, const char *path, int n_samples, tensor *coord, tensor *first);

/* An integer attribute of a case; fatal when missing. */
int net_int(h5_file f, const char *group, const char *name);

/* Runs `fn` for each case group of golden file `name` on each back end, as CMocka tests "<case> on <back end>": ref and
 * cpu, or with the argument "gpu" both forms on a GPU. Returns the exit code. */
typedef struct {
    h5_file     f;
    const char *group, *backend;
} net_case;
int net_run_cases(int argc, char **argv, const char *name, void (*fn)(void **state));
