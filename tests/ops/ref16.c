#include "ops/ref16.h"

#include <string.h>

#include "core/half.h"
#include "gpu/hosted.h"
#include "kernels/ref/act_math.h"
#include "ops/linear_pre.h"

static backend base, table;

static float round16(float x) {
    return bf16_to_f32(f32_to_bf16(x));
}

/* y = act(pre) again, from the stored pre. A wide output stores pre in f32. */
static void activate(act_kind act, const tensor *pre, tensor *y) {
    if (act == ACT_NONE || hosted_wide()) return;
    for (int64_t i = 0, n = tensor_count(y); i < n; i++)
        F32(y)[i] = (float)act_value(act, (double)round16(F32(pre)[i]));
}

static tensor rounded_dpre(ctx *c, act_kind act, const tensor *pre, const tensor *dy) {
    tensor d = arena_tensor(&c->scratch, DT_F32, dy->dim, dy->n_dims);
    for (int64_t i = 0, n = tensor_count(dy); i < n; i++) {
        double slope = act == ACT_NONE ? 1 : act_slope(act, (double)F32(pre)[i]);
        F32(&d)[i] = round16((float)((double)F32(dy)[i] * slope));
    }
    return d;
}

/* x, after its activation where it is given before. */
static tensor input_of(ctx *c, const linear_args *a) {
    if (!linear_x_is_pre(a)) return *a->x;
    tensor x = arena_tensor(&c->scratch, DT_F32, a->x->dim, 2);
    for (int64_t i = 0; i < tensor_count(&x); i++)
        F32(&x)[i] = round16((float)act_value(a->in_act, (double)F32(a->x)[i]));
    return x;
}

static void linear_fwd_ref16(ctx *c, const linear_args *a) {
    linear_args l = *a;
    tensor      b = {0}, x = input_of(c, a);
    l.x = &x;
    l.in_act = ACT_NONE;
    if (tensor_given(a->b)) {
        b = arena_tensor(&c->scratch, DT_F32, a->b->dim, 1);
        for (int64_t i = 0; i < b.dim[0]; i++) F32(&b)[i] = round16(F32(a->b)[i]);
        l.b = &b;
    }
    base.linear_fwd(c, &l);
    activate(a->act, a->pre, a->y);
}

/* The product before in_act's slope, or before it is added to dx, is rounded. */
static void linear_bwd_ref16(ctx *c, const linear_args *a) {
    linear_args b = *a;
    tensor      d = rounded_dpre(c, a->act, a->pre, a->dy), x = input_of(c, a), product;
    bool        more = tensor_given(a->dx) && (a->dx_add || a->in_act != ACT_NONE);
    b.x = &x;
    b.dy = &d;
    b.act = b.in_act = ACT_NONE;
    b.dx_add = false;
    if (more) {
        product = arena_tensor(&c->scratch, DT_F32, a->dx->dim, a->dx->n_dims);
        b.dx = &product;
    }
    base.linear_bwd(c, &b);
    for (int64_t i = 0, n = more ? tensor_count(a->dx) : 0; i < n; i++) {
        double slope = a->in_act == ACT_NONE ? 1 : act_slope(a->in_act, (double)F32(a->in_pre)[i]);
        double before = a->dx_add ? F32(a->dx)[i] : 0;
        F32(a->dx)[i] = (float)(before + (double)round16(F32(&product)[i]) * slope);
    }
}

/* The norm of the stored sum. */
static void layer_norm_fwd_ref16(ctx *c, const layer_norm_args *a) {
    layer_norm_args l = *a;
    tensor          x;
    if (tensor_given(a->h)) {
        base.gate_residual_fwd(
            c, &(gate_residual_args){.x = a->x, .h = a->h, .gate = a->gate, .first = a->first, .y = a->sum});
        x = arena_tensor(&c->scratch, DT_F32, a->x->dim, 2);
        for (int64_t i = 0; i < tensor_count(&x); i++) F32(&x)[i] = round16(F32(a->sum)[i]);
        l.x = &x;
        l.h = l.gate = NULL;
        l.sum = NULL;
    }
    base.layer_norm_fwd(c, &l);
}

/* Which of the two parents that a child meets along an axis lies at offset d = -1, 0, 1: 0 the lower, 1 the upper. */
static int parent_side(int child_bit, int d) {
    return child_bit ? d > 0 : d >= 0;
}
/* Number 0 to 7 of the parent that child c meets at offset k. */
static int parent_of(int c, int k) {
    return parent_side(c >> 2, k % 3 - 1) | parent_side(c >> 1 & 1, k / 3 % 3 - 1) << 1 |
           parent_side(c & 1, k / 9 - 1) << 2;
}

/* The matrices of the offsets that meet the same parent are added and rounded. */
static void conv3_up_rows(ctx *c, const conv3_args *a) {
    int64_t I = a->w->dim[1], O = a->w->dim[2], m = I * O;
    float  *w = arena_zeros(&c->scratch, (size_t)(64 * m) * sizeof *w);
    for (int child = 0; child < 8; child++)
        for (int k = 0; k < 27; k++)
            for (int64_t e = 0; e < m; e++) w[(8 * child + parent_of(child, k)) * m + e] += F32(a->w)[k * m + e];
    for (int64_t e = 0; e < 64 * m; e++) w[e] = round16(w[e]);
    for (int64_t p = 0; p < a->g->n_rows; p++) {
        int32_t nb[27], parent[8];
        grid_neighbors(a->g, p, 1, nb);
        for (int k = 0; k < 27; k++) parent[parent_of((int)(p % 8), k)] = nb[k] < 0 ? -1 : nb[k] / 8;
        for (int64_t o = 0; o < O; o++) {
            float sum = F32(a->b)[o];
            for (int n = 0; n < 8; n++)
                for (int64_t i = 0; parent[n] >= 0 && i < I; i++)
                    sum += F32(a->x)[parent[n] * I + i] * w[((p % 8 * 8 + n) * I + i) * O + o];
            F32(a->act == ACT_NONE ? a->y : a->pre)[p * O + o] = sum;
        }
    }
}

