/* VAE posterior (R§3.3), f32 whatever the activations are: moments (N,2C) = [mean, logvar], logvar clamped to [-30,20];
 *   z = mean + exp(logvar/2) eps, eps (N,C) (not given: z = mean);
 *   kl = sum over rows and channels of (mean^2 + exp(logvar) - 1 - logvar)/2, f64 scalar (1).
 * bwd: dmoments overwritten with dz's part plus kl_scale * d kl; the clamp passes no gradient outside its range.
 *   dz not given counts as 0. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *moments, *eps;
    double        kl_scale;
    tensor       *z, *kl;
    const tensor *dz;
    tensor       *dmoments;
} vae_sample_args;

void vae_sample_fwd(ctx *c, const vae_sample_args *a);
void vae_sample_bwd(ctx *c, const vae_sample_args *a);
