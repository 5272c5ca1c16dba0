/* The training loop: plan, micro-batches, reduction, update, metrics, checkpoints, signals. */
#pragma once
#include "train/step.h"

/* For tests and benchmarks; every field may be NULL. */
typedef struct {
    void (*after_backward)(void *user, int64_t step, params *p);     /* may change the gradients */
    void (*on_step)(void *user, int64_t done, const step_result *r); /* on every rank */
    void              *user;
    struct op_profile *profile; /* of the ops of a run (ops/op_profile.h) */
    bool               unsaved; /* a run to be timed: it leaves no checkpoint */
} trainer_hooks;

/* Collective. Trains as the options say until train.steps; an existing run folder is continued. o->command.dry_run
 * prints the plan and stops. Returns st->code: ST_OK when all steps are done, ST_REQUEUE when a signal (SIGTERM,
 * SIGUSR1, SIGINT) or the end of the job's time ended it after a checkpoint, else what went wrong; the same on all
 * ranks. */
status_code trainer_run(const options *o, comm *c, const trainer_hooks *hooks, status *st);
