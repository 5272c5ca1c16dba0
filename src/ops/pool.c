#include "ops/pool.h"
#include "ops/check.h"

/* Rows (n,ch) on one side, parents (p,ch) on the other. Every row has one parent, so that bwd writes every row once. */
static void check(ctx *c, const pool_args *a, const char *op, const tensor *rows, const tensor *parents) {
    int64_t n = op_dim(op, "rows", rows, 0), ch = op_dim(op, "rows", rows, 1);
    dtype   act = op_act(c, op, "rows", rows);
    op_want(c, op, "rows", rows, act, DIMS(n, ch));
    op_want(c, op, "parents", parents, act, DIMS(ANY, ch));
    int64_t p = op_want_first(c, op, "first", a->first, n);
    CHECK(p == parents->dim[0], "%s: first has %lld parents, the tensor %lld", op, (long long)p,
          (long long)parents->dim[0]);
    if (!tensor_given(a->order)) return;
    op_want_index(c, op, "order", a->order, n, n);
    op_want_once(c, op, "order", a->order, n);
}

void pool_fwd(ctx *c, const pool_args *a) {
    check(c, a, __func__, a->x, a->y);
    OP_CALL(pool_fwd);
}

void pool_bwd(ctx *c, const pool_args *a) {
    check(c, a, __func__, a->dx, a->dy);
    OP_CALL(pool_bwd);
}

void subdivide_fwd(ctx *c, const subdivide_args *a) {
    int64_t n = DIM(a->x, 0), ch = DIM(a->x, 1);
    dtype   act = ACT_OF(a->x);
    WANT(a->x, act, n, ch);
    WANT(a->y, act, 8 * n, ch);
    OP_CALL(subdivide_fwd);
}

void subdivide_bwd(ctx *c, const subdivide_args *a) {
    int64_t n = DIM(a->dx, 0), ch = DIM(a->dx, 1);
    dtype   act = ACT_OF(a->dx);
    WANT(a->dx, act, n, ch);
    WANT(a->dy, act, 8 * n, ch);
    OP_CALL(subdivide_bwd);
}
