#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/optim.h"

enum { SLICE_ALIGN = 16 };

void slab_slice(int64_t total, int r, int n, int64_t *first, int64_t *count) {
    int64_t lines = (total + SLICE_ALIGN - 1) / SLICE_ALIGN, end = lines * (r + 1) / n * SLICE_ALIGN;
    *first = lines * r / n * SLICE_ALIGN;
    *count = (end < total ? end : total) - *first;
}

static void owned(const params *p, const options *o, const comm *c, int64_t *first, int64_t *count) {
    bool sharded = o->train.sharded_optimizer;
    slab_slice(p->total, sharded ? c->rank : 0, sharded ? c->size : 1, first, count);
}

size_t optimizer_bytes(const params *p, const options *o, const comm *c) {
    int64_t first, count;
    owned(p, o, c, &first, &count);
    return sizeof(float) * (size_t)(2 * p->total + (o->train.ema > 0 ? 3 : 2) * count);
}

static void join_ranges(optimizer *x) {
    const params *p = x->p;
    x->range = calloc((size_t)p->n + 1, sizeof(decay_range));
    CHECK(x->range, "no memory for %d rows", p->n);
    for (int i = 0; i < p->n; i++) {
        const param *r = p->row[i];
        bool         decay = r->decay && x->weight_decay > 0;
        int64_t      end = i + 1 < p->n ? p->row[i + 1]->offset : p->total;
        decay_range *last = x->n_ranges ? &x->range[x->n_ranges - 1] : NULL;
        if (last && last->decay == decay)
            last->count = end - last->first;
        else
            x->range[x->n_ranges++] = (decay_range){r->offset, end - r->offset, decay};
    }
}

void optimizer_init(optimizer *x, params *p, const options *o, const comm *c, arena *weights) {
    *x = (optimizer){.p = p,
                     .lr = o->train.lr,
                     .beta1 = o->train.beta1,
                     .beta2 = o->train.beta2,
                     .eps = o->train.eps,
                     .weight_decay = o->train.weight_decay,
                     .ema = o->train.ema,
                     .warmup = o->train.warmup,
                     .steps = o->train.steps,
                     .lr_end = o->train.lr_end};
    join_ranges(x);
    x->sharded = o->train.sharded_optimizer && c->size > 1;
    owned(p, o, c, &x->own, &x->n_own);
    params_alloc(p, weights, false, false);
    p->g = arena_zeros(weights, (size_t)p->total * sizeof(float));
    for (int i = 0; i < p->n; i++) {
        param *r = p->row[i];
        r->g = tensor_wrap(p->g + r->offset, DT_F32, r->dim, r->n_dims);
        r->g.dev = weights->dev;
    }
    size_t bytes = (size_t)x->n_own * sizeof(float);
    x->m = arena_zeros(weights, bytes);
    x->v = arena_zeros(weights, bytes);
    x->average = x->ema > 0 ? arena_zeros(weights, bytes) : NULL;
}

void optimizer_start(optimizer *x) {
    if (x->average) memcpy(x->average, x->p->w + x->own, (size_t)x->n_own * sizeof(float));
}

void optimizer_free(optimizer *x) {
    free(x->range);
    *x = (optimizer){0};
}

double optimizer_lr(const optimizer *x, int64_t step) {
    if (step + 1 < x->warmup) return x->lr * (double)(step + 1) / (double)x->warmup;
    if (x->lr_end >= 1 || x->steps <= x->warmup) return x->lr;
    double part = fmin((double)(step - x->warmup) / (double)(x->steps - x->warmup), 1);
    return x->lr * (x->lr_end + (1 - x->lr_end) * 0.5 * (1 + cos(3.14159265358979323846 * part)));
}

double optimizer_norm(ctx *c, const optimizer *x) {
    double sum = 0;
    tensor g = tensor_wrap(x->p->g, DT_F32, DIMS(x->p->total)), out = tensor_wrap(&sum, DT_F64, DIMS(1));
    sum_squares_fwd(c, &(sum_squares_args){.x = &g, .out = &out});
    return sqrt(sum);
}

static tensor piece(float *slab, int64_t first, int64_t n) {
    return tensor_wrap(slab + first, DT_F32, DIMS(n));
}

void optimizer_update(ctx *c, optimizer *x, const comm *ranks, int64_t step, double grad_scale) {
    params *p = x->p;
    x->updates++;
    for (int i = 0; i < x->n_ranges; i++) {
        const decay_range *r = &x->range[i];
        int64_t            from = r->first > x->own ? r->first : x->own, end = r->first + r->count;
        if (end > x->own + x->n_own) end = x->own + x->n_own;
        int64_t n = end - from, at = from - x->own;
        if (n <= 0) continue;
        tensor w = piece(p->w, from, n), g = piece(p->g, from, n), m = piece(x->m, at, n), v = piece(x->v, at, n),
               e = {0};
        if (x->average) e = piece(x->average, at, n);
        adamw_fwd(c, &(adamw_args){.w = &w,
                                   .m = &m,
                                   .v = &v,
                                   .ema = x->average ? &e : NULL,
                                   .grad = &g,
                                   .grad_scale = grad_scale,
                                   .lr = optimizer_lr(x, step),
                                   .beta1 = x->beta1,
                                   .beta2 = x->beta2,
                                   .eps = x->eps,
                                   .weight_decay = r->decay ? x->weight_decay : 0,
                                   .ema_decay = x->ema,
                                   .step = x->updates});
    }
    for (int r = 0; x->sharded && r < ranks->size; r++) {
        int64_t first, count;
        slab_slice(p->total, r, ranks->size, &first, &count);
        comm_bcast(ranks, p->w + first, count * (int64_t)sizeof(float), r);
    }
}
