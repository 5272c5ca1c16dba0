#include "ops/branch_gate.h"
#include "ops/check.h"

static void check(const ctx *c, const branch_gate_args *a, const char *op) {
    dtype act = op_act(c, op, "o[0]", a->o[0]);
    op_want(c, op, "o[0]", a->o[0], act, DIMS(ANY, ANY, ANY));
    op_want_same(c, op, "o[1]", a->o[1], a->o[0]);
    op_want_same(c, op, "o[2]", a->o[2], a->o[0]);
    op_want(c, op, "z", a->z, act, DIMS(a->o[0]->dim[0], 3));
}

void branch_gate_fwd(ctx *c, const branch_gate_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->out, a->o[0]);
    OP_CALL(branch_gate_fwd);
}

void branch_gate_bwd(ctx *c, const branch_gate_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dout, a->o[0]);
    for (int i = 0; i < 3; i++) {
        WANT_F32(a->lse[i], a->o[0]->dim[0], a->o[0]->dim[1]);
        WANT_F32(a->stat[i], a->o[0]->dim[0], a->o[0]->dim[1], 2);
        WANT_NO_ALIAS(a->stat[i], a->lse[i]);
    }
    WANT_SAME(a->dz, a->z);
    OP_CALL(branch_gate_bwd);
}
