#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "ops/elementwise.h"
#include "ops/muon.h"
#include "ops/optim.h"

enum { SLICE_ALIGN = 16 };

void slab_slice(int64_t total, int r, int n, int64_t *first, int64_t *count) {
    int64_t even = total / SLICE_ALIGN / n * SLICE_ALIGN;
    *first = even * r;
    *count = r + 1 < n ? even : total - *first;
}

/* Rows and columns that a row of the table has as a matrix: a kernel's taps and inputs are its rows. */
static int64_t columns_of(const param *r) {
    return r->dim[r->n_dims - 1];
}

/* Orthogonal steps mean something for matrices of some size only. */
static bool takes_muon(const param *r) {
    enum { LEAST = 4 };
    return r->decay && columns_of(r) >= LEAST && r->count / columns_of(r) >= LEAST;
}

/* Operations of a row's update: two products with the long side and seventeen of the small square (ops/muon.h). */
static double work_of(const param *r) {
    if (!takes_muon(r)) return 16.0 * (double)r->count;
    double columns = (double)columns_of(r), rows = (double)r->count / columns, small = fmin(rows, columns);
    return 4 * small * (double)r->count + 34 * small * small * small;
}

static bool by_muon(const options *o) {
    return o->train.optimizer == opt_train_optimizer_muon;
}

void optimizer_slices(const params *p, const options *o, int n, int64_t *first) {
    double all = 0, before = 0;
    int    at = 0;
    for (int i = 0; i < p->n; i++) all += work_of(p->row[i]);
    first[0] = 0;
    first[n] = p->total;
    for (int r = 1; r < n; r++) {
        if (!by_muon(o)) {
            int64_t count;
            slab_slice(p->total, r, n, &first[r], &count);
            continue;
        }
        for (; at < p->n && before + work_of(p->row[at]) / 2 < all * r / n; at++) before += work_of(p->row[at]);
        first[r] = at < p->n ? p->row[at]->offset : p->total;
    }
}

static void owned(const params *p, const options *o, const comm *c, int64_t *own, int64_t *count) {
    bool     sharded = o->train.sharded_optimizer;
    int      n = sharded ? c->size : 1, r = sharded ? comm_own_slice(c) : 0;
    int64_t *first = malloc(((size_t)n + 1) * sizeof *first);
    CHECK(first, "no memory for %d slices", n);
    optimizer_slices(p, o, n, first);
    *own = first[r];
    *count = first[r + 1] - first[r];
    free(first);
}

size_t optimizer_bytes(const params *p, const options *o, const comm *c) {
    int64_t first, count;
    owned(p, o, c, &first, &count);
    size_t narrow = p->act == DT_BF16 ? sizeof(uint16_t) * (size_t)p->total : 0;
    return sizeof(float) * (size_t)(2 * p->total + (o->train.ema > 0 ? 3 : 2) * count) + narrow;
}

static void join_ranges(optimizer *x) {
    const params *p = x->p;
    x->range = calloc((size_t)p->n + 1, sizeof *x->range);
    CHECK(x->range, "no memory for %d rows", p->n);
    for (int i = 0; i < p->n; i++) {
        const param  *r = p->row[i];
        bool          decay = r->decay && x->weight_decay > 0;
        int64_t       end = i + 1 < p->n ? p->row[i + 1]->offset : p->total;
        const param  *matrix = x->muon && takes_muon(r) ? r : NULL;
        update_range *last = x->n_ranges ? &x->range[x->n_ranges - 1] : NULL;
        if (last && last->decay == decay && !last->matrix && !matrix)
            last->count = end - last->first;
        else
            x->range[x->n_ranges++] = (update_range){r->offset, end - r->offset, decay, matrix};
    }
}

static tensor piece(const params *p, void *slab, dtype dt, int64_t first, int64_t n) {
    tensor t = tensor_wrap((char *)slab + (size_t)first * dtype_size(dt), dt, DIMS(n));
    t.dev = p->dev;
    return t;
}

/* Rows that are not matrices, of slices as they lie: with neighbours joined, split where slices end. */
static void share_rows(optimizer *x, const comm *c) {
    const params *p = x->p;
    int           s = 0;
    for (int i = 0; i < p->n; i++) {
        if (p->row[i]->decay) continue;
        int64_t at = p->row[i]->offset;
        while (i + 1 < p->n && !p->row[i + 1]->decay) i++;
        for (int64_t end = p->row[i]->offset + p->row[i]->count; at < end;) {
            while (x->slice[s + 1] <= at) s++;
            int64_t stop = x->slice[s + 1] < end ? x->slice[s + 1] : end;
            x->share[x->n_share++] = (comm_piece){piece(p, p->w, DT_F32, at, stop - at), comm_owner(c, s)};
            at = stop;
        }
    }
}

/* After params_alloc. What the last slice has more than the others is a piece of its own: those that are as long as
 * each other are gathered, which is faster. */
static void plan_sharing(optimizer *x, const comm *c) {
    const params *p = x->p;
    void         *slab = p->w16 ? (void *)p->w16 : p->w;
    dtype         dt = p->w16 ? DT_BF16 : DT_F32;
    int           last = x->n_slices - 1;
    int64_t       even = x->slice[1], rest = p->total - x->slice[last] - even;
    x->share = calloc((size_t)(p->n + 2 * x->n_slices + 1), sizeof *x->share);
    CHECK(x->share, "no memory for %d rows", p->n);
    for (int s = 0; s <= last; s++) {
        int64_t n = s < last || rest < 0 ? x->slice[s + 1] - x->slice[s] : even;
        x->share[x->n_share++] = (comm_piece){piece(p, slab, dt, x->slice[s], n), comm_owner(c, s)};
    }
    if (rest > 0) x->share[x->n_share++] = (comm_piece){piece(p, slab, dt, p->total - rest, rest), comm_owner(c, last)};
    if (p->w16) share_rows(x, c);
}

