/* What training on the CPU takes of the host's memory, and what that leaves for activations. All of it is this rank's.
 */
#pragma once
#include "train/step.h"

typedef struct {
    size_t left;       /* its share of what the host has left */
    size_t slabs;      /* weights, gradients and optimiser that are not taken yet */
    size_t scratch;    /* what ops touch of it */
    size_t batches;    /* all that the loader has at once */
    size_t checkpoint; /* the copy that is written behind */
    size_t cache;      /* data.cache_mb, or all data */
    size_t reserve;    /* libraries, tables, stacks */
    bool   planned;    /* false: a GPU's run */
} host_plan;

/* This rank's share of what the host has left. */
size_t    host_plan_left(const comm *c);
/* For micro-batches of so many tiles and bytes to prepare. slabs: weights, gradients and optimiser, if they are not
 * taken yet. */
host_plan host_plan_of(const stepper *w, const options *o, int64_t tiles, size_t batch_bytes, size_t slabs);
/* Bytes for activations; 1 where nothing is left, as a bound of 0 is none. */
size_t    host_plan_room(const host_plan *h);
/* The figures, for rank 0's output. */
void      host_plan_print(const host_plan *h, size_t activations);
/* Whether this rank's weights, gradients and optimiser fit; ST_MEMORY if not. */
bool      host_plan_slabs(const comm *c, size_t bytes, status *st);
