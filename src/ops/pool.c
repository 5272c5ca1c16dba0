#include "ops/pool.h"

#include <string.h>

#include "ops/check.h"

/* Rows (n,ch) on one side, parents (p,ch) on the other. Every row has one parent, so that bwd writes every row once. */
static void check(ctx *c, const pool_args *a, const char *op, const tensor *rows, const tensor *parents) {
    int64_t n = op_dim(op, "rows", rows, 0), ch = op_dim(op, "rows", rows, 1);
    op_want(c, op, "rows", rows, DT_F32, DIMS(n, ch));
    op_want(c, op, "parents", parents, DT_F32, DIMS(ANY, ch));
    int64_t p = op_want_first(c, op, "first", a->first, n);
    CHECK(p == parents->dim[0], "%s: first has %lld parents, the tensor %lld", op, (long long)p,
          (long long)parents->dim[0]);
    if (!tensor_given(a->order)) return;
    op_want_index(c, op, "order", a->order, n, n);
    if (c->dry || a->order->dev != DEV_CPU) return;
    size_t mark = arena_mark(&c->scratch);
    char  *seen = memset(arena_alloc(&c->scratch, (size_t)n), 0, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        int32_t row = I32(a->order)[i];
        CHECK(!seen[row], "%s: order names row %d twice", op, row);
        seen[row] = 1;
    }
    arena_reset(&c->scratch, mark);
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
    WANT_F32(a->x, n, ch);
    WANT_F32(a->y, 8 * n, ch);
    OP_CALL(subdivide_fwd);
}

void subdivide_bwd(ctx *c, const subdivide_args *a) {
    int64_t n = DIM(a->dx, 0), ch = DIM(a->dx, 1);
    WANT_F32(a->dx, n, ch);
    WANT_F32(a->dy, 8 * n, ch);
    OP_CALL(subdivide_bwd);
}
