#include "ops/attn_segment.h"

#include <stdio.h>

#include "ops/check.h"

static void check_stride(const char *op, const char *name, int64_t stride, const tensor *t) {
    CHECK(stride == 0 || stride >= t->dim[1] * t->dim[2], "%s: %s is %lld, a row has %lld elements", op, name,
          (long long)stride, (long long)(t->dim[1] * t->dim[2]));
}

/* first and order describe ranges over rows; no row is named twice. `all`: every row is named. */
static int64_t check_ranges(ctx *c, const char *op, const char *name, const tensor *first, const tensor *order,
                            int64_t rows, bool all) {
    int64_t n = tensor_given(order) ? op_dim(op, name, order, 0) : rows;
    CHECK(all ? n == rows : n <= rows, "%s: %s order has %lld entries for %lld rows", op, name, (long long)n,
          (long long)rows);
    if (!all && !tensor_given(order) && !c->dry && tensor_given(first) && first->dev == DEV_CPU && first->dim[0] > 0) {
        n = I32(first)[first->dim[0] - 1];
        CHECK(n <= rows, "%s: %s_first ends at %lld of %lld rows", op, name, (long long)n, (long long)rows);
    }
    int64_t n_segments = op_want_first(c, op, name, first, n);
    if (!tensor_given(order)) return n_segments;
    op_want_index(c, op, name, order, n, rows);
    char what[16];
    snprintf(what, sizeof what, "%s_order", name);
    op_want_once(c, op, what, order, rows);
    return n_segments;
}

static void check(ctx *c, const attn_segment_args *a, const char *op) {
    int64_t n = op_dim(op, "q", a->q, 0), h = op_dim(op, "q", a->q, 1), d = op_dim(op, "q", a->q, 2);
    int64_t m = op_dim(op, "k", a->k, 0), g = op_dim(op, "k", a->k, 1);
    CHECK(h > 0 && d > 0 && g > 0 && h % g == 0, "%s: %lld key heads do not divide %lld heads (width %lld)", op,
          (long long)g, (long long)h, (long long)d);
    dtype act = op_act(c, op, "q", a->q);
    op_want(c, op, "q", a->q, act, DIMS(n, h, d));
    op_want(c, op, "k", a->k, act, DIMS(m, g, d));
    op_want(c, op, "v", a->v, act, DIMS(m, g, d));
    op_want(c, op, "out", a->out, act, DIMS(n, h, d));
    op_want(c, op, "lse", a->lse, DT_F32, DIMS(n, h));
    check_stride(op, "q_stride", a->q_stride, a->q);
    check_stride(op, "k_stride", a->k_stride, a->k);
    check_stride(op, "v_stride", a->v_stride, a->v);
    int64_t q_segments = check_ranges(c, op, "q", a->q_first, a->q_order, n, true);
    int64_t k_segments = check_ranges(c, op, "k", a->k_first, a->k_order, m, false);
    CHECK(q_segments == k_segments, "%s: %lld query segments, %lld key segments", op, (long long)q_segments,
          (long long)k_segments);
}

void attn_segment_fwd(ctx *c, const attn_segment_args *a) {
    check(c, a, __func__);
    OP_CALL(attn_segment_fwd);
}

void attn_segment_bwd(ctx *c, const attn_segment_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dout, a->q);
    WANT_F32_OPT(a->stat, a->q->dim[0], a->q->dim[1], 2);
    WANT_SAME(a->dq, a->q);
    WANT_SAME(a->dk, a->k);
    WANT_SAME(a->dv, a->v);
    OP_CALL(attn_segment_bwd);
}
