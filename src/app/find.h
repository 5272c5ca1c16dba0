/* What lies below a path: shards and selections of them, latents, condition tokens, checkpoints. */
#pragma once
#include "io/atomic_file.h"

typedef enum {
    FOUND_SHARD,
    FOUND_SELECTION, /* of a shard's samples */
    FOUND_LATENTS,
    FOUND_TOKENS,
    FOUND_CHECKPOINT,
    FOUND_PART,   /* something that was not finished (NAME.part) */
    FOUND_DAMAGED /* *.h5 that is no readable file of this program; `text` says why */
} found_kind;

typedef struct {
    found_kind kind;
    char       path[PATH_CAP], text[512];
} found;

/* Malloc'ed list in order of names; folders are searched to the bottom. A path that is missing is ST_NO_INPUT, one
 * below which there is nothing of this program ST_NO_INPUT too. */
bool find_below(const char *path, found **list, int *n, status *st);
