/* Metrics of a run on rank 0: metrics.jsonl and TensorBoard events. A failed write is warned of once; training goes on.
 */
#pragma once
#include "train/heldout.h"
#include "train/step.h"

typedef struct run_log run_log;

/* Records of steps above `last_step` are cut off. NULL on ranks other than 0, where the calls do nothing. */
run_log *run_log_open(const char *run, const comm *c, int64_t last_step, status *st);
void     run_log_close(run_log *l);

/* Sums what happens between two lines. */
typedef struct {
    step_times times;
    double     checkpoint, t0;
    int64_t    tokens, steps, skipped;
} log_span;

/* Collective: seconds are those of the slowest rank. */
void run_log_step(run_log *l, const comm *c, const stepper *w, const step_result *r, log_span *span);
void run_log_heldout(run_log *l, const stepper *w, int64_t step, const heldout_result *r);
