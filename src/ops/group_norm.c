#include "ops/group_norm.h"
#include "ops/check.h"

static void check(const ctx *c, const group_norm_args *a, const char *op) {
    int64_t n = op_dim(op, "x", a->x, 0), ch = op_dim(op, "x", a->x, 1);
    op_want(c, op, "x", a->x, op_act(c, op, "x", a->x), DIMS(n, ch));
    CHECK(a->groups > 0 && ch > 0 && ch % a->groups == 0, "%s: %d groups do not divide %lld channels", op, a->groups,
          (long long)ch);
    CHECK(a->eps > 0, "%s: eps %g", op, a->eps);
    CHECK(a->act == ACT_NONE || a->act == ACT_SILU, "%s: act is %d, wanted none or SiLU", op, (int)a->act);
    op_want(c, op, "gamma", a->gamma, DT_F32, DIMS(ch));
    op_want(c, op, "beta", a->beta, DT_F32, DIMS(ch));
    int64_t b = op_want_first(c, op, "first", a->first, n);
    op_want(c, op, "mean", a->mean, DT_F32, DIMS(b, a->groups));
    op_want(c, op, "rstd", a->rstd, DT_F32, DIMS(b, a->groups));
}

void group_norm_fwd(ctx *c, const group_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->y, a->x);
    OP_CALL(group_norm_fwd);
}

void group_norm_bwd(ctx *c, const group_norm_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dy, a->x);
    WANT_SAME(a->dx, a->x);
    WANT_BOTH_OR_NEITHER(a->dgamma, a->dbeta);
    if (tensor_given(a->dgamma)) {
        WANT_SAME(a->dgamma, a->gamma);
        WANT_SAME(a->dbeta, a->gamma);
    }
    OP_CALL(group_norm_bwd);
}
