#include "ops/gate_residual.h"
#include "ops/check.h"

static void check_gate(const ctx *c, const gate_residual_args *a, const tensor *rows, const char *op) {
    int64_t n = op_dim(op, "rows", rows, 0), ch = op_dim(op, "rows", rows, 1);
    if (!tensor_given(a->gate)) return;
    int64_t b = op_want_first(c, op, "first", a->first, n);
    op_want(c, op, "gate", a->gate, rows->dt, DIMS(b, ch));
}

void gate_residual_fwd(ctx *c, const gate_residual_args *a) {
    WANT(a->x, ACT_OF(a->x), ANY, ANY);
    WANT_SAME(a->h, a->x);
    WANT_SAME(a->y, a->x);
    check_gate(c, a, a->x, __func__);
    OP_CALL(gate_residual_fwd);
}

void gate_residual_bwd(ctx *c, const gate_residual_args *a) {
    WANT(a->dy, ACT_OF(a->dy), ANY, ANY);
    WANT_SAME(a->dh, a->dy);
    check_gate(c, a, a->dy, __func__);
    CHECK(tensor_given(a->gate) || !tensor_given(a->dgate), "%s: dgate without gate", __func__);
    if (tensor_given(a->dgate)) {
        WANT_SAME(a->h, a->dy);
        WANT_SAME(a->dgate, a->gate);
    }
    OP_CALL(gate_residual_bwd);
}
