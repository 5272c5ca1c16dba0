/* Items made ahead by threads, and taken in their order by the one that needs them. */
#pragma once
#include "core/base.h"

typedef struct read_ahead read_ahead;

typedef struct {
    int64_t n;             /* items in all */
    size_t  item_bytes;    /* of one, which is moved as bytes */
    int     threads, room; /* room: items that are ready or being made, at most */
    void   *user;
    bool (*make)(void *user, int64_t i, void *item, status *st); /* in several threads at once; false: left nothing */
    void (*drop)(void *item);                                    /* one that nobody will take */
} read_ahead_config;

read_ahead *read_ahead_new(const read_ahead_config *cfg);
/* Waits for the next item. False: it could not be made, and none behind it will be. */
bool        read_ahead_take(read_ahead *r, void *item, status *st);
void        read_ahead_free(read_ahead *r);
