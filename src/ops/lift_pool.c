#include "ops/lift_pool.h"
#include "ops/check.h"

/* Values of index tensors are looked at in CPU memory only, as in ops/check.h. */
static void check_samples(const ctx *c, const char *op, const lift_pool_args *a) {
    if (c->dry || a->first->dev != DEV_CPU || a->pool_first->dev != DEV_CPU || a->pool_sample->dev != DEV_CPU) return;
    for (int64_t s = 0; s < a->first->dim[0]; s++)
        CHECK(I32(a->pool_first)[I32(a->pool_sample)[s]] == I32(a->first)[s],
              "%s: the parents of sample %lld begin with row %d, the sample with row %d", op, (long long)s,
              I32(a->pool_first)[I32(a->pool_sample)[s]], I32(a->first)[s]);
}

/* Returns the dtype of activations. */
static dtype check(const ctx *c, const lift_pool_args *a, const char *op) {
    int64_t n = op_dim(op, "v", a->v, 0), ch = op_dim(op, "w", a->w, 0);
    dtype   act = op_act(c, op, "v", a->v);
    op_want(c, op, "v", a->v, act, DIMS(n, 1));
    op_want(c, op, "w", a->w, act, DIMS(ch, 1));
    op_want(c, op, "b", a->b, DT_F32, DIMS(ch));
    op_want(c, op, "gamma", a->gamma, DT_F32, DIMS(ch));
    op_want(c, op, "beta", a->beta, DT_F32, DIMS(ch));
    CHECK(a->groups > 0 && ch > 0 && ch % a->groups == 0, "%s: %d groups do not divide %lld channels", op, a->groups,
          (long long)ch);
    CHECK(a->eps > 0, "%s: eps %g", op, a->eps);
    int64_t b = op_want_first(c, op, "first", a->first, n), p = op_want_first(c, op, "pool_first", a->pool_first, n);
    int64_t b_parents = op_want_first(c, op, "pool_sample", a->pool_sample, p);
    CHECK(b_parents == b, "%s: first has %lld samples, pool_sample %lld", op, (long long)b, (long long)b_parents);
    check_samples(c, op, a);
    op_want(c, op, "moments", a->moments, DT_F64, DIMS(b, 2));
    return act;
}

void lift_pool_fwd(ctx *c, const lift_pool_args *a) {
    dtype   act = check(c, a, __func__);
    int64_t p = DIM(a->pool_first, 0) - 1, ch = DIM(a->w, 0);
    WANT(a->y, act, p, ch);
    WANT(a->skip, act, p, ch);
    OP_CALL(lift_pool_fwd);
}

void lift_pool_bwd(ctx *c, const lift_pool_args *a) {
    dtype   act = check(c, a, __func__);
    int64_t p = DIM(a->pool_first, 0) - 1, ch = DIM(a->w, 0);
    WANT(a->dy, act, p, ch);
    WANT(a->dskip, act, p, ch);
    if (tensor_given(a->dv)) WANT_SAME(a->dv, a->v);
    WANT_BOTH_OR_NEITHER(a->dw, a->db);
    WANT_BOTH_OR_NEITHER(a->dw, a->dgamma);
    WANT_BOTH_OR_NEITHER(a->dw, a->dbeta);
    WANT_F32_OPT(a->dw, ch, 1);
    WANT_F32_OPT(a->db, ch);
    WANT_F32_OPT(a->dgamma, ch);
    WANT_F32_OPT(a->dbeta, ch);
    OP_CALL(lift_pool_bwd);
}