void optimizer_init(optimizer *x, params *p, const options *o, const comm *c, arena *weights) {
    *x = (optimizer){.p = p,
                     .muon = by_muon(o),
                     .momentum = o->train.momentum,
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
    x->n_slices = c->size;
    x->slice = malloc(((size_t)c->size + 1) * sizeof *x->slice);
    CHECK(x->slice, "no memory for %d slices", c->size);
    optimizer_slices(p, o, c->size, x->slice);
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
    x->norm_sum = arena_zeros(weights, (size_t)x->n_slices * sizeof *x->norm_sum);
    if (x->sharded) plan_sharing(x, c);
}

void optimizer_start(optimizer *x) {
    const float *own = x->p->w + x->own;
    size_t       bytes = (size_t)x->n_own * sizeof *own;
    if (!x->average) return;
    if (x->p->dev == DEV_CPU)
        memcpy(x->average, own, bytes);
    else
        device_copy(x->average, own, bytes, STREAM_COMPUTE);
}

void optimizer_free(optimizer *x) {
    free(x->range);
    free(x->slice);
    free(x->share);
    *x = (optimizer){0};
}

double optimizer_lr(const optimizer *x, int64_t step) {
    if (step + 1 < x->warmup) return x->lr * (double)(step + 1) / (double)x->warmup;
    if (x->lr_end >= 1 || x->steps <= x->warmup) return x->lr;
    double part = fmin((double)(step - x->warmup) / (double)(x->steps - x->warmup), 1);
    return x->lr * (x->lr_end + (1 - x->lr_end) * 0.5 * (1 + cos(3.14159265358979323846 * part)));
}

tensor optimizer_gradients(const optimizer *x) {
    return piece(x->p, x->p->g, DT_F32, 0, x->p->total);
}

tensor optimizer_norm(ctx *c, const optimizer *x, const comm *ranks) {
    tensor all = piece(x->p, x->norm_sum, DT_F64, 0, x->n_slices);
    zero_fwd(c, &(xy_args){.y = &all});
    for (int s = 0; s < x->n_slices; s++) {
        if ((x->sharded && s != comm_own_slice(ranks)) || x->slice[s] == x->slice[s + 1]) continue;
        tensor g = piece(x->p, x->p->g, DT_F32, x->slice[s], x->slice[s + 1] - x->slice[s]);
        tensor out = piece(x->p, x->norm_sum, DT_F64, s, 1);
        sum_squares_fwd(c, &(sum_squares_args){.x = &g, .out = &out});
    }
    if (x->sharded) comm_wait(comm_sum_start(ranks, &all)); /* the others' places are 0 here */
    return all;
}

static void muon_update(ctx *c, optimizer *x, const update_range *r, double lr, double grad_scale) {
    params *p = x->p;
    int64_t columns = columns_of(r->matrix), rows = r->matrix->count / columns;
    void   *slab[] = {p->w, p->g, p->w16, x->m, x->average};
    tensor  t[5];
    for (int i = 0; i < 5; i++) {
        t[i] = (tensor){0};
        if (!slab[i]) continue;
        t[i] = piece(p, slab[i], i == 2 ? DT_BF16 : DT_F32, i < 3 ? r->first : r->first - x->own, r->matrix->count);
        t[i] = tensor_view(&t[i], DIMS(rows, columns));
    }
    muon_fwd(c, &(muon_args){.w = &t[0],
                             .grad = &t[1],
                             .m = &t[3],
                             .ema = t[4].data ? &t[4] : NULL,
                             .w16 = t[2].data ? &t[2] : NULL,
                             .grad_scale = grad_scale,
                             .lr = lr,
                             .momentum = x->momentum,
                             .weight_decay = r->decay ? x->weight_decay : 0,
                             .ema_decay = x->ema});
}

void optimizer_update(ctx *c, optimizer *x, const comm *ranks, int64_t step, double grad_scale) {
    params *p = x->p;
    x->updates++;
    for (int i = 0; i < x->n_ranges; i++) {
        const update_range *r = &x->range[i];
        if (r->matrix) { /* a slice has all of it or nothing */
            if (r->first >= x->own && r->first < x->own + x->n_own)
                muon_update(c, x, r, optimizer_lr(x, step), grad_scale);
            continue;
        }
        int64_t from = r->first > x->own ? r->first : x->own, end = r->first + r->count;
        if (end > x->own + x->n_own) end = x->own + x->n_own;
        int64_t n = end - from, at = from - x->own;
        if (n <= 0) continue;
        tensor w = piece(p, p->w, DT_F32, from, n), g = piece(p, p->g, DT_F32, from, n),
               m = piece(p, x->m, DT_F32, at, n), v = piece(p, x->v, DT_F32, at, n), e = {0}, w16 = {0};
        if (x->average) e = piece(p, x->average, DT_F32, at, n);
        if (p->w16) w16 = piece(p, p->w16, DT_BF16, from, n);
        adamw_fwd(c, &(adamw_args){.w = &w,
                                   .m = &m,
                                   .v = &v,
                                   .ema = x->average ? &e : NULL,
                                   .w16 = w16.data ? &w16 : NULL,
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
    if (x->sharded) comm_share(ranks, x->share, x->n_share);
}
