/* Layers of one row in, one row out: linear, norms, embeddings, residuals. Attention is in layers_attn.c, convolution,
 * pooling and losses in layers_sparse.c. Each layer is a record (entry + argument struct + inputs), a backward that
 * fills in the gradient fields, and the forward that fills in the rest. */
#include "nn/layers.h"

#include <string.h>
#include "kernels/backend.h"

static tensor *step_tensor(tape *t, dtype dt, const int64_t *dims, int n_dims) {
    return tape_keep(t, arena_tensor(t->step, dt, dims, n_dims));
}

/* ---- linear --------------------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry  e;
    linear_args a;
    var        *x;
    param      *w, *b;
} linear_entry;

static void linear_back(tape *t, tape_entry *e) {
    linear_entry *l = (linear_entry *)e;
    grad_slots    s;
    grad_open_adding(t, &s, 1, &l->x, l->a.in_act == ACT_NONE, 0);
    linear_args a = l->a;
    a.dy = &e->out->g;
    a.dx = grad_slot(&s, 0);
    a.dx_add = s.add[0] != NULL;
    a.dw = param_grad(l->w);
    a.db = param_grad(l->b);
    linear_bwd(t->c, &a);
    grad_close(t, &s);
}

static var *linear(tape *t, var *x, act_kind in_act, param *w, param *b, act_kind act, bool w_in_out, dtype dt) {
    int64_t      n = x->v.dim[0], width = w->dim[w_in_out ? 1 : 0];
    var         *y = tape_new_as(t, n, width, dt, true);
    tensor      *pre = act == ACT_NONE ? NULL : step_tensor(t, dt, DIMS(n, width));
    linear_entry l = {.e = {.bwd = linear_back, .out = y},
                      .x = x,
                      .w = w,
                      .b = b,
                      .a = {.x = &x->v,
                            .w = &w->w,
                            .b = param_value(b),
                            .w_in_out = w_in_out,
                            .act = act,
                            .y = &y->v,
                            .pre = pre,
                            .in_act = in_act,
                            .in_pre = in_act == ACT_NONE ? NULL : &x->v}};
    linear_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}

var *nn_linear(tape *t, var *x, param *w, param *b, act_kind act) {
    return linear(t, x, ACT_NONE, w, b, act, false, t->c->act);
}
var *nn_linear_as(tape *t, var *x, param *w, param *b, act_kind act, dtype dt) {
    return linear(t, x, ACT_NONE, w, b, act, false, dt);
}
var *nn_conv1(tape *t, var *x, param *w, param *b) {
    return linear(t, x, ACT_NONE, w, b, ACT_NONE, true, t->c->act);
}
var *nn_linear_of(tape *t, var *x, act_kind in_act, param *w, param *b, act_kind act, dtype dt) {
    return linear(t, x, in_act, w, b, act, false, dt);
}

/* Matrices one below the other, zeros below them: a parameter that lives as long as the records. */
typedef struct {
    tape_entry e;
    param     *part[LINEAR_MANY], *all;
    int        n;
} stack_entry;

static void stack_back(tape *t, tape_entry *e) {
    stack_entry *l = (stack_entry *)e;
    for (int64_t i = 0, row = 0; i < l->n; row += l->part[i++]->dim[0]) {
        tensor g = tensor_rows(&l->all->g, row, l->part[i]->dim[0]);
        add_fwd(t->c, &(xy_args){.x = &g, .y = &l->part[i]->g});
    }
}

static param *stack(tape *t, int n, param *const *w, int64_t rows) {
    int64_t     row = 0, inner = w[0]->dim[1];
    stack_entry l = {.e = {.bwd = stack_back}, .n = n, .all = arena_alloc(t->book, sizeof *l.all)};
    *l.all = (param){.dim = {rows, inner}, .n_dims = 2, .w = arena_tensor(t->step, w[0]->w.dt, DIMS(rows, inner))};
    for (int i = 0; i < n; row += w[i++]->dim[0]) {
        CHECK(w[i]->dim[1] == inner && w[i]->w.dt == w[0]->w.dt, "%s and %s have other inputs", w[i]->name, w[0]->name);
        tensor to = tensor_rows(&l.all->w, row, w[i]->dim[0]);
        copy_fwd(t->c, &(xy_args){.x = &w[i]->w, .y = &to});
        l.part[i] = w[i];
    }
    tensor rest = tensor_rows(&l.all->w, row, rows - row);
    zero_fwd(t->c, &(xy_args){.y = &rest});
    if (!t->recording || !param_grad(w[0])) return l.all;
    l.all->g = arena_tensor(t->step, DT_F32, DIMS(rows, inner));
    zero_fwd(t->c, &(xy_args){.y = &l.all->g});
    tape_record(t, &l, sizeof l);
    return l.all;
}

