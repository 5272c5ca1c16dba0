/* What the three shard files share: the hidden handle and the layout's names. */
#pragma once
#include "data/shard.h"
#include "io/h5.h"

typedef struct shard_handle shard_handle;

/* The handles of one shard_open_all, as far as their files are open; goes with the last that holds it. */
typedef struct {
    shard_handle *open[SHARD_FILES];
    int           n_open, n_holders;
    int64_t       turn;
} shard_pool;

struct shard_handle {
    hid_t       file, coord, value, sharp, png, camera, view_hash; /* file < 0: not open, as the others */
    int64_t    *png_first;                                         /* [n_views+1] */
    shard_pool *pool;                                              /* NULL: a shard alone */
    int64_t     used;                                              /* the pool's turn of the last reading */
};

/* shard_files.c. A handle without a file; NULL pool: alone. */
shard_handle       *shard_handle_new(shard_pool *pool);
void                shard_handle_free(shard_handle *h);
shard_pool         *shard_pool_new(void); /* held once, by the caller */
void                shard_pool_release(shard_pool *p);
/* Opens the file, closing another of the pool when too many are open; nothing of it is read. */
bool                shard_file_open(const shard *s, status *st);
/* The handle with the file and the tables of tiles and views open; NULL when that fails, as for a file that is gone or
 * is another one by now. */
const shard_handle *shard_file(const shard *s, status *st);

/* XXH3 of coord, value and sharp bytes in this order. */
uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp);
