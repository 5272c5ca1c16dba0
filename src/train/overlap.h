/* train.overlap: whether the sums of gradients run beside backward or behind it. Inside a node the sums are short (some
 * 5 ms for 2 GB), and their kernels, which wait for each other on the multiprocessors of all ranks, cost backward more
 * than that: docs/decisions/0008. */
#pragma once
#include "io/options.h"

/* gpus: ranks have GPUs; nodes: on so many hosts. */
bool    overlap_of(const options *o, bool gpus, int nodes);
/* Least size of a bucket (dist/buckets.h): without overlap there is one. */
int64_t overlap_bucket_bytes(const options *o, bool gpus, int nodes);
