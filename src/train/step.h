/* One optimiser step over all ranks: micro-batches, bucketed reduction, the decision whether the step counts, the
 * update. */
#pragma once
#include "dist/buckets.h"
#include "kernels/backend.h"
#include "train/bad_samples.h"
#include "train/engine.h"
#include "train/loader.h"
#include "train/saver.h"
#include "train/upload.h"

/* Seconds of this rank; data: waiting for batches; prepare: making them,
 * beside earlier steps; reduce: what backward
 * did not hide. On a GPU the others are seconds of the stream of ops, and update is that of the step before, as
 * nobody waits for this one's. */
typedef struct {
    double data, prepare, forward, backward, reduce, update;
} step_times;

typedef struct {
    double     mean[TASK_SUMS], count[TASK_SUMS], loss, grad_norm, clip_limit, lr;
    double     loss_z, norm_z;              /* over their recent values, in standard deviations */
    int64_t    tokens, samples, own_tokens; /* own: of this rank */
    double     balance;
    bool       skipped, spiked, stop; /* spiked: skipped as a spike; stop: some rank was asked to stop */
    step_times times;
} step_result;

/* Points in the stream of ops, numbered as they are set; on the CPU points in time. */
typedef struct {
    device_kind    dev;
    device_event **event;
    double        *at;
    int            n, most;
} step_clock;

typedef struct {
    comm       *c;
    place       where;
    task       *t;
    dataset    *d;
    engine      e;
    optimizer   x;
    buckets     b;
    run_state   s;
    loader     *l;
    saver      *save; /* NULL: nothing is saved */
    plan       *p;
    uploads     up;
    loss_values values;
    step_clock  clock, update_clock;
    bool        clip;
    bad_samples bad;
    double      max_bad;                                         /* share of the data set */
    int64_t     spike_window;                                    /* 0: nobody looks for spikes */
    double      spike_skip;                                      /* standard deviations; 0: spikes are not skipped */
    void (*after_backward)(void *user, int64_t step, params *p); /* tests; may be NULL */
    void *user;
} stepper;

/* Clocks, and room for `most_values` losses of one step of this rank. */
void stepper_ready(stepper *w, int64_t most_values);
void stepper_free(stepper *w); /* what stepper_ready made */

/* Collective: step s.step of the plan; s.step moves on. On a GPU the host waits once, for the losses and the norm; the
 * update is still under way when it returns. Copies to the host: one for each tensor of losses and one for the norm.
 * wants_stop: this rank got a signal. False: too many bad samples or a micro-batch that does not fit on some rank, the
 * same status on all; nothing was updated. */
bool step_run(stepper *w, bool wants_stop, step_result *r, status *st);
