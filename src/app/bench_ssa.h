/* d3s2 bench ssa: the core of Spatial Sparse Attention (R§4: compression attention, scores and top-k, selection,
 * window, gate; not the projections), branch by branch, forward and backward, at several numbers of tokens on a GPU in
 * bf16. */
#pragma once

/* argv[0] is "ssa". Returns an exit code; says itself what is wrong. */
int bench_ssa(int argc, char **argv);
