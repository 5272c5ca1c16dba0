/* attn_segment, attn_select, topk_blocks against ref, gradients of ref, wrong arguments. */
#include "core/device.h"
#include "core/rng.h"
#include "ops/optest.h"

#include <math.h>
#include <string.h>

static void permutation(int64_t n, uint64_t sample, int32_t *out) {
    int64_t order[4096];
    assert_true(n <= 4096);
    rng_permutation((rng_key){.purpose = RNG_TEST, .sample = sample}, n, order);
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)order[i];
}

/* A backward: of the attention alone; with a `stat` of weights between 0.1 and 1, as a gate leaves it, and then without
 * results of the forward; dq added to; both. */
typedef enum { PLAIN = 0, WEIGHED = 1, ADDED = 2, BOTH = 3 } backward_form;

/* Delta is <dout, out> on a GPU and in a stat, sum_t P dP in ref and on a CPU, where another BLAS or libm gives another
 * last bit of P and dP: it is off by a few roundings of |dP|, also where dS = P (dP - Delta) is nothing (one key). |dP|
 * is below 1.5 sqrt(D) for rows in [-1,1], k and q below 2, scale is 1/sqrt(D): that is 3 in dq, whose P add up to 1,
 * and 3 sqrt(n) in dk, where n rows of q with P about 1 meet in a key. */
static void set_delta_floors(optest *o, const tensor *dq, const tensor *dk, double n, double stretch) {
    optest_set_floor(o, dq, 3 * stretch);
    optest_set_floor(o, dk, 3 * sqrt(n) * stretch);
}

static const tensor *weighed_stat(optest *o, const tensor *lse, const tensor *out, const tensor *dout) {
    int64_t N = out->dim[0], H = out->dim[1], D = out->dim[2];
    tensor *stat = optest_in(o, "stat", 8, 1, DIMS(N, H, 2));
    for (int64_t r = 0; r < N * H; r++) {
        double dot = 0, w = 0.1 + 0.9 * (double)(r / H % 7) / 6;
        for (int64_t d = r * D; d < (r + 1) * D; d++) dot += (double)F32(out)[d] * (double)F32(dout)[d];
        F32(stat)[2 * r] = (float)((double)F32(lse)[r] / log(2) - log2(w));
        F32(stat)[2 * r + 1] = (float)-dot;
    }
    optest_keep(o, stat);
    return stat;
}

/* Of the dims of `like`, which nobody may look at. */
static tensor *unread(optest *o, const tensor *like) {
    tensor *t = optest_in(o, "unread", 9, 1, like->dim, like->n_dims);
    for (int64_t i = 0; i < tensor_count(t); i++) F32(t)[i] = NAN;
    optest_keep(o, t);
    return t;
}

/* A forward: the plain form checks it, the others only need what it gives. */
static void forward(optest *o, backward_form form, optest_fn fn, const void *args) {
    if (form == PLAIN)
        optest_compare(o, fn, args);
    else
        optest_run(o, optest_tested(), fn, args);
}

static tensor *gradient(optest *o, const char *name, bool add, const int64_t *dims, int n_dims) {
    return add ? optest_acc(o, name, 10, 2, dims, n_dims) : optest_out(o, name, DT_F32, dims, n_dims);
}

/* ---- attn_segment --------------------------------------------------------------------------------------------- */

typedef struct {
    int     n_segments;
    int     queries[12], keys[12];
    int64_t H, G, D;
    bool    ordered, fused; /* shuffled rows; q, k, v as columns of one tensor (needs as many queries as keys) */
    int64_t unnamed;        /* key rows that no segment names */
    double  stretch;        /* q and k so many times as large, for scores far apart; 0: 1 */
    int     less_scratch;   /* so many more forms of the backward do with less of it each */
} segment_shape;

