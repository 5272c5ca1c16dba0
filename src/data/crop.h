/* A part of a sample to train on: the tiles nearest to one of them. Many small parts of many samples teach more per
 * tile than few whole samples, whose tiles resemble each other; and every rank gets the same amount of work. */
#pragma once
#include "data/shard.h"

/* Keeps the n tiles whose coordinates are nearest to tile `centre` (ties: earlier rows), in their order; a sample with
 * no more than n stays whole. n_in and n_sharp are left as they are. */
void sample_crop(sample *s, int64_t n, int64_t centre);
/* The same part of s as a copy in a sample that was read before or is empty (sample_assign): what is left out is not
 * copied. */
void sample_assign_crop(sample *io, const sample *s, int64_t n, int64_t centre);
