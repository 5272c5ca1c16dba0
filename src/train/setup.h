/* From options and samples to what the networks take. */
#pragma once
#include "io/options.h"
#include "model/ssdit.h"
#include "model/ssvae.h"
#include "train/task.h"

ssvae_config ssvae_config_of(const options *o);
ssdit_config ssdit_config_of(const options *o);

/* Scratch memory that one op of the network takes on a GPU, per tile, beyond a fixed amount: convolutions keep the
 * gradient in front of their activation at the finest level; selection sorts its (token, block) pairs by block and
 * keeps packed keys and parts of their gradients. */
size_t ssvae_scratch_per_tile(const ssvae_config *c, dtype act);
size_t ssdit_scratch_per_tile(const ssdit_config *c);

/* Rows of one sample in the order of block edge m: order[i] is the stored row that comes i-th. A coordinate outside
 * [0,limit) or one that is there twice is a status naming the sample. Memory from the arena. */
bool tile_order(arena *host, const uint16_t *coord, int64_t n, int m, int limit, const char *name, int32_t **order,
                status *st);
/* "FILE sample N (SOURCE)" for messages; static per thread. */
const char *sample_name(const dataset *d, int64_t i);

/* The key of everything random about one item: pure functions of (seed, purpose, step, sample). Held-out data keep one
 * step. */
rng_key item_key(const task *t, const dataset *d, rng_purpose purpose, batch_purpose why, const plan_item *item);
