/* Checkpoints beside training. At the end of a step the ranks copy what they hold of the state to host memory that was
 * taken before the first step: that is all training waits for. A thread of each rank then hashes and writes the rank's
 * part, and when all parts are on disk one of rank 0 commits. Whether all are there the ranks tell each other in the
 * sum that every step has anyway (saver_tell, saver_hear); the threads call no MPI.
 *
 *      step N      saver_start: copy         |  write part ...............  (each rank)
 *      N+1, N+2    saver_tell/hear           |  done
 *      ...         all have told: rank 0     |      commit ....  prune
 *      ...         rank 0 has told: step-N is a checkpoint
 *
 * There is one save at a time; another one waits for it. When anything fails on any rank, step-N.part is removed, a
 * warning names the path and the cause, and training goes on. */
#pragma once
#include "train/loader.h"
#include "train/state.h"

typedef struct saver saver;

typedef struct {
    const comm    *c;
    const char    *run; /* the run's folder */
    loader        *l;   /* its lock is held where HDF5 is called */
    const options *o;
} saver_config;

/* Bytes of the state that this rank writes. */
size_t saver_bytes(const comm *c, const task *t, const optimizer *x, const run_state *s);
/* Bytes of host memory that the saver takes for it: none where nothing is saved on the way or train.checkpoint_async is
 * off, as the state is written from where it is then; on a GPU always. */
size_t saver_room(const comm *c, const task *t, const optimizer *x, const run_state *s, const options *o);

saver *saver_new(const saver_config *cfg, const task *t, const optimizer *x, const run_state *s);
/* No save may be under way. */
void   saver_free(saver *v);

/* Collective. Begins to save the state as step s->step, after the end of a save that is under way; without
 * train.checkpoint_async it is all done on return. False: nothing was begun, or it failed. */
bool    saver_start(saver *v, const task *t, const optimizer *x, const run_state *s, status *st);
/* Collective. Waits for a save under way; false with its failure, which is a warning when st is NULL. */
bool    saver_wait(saver *v, status *st);
/* Step of the newest whole checkpoint that this saver made, -1: none. */
int64_t saver_saved(const saver *v);

/* What this rank adds to two elements of a sum over the ranks, and what all do about the sum. v may be NULL. */
enum { SAVER_SUMS = 2 };
void saver_tell(saver *v, double sum[SAVER_SUMS]);
void saver_hear(saver *v, const double sum[SAVER_SUMS]);
