/* d3s2 bench: times every op of a back end at one or more shapes, after checking it against the reference; d3s2 bench
 * step: times whole training steps on synthetic data. */
#pragma once
#include "dist/comm.h"

/* argv[0] is the verb. Returns an exit code; says itself what is wrong. Collective (ops are timed on rank 0). */
int bench_run(const comm *world, int argc, char **argv);
