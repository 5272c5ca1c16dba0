/* One background thread (with OpenMP's threads under it) that reads and prepares this rank's micro-batches ahead of the
 * step, in the order of the plan.
 *
 * All HDF5 calls of training data happen there, one at a time, under a lock; whoever else touches files (checkpoints,
 * held-out data) takes the same lock, so a build of HDF5 without thread safety works as well. A bad sample (ST_DATA)
 * is left out of its batch and told there; any other failure is a status.
 */
#pragma once
#include "train/task.h"
#include "train/watchdog.h"

typedef struct loader loader;

typedef struct {
    const task    *t;
    const dataset *d;
    plan_config    plan;
    watchdog      *dog; /* told what the thread does; NULL: nobody */
    int            rank, world;
    int64_t        first_step, end_step; /* [first, end) */
    int            read_ahead;           /* micro-batches prepared beyond the one in use, at least 1 */
    int            threads;              /* that share the work on one */
    device_kind    dev;                  /* where batches go */
    size_t         host_bytes;           /* for a GPU: what each takes at most; pinned memory is taken once, for all */
} loader_config;

loader *loader_new(const loader_config *cfg);
void    loader_free(loader *l); /* stops the thread */

/* The next micro-batch of this rank, waiting for it. False: *st says what is wrong. */
bool         loader_next(loader *l, micro_batch **b, status *st);
/* Stops the thread and forgets what it prepared; no batch may be in use. Then it goes on, from another step. */
void         loader_halt(loader *l);
void         loader_go_on(loader *l, int64_t first_step, int64_t end_step);
/* What loader_next will give, if it is there already; else NULL. */
micro_batch *loader_peek(loader *l);
/* Gives its memory back; it is used again when b->uploaded is reached. */
void         loader_done(loader *l, micro_batch *b);
/* Sums of the counts of the next n micro-batches (those of one step); waits until all are there. */
bool         loader_counts(loader *l, int n, double count[TASK_SUMS], status *st);

/* Held while files are touched by another thread. */
void loader_lock(loader *l);
void loader_unlock(loader *l);
