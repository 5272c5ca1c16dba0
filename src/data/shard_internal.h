/* What the files about shards share: the hidden handle and the layout's names. */
#pragma once
#include "data/file_pool.h"
#include "data/sample_file.h"
#include "data/shard.h"

typedef struct {
    pooled_file f;
    char        path[PATH_CAP]; /* of the file: for a selection that of the shard */
    int64_t     tables;         /* which opening of the file the tables are of */
    hid_t       coord, value, sharp, png, camera, view_hash;
    int64_t     n_tiles, n_views;  /* of the file */
    int64_t    *png_first;         /* [n_views+1] */
    int64_t    *tile_at, *view_at; /* [n_samples of the shard] first tile and view in the file: a selection has gaps */
} shard_handle;

extern const file_kind shard_kind;

/* Without a file yet; NULL pool: alone. */
shard_handle *shard_handle_new(file_pool *pool);

/* XXH3 of coord, value and sharp bytes in this order. */
uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp);

/* shard_open behind `depth` selections, the file in a pool or (NULL) alone; selection_open when `file` is a selection:
 * *s is what it selects, nothing on failure. */
bool shard_open_in(shard *s, const char *path, file_pool *pool, int depth, status *st);
bool selection_open(shard *s, const char *path, hid_t file, file_pool *pool, int depth, status *st);
