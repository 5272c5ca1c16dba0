/* Which rank does what, when the pieces are known beforehand. */
#pragma once
#include <stdint.h>

/* The largest piece first to the least loaded rank: owner[i] of pieces with size[i] >= 0, -1 for the others. The same
 * on every rank that calls it with the same numbers. */
void share_by_size(const int64_t *size, int64_t n, int ranks, int *owner);
