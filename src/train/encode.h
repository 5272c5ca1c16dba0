/* Shards to latents: the posterior of every tile under a trained auto-encoder (`d3s2 encode`). */
#pragma once
#include "dist/comm.h"
#include "io/options.h"

typedef struct {
    int64_t n_shards, n_skipped, n_samples, n_tiles, bytes; /* samples, tiles, bytes of files: of what was to do */
    double  seconds, run_seconds;                           /* all; without opening weights, data and GPU */
    double  network_seconds, sample_seconds, file_seconds;  /* rank 0: network; its waiting for samples, and to write */
    int     threads;
} encode_report;

/* Collective. Writes encode.output/<shard name> for every shard of encode.input; shards whose latents are complete and
 * of the same auto-encoder are skipped. Ranks share the shards by size. With o->command.dry_run it only says what there
 * is to do. */
bool encode_run(const options *o, const comm *c, encode_report *r, status *st);
