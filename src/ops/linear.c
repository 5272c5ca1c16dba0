#include "ops/linear.h"
#include "core/fault.h"
#include "ops/check.h"

/* One bit of one result, as a processor that is wrong now and then would have it; in host memory only. */
static void spoil(tensor *y) {
    if (y->dev == DEV_CPU && y->dt == DT_F32 && tensor_count(y) > 0) I32(y)[tensor_count(y) / 2] ^= 1 << 20;
}

/* y: y or dy, of the activations' dtype or f32; pre has y's. */
static void check(const ctx *c, const linear_args *a, const char *op, const char *name, const tensor *y) {
    int64_t n = op_dim(op, "x", a->x, 0), in = op_dim(op, "x", a->x, 1);
    int64_t out = op_dim(op, "w", a->w, a->w_in_out ? 1 : 0);
    dtype   act = op_act(c, op, "x", a->x), dt = y && y->dt == DT_F32 ? DT_F32 : act;
    op_want(c, op, "x", a->x, act, DIMS(n, in));
    op_want(c, op, "w", a->w, act, a->w_in_out ? (const int64_t[]){in, out} : (const int64_t[]){out, in}, 2);
    CHECK(a->act >= ACT_NONE && a->act <= ACT_TANH, "%s: act is %d", op, (int)a->act);
    if (a->act != ACT_NONE) op_want(c, op, "pre", a->pre, dt, DIMS(n, out));
    op_want(c, op, name, y, dt, DIMS(n, out));
}

void linear_fwd(ctx *c, const linear_args *a) {
    check(c, a, __func__, "y", a->y);
    WANT_F32_OPT(a->b, a->w->dim[a->w_in_out ? 1 : 0]);
    OP_CALL(linear_fwd);
    if (fault_at("op.product")) spoil(a->y);
}

void linear_bwd(ctx *c, const linear_args *a) {
    check(c, a, __func__, "dy", a->dy);
    if (tensor_given(a->dx)) WANT_SAME(a->dx, a->x);
    CHECK(a->in_act >= ACT_NONE && a->in_act <= ACT_TANH, "in_act is %d", (int)a->in_act);
    if (a->in_act != ACT_NONE) {
        WANT_SAME(a->in_pre, a->x);
        CHECK(!a->dx_add, "linear_bwd: in_act and dx_add together");
    }
    if (tensor_given(a->dw)) WANT_F32_SAME(a->dw, a->w);
    WANT_F32_OPT(a->db, a->w->dim[a->w_in_out ? 1 : 0]);
    OP_CALL(linear_bwd);
}
