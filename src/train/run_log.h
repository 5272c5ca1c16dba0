/* Metrics of a run on rank 0: metrics.jsonl and TensorBoard events. A failed write is warned of once; training goes on.
 */
#pragma once
#include "train/goodput.h"
#include "train/heldout.h"
#include "train/step.h"
#include "train/straggler.h"

typedef struct run_log run_log;

/* Records of steps above `last_step` are cut off. NULL on ranks other than 0, where the calls do nothing. */
run_log *run_log_open(const char *run, const comm *c, int64_t last_step, status *st);
void     run_log_close(run_log *l);

/* Sums what happens between two lines. */
typedef struct {
    step_times times;
    double     checkpoint, t0;
    int64_t    tokens, own_tokens, steps, skipped;
} log_span;

/* What a line tells beside the step. */
typedef struct {
    goodput    *good; /* of rank 0; data that the slowest rank waited for goes from useful to stalled */
    stragglers *slow;
    const char *prometheus, *run;
} log_extra;

/* Collective: seconds are those of the slowest rank. */
void run_log_step(run_log *l, const comm *c, const stepper *w, const step_result *r, log_span *span,
                  const log_extra *x);
/* Records of steps above `last_step` are cut off again: the run goes on from there. */
void run_log_rewind(run_log *l, int64_t last_step);
void run_log_heldout(run_log *l, const stepper *w, int64_t step, const heldout_result *r);