/* The product is as wide as whole pieces of 16 bytes in bf16, and the matrices that are go first: products and splits
 * by columns are slow otherwise. */
void nn_linear_many(tape *t, var *x, int n, param *const *w, var **y) {
    enum { PIECE = 8 };
    int64_t width[LINEAR_MANY + 1], total = 0, rest = 0;
    var    *part[LINEAR_MANY + 1];
    int     whole = 0; /* so many of the first are whole pieces */
    CHECK(n >= 1 && n <= LINEAR_MANY, "%d products at once", n);
    while (whole < n && w[whole]->dim[0] % PIECE == 0) whole++;
    for (int i = 0; i < n; i++) {
        width[i] = w[i]->dim[0];
        total += width[i];
        if (i >= whole) rest += width[i];
    }
    int64_t fill = (PIECE - total % PIECE) % PIECE;
    var    *all = nn_linear(t, x, stack(t, n, w, total + fill), NULL, ACT_NONE);
    width[n] = fill;
    if (whole > 0) {
        int64_t first = width[whole];
        width[whole] = rest + fill;
        nn_split(t, all, whole + (rest > 0), width, part);
        width[whole] = first;
        memcpy(y, part, (size_t)whole * sizeof *y);
        all = part[whole];
    }
    if (rest == 0) return;
    nn_split(t, all, n - whole + (fill > 0), width + whole, part);
    memcpy(y + whole, part, (size_t)(n - whole) * sizeof *y);
}

typedef struct {
    tape_entry  e;
    linear_args a[2]; /* the two layers */
    var        *x;
    param      *w[2], *b[2];
} mlp_entry;

static void mlp_back(tape *t, tape_entry *e) {
    mlp_entry *l = (mlp_entry *)e;
    grad_slots s;
    grad_open_adding(t, &s, 1, &l->x, 1, 0);
    linear_args   in = l->a[0], out = l->a[1];
    const tensor *pre = in.pre;
    tensor        d = arena_tensor(t->step, pre->dt, pre->dim, pre->n_dims); /* gradient of pre; grad_close drops it */
    out.dy = &e->out->g;
    out.dx = &d;
    out.in_act = in.act;
    out.in_pre = pre;
    out.dw = param_grad(l->w[1]);
    out.db = param_grad(l->b[1]);
    linear_bwd(t->c, &out);
    in.act = ACT_NONE;
    in.y = in.pre = NULL;
    in.dy = &d;
    in.dx = grad_slot(&s, 0);
    in.dx_add = s.add[0] != NULL;
    in.dw = param_grad(l->w[0]);
    in.db = param_grad(l->b[0]);
    linear_bwd(t->c, &in);
    grad_close(t, &s);
}

var *nn_mlp(tape *t, var *x, param *w0, param *b0, act_kind act, param *w1, param *b1) {
    CHECK(act != ACT_NONE, "an MLP without activation");
    int64_t   n = x->v.dim[0];
    dtype     dt = t->c->act;
    var      *y = tape_new(t, n, w1->dim[0], true);
    tensor   *h = step_tensor(t, dt, DIMS(n, w0->dim[0])), *pre = step_tensor(t, dt, DIMS(n, w0->dim[0]));
    mlp_entry l = {.e = {.bwd = mlp_back, .out = y},
                   .x = x,
                   .w = {w0, w1},
                   .b = {b0, b1},
                   .a = {{.x = &x->v, .w = &w0->w, .b = param_value(b0), .act = act, .y = h, .pre = pre},
                         {.x = h, .w = &w1->w, .b = param_value(b1), .y = &y->v}}};
    linear_fwd(t->c, &l.a[0]);
    linear_fwd(t->c, &l.a[1]);
    tape_record(t, &l, sizeof l);
    return y;
}

