/* A run on a cluster that is only computed: virtual ranks, a virtual clock, the real plan, buckets, slices, checkpoint
 * interval and retention; times from the cost model, the alpha-beta model and the options of section cluster.
 *
 * A step: every rank computes its share (times 1 + jitter); the slowest one's last micro-batch says when layers are
 * complete (backward's time is spread evenly over the layers), buckets are summed one after the other as they become
 * complete, what is left of that after backward is exposed; then the update, and the new weights go round. */
#pragma once
#include "io/options.h"

typedef struct {
    int    ranks, n_buckets;
    double step_s, compute_s; /* mean of the steps; mean over steps and ranks of what a share costs */
    double balance;           /* mean / slowest rank */
    double exposed_s, busy_s; /* of the reduction: after backward, in all */
    double share_s;           /* new weights to all ranks */
    double efficiency;        /* tokens/s of a GPU over those of one that computes alone */
    double tokens_s;          /* of all ranks */
    double bytes;             /* that a rank passes on in a step */
    double checkpoint_bytes;
    double seconds; /* that the computation took */
} cluster_steps;

/* step_s: [cluster.steps] seconds of each, or NULL. */
cluster_steps cluster_simulate(const options *o, int ranks, double *step_s);

/* Balance alone, of at most so many steps and one epoch of n samples of size[i] tokens: mean over the ranks / slowest,
 * weighted by time, by the costs and the seed of the options. alike_steps: plan_config. */
double      cluster_balance(const options *o, const int64_t *size, int64_t n, int64_t steps, int ranks, int64_t samples,
                            int64_t alike_steps);
/* The largest of three lost shares by name; "computing" when none is above 2 %. */
const char *cluster_binds(double imbalance, double communication, double faults);

/* A long run with faults. productive + stalled + lost + starting = wall. */
typedef struct {
    double  wall, productive, stalled, lost, starting; /* seconds */
    int64_t steps, n_faults, n_checkpoints, most_kept; /* most_kept: checkpoints on the disk at a time */
    bool    given_up;
} cluster_run;

typedef struct {
    int64_t  every, keep_last, keep_every, retries; /* train.checkpoint_every ..., cluster.retries */
    double   stall_s, restart_s, mttf_s, horizon_s; /* mttf_s: of the whole job; 0: no faults */
    uint64_t seed;
} cluster_faults;

/* Step i takes step_s[i % n]. Ends with the step that passes the horizon, or when given up. */
cluster_run    cluster_live(const cluster_faults *f, const double *step_s, int64_t n);
cluster_faults cluster_faults_of(const options *o, int ranks);
/* Steps between checkpoints by Young and Daly: sqrt(2 stall mttf), at least 1. */
int64_t        cluster_interval(const cluster_faults *f, double step_s);
/* Tokens of the virtual data set: logarithms normal with deviation `spread`, cut at 12 medians; malloc'ed [n]. */
int64_t       *cluster_sizes(double spread, double mean, int64_t n, uint64_t seed);