static void segment_form(const segment_shape *s, int repeat, bool grad, backward_form form) {
    optest  o;
    int64_t N = 0, M = 0;
    int32_t q_order[4096], k_order[4096];
    if (!optest_case()) return;
    optest_begin(&o);
    o.repeat = repeat;
    for (int i = 0; i < s->n_segments; i++) {
        N += s->queries[i];
        M += s->keys[i];
    }
    int64_t H = s->H, G = s->G, D = s->D, rows = M + s->unnamed, wide = (H + 2 * G) * D;
    double  stretch = s->stretch > 0 ? s->stretch : 1;
    permutation(N, 1, q_order);
    permutation(rows, 2, k_order);
    attn_segment_args a = {.scale = (float)(1 / sqrt((double)D)),
                           .q_first = optest_first(&o, "q_first", s->queries, s->n_segments),
                           .k_first = optest_first(&o, "k_first", s->keys, s->n_segments)};
    if (s->ordered) {
        a.q_order = optest_i32(&o, "q_order", q_order, DIMS(N));
        a.k_order = optest_i32(&o, "k_order", k_order, DIMS(M));
    }
    tensor q, k, v, dq, dk, dv, *x[3] = {NULL}, *dx[3] = {NULL};
    if (s->fused) {
        assert_true(N == rows);
        x[0] = optest_in(&o, "qkv", 1, 4, DIMS(N, wide));
        q = tensor_wrap(F32(x[0]), DT_F32, DIMS(N, H, D));
        k = tensor_wrap(F32(x[0]) + H * D, DT_F32, DIMS(N, G, D));
        v = tensor_wrap(F32(x[0]) + (H + G) * D, DT_F32, DIMS(N, G, D));
        a.q_stride = a.k_stride = a.v_stride = wide;
    } else {
        q = *(x[0] = optest_in(&o, "q", 1, 4, DIMS(N, H, D)));
        k = *(x[1] = optest_in(&o, "k", 2, 4, DIMS(rows, G, D)));
        v = *(x[2] = optest_in(&o, "v", 3, 2, DIMS(rows, G, D)));
    }
    a.q = &q;
    a.k = &k;
    a.v = &v;
    tensor *out = a.out = optest_out(&o, "out", DT_F32, DIMS(N, H, D));
    a.lse = optest_out(&o, "lse", DT_F32, DIMS(N, H));
    optest_set_terms(&o, out, M);
    forward(&o, form, OPTEST_FN(attn_segment_fwd), &a);
    if (form == PLAIN && grad) {
        optest_nan(&o, OPTEST_FN(attn_segment_fwd), &a, x[0], out);
        optest_run(&o, optest_tested(), OPTEST_FN(attn_segment_fwd), &a);
    }
    optest_freeze(&o);
    tensor *dout = optest_in(&o, "dout", 4, 2, DIMS(N, H, D));
    a.dout = dout;
    a.dq_add = form & ADDED;
    if (form & WEIGHED) {
        a.stat = weighed_stat(&o, a.lse, a.out, dout);
        a.out = unread(&o, a.out);
        a.lse = unread(&o, a.lse);
    }
    if (s->fused) {
        dx[0] = gradient(&o, "dqkv", a.dq_add, DIMS(N, wide));
        dq = tensor_wrap(F32(dx[0]), DT_F32, DIMS(N, H, D));
        dk = tensor_wrap(F32(dx[0]) + H * D, DT_F32, DIMS(N, G, D));
        dv = tensor_wrap(F32(dx[0]) + (H + G) * D, DT_F32, DIMS(N, G, D));
        optest_set_terms(&o, dx[0], N + M);
    } else {
        dq = *(dx[0] = gradient(&o, "dq", a.dq_add, DIMS(N, H, D)));
        dk = *(dx[1] = optest_out(&o, "dk", DT_F32, DIMS(rows, G, D)));
        dv = *(dx[2] = optest_out(&o, "dv", DT_F32, DIMS(rows, G, D)));
        for (int i = 0; i < 3; i++) optest_set_terms(&o, dx[i], N + M);
    }
    a.dq = &dq;
    a.dk = &dk;
    a.dv = &dv;
    double shared = 1;
    for (int i = 0; i < s->n_segments; i++)
        if (s->keys[i] > 0) shared = fmax(shared, (double)s->queries[i] / s->keys[i]);
    set_delta_floors(&o, dx[0], s->fused ? dx[0] : dx[1], shared * (double)(H / G), stretch);
    o.tighter = s->less_scratch;
    optest_compare(&o, OPTEST_FN(attn_segment_bwd), &a);
    /* The forward would write what is not to be read; of a fused gradient only a part is added to. */
    grad = grad && !(form & WEIGHED) && !(s->fused && a.dq_add);
    if (grad && s->fused)
        optest_grad(&o, OPTEST_FN(attn_segment_fwd), OPTEST_FN(attn_segment_bwd), &a, (tensor *[]){x[0], dx[0], NULL},
                    (tensor *[]){out, dout, NULL}, 0.02, 3e-4);
    else if (grad)
        optest_grad(&o, OPTEST_FN(attn_segment_fwd), OPTEST_FN(attn_segment_bwd), &a,
                    (tensor *[]){x[0], dx[0], x[1], dx[1], x[2], dx[2], NULL}, (tensor *[]){out, dout, NULL}, 0.02,
                    3e-4);
    optest_end(&o);
}

/* Plain, with both arguments, and, where ref does not take long, with one. */
static void segment_case(const segment_shape *s, int repeat, bool grad) {
    int    few = repeat < 3 ? repeat : 3;
    double pairs = 0;
    for (int i = 0; i < s->n_segments; i++) pairs += (double)s->queries[i] * s->keys[i] * (double)s->H;
    segment_form(s, repeat, grad, PLAIN);
    segment_form(s, few, grad, BOTH);
    if (pairs < 1 << 20) segment_form(s, few, grad, s->keys[0] % 2 ? WEIGHED : ADDED);
}

static void test_segment_sizes(void **state) {
    static const int sizes[] = {0, 1, 3, 63, 64, 65, 1000};
    (void)state;
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 7; j++) {
            if (sizes[i] * sizes[j] > 65000) continue;
            segment_shape s = {
                .n_segments = 1, .queries = {sizes[i]}, .keys = {sizes[j]}, .H = 2, .G = 1 + (i + j) % 2, .D = 16};
            segment_case(&s, 3, false);
        }
}

static void test_segment_widths(void **state) {
    static const int64_t width[] = {1, 4, 12, 16, 32, 64, 72};
    (void)state;
    for (int i = 0; i < 7; i++) {
        /* Empty segments, queries without keys, keys without queries, one of each. */
        segment_shape s = {.n_segments = 6,
                           .queries = {5, 0, 3, 0, 1, 70},
                           .keys = {9, 0, 0, 4, 1, 131},
                           .H = 6,
                           .G = 2,
                           .D = width[i],
                           .ordered = i & 1,
                           .unnamed = i % 3};
        segment_case(&s, 5, false);
        segment_shape fused = {.n_segments = 3,
                               .queries = {40, 1, 30},
                               .keys = {40, 1, 30},
                               .H = 2,
                               .G = 2,
                               .D = width[i],
                               .ordered = !(i & 1),
                               .fused = true};
        segment_case(&fused, 5, false);
    }
}

