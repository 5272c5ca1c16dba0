/* d3s2 bench cluster, balance, cost, links: what is computed instead of measured. All on one rank, return an exit code.
 */
#pragma once
#include "io/options.h"

/* A row for each number of cluster.ranks (app/cluster.h). */
int bench_cluster(const options *o);
/* How even the plan's shares are, for 1 to 8 samples a rank, with and without train.balance. */
int bench_balance(const options *o);
/* The cost model of rows of `d3s2 bench step --csv` (arguments: the files), as options. Says itself what is wrong. */
int bench_cost(const options *o);
/* Latency and rate of the alpha-beta model from measured all-reduces, arguments RANKS:MB:MS, as options. */
int bench_links(const options *o);
