/* What the files about shards share: the hidden handle and the layout's names. */
#pragma once
#include "data/shard.h"
#include "data/sample_file.h"

typedef struct {
    hid_t    file, coord, value, sharp, png, camera, view_hash;
    int64_t *png_first;         /* [n_views+1], of the file's views */
    int64_t *tile_at, *view_at; /* [n_samples] first tile and view in the file: where a selection has gaps */
} shard_handle;

extern const file_kind shard_kind;

/* XXH3 of coord, value and sharp bytes in this order. */
uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp);

/* shard_open behind `depth` selections; selection_open when `file`, which stays open, is one. */
bool shard_open_at(shard *s, const char *path, int depth, status *st);
bool selection_open(shard *s, const char *path, hid_t file, int depth, status *st);
