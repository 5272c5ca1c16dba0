/* Samples as `d3s2 encode` gives them to the network: read and prepared, by a thread ahead of it. */
#pragma once
#include "core/device.h"
#include "data/shard.h"
#include "model/ssvae.h"
#include "train/fair_lock.h"

typedef struct {
    sample      s;
    arena       host;  /* the batch and what is added to it; pinned for a GPU */
    ssvae_batch b;     /* of this sample alone, tables in host memory */
    int32_t    *order; /* row of the batch -> row of the sample */
} encode_item;

/* Memory for any sample of up to so many tiles; by the thread that has the GPU open: pinned memory belongs to it. */
void encode_item_init(encode_item *x, const ssvae_config *cfg, device_kind dev, int64_t tiles);
void encode_item_free(encode_item *x);
/* Sample i of s in place of what was in x; a bad one is a status that names file and sample. The shard is touched while
 * `files` is held only. */
bool encode_item_read(encode_item *x, const ssvae_config *cfg, const shard *s, int64_t i, fair_lock *files, status *st);
