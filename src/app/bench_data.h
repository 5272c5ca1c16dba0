/* A synthetic data set for benchmarks of training: spherical shells with exact numbers of tokens, written as a shard
 * with one view each, and as latents of no auto-encoder. */
#pragma once
#include "io/options.h"

/* Tokens of n shapes whose logarithms are normal with deviation `spread`, the quantiles (i+1/2)/n, at most 12 times the
 * median and at least 8; their sum is n * mean. Ascending. */
void bench_sizes(double spread, int64_t mean, int64_t n, int64_t *out);
/* Values of the tiles of such a shape, (n,512), from shell_cells. */
void bench_data_values(const int32_t *coord, int64_t n, int edge, double radius, float *value);
/* folder/shards and folder/latents, a sample of tokens[i] tiles each, on a grid of 8*edge voxels. channels: of a
 * latent. values: with the tiles' own, which take most of the time and training on latents does not read. */
bool bench_data_write(const char *folder, const int64_t *tokens, int64_t n, int edge, int channels, bool values,
                      status *st);