/* More heads of a group than a tile has rows; a segment so large that its backward is cut up; fifty equal runs. */
static void test_segment_large(void **state) {
    (void)state;
    segment_shape heads = {.n_segments = 2, .queries = {3, 2}, .keys = {4, 200}, .H = 200, .G = 1, .D = 8};
    segment_case(&heads, 3, false);
    segment_shape large = {.n_segments = 2, .queries = {1100, 7}, .keys = {1000, 20}, .H = 1, .G = 1, .D = 16};
    segment_case(&large, OPTEST_REPEAT, false);
    segment_shape small = {.n_segments = 4,
                           .queries = {60, 100, 3, 20},
                           .keys = {60, 130, 3, 20},
                           .H = 4,
                           .G = 2,
                           .D = 32,
                           .ordered = true};
    segment_case(&small, OPTEST_REPEAT, false);
}

static void test_segment_gradients(void **state) {
    (void)state;
    segment_shape a = {.n_segments = 3,
                       .queries = {3, 2, 0},
                       .keys = {4, 1, 2},
                       .H = 4,
                       .G = 2,
                       .D = 3,
                       .ordered = true,
                       .unnamed = 1};
    segment_case(&a, 2, true);
    segment_shape b = {.n_segments = 2, .queries = {4, 2}, .keys = {4, 2}, .H = 2, .G = 1, .D = 4, .fused = true};
    segment_case(&b, 2, true);
}

static void test_segment_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *q = optest_in(&o, "q", 1, 1, DIMS(4, 4, 8)), *k = optest_in(&o, "k", 2, 1, DIMS(5, 2, 8));
    tensor *k3 = optest_in(&o, "k3", 2, 1, DIMS(5, 3, 8)), *k9 = optest_in(&o, "k9", 2, 1, DIMS(5, 2, 9));
    tensor *first4 = optest_first(&o, "first4", (int[]){2, 2}, 2),
           *first5 = optest_first(&o, "first5", (int[]){2, 3}, 2);
    tensor *one = optest_first(&o, "one", (int[]){5}, 1);
    tensor *out = optest_out(&o, "out", DT_F32, DIMS(4, 4, 8)), *lse = optest_out(&o, "lse", DT_F32, DIMS(4, 4));
    attn_segment_args
        good = {.q = q, .k = k, .v = k, .q_first = first4, .k_first = first5, .scale = 1, .out = out, .lse = lse},
        a = good;
    a.k = k3;
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "3 key heads do not divide 4 heads");
    a = good;
    a.v = k9;
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "v is f32 (5,2,9)");
    a = good;
    a.q_stride = 31;
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "q_stride is 31");
    a = good;
    a.k_first = one;
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "2 query segments, 1 key segments");
    a = good;
    a.q_first = first5;
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "wanted 0 to 4");
    a = good;
    a.q_order = optest_i32(&o, "q_order", (int32_t[]){0, 1, 1, 2}, DIMS(4));
    optest_fatal(OPTEST_FN(attn_segment_fwd), &a, "names row 1 twice");
    a = good;
    a.dout = k;
    optest_fatal(OPTEST_FN(attn_segment_bwd), &a, "dout is f32 (5,2,8)");
    optest_end(&o);
}

/* ---- topk_blocks and attn_select ------------------------------------------------------------------------------ */

typedef struct {
    int     n_samples, n_blocks[3]; /* selection blocks of each sample */
    int     block_size;             /* tokens of a block; 0: one to seven */
    int     cmp_per_block;          /* compression blocks of a block; 0: one to three */
    int64_t H, G, D, K;
} select_shape;

typedef struct {
    int32_t sample[4], cmp_sample[4], slc_sample[4], first[1100], cmp_first[1100];
    int64_t N, M, n_blocks, widest;
} select_tables;

static select_tables tables_of(const select_shape *s) {
    select_tables t = {0};
    for (int b = 0; b < s->n_samples; b++) {
        for (int i = 0; i < s->n_blocks[b]; i++) {
            t.N += s->block_size ? s->block_size : 1 + (7 * i + 3) % 7;
            t.M += s->cmp_per_block ? s->cmp_per_block : 1 + i % 3;
            t.n_blocks++;
            t.first[t.n_blocks] = (int32_t)t.N;
            t.cmp_first[t.n_blocks] = (int32_t)t.M;
        }
        t.sample[b + 1] = (int32_t)t.N;
        t.cmp_sample[b + 1] = (int32_t)t.M;
        t.slc_sample[b + 1] = (int32_t)t.n_blocks;
        if (s->n_blocks[b] > t.widest) t.widest = s->n_blocks[b];
    }
    return t;
}

