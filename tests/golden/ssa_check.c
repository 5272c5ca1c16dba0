#include "golden/ssa_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void same_ints(h5_file f, const char *path, const tensor *got) {
    h5_dims  d;
    int32_t *want = h5_i32(f, path, &d);
    assert_int_equal(d.count, tensor_count(got));
    assert_memory_equal(want, got->data, (size_t)d.count * sizeof *want);
    free(want);
}

/* ours[j] = our number of the file's compression block j. */
static int64_t *match_blocks(h5_file f, const char *path, const block_tables *b) {
    h5_dims  d;
    int32_t *want = h5_i32(f, path, &d);
    int64_t *ours = malloc(((size_t)b->n_cmp + 1) * sizeof *ours);
    assert_non_null(ours);
    assert_int_equal(d.n[0], b->n_cmp);
    for (int64_t j = 0; j < b->n_cmp; j++) {
        const int32_t *p = want + 4 * j;
        ours[j] = -1;
        for (int64_t i = I32(&b->cmp_sample_first)[p[0]]; i < I32(&b->cmp_sample_first)[p[0] + 1]; i++)
            if (memcmp(I32(&b->cmp_coord) + 3 * i, p + 1, 3 * sizeof *p) == 0) ours[j] = i;
        assert_int_not_equal(ours[j], -1);
    }
    free(want);
    return ours;
}

static double compare_blocks(h5_file f, const char *path, const var *x, const int64_t *ours, double bound) {
    int64_t n = x->v.dim[0], c = x->v.dim[1];
    float  *y = malloc((size_t)(n * c + 1) * sizeof *y);
    assert_non_null(y);
    for (int64_t j = 0; j < n; j++) memcpy(y + j * c, F32(&x->v) + ours[j] * c, (size_t)c * sizeof *y);
    double r = net_compare_rel(f, path, y, n * c, bound);
    free(y);
    return r;
}

static void same_selection(h5_file f, const char *path, const block_tables *b, const tensor *block) {
    h5_dims        d;
    int32_t       *want = h5_i32(f, path, &d);
    int64_t        n = b->n_tokens, k = block->dim[2], wrong = 0;
    const int32_t *got = I32(block);
    assert_int_equal(d.count, tensor_count(block));
    for (int64_t g = 0; g < block->dim[0]; g++)
        for (int s = 0; s < b->n_samples; s++)
            for (int64_t i = I32(&b->sample_first)[s]; i < I32(&b->sample_first)[s + 1]; i++)
                for (int64_t j = 0; j < k; j++) {
                    int64_t at = (g * n + i) * k + j;
                    int32_t local = got[at] < 0 ? got[at] : got[at] - I32(&b->slc_sample_first)[s];
                    wrong += local != want[at];
                }
    assert_int_equal(wrong, 0);
    free(want);
}

double ssa_check(h5_file f, const char *group, const block_tables *b, const ssa_trace *trace, double bound) {
    same_ints(f, h5_path("%s/cu_seqblocks", group), &b->slc_sample_first);
    same_ints(f, h5_path("%s/cu_block_include_tokens", group), &b->slc_first);
    same_selection(f, h5_path("%s/block_topk", group), b, &trace->block);

    int64_t *ours = match_blocks(f, h5_path("%s/compressed_coords", group), b);
    double   worst = compare_blocks(f, h5_path("%s/ck", group), trace->ck, ours, bound);
    worst = fmax(worst, compare_blocks(f, h5_path("%s/cv", group), trace->cv, ours, bound));
    free(ours);

    int64_t n = trace->cmp_lse.dim[0], h = trace->cmp_lse.dim[1]; /* (H,N) in the file */
    float  *lse = malloc((size_t)(n * h + 1) * sizeof *lse);
    assert_non_null(lse);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < h; j++) lse[j * n + i] = F32(&trace->cmp_lse)[i * h + j];
    worst = fmax(worst, net_compare_rel(f, h5_path("%s/cmp_lse", group), lse, n * h, bound));
    free(lse);
    return worst;
}
