#include "ops/act.h"
#include "ops/check.h"

static void check(const ctx *c, const act_args *a, const char *op) {
    CHECK(a->act >= ACT_NONE && a->act <= ACT_TANH, "%s: act is %d", op, (int)a->act);
    op_act(c, op, "x", a->x);
}

void act_fwd(ctx *c, const act_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->y, a->x);
    WANT_NO_ALIAS(a->y, a->x);
    OP_CALL(act_fwd);
}

void act_bwd(ctx *c, const act_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dy, a->x);
    WANT_SAME(a->dx, a->x);
    OP_CALL(act_bwd);
}
