#include "ops/vae_sample.h"
#include "ops/check.h"

static int64_t check(const ctx *c, const vae_sample_args *a, const char *op) {
    op_want(c, op, "moments", a->moments, DT_F32, DIMS(ANY, ANY));
    int64_t n = a->moments->dim[0], width = a->moments->dim[1];
    CHECK(width % 2 == 0, "%s: moments have the odd width %lld", op, (long long)width);
    if (tensor_given(a->eps)) op_want(c, op, "eps", a->eps, DT_F32, DIMS(n, width / 2));
    return width / 2;
}

void vae_sample_fwd(ctx *c, const vae_sample_args *a) {
    int64_t width = check(c, a, __func__);
    WANT_F32(a->z, a->moments->dim[0], width);
    WANT(a->kl, DT_F64, 1);
    OP_CALL(vae_sample_fwd);
}

void vae_sample_bwd(ctx *c, const vae_sample_args *a) {
    int64_t width = check(c, a, __func__);
    WANT_F32_OPT(a->dz, a->moments->dim[0], width);
    WANT_SAME(a->dmoments, a->moments);
    OP_CALL(vae_sample_bwd);
}
