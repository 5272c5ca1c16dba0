/* Everything a run continues from, as a checkpoint: weights, moments, averaged weights, the clipping buffer and the
 * counters. With the same options a resumed run gives the bits of an unbroken one. Slabs may be on a GPU; a bf16 copy
 * of the weights is not part of it: params_refresh16 after loading. */
#pragma once
#include "io/checkpoint_file.h"
#include "nn/clip.h"
#include "train/grid_range.h"
#include "train/spike.h"
#include "train/optimizer.h"
#include "train/task.h"

typedef struct {
    int64_t    step;                  /* steps done, skipped ones included */
    int64_t    bad_in_row, bad_total; /* skipped steps: not finite, or spikes */
    int64_t    shift, rollbacks;      /* batches passed over: step n trains on batch n + shift of the plan; how often */
    int64_t    tokens;                /* trained on so far */
    uint64_t   vae, encoder;          /* fingerprints of the latents' VAE and the image encoder (0 without) */
    uint64_t   data, content;         /* of the sample list, the samples */
    grid_range grid;                  /* of the samples, of all that it has been trained on */
    bool       accept_data;           /* goes on with other data than the checkpoint's */
    clip_state clip;

    spike_window loss_window, norm_window;
} run_state;

/* Rows of the table as the checkpoint names them; malloc'ed. */
ckpt_param *state_params(const params *p);

/* What this rank writes of the state, where it is. */
enum { STATE_SLABS = 5 };
typedef struct {
    ckpt_slab   part; /* data: on dev */
    device_kind dev;
} state_slab;

/* How many there are. */
int  state_slabs(const comm *c, const task *t, const optimizer *x, const run_state *s, state_slab slab[STATE_SLABS]);
/* The rest of a checkpoint, for the rank that commits; ckpt_close frees it. */
void state_manifest(const task *t, const optimizer *x, const run_state *s, const options *o, ckpt_manifest *m);

/* Collective. Continues from the newest good checkpoint of the run folder; *found says whether there was one. A
 * checkpoint that does not fit the configuration is ST_CONFIG with the first difference. */
bool state_resume(const char *run, const comm *c, const task *t, optimizer *x, run_state *s, bool *found, status *st);
/* Weights (the averaged ones when there are any and `ema`) of another checkpoint into p->w. Not collective. */
bool state_load_weights(const char *path, bool ema, params *p, status *st);
