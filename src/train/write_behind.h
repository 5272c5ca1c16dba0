/* Items written by a thread behind the one that makes them, in their order. */
#pragma once
#include "core/base.h"

typedef struct write_behind write_behind;

typedef struct {
    size_t item_bytes; /* of one, which is moved as bytes */
    int    room;       /* items that wait, at most */
    void  *user;
    bool (*write)(void *user, const void *item, status *st); /* in the thread, one at a time */
    void (*drop)(void *item);                                /* after it was written, or instead */
} write_behind_config;

write_behind *write_behind_new(const write_behind_config *cfg);
/* Takes the item over; waits while there is no room. False: an earlier one could not be written. */
bool          write_behind_put(write_behind *w, const void *item, status *st);
/* Waits until all are written. False as above. */
bool          write_behind_flush(write_behind *w, status *st);
/* Drops what is not written yet. */
void          write_behind_free(write_behind *w);
