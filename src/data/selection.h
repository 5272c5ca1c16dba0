/* A selection: a small file that stands for some samples of a shard without holding a copy of them; shard_open opens it
 * like a shard. Attributes: format "d3s2-selection", version, shard (path of the shard, relative to the selection's
 * folder), n_samples, complete. /sample/row i64 [S]: places in the shard, rising. /sample/id u64 [S]: the ids that
 * must be there. */
#pragma once
#include "data/shard.h"

enum { SELECTION_VERSION = 1, SELECTION_DEPTH = 4 /* selections of selections; a circle ends here */ };

/* Writes samples row[0..n-1] of s; `shard_path` is how the selection names it. */
bool selection_write(const char *path, const char *shard_path, const shard *s, const int64_t *row, int64_t n,
                     status *st);
