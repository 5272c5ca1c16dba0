#include "ops/roles.h"
#include "ops/linear_pre.h"

static tensor *list(op_tensors *l, const tensor *t, const char *name, op_role role, op_precision as, int64_t stride) {
    if (!tensor_given(t)) return NULL;
    CHECK(l->n < OP_TENSORS, "more than %d tensors in a call", OP_TENSORS);
    tensor *copy = &l->copy[l->n];
    *copy = *t;
    l->at[l->n++] = (op_tensor){.t = copy, .of = t, .name = name, .role = role, .as = as, .stride = stride};
    return copy;
}

/* Of the forward (`role`); the backward may be given it, and does not look at it. */
static tensor *named(op_tensors *l, const tensor *t, const char *name, op_role role, bool bwd, op_precision as) {
    tensor *copy = list(l, t, name, bwd ? ROLE_IN : role, as, 0);
    if (copy) l->at[l->n - 1].unread = bwd;
    return copy;
}

#define IN(f, as) (a->f = list(l, a->f, #f, ROLE_IN, as, 0))
#define OUT(f, as) (a->f = list(l, a->f, #f, ROLE_OUT, as, 0))
#define ACC(f, as) (a->f = list(l, a->f, #f, ROLE_ACC, as, 0))
#define IN_ROWS(f, as, stride) (a->f = list(l, a->f, #f, ROLE_IN, as, stride))
#define OUT_ROWS(f, as, stride) (a->f = list(l, a->f, #f, ROLE_OUT, as, stride))
#define ACC_ROWS(f, as, stride) (a->f = list(l, a->f, #f, ROLE_ACC, as, stride))
/* Written by the forward, read in the backward. */
#define KEPT(f, as) (a->f = list(l, a->f, #f, bwd ? ROLE_IN : ROLE_OUT, as, 0))
/* Read or written by the forward only. */
#define IN_FWD(f, as) (a->f = named(l, a->f, #f, ROLE_IN, bwd, as))
#define OUT_FWD(f, as) (a->f = named(l, a->f, #f, ROLE_OUT, bwd, as))

static void linear_args_list(linear_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_linear_bwd, x_is_pre = linear_x_is_pre(a);
    IN(x, AS_ACT);
    if (x_is_pre) a->in_pre = a->x;
    IN(w, AS_ACT);
    IN(b, AS_FIXED);
    OUT_FWD(y, AS_WIDE);
    KEPT(pre, AS_WIDE);
    if (!bwd) return;
    IN(dy, AS_WIDE);
    if (a->in_act != ACT_NONE && !x_is_pre) IN(in_pre, AS_ACT);
    if (a->dx_add)
        ACC(dx, AS_ACT);
    else
        OUT(dx, AS_ACT);
    ACC(dw, AS_FIXED);
    ACC(db, AS_FIXED);
}

static void act_args_list(act_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_act_bwd;
    IN(x, AS_ACT);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
}

/* dx_add is a tensor of its own or dx. */
static void layer_norm_dx(layer_norm_args *a, op_tensors *l) {
    if (tensor_given(a->dx_add) && a->dx_add->data == a->dx->data) {
        ACC(dx, AS_ACT);
        a->dx_add = a->dx;
    } else {
        IN(dx_add, AS_ACT);
        OUT(dx, AS_ACT);
    }
}

static void layer_norm_args_list(layer_norm_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_layer_norm_bwd;
    IN(x, AS_ACT);
    IN(gamma, AS_FIXED);
    IN(beta, AS_FIXED);
    IN(scale, AS_ACT);
    IN(shift, AS_ACT);
    IN(first, AS_FIXED);
    IN_FWD(h, AS_ACT);
    IN_FWD(gate, AS_ACT);
    OUT_FWD(sum, AS_ACT);
    OUT_FWD(y, AS_ACT);
    KEPT(mean, AS_FIXED);
    KEPT(rstd, AS_FIXED);
    if (!bwd) return;
    IN(dy, AS_ACT);
    layer_norm_dx(a, l);
    ACC(dgamma, AS_FIXED);
    ACC(dbeta, AS_FIXED);
    OUT(dscale, AS_ACT);
    OUT(dshift, AS_ACT);
}

