/* Trained networks for inference. `path` is a run folder (its newest good checkpoint) or a step-N folder; the network
 * is built from the configuration stored in the checkpoint, not from the caller's. */
#pragma once
#include "core/ctx.h"
#include "io/options.h"
#include "model/ssdit.h"
#include "model/ssvae.h"
#include "train/grid_range.h"

/* The configuration a checkpoint was trained with. */
bool load_options(const char *path, options *o, status *st);

/* The grids it was trained on. */
bool load_grid(const char *path, grid_range *g, status *st);

/* For passes in c: on the device of its back end, in the dtype of its activations. *weights is made here and holds the
 * slab (arena_free after ssvae_free / ssdit_free). ema: the averaged weights when the checkpoint has any. On failure
 * nothing is left to free. */
bool load_vae(const char *path, bool ema, ctx *c, ssvae *m, arena *weights, status *st);
bool load_dit(const char *path, bool ema, ctx *c, ssdit *m, arena *weights, status *st);
