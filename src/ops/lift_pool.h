/* The front of the SS-VAE's encoder in one op (R§3.1, R§3.2): a voxel's one number becomes C channels, which are normed
 * and pooled, and exist nowhere. With  u = v w^T + b  (V,C):
 *   y = pool(SiLU(GN(u))),   skip = pool(u)
 * v (V,1), w (C,1), b (C); GN as in ops/group_norm.h: gamma, beta (C), first (B+1) rows of v of each sample.
 * pool as in ops/pool.h: the members of parent p are rows pool_first[p] .. pool_first[p+1]-1 of v, all of one sample;
 * pool_sample (B+1): parents of each sample. y, skip (P,C). An empty sample, a parent without members: as there.
 *   moments (B,2) f64: mean and biased variance of v in each sample; written by fwd, read by bwd.
 * bwd: dy, dskip (P,C). dv (V,1) overwritten, if given; dw, db, dgamma, dbeta accumulated, all or none of them.
 * v, w, y, skip, dy, dskip, dv are all f32 or all bf16 (on a GPU), the others f32. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *v, *w, *b, *gamma, *beta, *first, *pool_first, *pool_sample;
    int           groups;
    double        eps;
    bool          add_one;
    tensor       *y, *skip, *moments;
    const tensor *dy, *dskip;
    tensor       *dv, *dw, *db, *dgamma, *dbeta;
} lift_pool_args;

void lift_pool_fwd(ctx *c, const lift_pool_args *a);
void lift_pool_bwd(ctx *c, const lift_pool_args *a);
