/* Layers over tile grids, the posterior and the losses. */
#include "nn/layers.h"

#include "kernels/backend.h"

/* ---- convolution, pooling, gathering -------------------------------------------------------------- */

typedef struct {
    tape_entry e;
    conv3_args a;
    var       *x;
    param     *w, *b;
} conv3_entry;

static void conv3_back(tape *t, tape_entry *e) {
    conv3_entry *l = (conv3_entry *)e;
    grad_slots   s;
    grad_open(t, &s, 1, &l->x);
    conv3_args a = l->a;
    a.dy = &e->out->g;
    a.dx = grad_slot(&s, 0);
    a.dw = param_grad(l->w);
    a.db = param_grad(l->b);
    conv3_bwd(t->c, &a);
    grad_close(t, &s);
}

static var *conv3_of(tape *t, var *x, const grid *g, bool up, param *w, param *b, act_kind act) {
    int64_t n = g->n_rows, width = w->dim[2];
    var    *y = tape_new(t, n, width, true), *pre = NULL;
    if (act != ACT_NONE) pre = tape_new(t, n, width, false);
    conv3_entry l = {
        .e = {.bwd = conv3_back, .out = y},
        .x = x,
        .w = w,
        .b = b,
        .a = {
            .g = g, .x = &x->v, .w = &w->w, .b = &b->w, .up = up, .act = act, .y = &y->v, .pre = pre ? &pre->v : NULL}};
    conv3_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return y;
}

var *nn_conv3(tape *t, var *x, const grid *g, param *w, param *b, act_kind act) {
    return conv3_of(t, x, g, false, w, b, act);
}

var *nn_conv3_up(tape *t, var *x, const grid *g, param *w, param *b, act_kind act) {
    return conv3_of(t, x, g, true, w, b, act);
}

typedef struct {
    tape_entry e;
    pool_args  pool;
    var       *x;
} pool_entry;

