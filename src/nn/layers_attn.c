/* Attention layers: segments (window, cross, compression), selection, the gated sum. */
#include "nn/layers.h"

#include <math.h>
#include "kernels/backend.h"

/* (N, heads, D) starting at column `col` of rows of x; the stride is x's width. */
static tensor columns(const tensor *x, int64_t col, int heads, int64_t head_dim) {
    tensor v = tensor_wrap((char *)x->data + (size_t)col * dtype_size(x->dt), x->dt, DIMS(x->dim[0], heads, head_dim));
    v.dev = x->dev;
    return v;
}

/* One record for all uses of attn_segment: up to three input vars, and where q, k, v lie in them. */
typedef struct {
    tape_entry        e;
    attn_segment_args a;
    var              *in[3];
    int               n_in, src[3]; /* q, k, v come from in[src[i]] */
    int64_t           col[3], head_dim;
    int               heads, kv_heads;
} attn_entry;

/* For an attention of n rows: NULL, or where its gate's backward says what it knows of them. */
static tensor *rows_stat(tape *t, attn_rows *rows, tensor *lse) {
    if (!rows) return NULL;
    *rows = (attn_rows){.lse = lse, .stat = tape_keep(t, (tensor){0})};
    return rows->stat;
}

static void attn_back(tape *t, tape_entry *e) {
    attn_entry *l = (attn_entry *)e;
    grad_slots  s;
    grad_open_adding(t, &s, l->n_in, l->in, l->n_in > 1, 0); /* q's, if it is not part of a wider one */
    attn_segment_args a = l->a;
    tensor            d[3], dout = columns(&e->out->g, 0, l->heads, l->head_dim);
    for (int i = 0; i < 3; i++)
        d[i] = columns(grad_need(t, &s, l->src[i]), l->col[i], i ? l->kv_heads : l->heads, l->head_dim);
    a.dout = &dout;
    a.dq_add = s.add[0] != NULL;
    a.dq = &d[0];
    a.dk = &d[1];
    a.dv = &d[2];
    attn_segment_bwd(t->c, &a);
    grad_close(t, &s);
}

static var *attn(tape *t, attn_entry *l, segments s, attn_rows *rows) {
    tensor  qkv[3];
    int64_t stride[3];
    for (int i = 0; i < 3; i++) {
        const tensor *x = &l->in[l->src[i]]->v;
        qkv[i] = columns(x, l->col[i], i ? l->kv_heads : l->heads, l->head_dim);
        stride[i] = x->dim[1];
    }
    int64_t n = qkv[0].dim[0];
    bool    needs = false;
    for (int i = 0; i < l->n_in; i++) needs |= l->in[i]->needs_grad;
    var *out = tape_new(t, n, l->heads * l->head_dim, needs);
    l->e = (tape_entry){.bwd = attn_back, .out = out};
    l->a = (attn_segment_args){.q = tape_keep(t, qkv[0]),
                               .k = tape_keep(t, qkv[1]),
                               .v = tape_keep(t, qkv[2]),
                               .q_stride = stride[0],
                               .k_stride = stride[1],
                               .v_stride = stride[2],
                               .q_first = s.q_first,
                               .k_first = s.k_first,
                               .q_order = s.q_order,
                               .k_order = s.k_order,
                               .scale = (float)(1.0 / sqrt((double)l->head_dim)),
                               .out = tape_keep(t, columns(&out->v, 0, l->heads, l->head_dim)),
                               .lse = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(n, l->heads)))};
    attn_segment_fwd(t->c, &l->a);
    l->a.stat = rows_stat(t, rows, l->a.lse);
    if (needs) tape_record(t, l, sizeof *l);
    return out;
}

var *nn_attn(tape *t, var *q, var *k, var *v, int heads, int kv_heads, segments s, attn_rows *rows) {
    attn_entry l = {.in = {q, k, v},
                    .n_in = 3,
                    .src = {0, 1, 2},
                    .heads = heads,
                    .kv_heads = kv_heads,
                    .head_dim = q->v.dim[1] / heads};
    return attn(t, &l, s, rows);
}

var *nn_attn_qkv(tape *t, var *qkv, int heads, const tensor *first, const tensor *order) {
    int64_t    c = qkv->v.dim[1] / 3;
    attn_entry l = {
        .in = {qkv}, .n_in = 1, .col = {0, c, 2 * c}, .heads = heads, .kv_heads = heads, .head_dim = c / heads};
    return attn(t, &l, (segments){first, first, order, order}, NULL);
}

var *nn_attn_cross(tape *t, var *q, var *kv, int heads, segments s) {
    int64_t    c = q->v.dim[1];
    attn_entry l = {.in = {q, kv},
                    .n_in = 2,
                    .src = {0, 1, 1},
                    .col = {0, 0, c},
                    .heads = heads,
                    .kv_heads = heads,
                    .head_dim = c / heads};
    return attn(t, &l, s, NULL);
}

