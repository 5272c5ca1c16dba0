#include "ops/rms_norm.h"
#include "ops/check.h"

static void check(const ctx *c, const rms_norm_args *a, const char *op) {
    int64_t h = op_dim(op, "x", a->x, 1), d = op_dim(op, "x", a->x, 2);
    op_want(c, op, "x", a->x, op_act(c, op, "x", a->x), DIMS(ANY, h, d));
    op_want(c, op, "gamma", a->gamma, DT_F32, DIMS(h, d));
}

void rms_norm_fwd(ctx *c, const rms_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->y, a->x);
    OP_CALL(rms_norm_fwd);
}

void rms_norm_bwd(ctx *c, const rms_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dy, a->x);
    WANT_SAME(a->dx, a->x);
    if (tensor_given(a->dgamma)) WANT_SAME(a->dgamma, a->gamma);
    OP_CALL(rms_norm_bwd);
}
