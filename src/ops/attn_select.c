#include "ops/attn_select.h"
#include "ops/check.h"

static void check(const ctx *c, const attn_select_args *a, const char *op) {
    int64_t n = op_dim(op, "q", a->q, 0), h = op_dim(op, "q", a->q, 1), d = op_dim(op, "q", a->q, 2);
    int64_t g = op_dim(op, "k", a->k, 1);
    CHECK(h > 0 && d > 0 && g > 0 && h % g == 0, "%s: %lld key heads do not divide %lld heads (width %lld)", op,
          (long long)g, (long long)h, (long long)d);
    dtype act = op_act(c, op, "q", a->q);
    op_want(c, op, "q", a->q, act, DIMS(n, h, d));
    op_want(c, op, "k", a->k, act, DIMS(n, g, d));
    op_want(c, op, "v", a->v, act, DIMS(n, g, d));
    op_want(c, op, "out", a->out, act, DIMS(n, h, d));
    op_want(c, op, "lse", a->lse, DT_F32, DIMS(n, h));
    op_want(c, op, "block", a->block, DT_I32, DIMS(g, n, ANY));
    int64_t n_blocks = op_want_first(c, op, "first", a->first, n);
    if (c->dry || a->block->dev != DEV_CPU) return;
    for (int64_t i = 0, k = a->block->dim[2]; i < g * n; i++)
        for (int64_t s = 0; s < k; s++) {
            const int32_t *row = I32(a->block) + i * k;
            CHECK(row[s] >= -1 && row[s] < n_blocks, "%s: block[%lld,%lld,%lld] is %d, there are %lld blocks", op,
                  (long long)(i / n), (long long)(i % n), (long long)s, row[s], (long long)n_blocks);
            /* Ascending without repetition: no key counts twice in a softmax. */
            CHECK(s == 0 || row[s] == -1 || row[s] > row[s - 1], "%s: block[%lld,%lld] is not ascending: %d, %d", op,
                  (long long)(i / n), (long long)(i % n), row[s - 1], row[s]);
        }
}

void attn_select_fwd(ctx *c, const attn_select_args *a) {
    check(c, a, __func__);
    OP_CALL(attn_select_fwd);
}

void attn_select_bwd(ctx *c, const attn_select_args *a) {
    check(c, a, __func__);
    WANT_SAME(a->dout, a->q);
    WANT_F32_OPT(a->stat, a->q->dim[0], a->q->dim[1], 2);
    WANT_SAME(a->dq, a->q);
    WANT_SAME(a->dk, a->k);
    WANT_SAME(a->dv, a->v);
    OP_CALL(attn_select_bwd);
}