/* ---- cast, act ------------------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry e;
    var       *x;
} cast_entry;

static void cast_back(tape *t, tape_entry *e) {
    cast_entry *l = (cast_entry *)e;
    grad_slots  s;
    if (!l->x->needs_grad) return;
    grad_open(t, &s, 1, &l->x);
    copy_fwd(t->c, &(xy_args){.x = &e->out->g, .y = grad_slot(&s, 0)});
    grad_close(t, &s);
}

var *nn_cast(tape *t, var *x, dtype dt) {
    if (x->v.dt == dt) return x;
    var       *y = tape_new_as(t, x->v.dim[0], x->v.dim[1], dt, x->needs_grad);
    cast_entry l = {.e = {.bwd = cast_back, .out = y}, .x = x};
    copy_fwd(t->c, &(xy_args){.x = &x->v, .y = &y->v});
    tape_record(t, &l, sizeof l);
    return y;
}

typedef struct {
    tape_entry e;
    act_args   a;
    var       *x;
} act_entry;

static void act_back(tape *t, tape_entry *e) {
    act_entry *l = (act_entry *)e;
    grad_slots s;
    if (!l->x->needs_grad) return;
    grad_open(t, &s, 1, &l->x);
    act_args a = l->a;
    a.dy = &e->out->g;
    a.dx = grad_slot(&s, 0);
    act_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_act(tape *t, var *x, act_kind act) {
    var      *y = tape_new(t, x->v.dim[0], x->v.dim[1], x->needs_grad);
    act_entry l = {.e = {.bwd = act_back, .out = y}, .x = x, .a = {.act = act, .x = &x->v, .y = &y->v}};
    act_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}

/* ---- norms ---------------------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry      e;
    layer_norm_args a;
    var            *x[3]; /* x, scale, shift */
    param          *gamma, *beta;
} layer_norm_entry;

static void layer_norm_back(tape *t, tape_entry *e) {
    layer_norm_entry *l = (layer_norm_entry *)e;
    grad_slots        s;
    grad_open_adding(t, &s, 3, l->x, 1, 1);
    layer_norm_args a = l->a;
    a.dy = &e->out->g;
    a.dx = grad_need(t, &s, 0);
    a.dx_add = s.add[0];
    if (grad_slot(&s, 1) || grad_slot(&s, 2)) {
        a.dscale = grad_need(t, &s, 1);
        a.dshift = grad_need(t, &s, 2);
    }
    a.dgamma = param_grad(l->gamma);
    a.dbeta = param_grad(l->beta);
    layer_norm_bwd(t->c, &a);
    grad_close(t, &s);
}

/* of: x is its sum, which is not made yet. */
static var *layer_norm(tape *t, var *x, const gate_residual_args *of, param *gamma, param *beta, var *shift, var *scale,
                       const tensor *first, double eps) {
    int64_t          n = x->v.dim[0];
    var             *y = tape_new(t, n, x->v.dim[1], true);
    layer_norm_entry l = {.e = {.bwd = layer_norm_back, .out = y},
                          .x = {x, scale, shift},
                          .gamma = gamma,
                          .beta = beta,
                          .a = {.x = &x->v,
                                .gamma = param_value(gamma),
                                .beta = param_value(beta),
                                .scale = scale ? &scale->v : NULL,
                                .shift = shift ? &shift->v : NULL,
                                .first = first,
                                .eps = eps,
                                .y = &y->v,
                                .mean = step_tensor(t, DT_F32, DIMS(n)),
                                .rstd = step_tensor(t, DT_F32, DIMS(n))}};
    layer_norm_args  run = l.a;
    if (of) {
        run.x = of->x;
        run.h = of->h;
        run.gate = of->gate;
        run.sum = of->y;
        if (of->first) run.first = of->first;
    }
    layer_norm_fwd(t->c, &run);
    tape_record(t, &l, sizeof l);
    return y;
}

var *nn_layer_norm(tape *t, var *x, param *gamma, param *beta, double eps) {
    return layer_norm(t, x, NULL, gamma, beta, NULL, NULL, NULL, eps);
}

var *nn_norm_modulate(tape *t, var *x, var *shift, var *scale, const tensor *first, double eps) {
    return layer_norm(t, x, NULL, NULL, NULL, shift, scale, first, eps);
}

