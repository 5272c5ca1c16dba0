/* Which rank does what, when the pieces are known beforehand. */
#pragma once
#include "train/dataset.h"

/* The largest piece first to the least loaded rank: owner[i] of pieces with size[i] >= 0, -1 for the others. The same
 * on every rank that calls it with the same numbers. */
void share_by_size(const int64_t *size, int64_t n, int ranks, int *owner);

/* How much there is to do of a shard, whose result belongs to `path`; -1: it is there. */
typedef int64_t (*shard_size)(const void *user, const shard *s, const char *path);
/* Collective; one rank looks. owner[k] of the shards of d, whose results are files of their names in `output`; -1: it
 * is there. */
void share_shards(const dataset *d, const char *output, const comm *c, shard_size size, const void *user, int *owner);
/* The last k with first[k] <= x, of first[0..n]: in which of n parts that follow each other x lies. */
int64_t part_of(const int64_t *first, int64_t n, int64_t x);
