/* Everything a run continues from, as a checkpoint: weights, moments, averaged weights, the clipping buffer and the
 * counters. With the same options a resumed run gives the bits of an unbroken one. Slabs may be on a GPU; a bf16 copy
 * of the weights is not part of it: params_refresh16 after loading. */
#pragma once
#include "io/checkpoint_file.h"
#include "nn/clip.h"
#include "train/optimizer.h"
#include "train/task.h"

typedef struct {
    int64_t    step;                  /* steps done, skipped ones included */
    int64_t    bad_in_row, bad_total; /* steps with non-finite gradients */
    int64_t    tokens;                /* trained on so far */
    uint64_t   vae, encoder, data;    /* fingerprints of the latents' VAE (0 without) and of the sample list */
    clip_state clip;
} run_state;

/* Rows of the table as the checkpoint names them; malloc'ed. */
ckpt_param *state_params(const params *p);

/* Collective. Saves run/step-N; the ranks write their slices side by side. */
bool state_save(const char *run, const comm *c, const task *t, const optimizer *x, const run_state *s, const options *o,
                status *st);
/* Collective. Continues from the newest good checkpoint of the run folder; *found says whether there was one. A
 * checkpoint that does not fit the configuration is ST_CONFIG with the first difference. */
bool state_resume(const char *run, const comm *c, const task *t, optimizer *x, run_state *s, bool *found, status *st);
/* Weights (the averaged ones when there are any and `ema`) of another checkpoint into p->w. Not collective. */
bool state_load_weights(const char *path, bool ema, params *p, status *st);
