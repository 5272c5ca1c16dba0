/* d3s2 bench step: whole training steps of a configured network on synthetic data. */
#pragma once
#include "dist/comm.h"

/* Collective. argv[0] is "step". Returns an exit code; says itself what is wrong. */
int bench_step(const comm *world, int argc, char **argv);
