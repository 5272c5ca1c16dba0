#include "ops/conv3.h"
#include "ops/check.h"

static void check(const ctx *c, const conv3_args *a, const char *op) {
    CHECK(a->g, "%s: no grid", op);
    int64_t n = a->g->n_rows, in = op_dim(op, "x", a->x, 1), out = op_dim(op, "w", a->w, 2);
    op_want(c, op, "grid.nb", &a->g->nb, DT_I32, DIMS(a->g->n_tiles, 27));
    op_want(c, op, "x", a->x, DT_F32, DIMS(n, in));
    op_want(c, op, "w", a->w, DT_F32, DIMS(27, in, out));
    CHECK(a->act == ACT_NONE || a->act == ACT_SILU, "%s: act is %d, wanted none or SiLU", op, (int)a->act);
    if (a->act != ACT_NONE) op_want(c, op, "pre", a->pre, DT_F32, DIMS(n, out));
}

void conv3_fwd(ctx *c, const conv3_args *a) {
    check(c, a, __func__);
    WANT_F32(a->b, a->w->dim[2]);
    WANT_F32(a->y, a->g->n_rows, a->w->dim[2]);
    WANT_NO_ALIAS(a->y, a->x);
    OP_CALL(conv3_fwd);
}

void conv3_bwd(ctx *c, const conv3_args *a) {
    check(c, a, __func__);
    WANT_F32(a->dy, a->g->n_rows, a->w->dim[2]);
    if (tensor_given(a->dx)) {
        WANT_SAME(a->dx, a->x);
        WANT_NO_ALIAS(a->dx, a->dy);
    }
    WANT_SAME(a->dw, a->w);
    WANT_F32(a->db, a->w->dim[2]);
    OP_CALL(conv3_bwd);
}