static void group_norm_args_list(group_norm_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_group_norm_bwd;
    IN(x, AS_ACT);
    IN(gamma, AS_FIXED);
    IN(beta, AS_FIXED);
    IN(first, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    KEPT(mean, AS_FIXED);
    KEPT(rstd, AS_FIXED);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
    ACC(dgamma, AS_FIXED);
    ACC(dbeta, AS_FIXED);
}

static void rms_norm_args_list(rms_norm_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_rms_norm_bwd;
    IN(x, AS_ACT);
    IN(gamma, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
    ACC(dgamma, AS_FIXED);
}

static void gate_residual_args_list(gate_residual_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_gate_residual_bwd;
    IN_FWD(x, AS_ACT);
    IN(h, AS_ACT);
    IN(gate, AS_ACT);
    IN(first, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dh, AS_ACT);
    OUT(dgate, AS_ACT);
}

static void xy_args_list(xy_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_zero_fwd; /* x is not looked at */
    IN_FWD(x, AS_ACT);
    if (op == OP_add_fwd)
        ACC(y, AS_ACT);
    else
        OUT(y, AS_ACT);
}

static void split_cols_args_list(split_cols_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(x, AS_ACT);
    for (int i = 0; i < a->n_parts && i < 6; i++) OUT(part[i], AS_ACT);
}

static void merge_cols_args_list(merge_cols_args *a, op_id op, op_tensors *l) {
    (void)op;
    for (int i = 0; i < a->n_parts && i < 6; i++) IN(part[i], AS_ACT);
    OUT(x, AS_ACT);
}

static void embed_ape_args_list(embed_ape_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(x, AS_ACT);
    IN(coord, AS_FIXED);
    OUT(y, AS_ACT);
}

static void embed_time_args_list(embed_time_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(t, AS_FIXED);
    OUT(y, AS_ACT);
}

static void add_table_args_list(add_table_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_add_table_bwd;
    IN_FWD(x, AS_ACT);
    IN_FWD(table, AS_FIXED);
    IN_FWD(index, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    IN(order, AS_FIXED);
    IN(first, AS_FIXED);
    ACC(dtable, AS_FIXED);
}

static void gather_rows_args_list(gather_rows_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_gather_rows_bwd;
    IN_FWD(x, AS_ACT);
    IN(index, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
}

/* A grid holds its tensors by value. */
static void list_table(op_tensors *l, tensor *t, const char *name) {
    if (!list(l, t, name, ROLE_IN, AS_FIXED, 0)) return;
    l->at[l->n - 1].t = t;
    l->at[l->n - 1].of = NULL;
}

static void conv3_args_list(conv3_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_conv3_bwd;
    IN(x, AS_ACT);
    IN(w, AS_ACT);
    IN(b, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    KEPT(pre, AS_ACT);
    if (bwd) {
        IN(dy, AS_ACT);
        OUT(dx, AS_ACT);
        ACC(dw, AS_FIXED);
        ACC(db, AS_FIXED);
    }
    if (!a->g) return;
    l->g = *a->g;
    a->g = &l->g;
    list_table(l, &l->g.nb, "grid.nb");
    list_table(l, &l->g.first, "grid.first");
    list_table(l, &l->g.mask, "grid.mask");
    list_table(l, &l->g.sample_first, "grid.sample_first");
}

static void pool_args_list(pool_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_pool_bwd;
    IN_FWD(x, AS_ACT);
    IN(first, AS_FIXED);
    IN(order, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
}

static void subdivide_args_list(subdivide_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_subdivide_bwd;
    IN_FWD(x, AS_ACT);
    OUT_FWD(y, AS_ACT);
    if (!bwd) return;
    IN(dy, AS_ACT);
    OUT(dx, AS_ACT);
}

static void lift_pool_args_list(lift_pool_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_lift_pool_bwd;
    IN(v, AS_ACT);
    IN(w, AS_ACT);
    IN(b, AS_FIXED);
    IN(gamma, AS_FIXED);
    IN(beta, AS_FIXED);
    IN(first, AS_FIXED);
    IN(pool_first, AS_FIXED);
    IN(pool_sample, AS_FIXED);
    OUT_FWD(y, AS_ACT);
    OUT_FWD(skip, AS_ACT);
    KEPT(moments, AS_FIXED);
    if (!bwd) return;
    IN(dy, AS_ACT);
    IN(dskip, AS_ACT);
    OUT(dv, AS_ACT);
    ACC(dw, AS_FIXED);
    ACC(db, AS_FIXED);
    ACC(dgamma, AS_FIXED);
    ACC(dbeta, AS_FIXED);
}

/* Results of attention, which its backward does not read if it has `stat`. */
static void attn_kept(tensor **out, tensor **lse, const tensor *stat, bool bwd, op_tensors *l) {
    bool unread = bwd && tensor_given(stat);
    *out = named(l, *out, "out", bwd ? ROLE_IN : ROLE_OUT, unread, AS_ACT);
    *lse = named(l, *lse, "lse", bwd ? ROLE_IN : ROLE_OUT, unread, AS_FIXED);
}

static void attn_segment_args_list(attn_segment_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_attn_segment_bwd;
    IN_ROWS(q, AS_ACT, a->q_stride);
    IN_ROWS(k, AS_ACT, a->k_stride);
    IN_ROWS(v, AS_ACT, a->v_stride);
    IN(q_first, AS_FIXED);
    IN(k_first, AS_FIXED);
    IN(q_order, AS_FIXED);
    IN(k_order, AS_FIXED);
    attn_kept(&a->out, &a->lse, a->stat, bwd, l);
    if (!bwd) return;
    IN(dout, AS_ACT);
    IN(stat, AS_FIXED);
    if (a->dq_add)
        ACC_ROWS(dq, AS_ACT, a->q_stride);
    else
        OUT_ROWS(dq, AS_ACT, a->q_stride);
    OUT_ROWS(dk, AS_ACT, a->k_stride);
    OUT_ROWS(dv, AS_ACT, a->v_stride);
}

static void topk_blocks_args_list(topk_blocks_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(q, AS_ACT);
    IN(ck, AS_ACT);
    IN(lse, AS_FIXED);
    IN(sample_first, AS_FIXED);
    IN(cmp_sample_first, AS_FIXED);
    IN(slc_sample_first, AS_FIXED);
    IN(slc_cmp_first, AS_FIXED);
    OUT(block, AS_FIXED);
    OUT(score, AS_FIXED);
}

static void attn_select_args_list(attn_select_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_attn_select_bwd;
    IN(q, AS_ACT);
    IN(k, AS_ACT);
    IN(v, AS_ACT);
    IN(block, AS_FIXED);
    IN(first, AS_FIXED);
    attn_kept(&a->out, &a->lse, a->stat, bwd, l);
    if (!bwd) return;
    IN(dout, AS_ACT);
    IN(stat, AS_FIXED);
    if (a->dq_add)
        ACC(dq, AS_ACT);
    else
        OUT(dq, AS_ACT);
    OUT(dk, AS_ACT);
    OUT(dv, AS_ACT);
}

static void branch_gate_args_list(branch_gate_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_branch_gate_bwd;
    for (int i = 0; i < 3; i++) IN(o[i], AS_ACT);
    IN(z, AS_ACT);
    OUT_FWD(out, AS_ACT);
    if (!bwd) return;
    IN(dout, AS_ACT);
    for (int i = 0; i < 3; i++) IN(lse[i], AS_FIXED);
    for (int i = 0; i < 3; i++) OUT(stat[i], AS_FIXED);
    OUT(dz, AS_ACT);
}

static void vae_sample_args_list(vae_sample_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_vae_sample_bwd;
    IN(moments, AS_FIXED);
    IN(eps, AS_FIXED);
    OUT_FWD(z, AS_FIXED);
    OUT_FWD(kl, AS_FIXED);
    if (!bwd) return;
    IN(dz, AS_FIXED);
    OUT(dmoments, AS_FIXED);
}

static void sdf_loss_args_list(sdf_loss_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_sdf_loss_bwd;
    IN(pred, AS_FIXED);
    IN(target, AS_FIXED);
    IN(sharp, AS_FIXED);
    OUT_FWD(sums, AS_FIXED);
    OUT_FWD(counts, AS_FIXED);
    if (bwd) OUT(dpred, AS_FIXED);
}

static void mse_rows_args_list(mse_rows_args *a, op_id op, op_tensors *l) {
    bool bwd = op == OP_mse_rows_bwd;
    IN(pred, AS_FIXED);
    IN(target, AS_FIXED);
    IN(first, AS_FIXED);
    OUT_FWD(sums, AS_FIXED);
    if (bwd) OUT(dpred, AS_FIXED);
}

static void flow_noise_args_list(flow_noise_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(x0, AS_FIXED);
    IN(eps, AS_FIXED);
    IN(t, AS_FIXED);
    IN(first, AS_FIXED);
    OUT(x_t, AS_FIXED);
    OUT(v, AS_FIXED);
}

static void sum_squares_args_list(sum_squares_args *a, op_id op, op_tensors *l) {
    (void)op;
    IN(x, AS_FIXED);
    OUT(out, AS_FIXED);
}

static void adamw_args_list(adamw_args *a, op_id op, op_tensors *l) {
    (void)op;
    ACC(w, AS_FIXED);
    ACC(m, AS_FIXED);
    ACC(v, AS_FIXED);
    ACC(ema, AS_FIXED);
    OUT(w16, AS_FIXED);
    IN(grad, AS_FIXED);
}

static void muon_args_list(muon_args *a, op_id op, op_tensors *l) {
    (void)op;
    ACC(w, AS_FIXED);
    ACC(m, AS_FIXED);
    ACC(ema, AS_FIXED);
    OUT(w16, AS_FIXED);
    IN(grad, AS_FIXED);
}

#define X(name, args) {#name, (op_front)(void (*)(void))name, sizeof(args)},
const op_info op_table[OP_COUNT] = {BACKEND_OPS(X)};
#undef X

#define X(name, args) _Static_assert(sizeof(args) <= OP_ARGS_BYTES, #args " is larger than OP_ARGS_BYTES");
BACKEND_OPS(X)
#undef X

op_id op_of_front(op_front front) {
    for (int i = 0; i < OP_COUNT; i++)
        if (op_table[i].front == front) return (op_id)i;
    FATAL("a function that is the front of no op");
}

void op_list(op_id op, void *args, op_tensors *l) {
    l->n = 0;
    switch (op) {
#define X(name, type)                                                                                                  \
    case OP_##name:                                                                                                    \
        type##_list(args, op, l);                                                                                      \
        break;
        BACKEND_OPS(X)
#undef X
    default:
        FATAL("no op %d", (int)op);
    }
}

int64_t op_tensor_span(const op_tensor *t) {
    int64_t n = tensor_count(t->t);
    if (t->stride == 0 || n == 0) return n;
    return (t->t->dim[0] - 1) * t->stride + n / t->t->dim[0];
}

dtype op_tensor_dtype(const op_tensor *t, dtype act, bool wide) {
    return t->as == AS_FIXED || (t->as == AS_WIDE && wide) || t->t->dt != DT_F32 ? t->t->dt : act;
}

double op_list_bytes(const op_tensors *l) {
    double bytes = 0;
    for (int i = 0; i < l->n; i++)
        if (!l->at[i].unread) bytes += (l->at[i].role == ROLE_ACC ? 2 : 1) * (double)tensor_bytes(l->at[i].t);
    return bytes;
}
