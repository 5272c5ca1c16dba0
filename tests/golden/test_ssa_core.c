/* SSA branches against ssa_core.h5, every case of the file, on two back ends: block and window tables, compression
 * attention, scores, selection, window attention, gated sum, pooling, all gradients. Bounds: five times the errors of
 * the published code in float32, stored with each data set; in bf16 twice its errors in bf16, with the stored
 * selection.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/hosted.h"
#include "harness/h5.h"
#include "harness/harness.h"
#include "kernels/backend.h"
#include "sparse/blocks.h"

enum { BOUND = 5, BOUND_16 = 2, MAX_TESTS = 1024 };

typedef struct {
    h5_file      f;
    const char  *name;
    bool         bf16;
    ctx          c;
    arena        mem;
    int          m_cmp, m_slc, m_win;
    float        scale;
    int64_t      N, H, G, D, M, K;
    tensor       coord, first, q, k, v, ck, cv, gate, grad_out;
    block_tables b;
    int32_t     *theirs; /* (M) row of the file of our compression block */
} core_case;

static const char *at(const core_case *t, const char *path) {
    return h5_path("%s/%s", t->name, path);
}

static void compare(const core_case *t, const char *path, const tensor *got) {
    h5_dims     d;
    const char *full = at(t, path);
    float      *want = h5_f32(t->f, full, &d);
    char        what[256];
    assert_int_equal(d.count, tensor_count(got));
    snprintf(what, sizeof what, "%s on %s", full, t->c.be->name);
    double rel = t->bf16 ? BOUND_16 * h5_attr_double(t->f, full, "bf16_rel_l2", NAN)
                         : BOUND * h5_attr_double(t->f, full, "fp32_rel_l2", NAN);
    double abs = t->bf16 ? BOUND_16 * h5_attr_double(t->f, full, "bf16_max_abs", NAN)
                         : BOUND * h5_attr_double(t->f, full, "fp32_max_abs", NAN);
    expect_le(rel_l2(F32(got), want, d.count), rel, what);
    if (t->bf16) { /* what is stored is a bf16 number: half a unit in the last place of the largest, as stored there */
        double largest = 0;
        for (int64_t i = 0; i < d.count; i++) largest = fmax(largest, fabs((double)want[i]));
        abs += ldexp(largest, -9);
    }
    expect_le(max_abs(F32(got), want, d.count), abs, what);
    free(want);
}

static tensor read_f32(core_case *t, const char *path) {
    h5_dims d;
    float  *x = h5_f32(t->f, at(t, path), &d);
    tensor  out = arena_tensor(&t->mem, DT_F32, d.n, d.rank);
    memcpy(out.data, x, tensor_bytes(&out));
    free(x);
    return out;
}

static tensor new_f32(core_case *t, const tensor *like) {
    return arena_tensor(&t->mem, DT_F32, like->dim, like->n_dims);
}

/* dst row `to ? to[i] : i` = src row `from ? from[i] : i` */
static tensor permuted(core_case *t, const tensor *x, const int32_t *from, const int32_t *to) {
    tensor out = new_f32(t, x);
    size_t row = tensor_bytes(x) / (size_t)(x->dim[0] ? x->dim[0] : 1);
    for (int64_t i = 0; i < x->dim[0]; i++)
        memcpy((char *)out.data + (size_t)(to ? to[i] : i) * row, (char *)x->data + (size_t)(from ? from[i] : i) * row,
               row);
    return out;
}

