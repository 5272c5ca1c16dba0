#include "ops/linear.h"
#include "ops/check.h"

static void check(const ctx *c, const linear_args *a, const char *op) {
    int64_t n = op_dim(op, "x", a->x, 0), in = op_dim(op, "x", a->x, 1);
    int64_t out = op_dim(op, "w", a->w, a->w_in_out ? 1 : 0);
    op_want(c, op, "x", a->x, DT_F32, DIMS(n, in));
    op_want(c, op, "w", a->w, DT_F32, a->w_in_out ? (const int64_t[]){in, out} : (const int64_t[]){out, in}, 2);
    CHECK(a->act >= ACT_NONE && a->act <= ACT_TANH, "%s: act is %d", op, (int)a->act);
    if (a->act != ACT_NONE) op_want(c, op, "pre", a->pre, DT_F32, DIMS(n, out));
}

void linear_fwd(ctx *c, const linear_args *a) {
    check(c, a, __func__);
    int64_t n = a->x->dim[0], out = a->w->dim[a->w_in_out ? 1 : 0];
    WANT_F32(a->y, n, out);
    WANT_F32_OPT(a->b, out);
    OP_CALL(linear_fwd);
}

void linear_bwd(ctx *c, const linear_args *a) {
    check(c, a, __func__);
    int64_t n = a->x->dim[0], out = a->w->dim[a->w_in_out ? 1 : 0];
    WANT_F32(a->dy, n, out);
    if (tensor_given(a->dx)) WANT_SAME(a->dx, a->x);
    if (tensor_given(a->dw)) WANT_SAME(a->dw, a->w);
    WANT_F32_OPT(a->db, out);
    OP_CALL(linear_bwd);
}
