/* What collectives take by the alpha-beta model: a hop costs a latency, bytes a rate. Pure arithmetic, for simulated
 * clusters and predictions; docs/scaling.md has the formulas and what they were compared with.
 *
 *   ring    all-reduce on one ring:          2 (N-1) a + 2 (N-1)/N S/B
 *   levels  reduce-scatter inside each node, all-reduce by trees between nodes on the parts, all-gather inside
 *           (comm_levels.h); to owners of slices: up to COMM_CHAIN_NODES nodes a chain between them, which does not
 *           carry everything back, and at last each owner gets what it lacks from its node
 *   chain   to one rank, or from one:        hops a + S/B          what ZeRO-1 does here for each slice (ncclReduce,
 *                                                                  ncclBroadcast are pipelined rings)
 *
 * Between nodes a node's cards work side by side: B = min(inside, cards * between). */
#pragma once
#include "core/base.h"

typedef struct {
    double latency, rate; /* seconds a hop; bytes per second */
} comm_link;

typedef struct {
    comm_link inside, between; /* between: of one card */
    int       node_gpus, cards;
} comm_links;

enum { COMM_CHAIN_NODES = 32 /* where S/(cards B) is about the latency of the chain, for buckets of 80 MB */ };

/* Seconds; ranks fill nodes one after the other. One rank: 0. */
double comm_ring_seconds(const comm_links *l, int ranks, double bytes);
double comm_levels_seconds(const comm_links *l, int ranks, double bytes);
/* A sum of which each of `owners` ranks needs its slice. */
double comm_levels_slices_seconds(const comm_links *l, int ranks, double bytes, int owners);
/* `pieces` chains with different owners that are started together: their latencies overlap, each costs one more hop. */
double comm_chain_seconds(const comm_links *l, int ranks, double bytes, int pieces);

/* Collectives run one after the other, number k not before ready[k]; returns how long the last one ends after `end`, at
 * least 0: max over k of (ready + queue) - end. *busy (may be NULL): the sum of their seconds. */
double comm_exposed(const double *ready, const double *seconds, int n, double end, double *busy);
