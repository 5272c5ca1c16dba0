/* A small data set made from formulas: spheres and boxes of different size, written as shards, with views and (for the
 * transformer) latents. And options of tiny models that train on it. */
#pragma once
#include "io/options.h"

typedef struct {
    int      n_samples, per_shard, resolution;
    uint64_t vae; /* fingerprint in the latents */
    int      vae_of_last_shard_differs;
} fixture_spec;

/* folder/shards and folder/latents. */
void fixture_write(const char *folder, const fixture_spec *spec);
/* Tiny model of either kind over a folder of fixture_write; run: the run folder, "" for none yet. */
void fixture_options(options *o, const char *folder, const char *run, bool dit);
