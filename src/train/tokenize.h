/* Views of shards to condition tokens by an image encoder with weights (`d3s2 tokens`). */
#pragma once
#include "dist/comm.h"
#include "io/options.h"

typedef struct {
    int64_t n_shards, n_skipped, n_samples, n_views, n_tokens; /* of all ranks; n_tokens: written by this one */
    double  seconds;
    int64_t n_mine;      /* views of this rank */
    double  run_seconds; /* since weights and tables were read; of it, this rank spent ... */
    double  network_seconds, view_seconds, file_seconds; /* in its network, waiting for views, for the file */
    int     threads;                                     /* that prepare this rank's views */
    int64_t network_tokens;                              /* of a view there: all patches, class, registers */
} tokenize_report;

/* Collective. Writes tokens.output/<shard name> for every shard of tokens.input; files that are complete and of the
 * same weights and options are kept. Ranks share the shards by their views; threads prepare views ahead of the network
 * and write tokens behind it. With o->command.dry_run it only says what
 * there is to do. */
bool tokenize_run(const options *o, const comm *c, tokenize_report *r, status *st);
