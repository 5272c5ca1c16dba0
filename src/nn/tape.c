#include "nn/tape.h"

#include <stdio.h>
#include <string.h>
#include "core/beat.h"
#include "core/device.h"
#include "kernels/backend.h"

void tape_begin(tape *t) {
    arena_reset(t->step, 0);
    arena_reset(t->book, 0);
    t->last = NULL;
    t->n_segments = 0;
    t->spare = (tensor){0};
}

var *tape_leaf(tape *t, tensor v, bool needs_grad) {
    var *x = arena_alloc(t->book, sizeof *x);
    *x = (var){.v = v, .needs_grad = needs_grad && t->recording};
    return x;
}

var *tape_new_as(tape *t, int64_t n, int64_t c, dtype dt, bool needs_grad) {
    return tape_leaf(t, arena_tensor(t->step, dt, DIMS(n, c)), needs_grad);
}

var *tape_new(tape *t, int64_t n, int64_t c, bool needs_grad) {
    return tape_new_as(t, n, c, t->c->act, needs_grad);
}

tensor *tape_keep(tape *t, tensor v) {
    tensor *k = arena_alloc(t->book, sizeof *k);
    *k = v;
    return k;
}

void tape_record(tape *t, const void *entry, size_t bytes) {
    if (!t->recording) return;
    tape_entry *e = arena_alloc(t->book, bytes);
    memcpy(e, entry, bytes);
    e->prev = t->last;
    t->last = e;
}

static void add_into(tape *t, const tensor *x, tensor *y) {
    add_fwd(t->c, &(xy_args){.x = x, .y = y});
}
static void copy_into(tape *t, const tensor *x, tensor *y) {
    copy_fwd(t->c, &(xy_args){.x = x, .y = y});
}

static tensor grad_memory(tape *t, const var *x) {
    return arena_tensor(t->step, x->v.dt, x->v.dim, x->v.n_dims);
}
static void grad_room(tape *t, var *x) {
    if (!x->room.data) x->room = grad_memory(t, x);
}
static bool grad_lent(const var *x) {
    return x->g_live && x->g.data != x->room.data;
}

/* Makes x's gradient its own: `room` becomes a copy of it. */
static void grad_own(tape *t, var *x) {
    grad_room(t, x);
    copy_into(t, &x->g, &x->room);
    x->g = x->room;
}

/* Adds d to x's gradient. A lent one needs grad_room before. */
static void grad_add(tape *t, var *x, const tensor *d) {
    if (grad_lent(x))
        gate_residual_fwd(t->c, &(gate_residual_args){.x = &x->g, .h = d, .y = &x->room});
    else
        add_into(t, d, &x->g);
    x->g = x->room;
}

void tape_seed(tape *t, var *x, const tensor *g) {
    CHECK(x->needs_grad, "the seeded value needs no gradient");
    x->g = *g;
    grad_own(t, x);
    x->g_live = true;
}

static void run_backward(tape *t, tape_entry *last) {
    for (tape_entry *e = last; e; e = e->prev)
        if (!e->out || e->out->g_live) e->bwd(t, e);
}

void tape_backward(tape *t) {
    CHECK(t->recording, "backward of a tape that did not record");
    tape_entry *last = t->last;
    t->last = NULL;
    run_backward(t, last);
    if (t->on_layer_done) t->on_layer_done(t->user, -1);
}

/* ---- gradients of inputs -------------------------------------------------------------------------------------- */

