#include "ops/optim.h"
#include "ops/check.h"

void sum_squares_fwd(ctx *c, const sum_squares_args *a) {
    WANT_F32_SAME(a->x, a->x);
    WANT(a->out, DT_F64, 1);
    OP_CALL(sum_squares_fwd);
}

void adamw_fwd(ctx *c, const adamw_args *a) {
    WANT_F32(a->w, ANY);
    WANT_SAME(a->m, a->w);
    WANT_SAME(a->v, a->w);
    WANT_SAME(a->grad, a->w);
    if (tensor_given(a->ema)) WANT_SAME(a->ema, a->w);
    if (tensor_given(a->w16)) WANT(a->w16, DT_BF16, a->w->dim[0]);
    CHECK(a->step >= 1, "%s: step is %lld, the first is 1", __func__, (long long)a->step);
    OP_CALL(adamw_fwd);
}
