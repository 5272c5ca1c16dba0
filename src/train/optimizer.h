/* The update over the flat slabs: global norm, warm-up, AdamW and EMA; on a GPU everything is enqueued and nothing
 * waits. With train.sharded_optimizer (ZeRO-1) a rank holds the reduced gradient, moments and averaged weights of its
 * slice of the slab only, updates that slice, and what the next step reads of it goes to all ranks: the weights; in
 * bf16 training their bf16 copies and the rows that are read in f32, so that the f32 weights of matrices are up to date
 * in their own slice only. The bits are those of the unsharded update. With train.optimizer=muon matrices and kernels
 * take Muon's step (ops/muon.h) with the same learning rate; m holds their momentum, and a slice has whole matrices. */
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
    int64_t       own, n_own; /* slice of the slab whose state is here */
    int64_t      *slice;      /* [size+1] slices, sharded or not; whose: comm_owner */
    int           n_slices;
    comm_piece   *share; /* what goes round after an update; sharded */
    int           n_share;
    float        *m, *v, *average; /* [n_own]; average NULL without EMA */
    double       *norm_sum;        /* [n_slices] */
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
/* Sums of squares of the slices of the gradient slab, (size) f64 on its device: added up in their order they are the
 * same bits sharded or not. Collective when sharded. */
tensor optimizer_norm(ctx *c, const optimizer *x, const comm *ranks);
/* One AdamW or Muon update, and the average, with the gradient times grad_scale. Collective when sharded. */
void   optimizer_update(ctx *c, optimizer *x, const comm *ranks, int64_t step, double grad_scale);
/* Borders first[n+1] of the slices of n ranks: for AdamW slab_slice; for Muon matrices stay whole, and a border
 * lies where the work of the updates before it is nearest to the ranks' share. A slice may be empty. */
void   optimizer_slices(const params *p, const options *o, int n, int64_t *first);
/* Slice r of n, on cache lines: all equally long, but that the last has the rest, too. */
void   slab_slice(int64_t total, int r, int n, int64_t *first, int64_t *count);