void grad_open_adding(tape *t, grad_slots *s, int n, var *const *x, unsigned adds, unsigned from) {
    CHECK(n <= GRAD_MAX, "%d gradient slots", n);
    *s = (grad_slots){.n = n};
    for (int i = 0; i < n; i++) { /* first what stays, then what goes away again */
        s->x[i] = x[i];
        if (!x[i] || !x[i]->needs_grad) continue;
        bool earlier = false;
        for (int j = 0; j < i; j++) earlier |= x[j] == x[i];
        grad_room(t, x[i]);
        bool add = x[i]->g_live && !earlier && (adds >> i & 1);
        if (add && grad_lent(x[i]) && !(from >> i & 1)) grad_own(t, x[i]);
        s->add[i] = add ? &x[i]->g : NULL;
        s->temp[i] = (x[i]->g_live || earlier) && !add;
        if (!s->temp[i]) s->slot[i] = x[i]->room;
    }
    s->mark = arena_mark(t->step);
    for (int i = 0; i < n; i++)
        if (s->temp[i]) s->slot[i] = grad_memory(t, x[i]);
}

void grad_open(tape *t, grad_slots *s, int n, var *const *x) {
    grad_open_adding(t, s, n, x, 0, 0);
}

tensor *grad_need(tape *t, grad_slots *s, int i) {
    if (!s->slot[i].data) s->slot[i] = grad_memory(t, s->x[i]);
    return &s->slot[i];
}

void grad_close(tape *t, grad_slots *s) {
    for (int i = 0; i < s->n; i++) {
        if (!s->x[i] || !s->x[i]->needs_grad) continue;
        if (s->temp[i])
            grad_add(t, s->x[i], &s->slot[i]);
        else
            s->x[i]->g = s->slot[i];
        s->x[i]->g_live = true;
    }
    arena_reset(t->step, s->mark);
}

void grad_pass(tape *t, var *y, var *x) {
    if (!x->needs_grad) return;
    if (x->g_live) {
        grad_room(t, x);
        grad_add(t, x, &y->g);
    } else {
        x->g = y->g;
    }
    x->g_live = true;
}

/* ---- segments ------------------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry  e;
    segment_fn  fn;
    const void *args;
    var *const *in;
    int         n_in, layer;
    bool        recompute;
    var        *out;       /* not e.out: the hook fires for a segment without gradient, too */
    var        *inner_out; /* of the recorded forward; NULL with recompute */
    tape_entry *inner_last;
} segment_entry;

/* Moves `x` down to the current top of the step arena (its memory lies at or above it). */
static tensor move_down(tape *t, const tensor *x) {
    tensor y = arena_tensor(t->step, x->dt, x->dim, x->n_dims);
    size_t bytes = tensor_bytes(x);
    if (y.data == x->data || t->c->dry) return y; /* a dry run's scratch may be of any size */
    if ((char *)y.data + bytes <= (char *)x->data) {
        copy_into(t, x, &y);
    } else {
        size_t mark = arena_mark(&t->c->scratch);
        tensor via = arena_tensor(&t->c->scratch, x->dt, x->dim, x->n_dims);
        copy_into(t, x, &via);
        copy_into(t, &via, &y);
        arena_reset(&t->c->scratch, mark);
    }
    return y;
}

/* A named stretch for profilers and the watchdog. */
static void range_begin(const tape *t, const char *what, int layer) {
    char name[48];
    if (!t->c->dry) beat_op(what, layer);
    if (t->c->dry || t->c->be->dev != DEV_CUDA) return;
    snprintf(name, sizeof name, "%s %d", what, layer);
    device_range_push(name);
}

static void range_end(const tape *t) {
    if (!t->c->dry && t->c->be->dev == DEV_CUDA) device_range_pop();
}

static bool same_shape(const tensor *x, const tensor *y) {
    return x->dt == y->dt && x->n_dims == y->n_dims && memcmp(x->dim, y->dim, sizeof x->dim) == 0;
}

/* Memory for the gradient of a segment's input. */
static void input_room(tape *t, var *x) {
    if (!x->room.data && t->spare.data && same_shape(&t->spare, &x->v)) {
        x->room = t->spare;
        t->spare = (tensor){0};
    }
    grad_room(t, x);
}

/* The gradient of a segment's output is not needed behind its backward, unless it was lent to an input. */
static void output_done(tape *t, const segment_entry *s) {
    for (int i = 0; i < s->n_in; i++)
        if (s->in[i] && s->in[i]->g_live && s->in[i]->g.data == s->out->room.data) return;
    if (s->out->room.data) t->spare = s->out->room;
}

