/* The update over the flat slabs: global norm, warm-up, AdamW and EMA; on a GPU everything is enqueued and nothing
 * waits. All ranks hold the reduced gradient and the whole weights. With train.sharded_optimizer (ZeRO-1) a rank keeps
 * moments and averaged weights of its slice of the slab only, updates that slice, and the slices of the weights go
 * round; the bits are those of the unsharded update. With train.optimizer=muon matrices and kernels take Muon's step
 * (ops/muon.h) with the same learning rate; m holds their momentum, and a slice has whole matrices. */
#pragma once
#include "core/ctx.h"
#include "dist/comm.h"
#include "io/options.h"
#include "nn/params.h"

typedef struct {
    int64_t      first, count;
    bool         decay;
    const param *matrix; /* updated by Muon; NULL: by AdamW */
} update_range;

typedef struct {
    params       *p;
    bool          muon;
    double        lr, beta1, beta2, momentum, eps, weight_decay, ema;
    int64_t       warmup, steps;
    double        lr_end; /* share of lr at step `steps`, along a cosine; 1: constant */
    update_range *range;  /* rows with equal decay flag, joined; a matrix of Muon's is one */
    int           n_ranges;
    int64_t       updates; /* done, skipped steps not counted: AdamW's t */
    bool          sharded;
    int64_t       own, n_own;      /* slice of the slab whose state is here */
    int64_t      *slice;           /* [ranks+1] borders of all slices when sharded */
    float        *m, *v, *average; /* [n_own]; average NULL without EMA */
    double       *norm_sum;        /* [1] */
} optimizer;

/* Bytes of the slabs: weights (p->act says whether in bf16, too), gradients and the rank's state. */
size_t optimizer_bytes(const params *p, const options *o, const comm *c);
/* Slabs of p and the state from `weights`, on its device; moments 0. p's weights are uninitialised until
 * params_randomize or a load; then optimizer_start sets the average. */
void   optimizer_init(optimizer *x, params *p, const options *o, const comm *c, arena *weights);
void   optimizer_start(optimizer *x);
void   optimizer_free(optimizer *x);

/* lr of a step: linear warm-up, then constant. */
double optimizer_lr(const optimizer *x, int64_t step);
/* The gradient slab. */
tensor optimizer_gradients(const optimizer *x);
/* Sum of squares of the gradient slab, (1) f64 on its device. */
tensor optimizer_norm(ctx *c, const optimizer *x);
/* One AdamW or Muon update, and the average, with the gradient times grad_scale. Collective when sharded. */
void   optimizer_update(ctx *c, optimizer *x, const comm *ranks, int64_t step, double grad_scale);
/* Borders first[n+1] of the slices of n ranks: even for AdamW (slab_slice); for Muon matrices stay whole, and a border
 * lies where the work of the updates before it is nearest to the ranks' share. A slice may be empty. */
void   optimizer_slices(const params *p, const options *o, int n, int64_t *first);
/* The slice of rank r of n: even, on cache lines. */
void   slab_slice(int64_t total, int r, int n, int64_t *first, int64_t *count);