static void select_form(const select_shape *s, int repeat, bool grad, backward_form form) {
    optest        o;
    select_tables t = tables_of(s);
    int64_t       N = t.N, H = s->H, G = s->G, D = s->D;
    float         scale = (float)(1 / sqrt((double)D));
    if (!optest_case()) return;
    optest_begin(&o);
    o.repeat = repeat;
    tensor *q = optest_in(&o, "q", 1, 4, DIMS(N, H, D)), *ck = optest_in(&o, "ck", 2, 4, DIMS(t.M, G, D));
    tensor *sample = optest_i32(&o, "sample_first", t.sample, DIMS(s->n_samples + 1));
    tensor *cmp_sample = optest_i32(&o, "cmp_sample_first", t.cmp_sample, DIMS(s->n_samples + 1));
    tensor *slc_sample = optest_i32(&o, "slc_sample_first", t.slc_sample, DIMS(s->n_samples + 1));
    tensor *first = optest_i32(&o, "first", t.first, DIMS(t.n_blocks + 1));
    tensor *cmp_first = optest_i32(&o, "slc_cmp_first", t.cmp_first, DIMS(t.n_blocks + 1));

    tensor *cmp_out = optest_out(&o, "cmp_out", DT_F32, DIMS(N, H, D)),
           *cmp_lse = optest_out(&o, "cmp_lse", DT_F32, DIMS(N, H));
    attn_segment_args c = {.q = q,
                           .k = ck,
                           .v = ck,
                           .q_first = sample,
                           .k_first = cmp_sample,
                           .scale = scale,
                           .out = cmp_out,
                           .lse = cmp_lse};
    optest_set_terms(&o, cmp_out, t.M);
    forward(&o, form, OPTEST_FN(attn_segment_fwd), &c);
    optest_freeze(&o);
    tensor *block = optest_out(&o, "block", DT_I32, DIMS(G, N, s->K)),
           *score = optest_out(&o, "score", DT_F32, DIMS(G, N, t.widest + 1));
    topk_blocks_args p = {.q = q,
                          .ck = ck,
                          .lse = cmp_lse,
                          .sample_first = sample,
                          .cmp_sample_first = cmp_sample,
                          .slc_sample_first = slc_sample,
                          .slc_cmp_first = cmp_first,
                          .scale = scale,
                          .block = block,
                          .score = score};
    optest_set_terms(&o, score, 3 * H / G);
    optest_set_choice(&o, block, score, sample, slc_sample);
    forward(&o, form, OPTEST_FN(topk_blocks_fwd), &p);
    /* What the header promises, whatever ref does. */
    for (int64_t i = 0; i < G * N; i++) {
        int b = 0;
        while (t.sample[b + 1] <= i % N) b++;
        const int32_t *own = I32(block) + i * s->K;
        const float   *row = F32(score) + i * (t.widest + 1) - t.slc_sample[b];
        int64_t        n = s->n_blocks[b] < s->K ? s->n_blocks[b] : s->K;
        float          least = INFINITY;
        double         sum = 0;
        for (int64_t j = 0; j < s->K; j++) {
            assert_true(j < n ? own[j] >= t.slc_sample[b] && own[j] < t.slc_sample[b + 1] : own[j] == -1);
            assert_true(j == 0 || j >= n || own[j] > own[j - 1]);
            if (j < n && row[own[j]] < least) least = row[own[j]];
        }
        for (int32_t m = t.slc_sample[b]; m < t.slc_sample[b + 1]; m++) {
            int kept = 0;
            for (int64_t j = 0; j < n; j++) kept |= own[j] == m;
            assert_true(kept || row[m] <= least);
            sum += (double)row[m];
        }
        expect_le(fabs(sum - (double)(H / G)), 1e-4 * (double)(H / G), "sum of probabilities");
    }
    optest_freeze(&o);

    tensor          *k = optest_in(&o, "k", 5, 4, DIMS(N, G, D)), *v = optest_in(&o, "v", 6, 2, DIMS(N, G, D));
    tensor          *out = optest_out(&o, "out", DT_F32, DIMS(N, H, D));
    attn_select_args a = {.q = q,
                          .k = k,
                          .v = v,
                          .block = block,
                          .first = first,
                          .scale = scale,
                          .out = out,
                          .lse = optest_out(&o, "lse", DT_F32, DIMS(N, H))};
    optest_set_terms(&o, out, N);
    forward(&o, form, OPTEST_FN(attn_select_fwd), &a);
    if (form == PLAIN && grad) {
        optest_nan(&o, OPTEST_FN(attn_select_fwd), &a, q, out);
        optest_run(&o, optest_tested(), OPTEST_FN(attn_select_fwd), &a);
    }
    optest_freeze(&o);
    tensor *dout = optest_in(&o, "dout", 7, 2, DIMS(N, H, D)), *dq = gradient(&o, "dq", form & ADDED, DIMS(N, H, D));
    tensor *dk = optest_out(&o, "dk", DT_F32, DIMS(N, G, D)), *dv = optest_out(&o, "dv", DT_F32, DIMS(N, G, D));
    a.dout = dout;
    a.dq_add = form & ADDED;
    if (form & WEIGHED) {
        a.stat = weighed_stat(&o, a.lse, a.out, dout);
        a.out = unread(&o, a.out);
        a.lse = unread(&o, a.lse);
    }
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    optest_set_terms(&o, dq, N);
    optest_set_terms(&o, dk, N);
    optest_set_terms(&o, dv, N);
    set_delta_floors(&o, dq, dk, (double)(H / G), 1);
    optest_compare(&o, OPTEST_FN(attn_select_bwd), &a);
    if (grad && !(form & WEIGHED)) /* the forward would write what is not to be read */
        optest_grad(&o, OPTEST_FN(attn_select_fwd), OPTEST_FN(attn_select_bwd), &a,
                    (tensor *[]){q, dq, k, dk, v, dv, NULL}, (tensor *[]){out, dout, NULL}, 0.02, 3e-4);
    optest_end(&o);
}

