/* Files that are read from now and then, of which those are open that were read from last. A list of shards, latents or
 * tokens has one pool. */
#pragma once
#include "io/h5.h"

/* Of a pool, open at once; the one not read from for longest is closed for another. */
enum { POOL_FILES = 128 };

typedef struct file_pool file_pool;

typedef struct {
    hid_t      file;   /* negative: not open */
    int64_t    opened; /* how often: what was opened in the file goes with it, and has to be opened again */
    int64_t    used;   /* the pool's turn of the last reading */
    file_pool *pool;   /* NULL: alone, open until it is freed */
} pooled_file;

/* Held once, by the caller; goes with the last that holds it. */
file_pool *file_pool_new(void);
void       file_pool_release(file_pool *p);

/* Not open yet; holds the pool. */
void pooled_init(pooled_file *f, file_pool *pool);
void pooled_free(pooled_file *f);
/* Opens it if it is not open; before each reading. */
bool pooled_open(pooled_file *f, const char *path, status *st);
void pooled_close(pooled_file *f);
