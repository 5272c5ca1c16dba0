/* What the three shard files share: the hidden handle and the layout's names. */
#pragma once
#include "data/file_pool.h"
#include "data/shard.h"

typedef struct {
    pooled_file f;
    int64_t     tables; /* which opening of the file the tables are of */
    hid_t       coord, value, sharp, png, camera, view_hash;
    int64_t    *png_first; /* [n_views+1] */
} shard_handle;

/* Without a file yet; NULL pool: alone. */
shard_handle *shard_handle_new(file_pool *pool);

/* XXH3 of coord, value and sharp bytes in this order. */
uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp);
