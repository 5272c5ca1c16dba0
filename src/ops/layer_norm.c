#include "ops/layer_norm.h"
#include "ops/check.h"

static void check(const ctx *c, const layer_norm_args *a, const char *op) {
    int64_t n = op_dim(op, "x", a->x, 0), ch = op_dim(op, "x", a->x, 1);
    dtype   act = op_act(c, op, "x", a->x);
    op_want(c, op, "x", a->x, act, DIMS(n, ch));
    CHECK(ch > 0 && a->eps > 0, "%s: %lld channels, eps %g", op, (long long)ch, a->eps);
    WANT_BOTH_OR_NEITHER(a->gamma, a->beta);
    WANT_BOTH_OR_NEITHER(a->scale, a->shift);
    if (tensor_given(a->gamma)) {
        op_want(c, op, "gamma", a->gamma, DT_F32, DIMS(ch));
        op_want(c, op, "beta", a->beta, DT_F32, DIMS(ch));
    }
    if (tensor_given(a->scale)) {
        int64_t b = op_want_first(c, op, "first", a->first, n);
        op_want(c, op, "scale", a->scale, act, DIMS(b, ch));
        op_want(c, op, "shift", a->shift, act, DIMS(b, ch));
    }
    op_want(c, op, "mean", a->mean, DT_F32, DIMS(n));
    op_want(c, op, "rstd", a->rstd, DT_F32, DIMS(n));
}

void layer_norm_fwd(ctx *c, const layer_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->y, a->x);
    WANT_BOTH_OR_NEITHER(a->h, a->sum);
    CHECK(tensor_given(a->h) || !tensor_given(a->gate), "%s: gate without h", __func__);
    if (tensor_given(a->h)) {
        WANT_SAME(a->h, a->x);
        WANT_SAME(a->sum, a->x);
    }
    if (tensor_given(a->gate)) WANT(a->gate, a->x->dt, WANT_FIRST(a->first, a->x->dim[0]), a->x->dim[1]);
    OP_CALL(layer_norm_fwd);
}

void layer_norm_bwd(ctx *c, const layer_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dy, a->x);
    WANT_SAME(a->dx, a->x);
    if (tensor_given(a->dx_add)) WANT_SAME(a->dx_add, a->x);
    WANT_BOTH_OR_NEITHER(a->dgamma, a->dbeta);
    WANT_BOTH_OR_NEITHER(a->dscale, a->dshift);
    if (tensor_given(a->dgamma)) {
        WANT_SAME(a->dgamma, a->gamma);
        WANT_SAME(a->dbeta, a->gamma);
    }
    if (tensor_given(a->dscale)) {
        WANT_SAME(a->dscale, a->scale);
        WANT_SAME(a->dshift, a->scale);
    }
    OP_CALL(layer_norm_bwd);
}
