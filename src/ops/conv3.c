#include "ops/conv3.h"
#include "ops/check.h"

static dtype check(const ctx *c, const conv3_args *a, const char *op) {
    CHECK(a->g, "%s: no grid", op);
    int64_t n = a->g->n_rows, in = op_dim(op, "x", a->x, 1), out = op_dim(op, "w", a->w, 2);
    op_want(c, op, "grid.nb", &a->g->nb, DT_I32, DIMS(a->g->n_tiles, 27));
    op_want(c, op, "grid.first", &a->g->first, DT_I32, DIMS(a->g->n_tiles + 1));
    if (a->g->mask.data) op_want(c, op, "grid.mask", &a->g->mask, DT_U64, DIMS(a->g->n_tiles, a->g->side == 8 ? 8 : 1));
    dtype act = op_act(c, op, "x", a->x);
    CHECK(!a->up || (n % 8 == 0 && a->g->side > 1), "%s: %lld rows of side %d are not the children of a level above",
          op, (long long)n, a->g->side);
    op_want(c, op, "x", a->x, act, DIMS(a->up ? n / 8 : n, in));
    op_want(c, op, "w", a->w, act, DIMS(27, in, out));
    CHECK(a->act == ACT_NONE || a->act == ACT_SILU, "%s: act is %d, wanted none or SiLU", op, (int)a->act);
    if (a->act != ACT_NONE) op_want(c, op, "pre", a->pre, act, DIMS(n, out));
    return act;
}

void conv3_fwd(ctx *c, const conv3_args *a) {
    dtype act = check(c, a, __func__);
    WANT_F32(a->b, a->w->dim[2]);
    WANT(a->y, act, a->g->n_rows, a->w->dim[2]);
    WANT_NO_ALIAS(a->y, a->x);
    OP_CALL(conv3_fwd);
}

void conv3_bwd(ctx *c, const conv3_args *a) {
    dtype act = check(c, a, __func__);
    WANT(a->dy, act, a->g->n_rows, a->w->dim[2]);
    if (tensor_given(a->dx)) {
        WANT_SAME(a->dx, a->x);
        WANT_NO_ALIAS(a->dx, a->dy);
    }
    WANT_F32_SAME(a->dw, a->w);
    WANT_F32(a->db, a->w->dim[2]);
    OP_CALL(conv3_bwd);
}
