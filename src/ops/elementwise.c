#include "ops/elementwise.h"
#include "ops/check.h"

static void check_counts(const xy_args *a, const char *op) {
    CHECK(tensor_count(a->x) == tensor_count(a->y), "%s: x has %lld elements, y %lld", op,
          (long long)tensor_count(a->x), (long long)tensor_count(a->y));
}

void add_fwd(ctx *c, const xy_args *a) {
    dtype x = ACT_OF(a->x), y = ACT_OF(a->y);
    CHECK(x == y, "x is %s, y %s", dtype_name(x), dtype_name(y));
    check_counts(a, __func__);
    OP_CALL(add_fwd);
}

void zero_fwd(ctx *c, const xy_args *a) {
    WANT_SAME(a->y, a->y);
    OP_CALL(zero_fwd);
}

void copy_fwd(ctx *c, const xy_args *a) {
    WANT_FLOAT(a->x);
    WANT_FLOAT(a->y);
    check_counts(a, __func__);
    OP_CALL(copy_fwd);
}

static void check_columns(const ctx *c, const tensor *x, const tensor *const *part, int n_parts, const char *op) {
    dtype act = op_act(c, op, "x", x);
    op_want(c, op, "x", x, act, DIMS(ANY, ANY));
    CHECK(n_parts >= 1 && n_parts <= 6, "%s: %d parts", op, n_parts);
    int64_t width = 0;
    for (int i = 0; i < n_parts; i++) {
        op_want(c, op, "part", part[i], act, DIMS(x->dim[0], ANY));
        width += part[i]->dim[1];
    }
    CHECK(width == x->dim[1], "%s: the parts have %lld columns, x %lld", op, (long long)width, (long long)x->dim[1]);
}

void split_cols_fwd(ctx *c, const split_cols_args *a) {
    check_columns(c, a->x, (const tensor *const *)a->part, a->n_parts, __func__);
    OP_CALL(split_cols_fwd);
}

void merge_cols_fwd(ctx *c, const merge_cols_args *a) {
    check_columns(c, a->x, a->part, a->n_parts, __func__);
    OP_CALL(merge_cols_fwd);
}

void embed_ape_fwd(ctx *c, const embed_ape_args *a) {
    WANT(a->x, ACT_OF(a->x), ANY, ANY);
    WANT(a->coord, DT_I32, a->x->dim[0], 3);
    WANT_SAME(a->y, a->x);
    OP_CALL(embed_ape_fwd);
}

void embed_time_fwd(ctx *c, const embed_time_args *a) {
    WANT_F32(a->t, ANY);
    WANT(a->y, ACT_OF(a->y), a->t->dim[0], ANY);
    CHECK(a->y->dim[1] % 2 == 0, "%s: y has the odd width %lld", __func__, (long long)a->y->dim[1]);
    OP_CALL(embed_time_fwd);
}

void add_table_fwd(ctx *c, const add_table_args *a) {
    WANT(a->x, ACT_OF(a->x), ANY, ANY);
    WANT_F32(a->table, ANY, a->x->dim[1]);
    WANT_SAME(a->y, a->x);
    WANT_INDEX(a->index, a->x->dim[0], a->table->dim[0]);
    OP_CALL(add_table_fwd);
}

void add_table_bwd(ctx *c, const add_table_args *a) {
    WANT(a->dy, ACT_OF(a->dy), ANY, ANY);
    WANT_F32(a->dtable, ANY, a->dy->dim[1]);
    int64_t n = a->dy->dim[0], rows = a->dtable->dim[0], k = WANT_FIRST(a->first, n);
    CHECK(k == rows, "%s: rows of %lld indices for a table of %lld", __func__, (long long)k, (long long)rows);
    WANT_INDEX(a->order, n, n);
    op_want_once(c, __func__, "order", a->order, n);
    OP_CALL(add_table_bwd);
}

/* x (K,C), y (N,C). No row is named twice, so that bwd writes every row of dx once. */
static void check_gather(ctx *c, const gather_rows_args *a, const char *op, const char *from, const tensor *x,
                         const char *to, const tensor *y) {
    dtype act = op_act(c, op, from, x);
    op_want(c, op, from, x, act, DIMS(ANY, ANY));
    op_want(c, op, to, y, act, DIMS(ANY, x->dim[1]));
    op_want_index(c, op, "index", a->index, y->dim[0], x->dim[0]);
    op_want_once(c, op, "index", a->index, x->dim[0]);
    op_no_alias(op, to, y, x);
}

void gather_rows_fwd(ctx *c, const gather_rows_args *a) {
    check_gather(c, a, __func__, "x", a->x, "y", a->y);
    OP_CALL(gather_rows_fwd);
}

void gather_rows_bwd(ctx *c, const gather_rows_args *a) {
    check_gather(c, a, __func__, "dx", a->dx, "dy", a->dy);
    OP_CALL(gather_rows_bwd);
}