/* ---- selection ------------------------------------------------------------------------------------------------ */

tensor nn_topk(tape *t, const var *q, const var *ck, const tensor *lse, int heads, int kv_heads, int k,
               const block_tables *b) {
    int64_t n = q->v.dim[0], d = q->v.dim[1] / heads;
    tensor  block = arena_tensor(t->step, DT_I32, DIMS(kv_heads, n, k));
    tensor  q3 = columns(&q->v, 0, heads, d), ck3 = columns(&ck->v, 0, kv_heads, d);
    topk_blocks_fwd(t->c, &(topk_blocks_args){.q = &q3,
                                              .ck = &ck3,
                                              .lse = lse,
                                              .sample_first = &b->sample_first,
                                              .cmp_sample_first = &b->cmp_sample_first,
                                              .slc_sample_first = &b->slc_sample_first,
                                              .slc_cmp_first = &b->slc_cmp_first,
                                              .scale = (float)(1.0 / sqrt((double)d)),
                                              .block = &block});
    return block;
}

typedef struct {
    tape_entry       e;
    attn_select_args a;
    var             *in[3];
    int              heads, kv_heads;
} select_entry;

static void select_back(tape *t, tape_entry *e) {
    select_entry *l = (select_entry *)e;
    grad_slots    s;
    grad_open_adding(t, &s, 3, l->in, 1, 0);
    attn_select_args a = l->a;
    int64_t          d = a.q->dim[2];
    tensor           g[3], dout = columns(&e->out->g, 0, l->heads, d);
    for (int i = 0; i < 3; i++) g[i] = columns(grad_need(t, &s, i), 0, i ? l->kv_heads : l->heads, d);
    a.dout = &dout;
    a.dq_add = s.add[0] != NULL;
    a.dq = &g[0];
    a.dk = &g[1];
    a.dv = &g[2];
    attn_select_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_attn_select(tape *t, var *q, var *k, var *v, int heads, int kv_heads, const tensor *block,
                    const block_tables *b, attn_rows *rows) {
    int64_t      n = q->v.dim[0], d = q->v.dim[1] / heads;
    var         *out = tape_new(t, n, q->v.dim[1], true);
    select_entry l = {.e = {.bwd = select_back, .out = out},
                      .in = {q, k, v},
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .a = {.q = tape_keep(t, columns(&q->v, 0, heads, d)),
                            .k = tape_keep(t, columns(&k->v, 0, kv_heads, d)),
                            .v = tape_keep(t, columns(&v->v, 0, kv_heads, d)),
                            .block = tape_keep(t, *block),
                            .first = &b->slc_first,
                            .scale = (float)(1.0 / sqrt((double)d)),
                            .out = tape_keep(t, columns(&out->v, 0, heads, d)),
                            .lse = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(n, heads)))}};
    attn_select_fwd(t->c, &l.a);
    l.a.stat = rows_stat(t, rows, l.a.lse);
    tape_record(t, &l, sizeof l);
    return out;
}

typedef struct {
    tape_entry       e;
    branch_gate_args a;
    var             *o[3], *z;
} gate_entry;

static void gate_back(tape *t, tape_entry *e) {
    gate_entry *l = (gate_entry *)e;
    grad_slots  s;
    for (int i = 0; i < 3; i++) {
        CHECK(!l->o[i]->g_live, "branch %d of a gate is used elsewhere, too", i);
        *l->a.stat[i] = arena_tensor(t->step, DT_F32, DIMS(l->a.o[i]->dim[0], l->a.o[i]->dim[1], 2));
        grad_pass(t, e->out, l->o[i]);
    }
    grad_open(t, &s, 1, &l->z);
    branch_gate_args a = l->a;
    tensor           dout = tensor_view(&e->out->g, a.o[0]->dim, 3);
    a.dout = &dout;
    a.dz = grad_need(t, &s, 0);
    branch_gate_bwd(t->c, &a);
    grad_close(t, &s);
}

var *nn_branch_gate(tape *t, var *const o[3], const attn_rows rows[3], var *z) {
    int64_t    n = z->v.dim[0], c = o[0]->v.dim[1], heads = rows[0].lse->dim[1];
    var       *out = tape_new(t, n, c, true);
    gate_entry l = {.e = {.bwd = gate_back, .out = out}, .o = {o[0], o[1], o[2]}, .z = z, .a = {.z = &z->v}};
    for (int i = 0; i < 3; i++) {
        l.a.o[i] = tape_keep(t, columns(&o[i]->v, 0, (int)heads, c / heads));
        l.a.lse[i] = rows[i].lse;
        l.a.stat[i] = rows[i].stat;
    }
    l.a.out = tape_keep(t, columns(&out->v, 0, (int)heads, c / heads));
    branch_gate_fwd(t->c, &l.a);
    tape_record(t, &l, sizeof l);
    return out;
}