static void expect_i32(const core_case *t, const char *path, const int32_t *got, int64_t n) {
    h5_dims  d;
    int32_t *want = h5_i32(t->f, at(t, path), &d);
    assert_int_equal(d.count, n);
    for (int64_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("%s/%s on %s: element %lld is %d, wanted %d", t->name, path, t->c.be->name, (long long)i, got[i],
                     want[i]);
    free(want);
}

/* Our compression block j is the file's row theirs[j]: same sample, same coordinate. */
static void match_blocks(core_case *t) {
    h5_dims  d;
    int32_t *want = h5_i32(t->f, at(t, "out/compressed_coords"), &d);
    t->M = d.n[0];
    assert_int_equal(t->b.n_cmp, t->M);
    expect_i32(t, "out/compressed_cu_seqlens", I32(&t->b.cmp_sample_first), t->b.n_samples + 1);
    t->theirs = arena_alloc(&t->mem, (size_t)t->M * sizeof(int32_t));
    for (int64_t j = 0; j < t->M; j++) {
        int64_t sample = 0, found = -1;
        while (I32(&t->b.cmp_sample_first)[sample + 1] <= j) sample++;
        for (int64_t i = 0; i < t->M && found < 0; i++)
            if (want[4 * i] == sample && memcmp(want + 4 * i + 1, I32(&t->b.cmp_coord) + 3 * j, 12) == 0) found = i;
        if (found < 0) fail_msg("%s: compression block %lld is not in the file", t->name, (long long)j);
        t->theirs[j] = (int32_t)found;
    }
    free(want);
}

static void load(core_case *t) {
    h5_dims  d;
    int32_t *coords = h5_i32(t->f, at(t, "in/coords"), &d);
    t->mem = arena_new("case", (size_t)1 << 30);
    t->N = d.n[0];
    t->m_cmp = (int)h5_attr_double(t->f, t->name, "compression_block_size", NAN);
    t->m_slc = (int)h5_attr_double(t->f, t->name, "selection_block_size", NAN);
    t->m_win = (int)h5_attr_double(t->f, t->name, "window_size", NAN);
    t->scale = (float)h5_attr_double(t->f, t->name, "sm_scale", NAN);
    t->K = (int64_t)h5_attr_double(t->f, t->name, "topk", NAN);
    int n_samples = (int)h5_attr_double(t->f, t->name, "batch", NAN);
    t->coord = arena_tensor(&t->mem, DT_I32, DIMS(t->N, 3));
    t->first = arena_tensor(&t->mem, DT_I32, DIMS(n_samples + 1));
    memset(t->first.data, 0, tensor_bytes(&t->first));
    for (int64_t i = 0; i < t->N; i++) {
        memcpy(I32(&t->coord) + 3 * i, coords + 4 * i + 1, 12);
        for (int s = coords[4 * i] + 1; s <= n_samples; s++) I32(&t->first)[s]++;
    }
    free(coords);
    t->q = read_f32(t, "in/q");
    t->k = read_f32(t, "in/k");
    t->v = read_f32(t, "in/v");
    t->gate = read_f32(t, "in/gate");
    t->grad_out = read_f32(t, "in/grad_out");
    t->H = t->q.dim[1];
    t->D = t->q.dim[2];
    t->G = t->k.dim[1];
    t->b = blocks_build(&t->mem, &t->coord, &t->first, t->m_cmp, t->m_slc, false);
    match_blocks(t);
    tensor ck = read_f32(t, "in/ck"), cv = read_f32(t, "in/cv");
    t->ck = permuted(t, &ck, t->theirs, NULL);
    t->cv = permuted(t, &cv, t->theirs, NULL);
}

/* grad_out times the gate of one branch. */
static tensor branch_gradient(core_case *t, int branch) {
    tensor out = new_f32(t, &t->grad_out);
    for (int64_t i = 0; i < tensor_count(&out); i++)
        F32(&out)[i] = F32(&t->grad_out)[i] * F32(&t->gate)[3 * (i / (t->H * t->D)) + branch];
    return out;
}

/* The file has log-sum-exp as (H,N). */
static void compare_lse(core_case *t, const char *path, const tensor *lse) {
    tensor turned = arena_tensor(&t->mem, DT_F32, DIMS(t->H, t->N));
    for (int64_t n = 0; n < t->N; n++)
        for (int64_t h = 0; h < t->H; h++) F32(&turned)[h * t->N + n] = F32(lse)[n * t->H + h];
    compare(t, path, &turned);
}

/* Scores of `blocks` per sample, starting at cmp_start of each of ours, in the file's order and width. */
static void compare_scores(core_case *t, const char *path, const tensor *score, const tensor *sample_first,
                           const int32_t *theirs) {
    h5_dims d;
    float  *unused = h5_f32(t->f, at(t, path), &d);
    free(unused);
    tensor         out = arena_tensor(&t->mem, DT_F32, d.n, d.rank);
    const int32_t *sample = I32(sample_first), *token = I32(&t->first);
    memset(out.data, 0, tensor_bytes(&out));
    for (int64_t g = 0; g < t->G; g++)
        for (int s = 0; s < t->b.n_samples; s++)
            for (int64_t n = token[s]; n < token[s + 1]; n++)
                for (int32_t j = sample[s]; j < sample[s + 1]; j++) {
                    int64_t to = (theirs ? theirs[j] : j) - sample[s];
                    assert_true(to >= 0 && to < d.n[2]);
                    F32(&out)
                    [(g * t->N + n) * d.n[2] + to] = F32(score)[(g * t->N + n) * score->dim[2] + j - sample[s]];
                }
    compare(t, path, &out);
}

static tensor compression(core_case *t, tensor *lse) {
    tensor out = new_f32(t, &t->q), dout = branch_gradient(t, 0);
    tensor dq = new_f32(t, &t->q), dk = new_f32(t, &t->ck), dv = new_f32(t, &t->cv);
    *lse = arena_tensor(&t->mem, DT_F32, DIMS(t->N, t->H));
    attn_segment_args a = {.q = &t->q,
                           .k = &t->ck,
                           .v = &t->cv,
                           .q_first = &t->first,
                           .k_first = &t->b.cmp_sample_first,
                           .scale = t->scale,
                           .out = &out,
                           .lse = lse,
                           .dout = &dout,
                           .dq = &dq,
                           .dk = &dk,
                           .dv = &dv};
    attn_segment_fwd(&t->c, &a);
    attn_segment_bwd(&t->c, &a);
    compare(t, "out/cmp_out", &out);
    compare_lse(t, "out/cmp_lse", lse);
    compare(t, "grads/cmp/dq", &dq);
    dk = permuted(t, &dk, NULL, t->theirs);
    dv = permuted(t, &dv, NULL, t->theirs);
    compare(t, "grads/cmp/dck", &dk);
    compare(t, "grads/cmp/dcv", &dv);
    return out;
}

static int64_t widest(const tensor *first) {
    int64_t n = 0;
    for (int64_t s = 0; s + 1 < first->dim[0]; s++)
        if (I32(first)[s + 1] - I32(first)[s] > n) n = I32(first)[s + 1] - I32(first)[s];
    return n;
}

/* The file's selection, with our numbers. */
static void stored_selection(const core_case *t, tensor *block) {
    h5_dims  d;
    int32_t *want = h5_i32(t->f, at(t, "out/block_topk"), &d);
    assert_int_equal(d.count, tensor_count(block));
    for (int64_t i = 0; i < t->G * t->N; i++) {
        int s = 0;
        while (I32(&t->first)[s + 1] <= i % t->N) s++;
        for (int64_t j = i * t->K; j < (i + 1) * t->K; j++)
            I32(block)[j] = want[j] < 0 ? -1 : want[j] + I32(&t->b.slc_sample_first)[s];
    }
    free(want);
}

static tensor selection(core_case *t, const tensor *lse) {
    tensor           score = arena_tensor(&t->mem, DT_F32, DIMS(t->G, t->N, widest(&t->b.slc_sample_first)));
    tensor           block = arena_tensor(&t->mem, DT_I32, DIMS(t->G, t->N, t->K));
    topk_blocks_args a = {.q = &t->q,
                          .ck = &t->ck,
                          .lse = lse,
                          .sample_first = &t->first,
                          .cmp_sample_first = &t->b.cmp_sample_first,
                          .slc_sample_first = &t->b.slc_sample_first,
                          .slc_cmp_first = &t->b.slc_cmp_first,
                          .scale = t->scale,
                          .block = &block,
                          .score = &score};
    topk_blocks_fwd(&t->c, &a);
    compare_scores(t, "out/block_score", &score, &t->b.slc_sample_first, NULL);

    /* The scores before they are summed: every compression block its own selection block. */
    tensor own = arena_tensor(&t->mem, DT_I32, DIMS(t->M + 1)),
           any = arena_tensor(&t->mem, DT_I32, DIMS(t->G, t->N, 1));
    tensor fine = arena_tensor(&t->mem, DT_F32, DIMS(t->G, t->N, widest(&t->b.cmp_sample_first)));
    for (int64_t j = 0; j <= t->M; j++) I32(&own)[j] = (int32_t)j;
    topk_blocks_args single = a;
    single.slc_sample_first = &t->b.cmp_sample_first;
    single.slc_cmp_first = &own;
    single.block = &any;
    single.score = &fine;
    topk_blocks_fwd(&t->c, &single);
    compare_scores(t, "out/attn_score", &fine, &t->b.cmp_sample_first, t->theirs);

    /* The file counts blocks from the sample's first. */
    tensor         within = arena_tensor(&t->mem, DT_I32, block.dim, 3);
    const int32_t *token = I32(&t->first);
    for (int64_t i = 0; i < t->G * t->N; i++) {
        int s = 0;
        while (token[s + 1] <= i % t->N) s++;
        for (int64_t j = i * t->K; j < (i + 1) * t->K; j++)
            I32(&within)[j] = I32(&block)[j] < 0 ? -1 : I32(&block)[j] - I32(&t->b.slc_sample_first)[s];
    }
    if (t->bf16)
        stored_selection(t, &block);
    else
        expect_i32(t, "out/block_topk", I32(&within), t->G * t->N * t->K);
    return block;
}

static tensor selected(core_case *t, const tensor *block) {
    tensor out = new_f32(t, &t->q), dout = branch_gradient(t, 1), lse = arena_tensor(&t->mem, DT_F32, DIMS(t->N, t->H));
    tensor dq = new_f32(t, &t->q), dk = new_f32(t, &t->k), dv = new_f32(t, &t->v);
    attn_select_args a = {.q = &t->q,
                          .k = &t->k,
                          .v = &t->v,
                          .block = block,
                          .first = &t->b.slc_first,
                          .scale = t->scale,
                          .out = &out,
                          .lse = &lse,
                          .dout = &dout,
                          .dq = &dq,
                          .dk = &dk,
                          .dv = &dv};
    attn_select_fwd(&t->c, &a);
    attn_select_bwd(&t->c, &a);
    compare(t, "out/sel_out", &out);
    compare_lse(t, "out/sel_lse", &lse);
    compare(t, "grads/sel/dq", &dq);
    compare(t, "grads/sel/dk", &dk);
    compare(t, "grads/sel/dv", &dv);
    return out;
}

static tensor windows(core_case *t, int shift) {
    window_tables w = windows_build(&t->mem, &t->coord, &t->first, t->m_win, shift, true, t->m_slc);
    const tensor *order = w.order.data ? &w.order : NULL;
    tensor        id = arena_tensor(&t->mem, DT_I32, DIMS(t->N));
    for (int64_t i = 0; i < w.n_windows; i++)
        for (int32_t j = I32(&w.first)[i]; j < I32(&w.first)[i + 1]; j++)
            I32(&id)[order ? I32(order)[j] : j] = (int32_t)i;
    expect_i32(t, h5_path("out/window_id_shift%d", shift), I32(&id), t->N);

    tensor out = new_f32(t, &t->q), dout = branch_gradient(t, 2), lse = arena_tensor(&t->mem, DT_F32, DIMS(t->N, t->H));
    tensor dq = new_f32(t, &t->q), dk = new_f32(t, &t->k), dv = new_f32(t, &t->v);
    attn_segment_args a = {.q = &t->q,
                           .k = &t->k,
                           .v = &t->v,
                           .q_first = &w.first,
                           .k_first = &w.first,
                           .q_order = order,
                           .k_order = order,
                           .scale = t->scale,
                           .out = &out,
                           .lse = &lse,
                           .dout = &dout,
                           .dq = &dq,
                           .dk = &dk,
                           .dv = &dv};
    attn_segment_fwd(&t->c, &a);
    attn_segment_bwd(&t->c, &a);
    compare(t, h5_path("out/win_out_shift%d", shift), &out);
    compare(t, h5_path("grads/win_shift%d/dq", shift), &dq);
    compare(t, h5_path("grads/win_shift%d/dk", shift), &dk);
    compare(t, h5_path("grads/win_shift%d/dv", shift), &dv);
    return out;
}

/* final_out and dgate through branch_gate; z = logit(gate), and d/dz = gate (1 - gate) d/dgate. */
static void gated_sum(core_case *t, const tensor *o0, const tensor *o1, const tensor *o2) {
    tensor z = new_f32(t, &t->gate), out = new_f32(t, &t->q), dz = new_f32(t, &t->gate), lse, stat[3];
    for (int64_t i = 0; i < tensor_count(&z); i++) {
        double w = (double)F32(&t->gate)[i];
        F32(&z)[i] = (float)log(w / (1 - w));
    }
    lse = arena_tensor(&t->mem, DT_F32, DIMS(t->N, t->H)); /* dz does not depend on it */
    for (int64_t i = 0; i < tensor_count(&lse); i++) F32(&lse)[i] = 0;
    for (int i = 0; i < 3; i++) stat[i] = arena_tensor(&t->mem, DT_F32, DIMS(t->N, t->H, 2));
    branch_gate_args a = {.o = {o0, o1, o2},
                          .z = &z,
                          .out = &out,
                          .dout = &t->grad_out,
                          .lse = {&lse, &lse, &lse},
                          .stat = {&stat[0], &stat[1], &stat[2]},
                          .dz = &dz};
    branch_gate_fwd(&t->c, &a);
    branch_gate_bwd(&t->c, &a);
    compare(t, "out/final_out", &out);
    for (int64_t i = 0; i < tensor_count(&dz); i++) {
        double w = (double)F32(&t->gate)[i];
        F32(&dz)[i] = (float)((double)F32(&dz)[i] / (w * (1 - w)));
    }
    compare(t, "grads/final/dgate", &dz);
}

static void pooling(core_case *t) {
    int64_t       C = t->G * t->D;
    tensor        x = tensor_view(&t->k, DIMS(t->N, C)), y = arena_tensor(&t->mem, DT_F32, DIMS(t->M, C));
    tensor        theirs = read_f32(t, "in/grad_pool"), dy = permuted(t, &theirs, t->theirs, NULL);
    tensor        dx = arena_tensor(&t->mem, DT_F32, DIMS(t->N, C));
    const tensor *order = t->b.cmp_order.data ? &t->b.cmp_order : NULL;
    pool_args a = {.x = &x, .first = &t->b.cmp_first, .order = order, .add_one = true, .y = &y, .dy = &dy, .dx = &dx};
    pool_fwd(&t->c, &a);
    pool_bwd(&t->c, &a);
    y = permuted(t, &y, NULL, t->theirs);
    compare(t, "out/pool_k", &y);
    compare(t, "grads/pool/dk", &dx);
}

static void core_matches(void **state) {
    core_case t = *(core_case *)*state;
    t.c.scratch = arena_new("scratch", (size_t)256 << 20);
    load(&t);
    expect_i32(&t, "out/cu_seqlens", I32(&t.first), t.b.n_samples + 1);
    expect_i32(&t, "out/cu_seqblocks", I32(&t.b.slc_sample_first), t.b.n_samples + 1);
    expect_i32(&t, "out/cu_block_include_tokens", I32(&t.b.slc_first), t.b.n_slc + 1);
    tensor lse, cmp = compression(&t, &lse), block = selection(&t, &lse), sel = selected(&t, &block), win = {0};
    int    n, n_windows = 0;
    char **names = h5_list(t.f, at(&t, "out"), &n);
    for (int i = 0; i < n; i++) {
        int shift;
        if (sscanf(names[i], "win_out_shift%d", &shift) != 1) continue;
        tensor out = windows(&t, shift);
        if (shift == 0) win = out;
        n_windows++;
    }
    h5_list_free(names, n);
    assert_true(n_windows > 0 && win.data != NULL);
    gated_sum(&t, &cmp, &sel, &win);
    if (h5_exists(t.f, at(&t, "in/grad_pool"))) pooling(&t);
    arena_free(&t.mem);
    arena_free(&t.c.scratch);
}

int main(int argc, char **argv) {
    static core_case         cases[MAX_TESTS];
    static char              title[MAX_TESTS][128];
    static struct CMUnitTest tests[MAX_TESTS];
    const char *const       *backends = hosted_names(argc, argv);
    if (!backends) return test_exit(0);
    h5_file f = h5_open(golden_path("ssa_core"));
    int     n, n_tests = 0;
    char  **names = h5_list(f, "/", &n);
    for (int i = 0; i < n; i++)
        for (int b = 0; b < 2 && n_tests < MAX_TESTS; b++) {
            cases[n_tests] = (core_case){.f = f,
                                         .name = names[i],
                                         .c = {.be = hosted_find(backends[b])},
                                         .bf16 = hosted_act(backends[b]) == DT_BF16};
            snprintf(title[n_tests], sizeof title[0], "%s on %s", names[i], backends[b]);
            tests[n_tests] = (struct CMUnitTest){
                .name = title[n_tests], .test_func = core_matches, .initial_state = &cases[n_tests]};
            n_tests++;
        }
    CHECK(n_tests > 0, "ssa_core.h5 has no case");
    int failed = _cmocka_run_group_tests("ssa_core", tests, (size_t)n_tests, NULL, NULL);
    h5_list_free(names, n);
    h5_close(f);
    return test_exit(failed);
}
