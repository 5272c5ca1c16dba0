/* Where the tokens of benchmarks lie: a shell around a sphere, as thick as the tiles that a surface's band touches
 * (R§2.5, 15: about 94 tokens in a block of 8^3), with exactly as many tokens as wanted. */
#pragma once
#include "sparse/grid.h"

/* Edge of the smallest grid for n tokens, a multiple of 8. */
int    shell_edge(int64_t n);
/* The n cells nearest to a sphere in the middle of a grid of `edge` cells; coord (n,3), in the order of R§4.2 with
 * blocks of `block`. Returns the sphere's radius in cells; its centre is edge/2 on every axis. */
double shell_cells(int64_t n, int edge, int block, int32_t *coord);

/* Neighbours of the 3^3 neighbourhood that exist, over all rows of a level. */
double level_pairs(const grid *g);