static void select_case(const select_shape *s, int repeat, bool grad) {
    int few = repeat < 3 ? repeat : 3;
    select_form(s, repeat, grad, PLAIN);
    select_form(s, few, grad, BOTH);
    if (s->H * s->K < 128) select_form(s, few, grad, s->K % 3 ? WEIGHED : ADDED);
}

static void test_select_shapes(void **state) {
    static const select_shape shape[] = {
        {.n_samples = 1, .n_blocks = {0}, .H = 2, .G = 1, .D = 16, .K = 4},
        {.n_samples = 1, .n_blocks = {1}, .block_size = 1, .cmp_per_block = 1, .H = 1, .G = 1, .D = 16, .K = 1},
        {.n_samples = 3, .n_blocks = {5, 0, 9}, .H = 4, .G = 2, .D = 16, .K = 4},
        {.n_samples = 2, .n_blocks = {3, 2}, .H = 4, .G = 1, .D = 32, .K = 8}, /* fewer blocks than K */
        {.n_samples = 2,
         .n_blocks = {63, 65},
         .block_size = 1,
         .cmp_per_block = 1,
         .H = 2,
         .G = 2,
         .D = 64,
         .K = 8}, /* Q11 */
        {.n_samples = 1, .n_blocks = {2}, .block_size = 512, .H = 1, .G = 1, .D = 16, .K = 1},
        {.n_samples = 1, .n_blocks = {20}, .block_size = 3, .cmp_per_block = 2, .H = 100, .G = 1, .D = 8, .K = 3},
        {.n_samples = 2, .n_blocks = {40, 30}, .H = 16, .G = 1, .D = 12, .K = 6},
        {.n_samples = 1, .n_blocks = {200}, .block_size = 5, .H = 2, .G = 1, .D = 32, .K = 32},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        select_case(&shape[i], i == 2 || i == 7 ? OPTEST_REPEAT : 3, false);
}

static void test_select_gradients(void **state) {
    (void)state;
    select_shape s = {.n_samples = 2, .n_blocks = {3, 2}, .block_size = 2, .H = 4, .G = 2, .D = 3, .K = 2};
    select_case(&s, 2, true);
}

/* A query without blocks, holes between the used slots, and a block that nobody selected. */
static void test_select_unused(void **state) {
    optest o;
    (void)state;
    if (!optest_case()) return;
    optest_begin(&o);
    int32_t          block[6][3] = {{-1, -1, -1}, {0, -1, -1}, {0, 2, -1}, {-1, 2, -1}, {-1, -1, 0}, {0, 2, -1}};
    tensor          *q = optest_in(&o, "q", 1, 4, DIMS(6, 2, 16)), *k = optest_in(&o, "k", 2, 4, DIMS(6, 1, 16));
    tensor          *v = optest_in(&o, "v", 3, 2, DIMS(6, 1, 16)), *out = optest_out(&o, "out", DT_F32, DIMS(6, 2, 16));
    tensor          *lse = optest_out(&o, "lse", DT_F32, DIMS(6, 2));
    attn_select_args a = {.q = q,
                          .k = k,
                          .v = v,
                          .block = optest_i32(&o, "block", &block[0][0], DIMS(1, 6, 3)),
                          .first = optest_first(&o, "first", (int[]){1, 3, 2}, 3),
                          .scale = 0.25f,
                          .out = out,
                          .lse = lse};
    optest_compare(&o, OPTEST_FN(attn_select_fwd), &a);
    for (int i = 0; i < 32; i++) assert_true(F32(out)[i] == 0);
    assert_true(isinf(F32(lse)[0]) && F32(lse)[0] < 0);
    optest_freeze(&o);
    a.dout = optest_in(&o, "dout", 4, 2, DIMS(6, 2, 16));
    a.dq = optest_out(&o, "dq", DT_F32, DIMS(6, 2, 16));
    a.dk = optest_out(&o, "dk", DT_F32, DIMS(6, 1, 16));
    a.dv = optest_out(&o, "dv", DT_F32, DIMS(6, 1, 16));
    set_delta_floors(&o, a.dq, a.dk, 2, 1);
    optest_compare(&o, OPTEST_FN(attn_select_bwd), &a);
    for (int i = 16; i < 64; i++) assert_true(F32(a.dk)[i] == 0 && F32(a.dv)[i] == 0);
    optest_end(&o);
}

/* Equal keys give equal scores: the lower blocks win. */
static void test_topk_ties(void **state) {
    optest        o;
    select_shape  s = {.n_samples = 2, .n_blocks = {9, 3}, .block_size = 2, .cmp_per_block = 1, .K = 4};
    select_tables t = tables_of(&s);
    (void)state;
    if (!optest_case()) return;
    optest_begin(&o);
    tensor *lse = optest_in(&o, "lse", 3, 0, DIMS(t.N, 2)), *block = optest_out(&o, "block", DT_I32, DIMS(1, t.N, 4));
    topk_blocks_args p = {.q = optest_in(&o, "q", 1, 2, DIMS(t.N, 2, 8)),
                          .ck = optest_in(&o, "ck", 2, 0, DIMS(t.M, 1, 8)),
                          .lse = lse,
                          .sample_first = optest_i32(&o, "sample_first", t.sample, DIMS(3)),
                          .cmp_sample_first = optest_i32(&o, "cmp_sample_first", t.cmp_sample, DIMS(3)),
                          .slc_sample_first = optest_i32(&o, "slc_sample_first", t.slc_sample, DIMS(3)),
                          .slc_cmp_first = optest_i32(&o, "slc_cmp_first", t.cmp_first, DIMS(t.n_blocks + 1)),
                          .scale = 1,
                          .block = block};
    optest_compare(&o, OPTEST_FN(topk_blocks_fwd), &p);
    for (int64_t n = 0; n < t.N; n++)
        for (int j = 0; j < 4; j++) assert_int_equal(I32(block)[4 * n + j], n < t.sample[1] ? j : j < 3 ? 9 + j : -1);
    optest_end(&o);
}

static void test_select_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *q = optest_in(&o, "q", 1, 1, DIMS(4, 2, 8)), *k = optest_in(&o, "k", 2, 1, DIMS(4, 1, 8)),
           *k5 = optest_in(&o, "k5", 2, 1, DIMS(5, 1, 8));
    tensor *first = optest_first(&o, "first", (int[]){1, 3}, 2), *samples = optest_first(&o, "samples", (int[]){4}, 1);
    tensor *out = optest_out(&o, "out", DT_F32, DIMS(4, 2, 8)), *lse = optest_out(&o, "lse", DT_F32, DIMS(4, 2));
    int32_t good_block[8] = {0, 1, 0, 1, 0, -1, 1, -1}, far[8] = {0, 1, 0, 2, 0, -1, 1, -1},
            twice[8] = {0, 1, 1, 1, 0, -1, 1, -1};
    attn_select_args good = {.q = q,
                             .k = k,
                             .v = k,
                             .block = optest_i32(&o, "block", good_block, DIMS(1, 4, 2)),
                             .first = first,
                             .scale = 1,
                             .out = out,
                             .lse = lse},
                     a = good;
    a.k = k5;
    optest_fatal(OPTEST_FN(attn_select_fwd), &a, "k is f32 (5,1,8)");
    a = good;
    a.block = optest_i32(&o, "far", far, DIMS(1, 4, 2));
    optest_fatal(OPTEST_FN(attn_select_fwd), &a, "block[0,1,1] is 2");
    a.block = optest_i32(&o, "twice", twice, DIMS(1, 4, 2));
    optest_fatal(OPTEST_FN(attn_select_fwd), &a, "not ascending");
    a = good;
    a.dout = out;
    optest_fatal(OPTEST_FN(attn_select_bwd), &a, "dq is not given");

    tensor *block = optest_out(&o, "block_out", DT_I32, DIMS(1, 4, 2)),
           *none = optest_out(&o, "none", DT_I32, DIMS(1, 4, 0));
    tensor *two = optest_first(&o, "two", (int[]){1, 1}, 2), *narrow = optest_out(&o, "narrow", DT_F32, DIMS(1, 4, 1));
    tensor *blocks = optest_first(&o, "blocks", (int[]){2}, 1);
    topk_blocks_args right = {.q = q,
                              .ck = k,
                              .lse = lse,
                              .sample_first = samples,
                              .cmp_sample_first = samples,
                              .slc_sample_first = blocks,
                              .slc_cmp_first = first,
                              .scale = 1,
                              .block = block},
                     p = right;
    p.block = none;
    optest_fatal(OPTEST_FN(topk_blocks_fwd), &p, "room for no block");
    p = right;
    p.slc_sample_first = two;
    optest_fatal(OPTEST_FN(topk_blocks_fwd), &p, "1 samples of tokens");
    p = right;
    p.score = narrow;
    optest_fatal(OPTEST_FN(topk_blocks_fwd), &p, "score has 1 columns, a sample has 2 blocks");
    optest_end(&o);
}