static void pool_back(tape *t, tape_entry *e) {
    pool_entry *l = (pool_entry *)e;
    grad_slots  s;
    if (!l->x->needs_grad) return;
    grad_open(t, &s, 1, &l->x);
    pool_args a = l->pool;
    a.dy = &e->out->g;
    a.dx = grad_slot(&s, 0);
    pool_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_pool(tape *t, var *x, const tensor *first, const tensor *order, bool add_one) {
    var       *y = tape_new(t, first->dim[0] - 1, x->v.dim[1], x->needs_grad);
    pool_entry l = {.e = {.bwd = pool_back, .out = y},
                    .x = x,
                    .pool = {.x = &x->v, .first = first, .order = order, .add_one = add_one, .y = &y->v}};
    pool_fwd(t->c, &l.pool);
    tape_record(t, &l, sizeof l);
    return y;
}

typedef struct {
    tape_entry     e;
    lift_pool_args a;
    var           *v, *y, *skip;
    param         *w, *b, *gamma, *beta;
} lift_pool_entry;

static void lift_pool_back(tape *t, tape_entry *e) {
    lift_pool_entry *l = (lift_pool_entry *)e;
    grad_slots       s;
    if (!l->y->g_live || !l->skip->g_live) {
        CHECK(!l->y->g_live && !l->skip->g_live, "pooled voxels: one of the two results has no gradient");
        return;
    }
    grad_open(t, &s, 1, &l->v);
    lift_pool_args a = l->a;
    a.dy = &l->y->g;
    a.dskip = &l->skip->g;
    a.dv = grad_slot(&s, 0);
    a.dw = param_grad(l->w);
    a.db = param_grad(l->b);
    a.dgamma = param_grad(l->gamma);
    a.dbeta = param_grad(l->beta);
    lift_pool_bwd(t->c, &a);
    grad_close(t, &s);
}

void nn_lift_pool(tape *t, var *v, const lift_params *p, const tensor *first, const tensor *pool_first,
                  const tensor *pool_sample, int groups, bool add_one, var **y, var **skip) {
    int64_t n = pool_first->dim[0] - 1, width = p->w->dim[0];
    *y = tape_new(t, n, width, true);
    *skip = tape_new(t, n, width, true);
    lift_pool_entry l = {.e = {.bwd = lift_pool_back},
                         .v = v,
                         .y = *y,
                         .skip = *skip,
                         .w = p->w,
                         .b = p->b,
                         .gamma = p->gamma,
                         .beta = p->beta,
                         .a = {.v = &v->v,
                               .w = &p->w->w,
                               .b = &p->b->w,
                               .gamma = &p->gamma->w,
                               .beta = &p->beta->w,
                               .first = first,
                               .pool_first = pool_first,
                               .pool_sample = pool_sample,
                               .groups = groups,
                               .eps = 1e-5,
                               .add_one = add_one,
                               .y = &(*y)->v,
                               .skip = &(*skip)->v,
                               .moments = tape_keep(t, arena_tensor(t->step, DT_F64, DIMS(first->dim[0] - 1, 2)))}};
    lift_pool_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
}

typedef struct {
    tape_entry    e;
    var          *x;
    const tensor *index;
    int64_t       group;
} gather_entry;

static tensor groups_view(const tensor *x, int64_t group) {
    return tensor_view(x, DIMS(x->dim[0] / group, group * x->dim[1]));
}

static void gather_back(tape *t, tape_entry *e) {
    gather_entry *l = (gather_entry *)e;
    grad_slots    s;
    if (!l->x->needs_grad) return;
    grad_open(t, &s, 1, &l->x);
    tensor dy = groups_view(&e->out->g, l->group), dx = groups_view(grad_slot(&s, 0), l->group);
    gather_rows_bwd(t->c, &(gather_rows_args){.index = l->index, .dy = &dy, .dx = &dx});
    grad_close(t, &s);
}

var *nn_gather(tape *t, var *x, const tensor *index, int64_t group) {
    CHECK(group > 0 && x->v.dim[0] % group == 0, "%lld rows in groups of %lld", (long long)x->v.dim[0],
          (long long)group);
    int64_t      n = index->dim[0];
    var         *y = tape_new_as(t, n * group, x->v.dim[1], x->v.dt, x->needs_grad);
    gather_entry l = {.e = {.bwd = gather_back, .out = y}, .x = x, .index = index, .group = group};
    tensor       from = groups_view(&x->v, group), to = groups_view(&y->v, group);
    gather_rows_fwd(t->c, &(gather_rows_args){.x = &from, .index = index, .y = &to});
    tape_record(t, &l, sizeof l);
    return y;
}

/* ---- posterior and losses ------------------------------------------------------------------------------------- */

typedef struct {
    tape_entry      e;
    vae_sample_args a;
    var            *moments, *z;
} posterior_entry;

static void posterior_back(tape *t, tape_entry *e) {
    posterior_entry *l = (posterior_entry *)e;
    grad_slots       s;
    if (!l->moments->needs_grad) return;
    grad_open(t, &s, 1, &l->moments);
    vae_sample_args a = l->a;
    a.dz = l->z->g_live ? &l->z->g : NULL;
    a.dmoments = grad_slot(&s, 0);
    vae_sample_bwd(t->c, &a);
    grad_close(t, &s);
}

static tensor scalars(tape *t, int64_t n) {
    return arena_tensor(t->step, DT_F64, DIMS(n));
}

var *nn_vae_sample(tape *t, var *moments, const tensor *eps, double kl_scale, tensor *kl) {
    var *z = tape_new_as(t, moments->v.dim[0], moments->v.dim[1] / 2, DT_F32, moments->needs_grad);
    *kl = scalars(t, 1);
    posterior_entry l = {
        .e = {.bwd = posterior_back},
        .moments = moments,
        .z = z,
        .a = {.moments = &moments->v, .eps = eps, .kl_scale = kl_scale, .z = &z->v, .kl = tape_keep(t, *kl)}};
    vae_sample_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return z;
}

typedef struct {
    tape_entry    e;
    sdf_loss_args sdf;
    mse_rows_args mse;
    var          *pred;
} loss_entry;

static void sdf_loss_back(tape *t, tape_entry *e) {
    loss_entry *l = (loss_entry *)e;
    grad_slots  s;
    if (!l->pred->needs_grad) return;
    grad_open(t, &s, 1, &l->pred);
    sdf_loss_args a = l->sdf;
    tensor        dpred = tensor_view(grad_slot(&s, 0), a.pred->dim, 1);
    a.dpred = &dpred;
    sdf_loss_bwd(t->c, &a);
    grad_close(t, &s);
}

void nn_sdf_loss(tape *t, var *pred, const tensor *target, const tensor *sharp, const double scale[3], tensor *sums) {
    *sums = scalars(t, 3);
    loss_entry l = {.e = {.bwd = sdf_loss_back},
                    .pred = pred,
                    .sdf = {.pred = tape_keep(t, tensor_view(&pred->v, DIMS(tensor_count(&pred->v)))),
                            .target = target,
                            .sharp = sharp,
                            .sums = tape_keep(t, *sums),
                            .counts = tape_keep(t, scalars(t, 3)),
                            .scale = {scale[0], scale[1], scale[2]}}};
    sdf_loss_fwd(t->c, &l.sdf);
    tape_record(t, &l, sizeof l);
}

static void mse_back(tape *t, tape_entry *e) {
    loss_entry *l = (loss_entry *)e;
    grad_slots  s;
    if (!l->pred->needs_grad) return;
    grad_open(t, &s, 1, &l->pred);
    mse_rows_args a = l->mse;
    a.dpred = grad_slot(&s, 0);
    mse_rows_bwd(t->c, &a);
    grad_close(t, &s);
}

void nn_mse(tape *t, var *pred, const tensor *target, const tensor *first, double scale, tensor *sums) {
    *sums = scalars(t, first->dim[0] - 1);
    loss_entry l = {
        .e = {.bwd = mse_back},
        .pred = pred,
        .mse = {.pred = &pred->v, .target = target, .first = first, .sums = tape_keep(t, *sums), .scale = scale}};
    mse_rows_fwd(t->c, &l.mse);
    tape_record(t, &l, sizeof l);
}
