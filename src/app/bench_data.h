/* A synthetic data set for benchmarks of training: spherical shells with exact numbers of tokens, written as a shard
 * with one view each, and as latents of no auto-encoder. */
#pragma once
#include "io/options.h"

/* folder/shards and folder/latents, n samples of `tokens` tiles on a grid of 8*edge voxels. channels: of a latent. */
/* Values of the tiles of such a shape, (n,512), from shell_cells. */
void bench_data_values(const int32_t *coord, int64_t n, int edge, double radius, float *value);
bool bench_data_write(const char *folder, int64_t tokens, int64_t n, int edge, int channels, status *st);