/* ---- on a GPU ------------------------------------------------------------------------------------------------- */

/* Windows, cross and compression attention at the published widths, lengths around the edges of tiles. */
static void test_segment_tiles(void **state) {
    static const segment_shape shape[] = {
        {.n_segments = 11,
         .queries = {0, 1, 15, 16, 17, 63, 64, 65, 129, 300, 33},
         .keys = {0, 1, 15, 16, 17, 63, 64, 65, 129, 300, 33},
         .H = 32,
         .G = 2,
         .D = 32,
         .ordered = true},
        {.n_segments = 11,
         .queries = {300, 64, 0, 127, 128, 1, 31, 32, 33, 48, 2},
         .keys = {300, 64, 0, 127, 128, 1, 31, 32, 33, 48, 2},
         .H = 8,
         .G = 8,
         .D = 64,
         .ordered = true,
         .fused = true},
        {.n_segments = 4, .queries = {300, 0, 65, 16}, .keys = {1374, 5, 100, 0}, .H = 4, .G = 4, .D = 32},
        {.n_segments = 3, .queries = {130, 7, 257}, .keys = {1374, 1, 66}, .H = 2, .G = 2, .D = 64},
        {.n_segments = 3, .queries = {1000, 513, 3}, .keys = {17, 65, 1}, .H = 32, .G = 2, .D = 32, .unnamed = 3},
        {.n_segments = 2, .queries = {700, 70}, .keys = {130, 70}, .H = 12, .G = 2, .D = 32, .ordered = true},
        {.n_segments = 2, .queries = {65, 129}, .keys = {65, 129}, .H = 16, .G = 1, .D = 64, .fused = true},
        /* Rows cut into parts for dk and dv; then softmax that follows its maximum over many keys. */
        {.n_segments = 2, .queries = {1100, 40}, .keys = {65, 130}, .H = 8, .G = 1, .D = 32},
        {.n_segments = 2, .queries = {150, 70}, .keys = {200, 130}, .H = 8, .G = 2, .D = 32, .stretch = 8},
        {.n_segments = 2, .queries = {150, 70}, .keys = {200, 130}, .H = 4, .G = 4, .D = 64, .stretch = 8},
        /* Long enough for the kernels that work by warpgroups: ends inside a tile, segments of less than one. */
        {.n_segments = 4, .queries = {300, 3, 0, 130}, .keys = {1374, 65, 5, 0}, .H = 32, .G = 2, .D = 32},
        {.n_segments = 2, .queries = {600, 77}, .keys = {390, 200}, .H = 12, .G = 2, .D = 64, .ordered = true},
        {.n_segments = 1, .queries = {401}, .keys = {401}, .H = 8, .G = 2, .D = 24, .fused = true},
        {.n_segments = 2, .queries = {300, 77}, .keys = {390, 200}, .H = 12, .G = 2, .D = 32, .ordered = true},
        {.n_segments = 1, .queries = {1100}, .keys = {257}, .H = 2, .G = 2, .D = 32, .unnamed = 3},
        /* Windows, whose backward is one kernel: for every number of groups of 32 keys, whole and cut; beside segments
         * that are none; heads that share keys in other numbers than 16; scores so large that a key that is not there
         * would have an infinite weight. */
        {.n_segments = 12,
         .queries = {256, 1, 0, 40, 193, 150, 97, 16, 257, 3, 70, 20},
         .keys = {256, 5, 4, 0, 193, 160, 97, 16, 20, 17, 225, 257},
         .H = 32,
         .G = 2,
         .D = 32,
         .ordered = true,
         .unnamed = 3},
        {.n_segments = 6, .queries = {70, 200, 31, 1, 64, 7}, .keys = {70, 200, 31, 1, 64, 7}, .H = 3, .G = 3, .D = 24},
        {.n_segments = 3, .queries = {21, 7, 19}, .keys = {230, 7, 129}, .H = 10, .G = 2, .D = 32, .ordered = true},
        {.n_segments = 4,
         .queries = {70, 210, 5, 100},
         .keys = {70, 210, 5, 100},
         .H = 8,
         .G = 2,
         .D = 32,
         .fused = true,
         .stretch = 20},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) segment_case(&shape[i], 10, false);
}

