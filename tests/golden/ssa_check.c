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

static double compare_blocks(rig *n, h5_file f, const char *path, const var *x, const int64_t *ours, double bound) {
    int64_t rows = x->v.dim[0], c = x->v.dim[1];
    tensor  y = arena_tensor(&n->host, DT_F32, x->v.dim, 2), seen = rig_see(n, &x->v);
    for (int64_t j = 0; j < rows; j++) memcpy(F32(&y) + j * c, F32(&seen) + ours[j] * c, (size_t)c * sizeof(float));
    return net_compare_rel(n, f, path, &y, bound);
}

/* The file's selection with our global numbers, (G,N,K). */
static tensor golden_selection(arena *a, h5_file f, const char *path, const block_tables *b) {
    h5_dims  d;
    int32_t *want = h5_i32(f, path, &d);
    CHECK(d.rank == 3 && d.n[1] == b->n_tokens, "%s is not (G,%lld,K)", path, (long long)b->n_tokens);
    tensor t = arena_tensor(a, DT_I32, d.n, 3);
    for (int64_t g = 0; g < d.n[0]; g++)
        for (int s = 0; s < b->n_samples; s++)
            for (int64_t i = I32(&b->sample_first)[s]; i < I32(&b->sample_first)[s + 1]; i++)
                for (int64_t j = 0; j < d.n[2]; j++) {
                    int64_t at = (g * d.n[1] + i) * d.n[2] + j;
                    I32(&t)[at] = want[at] < 0 ? -1 : want[at] + I32(&b->slc_sample_first)[s];
                }
    free(want);
    return t;
}

void ssa_fix_selection(rig *n, h5_file f, const char *const *group, int n_groups, const block_tables *b) {
    enum { MOST = 16 };
    tensor block[MOST];
    if (!n->bf16) return;
    assert_in_range(n_groups, 1, MOST);
    for (int i = 0; i < n_groups; i++) block[i] = golden_selection(&n->host, f, h5_path("%s/block_topk", group[i]), b);
    rig_fix_selection(n, block, n_groups);
}

double ssa_check(rig *n, h5_file f, const char *group, const block_tables *b, const ssa_trace *trace, double bound) {
    same_ints(f, h5_path("%s/cu_seqblocks", group), &b->slc_sample_first);
    same_ints(f, h5_path("%s/cu_block_include_tokens", group), &b->slc_first);
    tensor  want = golden_selection(&n->host, f, h5_path("%s/block_topk", group), b), got = rig_see(n, &trace->block);
    int64_t wrong = 0;
    assert_int_equal(tensor_count(&want), tensor_count(&got));
    for (int64_t i = 0; i < tensor_count(&want); i++) wrong += I32(&want)[i] != I32(&got)[i];
    assert_int_equal(wrong, 0);

    int64_t *ours = match_blocks(f, h5_path("%s/compressed_coords", group), b);
    double   worst = compare_blocks(n, f, h5_path("%s/ck", group), trace->ck, ours, bound);
    worst = fmax(worst, compare_blocks(n, f, h5_path("%s/cv", group), trace->cv, ours, bound));
    free(ours);

    int64_t rows = trace->cmp_lse.dim[0], h = trace->cmp_lse.dim[1]; /* (H,N) in the file */
    tensor  lse = rig_see(n, &trace->cmp_lse), turned = arena_tensor(&n->host, DT_F32, DIMS(h, rows));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < h; j++) F32(&turned)[j * rows + i] = F32(&lse)[i * h + j];
    return fmax(worst, net_compare_rel(n, f, h5_path("%s/cmp_lse", group), &turned, bound));
}
