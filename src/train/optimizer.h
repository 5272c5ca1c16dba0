/* The update over the flat slabs: global norm, warm-up, AdamW and EMA. All ranks hold the reduced gradient and the
 * whole weights. With train.sharded_optimizer (ZeRO-1) a rank keeps moments and averaged weights of its slice of the
 * slab only, updates that slice, and the slices of the weights go round; the bits are those of the unsharded update. */
#pragma once
#include "core/ctx.h"
#include "dist/comm.h"
#include "io/options.h"
#include "nn/params.h"

typedef struct {
    int64_t first, count;
    bool    decay;
} decay_range;

typedef struct {
    params      *p;
    double       lr, beta1, beta2, eps, weight_decay, ema;
    int64_t      warmup, steps;
    double       lr_end; /* share of lr at step `steps`, along a cosine; 1: constant */
    decay_range *range;  /* rows with equal decay flag, joined */
    int          n_ranges;
    int64_t      updates; /* done, skipped steps not counted: AdamW's t */
    bool         sharded;
    int64_t      own, n_own;      /* slice of the slab whose state is here */
    float       *m, *v, *average; /* [n_own]; average NULL without EMA */
} optimizer;

/* Bytes of the slabs: weights, gradients and the rank's state. */
size_t optimizer_bytes(const params *p, const options *o, const comm *c);
/* Slabs of p and the state from `weights`; moments 0. p's weights are uninitialised until params_randomize or a load;
 * then optimizer_start sets the average. */
void   optimizer_init(optimizer *x, params *p, const options *o, const comm *c, arena *weights);
void   optimizer_start(optimizer *x);
void   optimizer_free(optimizer *x);

/* lr of a step: linear warm-up, then constant. */
double optimizer_lr(const optimizer *x, int64_t step);
/* Square root of the sum of squares of the gradient slab. */
double optimizer_norm(ctx *c, const optimizer *x);
/* One AdamW + EMA update with the gradient times grad_scale. Collective when sharded. */
void   optimizer_update(ctx *c, optimizer *x, const comm *ranks, int64_t step, double grad_scale);
/* The slice of rank r of n: even, on cache lines. */
void   slab_slice(int64_t total, int r, int n, int64_t *first, int64_t *count);
