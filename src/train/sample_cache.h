/* Samples that were read once, kept while there is room: a small data set is read and decompressed a single time. What
 * is kept stays; when the room is full, further samples are read from their files each time. One thread at a time. */
#pragma once
#include "data/shard.h"

typedef struct sample_cache sample_cache;

/* For n samples, without their views; NULL with no room, which the other functions take. */
sample_cache *sample_cache_new(int64_t n, size_t most_bytes);
void          sample_cache_free(sample_cache *c);
/* Sample i, for reading; NULL when it is not here. */
const sample *sample_cache_find(const sample_cache *c, int64_t i);
/* Keeps a copy, if there is room. */
void          sample_cache_keep(sample_cache *c, int64_t i, const sample *s);
