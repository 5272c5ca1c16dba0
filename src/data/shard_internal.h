/* What the three shard files share: the hidden handle and the layout's names. */
#pragma once
#include "data/shard.h"
#include "io/h5.h"

typedef struct {
    hid_t    file, coord, value, sharp, png, camera, view_hash;
    int64_t *png_first; /* [n_views+1] */
} shard_handle;

/* XXH3 of coord, value and sharp bytes in this order. */
uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp);
