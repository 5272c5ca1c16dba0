/* Samples for `d3s2 encode`, one ahead: a thread (with OpenMP's threads under it) reads and prepares a sample while the
 * network has the one before.
 *
 * The thread touches files only under the reader's lock; whoever else does takes it too, so that a build of HDF5
 * without thread safety works as well. */
#pragma once
#include "core/device.h"
#include "data/shard.h"
#include "model/ssvae.h"

typedef struct {
    sample      s;
    arena       host;  /* the batch and what is added to it; pinned for a GPU */
    ssvae_batch b;     /* of this sample alone, tables in host memory */
    int32_t    *order; /* row of the batch -> row of the sample */
} encode_item;

typedef struct encode_reader encode_reader;

/* `threads` share the work on a sample, of most_tiles tiles at most. */
encode_reader *encode_reader_new(const ssvae_config *cfg, device_kind dev, int threads, int64_t most_tiles);
void           encode_reader_free(encode_reader *r); /* waits for the thread */

/* Begins sample i of s; one at a time is on its way. */
void         encode_reader_start(encode_reader *r, const shard *s, int64_t i);
/* Waits for it; NULL with a status that names file and sample. The item stays until the second start after this. */
encode_item *encode_reader_take(encode_reader *r, status *st);

void encode_reader_lock(encode_reader *r);
void encode_reader_unlock(encode_reader *r);
