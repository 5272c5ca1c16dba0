/* Guided Euler sampling of a ragged batch (R§6): standard normal latents at the given coordinates, moved along the
 * predicted velocity from sigma 1 to 0. The noise belongs to the sample (seed, id), so a sample comes out the same in
 * any batch. */
#pragma once
#include "model/flow.h"
#include "model/ssdit.h"

typedef enum { SCHEDULE_PUBLISHED, SCHEDULE_TRELLIS } schedule_kind; /* flow_sigmas, flow_sigmas_trellis */

typedef struct {
    schedule_kind schedule;
    int           steps;
    double   shift, guidance; /* guidance > 0: two passes, with the condition and with zeros in its place (R§5.4) */
    uint64_t seed;
    void (*on_step)(void *user, int done, int steps); /* may be NULL */
    void *user;
} sampler_config;

/* cond (Lc,cond_width) f32, sample_id and first_row (B+1; token rows of each sample) in host memory, b and cond on the
 * tape's device. Uses the tape without recording; resets step and book once per step. The state stays on the host:
 * latents (N,channels), which is the result. In a dry run (ctx.dry) only the memory of one step is counted. */
void sampler_run(tape *t, ssdit *m, const ssdit_batch *b, const tensor *cond, const uint64_t *sample_id,
                 const int32_t *first_row, const sampler_config *cfg, float *latents);