/* Long enough for the backward in one kernel (attn_segment_fused.cu): chunks of 384 keys, ends inside their tiles, a
 * segment of one key, queries without keys and keys without queries, heads that do not divide a tile of rows. For
 * the forward that holds all keys (attn_segment_held.cu) also more keys than it holds, and several turns of a block.
 * Each backward in its wide form, in the compact one, and in that with two and three slabs. */
static void test_segment_fused(void **state) {
    static const segment_shape shape[] = {
        {.n_segments = 4, .queries = {300, 3, 0, 130}, .keys = {1374, 400, 5, 0}, .H = 32, .G = 2, .D = 32},
        {.n_segments = 1, .queries = {1100}, .keys = {385}, .H = 2, .G = 2, .D = 32, .unnamed = 3},
        {.n_segments = 2, .queries = {400, 77}, .keys = {1537, 1}, .H = 6, .G = 1, .D = 32},
        {.n_segments = 1, .queries = {150}, .keys = {600}, .H = 8, .G = 1, .D = 32, .stretch = 8},
        {.n_segments = 2, .queries = {500, 300}, .keys = {500, 300}, .H = 8, .G = 2, .D = 32, .fused = true},
        {.n_segments = 1, .queries = {1024}, .keys = {768}, .H = 1, .G = 1, .D = 32},
        {.n_segments = 3, .queries = {600, 5, 300}, .keys = {3100, 0, 129}, .H = 8, .G = 2, .D = 32},
        {.n_segments = 2, .queries = {600, 200}, .keys = {1700, 129}, .H = 8, .G = 2, .D = 32, .stretch = 8},
        {.n_segments = 1, .queries = {2100}, .keys = {193}, .H = 32, .G = 32, .D = 32},
        {.n_segments = 2, .queries = {600, 12}, .keys = {385, 0}, .H = 4, .G = 1, .D = 32}, /* more than windows have */
    };
    (void)state;
    device_info gpu;
    bool        serves = optest_now == OPTEST_GPU_BF16 && device_describe(0, &gpu) && gpu.major == 9;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        segment_shape s = shape[i];
        s.less_scratch = serves ? 3 : 0;
        segment_case(&s, 10, false);
    }
}

static void test_segment_head_widths(void **state) {
    static const int64_t width[] = {2, 8, 20, 24, 40, 48, 80, 96, 128};
    (void)state;
    for (int i = 0; i < 9; i++) {
        segment_shape s = {.n_segments = 5,
                           .queries = {65, 0, 17, 1, 130},
                           .keys = {65, 3, 40, 1, 70},
                           .H = 6,
                           .G = i % 2 ? 3 : 1,
                           .D = width[i],
                           .ordered = i % 3 == 0,
                           .unnamed = i % 2};
        segment_case(&s, 3, false);
    }
}

