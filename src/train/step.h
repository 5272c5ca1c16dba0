/* One optimiser step over all ranks: micro-batches, bucketed reduction, the decision whether the step counts, the
 * update. */
#pragma once
#include "dist/buckets.h"
#include "kernels/backend.h"
#include "train/engine.h"
#include "train/loader.h"
#include "train/state.h"

typedef struct {
    double data, forward, backward, reduce, update; /* seconds of this rank; reduce: what backward did not hide */
} step_times;

typedef struct {
    double     mean[TASK_SUMS], count[TASK_SUMS], loss, grad_norm, clip_limit, lr;
    int64_t    tokens, samples;
    double     balance;
    bool       skipped, stop; /* stop: some rank was asked to stop */
    step_times times;
} step_result;

typedef struct {
    comm     *c;
    task     *t;
    dataset  *d;
    engine    e;
    optimizer x;
    buckets   b;
    run_state s;
    loader   *l;
    plan     *p;
    bool      clip;
    void (*after_backward)(void *user, int64_t step, params *p); /* tests; may be NULL */
    void *user;
} stepper;

/* Collective: step s.step of the plan; s.step moves on. wants_stop: this rank got a signal. False: a bad sample or a
 * micro-batch that does not fit on some rank, the same status on all; nothing was updated. */
bool step_run(stepper *w, bool wants_stop, step_result *r, status *st);
