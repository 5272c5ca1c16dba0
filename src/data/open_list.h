/* A folder of shards, latents or tokens as a list: what their *_open_all have in common. */
#pragma once
#include "data/file_pool.h"

typedef struct {
    size_t      width; /* bytes of an item */
    const char *none;  /* of a folder without any: "holds no ..." */
    bool (*open)(void *item, const char *path, file_pool *pool, status *st); /* leaves a failed item closed */
    bool (*alike)(const void *item, const void *first, status *st);          /* may be of one list */
    void (*close)(void *item);                                               /* also an item that is all zero */
} list_kind;

/* The *.h5 files of a folder by name, or one file; malloc'ed, close_list. The files share a pool. Where there is none
 * the message names a folder nearby that has some. */
bool open_list(const char *folder_or_file, const list_kind *k, void **items, int *n, status *st);
void close_list(void *items, int n, const list_kind *k);