static void conv3_fwd_ref16(ctx *c, const conv3_args *a) {
    if (a->up)
        conv3_up_rows(c, a);
    else
        base.conv3_fwd(c, a);
    activate(a->act, a->pre, a->y);
}

/* dx of eight children is rounded before it is added up. */
static void add_children(ctx *c, const conv3_args *a) {
    conv3_args b = *a;
    int64_t    C = a->x->dim[1];
    tensor     dx = arena_tensor(&c->scratch, DT_F32, DIMS(a->g->n_rows, C));
    tensor dw = arena_tensor(&c->scratch, DT_F32, a->w->dim, 3), db = arena_tensor(&c->scratch, DT_F32, a->b->dim, 1);
    memset(dw.data, 0, tensor_bytes(&dw));
    memset(db.data, 0, tensor_bytes(&db));
    b.x = &dx; /* for dw, which nobody reads */
    b.dx = &dx;
    b.dw = &dw;
    b.db = &db;
    b.up = false;
    base.conv3_bwd(c, &b);
    for (int64_t e = 0, n = tensor_count(a->dx); e < n; e++) {
        float sum = 0;
        for (int64_t i = 0; i < 8; i++) sum += round16(F32(&dx)[(e / C * 8 + i) * C + e % C]);
        F32(a->dx)[e] = sum;
    }
}

static void conv3_bwd_ref16(ctx *c, const conv3_args *a) {
    conv3_args b = *a;
    tensor     d = rounded_dpre(c, a->act, a->pre, a->dy);
    b.dy = &d;
    b.act = ACT_NONE;
    size_t mark = arena_mark(&c->scratch);
    base.conv3_bwd(c, &b);
    arena_reset(&c->scratch, mark);
    if (a->up && tensor_given(a->dx)) add_children(c, &b);
}

/* ---- attention ------------------------------------------------------------------------------------------------ */

#define double float
#include "kernels/ref/attn_row.h"

/* Weights are rounded before they are divided by their sum, so at any scale; this one is where bf16 loses most. */
static float weight16(float p) {
    const float scale = 1.0039f;
    return round16(p * scale) / scale;
}

static void row_fwd_16(const attn_row *r, float *out, float *lse) {
    *lse = attn_row_softmax(r);
    for (int64_t d = 0; d < r->D; d++) {
        float sum = 0;
        for (int64_t t = 0; t < r->n; t++) sum += weight16(r->p[t]) * r->v[r->key[t] * r->v_stride + d];
        out[d] = sum;
    }
}

static void row_bwd_16(const attn_row *r, const float *dout, float *dq_sum, float *dq, float *dk, float *dv) {
    float delta = 0, lse;
    if (r->stat) {
        delta = attn_row_given(r);
    } else {
        row_fwd_16(r, dq_sum, &lse);
        for (int64_t d = 0; d < r->D; d++) delta += dout[d] * round16(dq_sum[d]);
    }
    for (int64_t d = 0; d < r->D; d++) dq_sum[d] = 0;
    for (int64_t t = 0; t < r->n; t++) {
        int64_t      row = r->key[t];
        const float *k = r->k + row * r->k_stride, *v = r->v + row * r->v_stride;
        float        dp = 0, p = round16(r->p[t]);
        for (int64_t d = 0; d < r->D; d++) dp += dout[d] * v[d];
        float ds = round16(r->p[t] * (dp - delta)) * r->scale;
        for (int64_t d = 0; d < r->D; d++) {
            dq_sum[d] += ds * k[d];
            dk[row * r->D + d] += ds * r->q[d];
            dv[row * r->D + d] += p * dout[d];
        }
    }
    for (int64_t d = 0; d < r->D; d++) dq[d] = r->dq_add ? dq[d] + round16(dq_sum[d]) : dq_sum[d];
}

#define attn_row_fwd row_fwd_16
#define attn_row_bwd row_bwd_16
#define attn_segment_fwd_ref attn_segment_fwd_ref16
#define attn_segment_bwd_ref attn_segment_bwd_ref16
#define attn_select_fwd_ref attn_select_fwd_ref16
#define attn_select_bwd_ref attn_select_bwd_ref16
/* The prototypes, under the names above. */
void attn_segment_fwd_ref(ctx *, const attn_segment_args *);
void attn_segment_bwd_ref(ctx *, const attn_segment_args *);
void attn_select_fwd_ref(ctx *, const attn_select_args *);
void attn_select_bwd_ref(ctx *, const attn_select_args *);
#include "kernels/ref/attn_segment.c"
#include "kernels/ref/attn_select.c"
#undef double

const backend *ref16_table(const backend *inner) {
    base = table = *inner;
    table.name = "ref16";
#define OVER(entry)                                                                                                    \
    if (base.entry) table.entry = entry##_ref16
    OVER(linear_fwd);
    OVER(linear_bwd);
    OVER(layer_norm_fwd);
    OVER(conv3_fwd);
    OVER(conv3_bwd);
    OVER(attn_segment_fwd);
    OVER(attn_segment_bwd);
    OVER(attn_select_fwd);
    OVER(attn_select_bwd);
#undef OVER
    return &table;
}
