/* All f32 with f64 sums, whatever the activations are.
 * Losses as SUMS; the caller divides by global counts (design: splitting a batch does not change the mathematics).
 *   sdf_loss (R§3.9): pred, target (M) f32; class from the target: in = |target| < 1, ext = the others, sharp = bit set
 * in sharp (M/8 bytes, element m: byte m/8, bit m%8; optional) and in. sums (3) f64 = sum of squared differences over
 * in, ext, sharp. counts (3) f64 = their numbers. bwd: dpred overwritten = 2 (pred - target) * (scale[in|ext] +
 * scale[sharp] if sharp). mse_rows: pred, target (N,C), first (B+1): sums (B) f64 of squared differences per sample.
 *     bwd: dpred overwritten = 2 (pred - target) * scale.
 *   flow_noise (R§6): x_t = (1-t) x0 + (s + (1-s) t) eps, v = (1-s) eps - x0; t (B) f32 per sample, x0, eps, x_t, v
 * (N,C), first (B+1). Forward only. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *pred, *target, *sharp;
    tensor       *sums, *counts;
    double        scale[3];
    tensor       *dpred;
} sdf_loss_args;

typedef struct {
    const tensor *pred, *target, *first;
    tensor       *sums;
    double        scale;
    tensor       *dpred;
} mse_rows_args;

typedef struct {
    const tensor *x0, *eps, *t, *first;
    double        sigma_min;
    tensor       *x_t, *v;
} flow_noise_args;

void sdf_loss_fwd(ctx *c, const sdf_loss_args *a);
void sdf_loss_bwd(ctx *c, const sdf_loss_args *a);
void mse_rows_fwd(ctx *c, const mse_rows_args *a);
void mse_rows_bwd(ctx *c, const mse_rows_args *a);
void flow_noise_fwd(ctx *c, const flow_noise_args *a);
