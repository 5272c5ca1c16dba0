/* Floating-point operations of a training step that the mathematics asks for (docs/numerics.md, "Operations of a
 * step"): products of matrices, convolutions and attention, forward and backward; what is recomputed does not count. */
#pragma once
#include "model/ssdit.h"
#include "model/ssvae.h"

/* One sample: `tokens` (N,3) in block order, n_cond condition tokens. */
double dit_flops(const ssdit_config *c, const tensor *coord, int64_t n_cond);
/* A batch with voxels, decoded whole. */
double vae_flops(const ssvae_config *c, const ssvae_batch *b);
