/* Before the first step: how large micro-batches may be, what the largest costs, and the plan in words. On a GPU all
 * memory of the run is taken here. */
#pragma once
#include "train/host_plan.h"
#include "train/step.h"

typedef struct {
    int64_t     micro_tokens;
    int64_t     worst_tiles, worst_samples;
    engine_need need;
    size_t      slab_bytes, host_bytes;
    int64_t     most_values;       /* losses of one step of a rank */
    size_t      most_bytes;        /* on a GPU: host memory of any micro-batch */
    size_t      gpu_used, gpu_all; /* bytes of the card, afterwards */
    host_plan   host;              /* on the CPU */
    bool        untaken;           /* weights, gradients and optimiser have no memory */
} sizing;

/* Collective. Loads the largest samples, measures them dry, chooses micro_tokens when train.micro_tokens is 0 (from
 * train.memory_mb; else from half of the machine's memory, or from what is free on the GPU), and makes the arenas: on
 * the CPU not in a dry run, whose weights, gradients and optimiser may have no memory either (untaken). heldout: what
 * is evaluated on the way; n 0 without. When it does not fit *z has what was measured until then. */
bool        sizing_run(stepper *w, const options *o, const dataset *heldout, bool untaken, sizing *z, status *st);
/* Collective, on the CPU: whether `bytes` of weights, gradients and optimiser fit on all ranks, else ST_MEMORY. A dry
 * run that has not got them, or will compute nothing (its samples are large), goes on without them: untaken. */
bool        sizing_slabs(const stepper *w, const options *o, size_t bytes, bool *untaken, status *st);
/* Seconds of a step, from one measured forward and backward, of the largest micro-batch or, on a CPU where that is
 * large, of one of the smallest samples. Gradients are left dirty. */
bool        sizing_time(stepper *w, const options *o, const sizing *z, double *seconds, status *st);
void        sizing_print(const stepper *w, const options *o, const sizing *z, double step_seconds);
plan_config plan_config_of(const options *o, const dataset *d, int64_t micro_tokens);