static void segment_gradients(tape *t, segment_entry *s) {
    range_begin(t, "backward of segment", s->layer);
    for (int i = 0; i < s->n_in; i++)
        if (s->in[i] && s->in[i]->needs_grad) input_room(t, s->in[i]);
    size_t step_mark = arena_mark(t->step), book_mark = arena_mark(t->book);
    var   *out = s->inner_out;
    if (s->recompute) {
        t->last = NULL;
        range_begin(t, "again segment", s->layer);
        out = s->fn(t, s->args, s->in);
        range_end(t);
        s->inner_last = t->last;
        t->last = NULL;
    }
    out->g = s->out->g;
    out->room = s->out->room;
    out->g_live = true;
    run_backward(t, s->inner_last);
    for (int i = 0; i < s->n_in; i++) /* what was lent in here does not outlive it */
        if (s->in[i] && s->in[i]->needs_grad && grad_lent(s->in[i]) &&
            (char *)s->in[i]->g.data >= t->step->base + step_mark)
            grad_own(t, s->in[i]);
    if ((char *)t->spare.data >= t->step->base + step_mark) t->spare = (tensor){0};
    arena_reset(t->step, step_mark);
    arena_reset(t->book, book_mark);
    output_done(t, s);
    range_end(t);
}

static void segment_bwd(tape *t, tape_entry *entry) {
    segment_entry *s = (segment_entry *)entry;
    if (s->out->g_live) segment_gradients(t, s);
    if (t->on_layer_done) t->on_layer_done(t->user, s->layer);
}

var *tape_segment(tape *t, int layer, segment_fn fn, const void *args, size_t args_bytes, var *const *in, int n_in) {
    bool recompute = t->n_segments++ < t->recompute_first;
    if (!t->recording || recompute) { /* keep nothing but the output */
        bool        recording = t->recording;
        tape_entry *outer = t->last;
        void       *kept_args = NULL;
        var       **kept_in = NULL;
        if (recording) { /* records that must outlive the reset below */
            kept_args = arena_alloc(t->book, args_bytes);
            memcpy(kept_args, args, args_bytes);
            kept_in = arena_alloc(t->book, (size_t)n_in * sizeof *kept_in);
            memcpy(kept_in, in, (size_t)n_in * sizeof *kept_in);
        }
        var   *out = tape_leaf(t, (tensor){0}, true);
        size_t step_mark = arena_mark(t->step), book_mark = arena_mark(t->book);
        t->recording = false;
        range_begin(t, "segment", layer);
        tensor inner = fn(t, args, in)->v;
        range_end(t);
        t->recording = recording;
        t->last = outer;
        arena_reset(t->step, step_mark);
        arena_reset(t->book, book_mark);
        out->v = move_down(t, &inner);
        out->needs_grad = recording;
        segment_entry s = {.e = {.bwd = segment_bwd},
                           .out = out,
                           .fn = fn,
                           .args = kept_args,
                           .in = kept_in,
                           .n_in = n_in,
                           .layer = layer,
                           .recompute = true};
        tape_record(t, &s, sizeof s);
        return out;
    }
    var **kept_in = arena_alloc(t->book, (size_t)n_in * sizeof *kept_in);
    memcpy(kept_in, in, (size_t)n_in * sizeof *kept_in);
    tape_entry *outer = t->last;
    t->last = NULL;
    range_begin(t, "segment", layer);
    var *inner = fn(t, args, in);
    range_end(t);
    var          *out = tape_leaf(t, inner->v, true);
    segment_entry s = {.e = {.bwd = segment_bwd},
                       .out = out,
                       .fn = fn,
                       .in = kept_in,
                       .n_in = n_in,
                       .layer = layer,
                       .inner_out = inner,
                       .inner_last = t->last};
    t->last = outer;
    tape_record(t, &s, sizeof s);
    return out;
}
