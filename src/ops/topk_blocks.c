#include "ops/topk_blocks.h"
#include "ops/check.h"

void topk_blocks_fwd(ctx *c, const topk_blocks_args *a) {
    int64_t n = DIM(a->q, 0), h = DIM(a->q, 1), d = DIM(a->q, 2), m = DIM(a->ck, 0), g = DIM(a->ck, 1);
    CHECK(h > 0 && d > 0 && g > 0 && h % g == 0, "%lld key heads do not divide %lld heads (width %lld)", (long long)g,
          (long long)h, (long long)d);
    dtype act = ACT_OF(a->q);
    WANT(a->q, act, n, h, d);
    WANT(a->ck, act, m, g, d);
    WANT_F32(a->lse, n, h);
    WANT(a->block, DT_I32, g, n, ANY);
    CHECK(a->block->dim[2] > 0, "block has room for no block");
    int64_t n_blocks = DIM(a->slc_cmp_first, 0) - 1;
    int64_t b = WANT_FIRST(a->sample_first, n), b_cmp = WANT_FIRST(a->cmp_sample_first, m);
    int64_t b_slc = WANT_FIRST(a->slc_sample_first, n_blocks);
    CHECK(b == b_cmp && b == b_slc, "%lld samples of tokens, %lld of compression blocks, %lld of selection blocks",
          (long long)b, (long long)b_cmp, (long long)b_slc);
    WANT_FIRST(a->slc_cmp_first, m);
    int64_t widest = 0;
    if (!c->dry && a->sample_first->dev == DEV_CPU)
        for (int64_t s = 0; s < b; s++) {
            int32_t b0 = I32(a->slc_sample_first)[s], b1 = I32(a->slc_sample_first)[s + 1];
            int32_t m0 = I32(a->cmp_sample_first)[s], m1 = I32(a->cmp_sample_first)[s + 1];
            CHECK(I32(a->slc_cmp_first)[b0] == m0 && I32(a->slc_cmp_first)[b1] == m1,
                  "sample %lld has compression blocks %d..%d, its selection blocks cover %d..%d", (long long)s, m0, m1,
                  I32(a->slc_cmp_first)[b0], I32(a->slc_cmp_first)[b1]);
            if (b1 - b0 > widest) widest = b1 - b0;
        }
    if (tensor_given(a->score)) {
        WANT_F32(a->score, g, n, ANY);
        CHECK(a->score->dim[2] >= widest, "score has %lld columns, a sample has %lld blocks",
              (long long)a->score->dim[2], (long long)widest);
    }
    OP_CALL(topk_blocks_fwd);
}
