/* Whether all ranks hold the same weights. What the next step reads (the bf16 copies in bf16 training) is hashed on
 * each rank and the hashes are compared. */
#pragma once
#include "train/optimizer.h"

typedef struct {
    int64_t checks, mended; /* how often */
    double  seconds;        /* of the last check, on this rank */
} replica_check;

/* Collective. Ranks that differ are named (by majority) with a warning and get the weights again: those of the others,
 * or with a sharded optimiser of each slice's owner. False (ST_INTERNAL) when there is neither, and at the third time:
 * that is no accident. */
bool replicas_check(replica_check *k, ctx *c, const comm *ranks, const optimizer *x, int64_t step, status *st);

/* Which of n hashes most ranks have; -1: no majority. */
int replicas_majority(const uint64_t *hash, int n);
