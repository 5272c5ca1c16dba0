#include "ops/loss.h"
#include "ops/check.h"

static void check_sdf(const ctx *c, const sdf_loss_args *a, const char *op) {
    op_want(c, op, "pred", a->pred, DT_F32, DIMS(ANY));
    op_want_same(c, op, "target", a->target, a->pred);
    if (tensor_given(a->sharp)) op_want(c, op, "sharp", a->sharp, DT_U8, DIMS((a->pred->dim[0] + 7) / 8));
}

void sdf_loss_fwd(ctx *c, const sdf_loss_args *a) {
    check_sdf(c, a, __func__);
    WANT(a->sums, DT_F64, 3);
    WANT(a->counts, DT_F64, 3);
    OP_CALL(sdf_loss_fwd);
}

void sdf_loss_bwd(ctx *c, const sdf_loss_args *a) {
    check_sdf(c, a, __func__);
    WANT_SAME(a->dpred, a->pred);
    OP_CALL(sdf_loss_bwd);
}

static void check_mse(const ctx *c, const mse_rows_args *a, const char *op) {
    op_want(c, op, "pred", a->pred, DT_F32, DIMS(ANY, ANY));
    op_want_same(c, op, "target", a->target, a->pred);
}

void mse_rows_fwd(ctx *c, const mse_rows_args *a) {
    check_mse(c, a, __func__);
    int64_t b = WANT_FIRST(a->first, a->pred->dim[0]);
    WANT(a->sums, DT_F64, b);
    OP_CALL(mse_rows_fwd);
}

void mse_rows_bwd(ctx *c, const mse_rows_args *a) {
    check_mse(c, a, __func__);
    WANT_SAME(a->dpred, a->pred);
    OP_CALL(mse_rows_bwd);
}

void flow_noise_fwd(ctx *c, const flow_noise_args *a) {
    WANT_F32(a->x0, ANY, ANY);
    WANT_SAME(a->eps, a->x0);
    int64_t b = WANT_FIRST(a->first, a->x0->dim[0]);
    WANT_F32(a->t, b);
    WANT_SAME(a->x_t, a->x0);
    WANT_SAME(a->v, a->x0);
    OP_CALL(flow_noise_fwd);
}
