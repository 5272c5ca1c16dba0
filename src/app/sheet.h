/* A contact sheet: one small picture of each of some shapes, from the views that are stored. */
#pragma once
#include "data/shard.h"

enum { SHEET_CELL = 128 };

/* At most `most` shapes, evenly over all shards, `columns` in a row; those without a view are left out. PNG on white.
 * ST_DATA when there is no view at all. */
bool sheet_write(const char *path, const shard *s, int n_shards, int columns, int64_t most, status *st);