typedef struct {
    tape_entry      e;
    group_norm_args a;
    var            *x;
    param          *gamma, *beta;
} group_norm_entry;

static void group_norm_back(tape *t, tape_entry *e) {
    group_norm_entry *l = (group_norm_entry *)e;
    grad_slots        s;
    grad_open(t, &s, 1, &l->x);
    group_norm_args a = l->a;
    a.dy = &e->out->g;
    a.dx = grad_need(t, &s, 0);
    a.dgamma = param_grad(l->gamma);
    a.dbeta = param_grad(l->beta);
    group_norm_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_group_norm(tape *t, var *x, param *gamma, param *beta, const tensor *first, int groups, act_kind act) {
    int64_t          samples = first->dim[0] - 1;
    var             *y = tape_new(t, x->v.dim[0], x->v.dim[1], true);
    group_norm_entry l = {.e = {.bwd = group_norm_back, .out = y},
                          .x = x,
                          .gamma = gamma,
                          .beta = beta,
                          .a = {.x = &x->v,
                                .gamma = &gamma->w,
                                .beta = &beta->w,
                                .first = first,
                                .groups = groups,
                                .act = act,
                                .eps = 1e-5,
                                .y = &y->v,
                                .mean = step_tensor(t, DT_F32, DIMS(samples, groups)),
                                .rstd = step_tensor(t, DT_F32, DIMS(samples, groups))}};
    group_norm_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}

typedef struct {
    tape_entry    e;
    rms_norm_args a;
    var          *x;
    param        *gamma;
} rms_norm_entry;

static tensor heads_view(const tensor *x, int64_t heads) {
    return tensor_view(x, DIMS(x->dim[0], heads, x->dim[1] / heads));
}

static void rms_norm_back(tape *t, tape_entry *e) {
    rms_norm_entry *l = (rms_norm_entry *)e;
    grad_slots      s;
    grad_open(t, &s, 1, &l->x);
    int64_t       heads = l->gamma->dim[0];
    tensor        dy = heads_view(&e->out->g, heads), dx = heads_view(grad_need(t, &s, 0), heads);
    rms_norm_args a = l->a;
    a.dy = &dy;
    a.dx = &dx;
    a.dgamma = param_grad(l->gamma);
    rms_norm_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_rms_norm(tape *t, var *x, param *gamma) {
    var           *y = tape_new(t, x->v.dim[0], x->v.dim[1], true);
    rms_norm_entry l = {.e = {.bwd = rms_norm_back, .out = y},
                        .x = x,
                        .gamma = gamma,
                        .a = {.x = tape_keep(t, heads_view(&x->v, gamma->dim[0])),
                              .gamma = &gamma->w,
                              .y = tape_keep(t, heads_view(&y->v, gamma->dim[0]))}};
    rms_norm_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}

/* ---- residual, split ------------------------------------------------------------------------------------------ */

typedef struct {
    tape_entry         e;
    gate_residual_args a;
    var               *x, *in[2]; /* h, gate */
} residual_entry;

static void residual_back(tape *t, tape_entry *e) {
    residual_entry *l = (residual_entry *)e;
    if (!l->in[1]) { /* y = x + h */
        grad_pass(t, e->out, l->in[0]);
    } else {
        grad_slots s;
        grad_open(t, &s, 2, l->in);
        gate_residual_args a = l->a;
        a.dy = &e->out->g;
        a.dh = grad_need(t, &s, 0);
        a.dgate = grad_slot(&s, 1);
        gate_residual_bwd(t->c, &a);
        grad_close(t, &s);
    }
    grad_pass(t, e->out, l->x);
}

static residual_entry residual(tape *t, var *x, var *h, var *gate, const tensor *first) {
    var *y = tape_new(t, x->v.dim[0], x->v.dim[1], true);
    return (residual_entry){
        .e = {.bwd = residual_back, .out = y},
        .x = x,
        .in = {h, gate},
        .a = {.x = &x->v, .h = &h->v, .gate = gate ? &gate->v : NULL, .first = gate ? first : NULL, .y = &y->v}};
}

var *nn_gate_residual(tape *t, var *x, var *h, var *gate, const tensor *first) {
    residual_entry l = residual(t, x, h, gate, first);
    gate_residual_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return l.e.out;
}

var *nn_residual_layer_norm(tape *t, var **x, var *h, var *gate, const tensor *first, param *gamma, param *beta,
                            double eps) {
    residual_entry l = residual(t, *x, h, gate, first);
    tape_record(t, &l, sizeof l);
    *x = l.e.out;
    return layer_norm(t, *x, &l.a, gamma, beta, NULL, NULL, NULL, eps);
}

var *nn_residual_norm_modulate(tape *t, var **x, var *h, var *gate, var *shift, var *scale, const tensor *first,
                               double eps) {
    residual_entry l = residual(t, *x, h, gate, first);
    tape_record(t, &l, sizeof l);
    *x = l.e.out;
    return layer_norm(t, *x, &l.a, NULL, NULL, shift, scale, first, eps);
}

typedef struct {
    tape_entry e;
    var       *x, *part[6];
    int        n;
} split_entry;

static void split_back(tape *t, tape_entry *e) {
    split_entry *l = (split_entry *)e;
    grad_slots   s;
    if (!l->x->needs_grad) return;
    merge_cols_args a = {.n_parts = l->n};
    bool            any = false;
    for (int i = 0; i < l->n; i++) any |= l->part[i]->g_live;
    if (!any) return;
    grad_open(t, &s, 1, &l->x);
    for (int i = 0; i < l->n; i++) {
        var *p = l->part[i];
        if (!p->g_live) {
            p->g = arena_tensor(t->step, p->v.dt, p->v.dim, p->v.n_dims);
            zero_fwd(t->c, &(xy_args){.y = &p->g});
        }
        a.part[i] = &p->g;
    }
    a.x = grad_slot(&s, 0);
    merge_cols_fwd(t->c, &a);
    grad_close(t, &s);
}

void nn_split(tape *t, var *x, int n, const int64_t *width, var **out) {
    split_entry     l = {.e = {.bwd = split_back}, .x = x, .n = n};
    split_cols_args a = {.x = &x->v, .n_parts = n};
    for (int i = 0; i < n; i++) {
        out[i] = l.part[i] = tape_new(t, x->v.dim[0], width[i], x->needs_grad);
        a.part[i] = &out[i]->v;
    }
    split_cols_fwd(t->c, &a);
    tape_record(t, &l, sizeof l);
}

/* ---- embeddings ----------------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry     e;
    add_table_args a;
    var           *x;
    param         *table; /* NULL: a constant was added */
} add_entry;

static void add_back(tape *t, tape_entry *e) {
    add_entry *l = (add_entry *)e;
    if (l->table && l->table->g.data) {
        add_table_args a = l->a;
        a.dy = &e->out->g;
        a.dtable = tape_keep(t, tensor_view(&l->table->g, a.table->dim, 2));
        add_table_bwd(t->c, &a);
    }
    grad_pass(t, e->out, l->x);
}

var *nn_embed_ape(tape *t, var *x, const tensor *coord, double factor) {
    var      *y = tape_new(t, x->v.dim[0], x->v.dim[1], x->needs_grad);
    add_entry l = {.e = {.bwd = add_back, .out = y}, .x = x};
    embed_ape_fwd(t->c, &(embed_ape_args){.x = &x->v, .coord = coord, .factor = (float)factor, .y = &y->v});
    tape_record(t, &l, sizeof l);
    return y;
}

var *nn_embed_time(tape *t, const tensor *times, int64_t width) {
    var *y = tape_new(t, times->dim[0], width, false);
    embed_time_fwd(t->c, &(embed_time_args){.t = times, .y = &y->v});
    return y;
}

var *nn_add_table(tape *t, var *x, param *table, const tensor *index, const tensor *order, const tensor *first) {
    int64_t   width = x->v.dim[1];
    var      *y = tape_new(t, x->v.dim[0], width, true);
    tensor   *rows = tape_keep(t, tensor_view(&table->w, DIMS(table->count / width, width)));
    add_entry l = {.e = {.bwd = add_back, .out = y},
                   .x = x,
                   .table = table,
                   .a = {.x = &x->v, .table = rows, .index = index, .order = order, .first = first, .y = &y->v}};
    add_table_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}