/* Few and many blocks, of one token and of several tiles, the published head counts, 8 and 32 chosen blocks. */
static void test_select_tiles(void **state) {
    static const select_shape shape[] = {
        {.n_samples = 2, .n_blocks = {10, 6}, .block_size = 33, .cmp_per_block = 1, .H = 32, .G = 2, .D = 32, .K = 8},
        {.n_samples = 3, .n_blocks = {40, 0, 64}, .H = 32, .G = 2, .D = 32, .K = 32},
        {.n_samples = 1, .n_blocks = {64}, .block_size = 6, .cmp_per_block = 3, .H = 16, .G = 2, .D = 64, .K = 32},
        {.n_samples = 1, .n_blocks = {3}, .block_size = 300, .cmp_per_block = 2, .H = 4, .G = 1, .D = 32, .K = 2},
        {.n_samples = 2, .n_blocks = {2, 5}, .block_size = 65, .cmp_per_block = 8, .H = 8, .G = 2, .D = 32, .K = 8},
        {.n_samples = 1, .n_blocks = {500}, .block_size = 1, .cmp_per_block = 1, .H = 4, .G = 2, .D = 32, .K = 8},
        {.n_samples = 1, .n_blocks = {1090}, .block_size = 1, .cmp_per_block = 1, .H = 1, .G = 1, .D = 16, .K = 8},
        {.n_samples = 1, .n_blocks = {129}, .block_size = 17, .cmp_per_block = 1, .H = 8, .G = 8, .D = 32, .K = 3},
        {.n_samples = 2, .n_blocks = {70, 33}, .H = 6, .G = 2, .D = 40, .K = 16},
        {.n_samples = 1, .n_blocks = {20}, .block_size = 16, .cmp_per_block = 1, .H = 16, .G = 1, .D = 128, .K = 4},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) select_case(&shape[i], i < 2 ? 20 : 3, false);
}

/* So many blocks and queries that a pair of them does not fit into 32 bits, which the lists of the backward are sorted
 * by where it does. Blocks have a token, or none. */
static void test_select_many(void **state) {
    enum { N = 66000, K = 3, BLOCKS = N / 3 * 4, SHARED = 50 };
    static int32_t first[BLOCKS + 1];
    static int32_t block[N][K];
    optest         o;
    (void)state;
    if (!optest_case()) return;
    for (int b = 0; b < BLOCKS; b++) first[b + 1] = first[b] + (b % 4 != 1);
    for (int n = 0; n < N; n++) { /* one far away, one near, one that many share; ascending */
        int far = (int)((int64_t)n * 7919 % BLOCKS), near = n, shared = n % SHARED + BLOCKS - SHARED;
        if (far >= shared || far == near) far = -1;
        block[n][0] = far < near ? far : near;
        block[n][1] = far < near ? near : far;
        block[n][2] = shared;
    }
    optest_begin(&o);
    o.repeat = 3;
    tensor          *q = optest_in(&o, "q", 1, 4, DIMS(N, 2, 8)), *k = optest_in(&o, "k", 2, 4, DIMS(N, 1, 8));
    tensor          *v = optest_in(&o, "v", 3, 2, DIMS(N, 1, 8)), *out = optest_out(&o, "out", DT_F32, DIMS(N, 2, 8));
    tensor          *lse = optest_out(&o, "lse", DT_F32, DIMS(N, 2));
    attn_select_args a = {.q = q,
                          .k = k,
                          .v = v,
                          .block = optest_i32(&o, "block", &block[0][0], DIMS(1, N, K)),
                          .first = optest_i32(&o, "first", first, DIMS(BLOCKS + 1)),
                          .scale = 0.35f,
                          .out = out,
                          .lse = lse};
    optest_run(&o, optest_tested(), OPTEST_FN(attn_select_fwd), &a);
    optest_freeze(&o);
    a.dout = optest_in(&o, "dout", 4, 2, DIMS(N, 2, 8));
    a.dq = optest_out(&o, "dq", DT_F32, DIMS(N, 2, 8));
    a.dk = optest_out(&o, "dk", DT_F32, DIMS(N, 1, 8));
    a.dv = optest_out(&o, "dv", DT_F32, DIMS(N, 1, 8));
    optest_set_terms(&o, a.dk, 2 * N / SHARED);
    optest_set_terms(&o, a.dv, 2 * N / SHARED);
    set_delta_floors(&o, a.dq, a.dk, 2 * N / SHARED, 1);
    optest_compare(&o, OPTEST_FN(attn_select_bwd), &a);
    optest_end(&o);
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_segment_sizes), cmocka_unit_test(test_segment_widths),
        cmocka_unit_test(test_segment_large), cmocka_unit_test(test_select_shapes),
        cmocka_unit_test(test_select_unused), cmocka_unit_test(test_topk_ties),
    };
    const struct CMUnitTest cpu[] = {
        cmocka_unit_test(test_segment_gradients),
        cmocka_unit_test(test_segment_wrong),
        cmocka_unit_test(test_select_gradients),
        cmocka_unit_test(test_select_wrong),
    };
    const struct CMUnitTest gpu[] = {
        cmocka_unit_test(test_segment_tiles),       cmocka_unit_test(test_segment_fused),
        cmocka_unit_test(test_segment_head_widths), cmocka_unit_test(test_select_tiles),
        cmocka_unit_test(test_select_many),
    };
    return optest_main(argc, argv,
                       &(optest_suite){.name = "sparse_attn", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
