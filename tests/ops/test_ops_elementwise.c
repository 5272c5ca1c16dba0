/* elementwise helpers and branch_gate against ref, gradients of ref, wrong arguments. */
#include "core/half.h"
#include "core/rng.h"
#include "ops/optest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_add_zero_copy(void **state) {
    (void)state;
    for (int r = 0; r <= OPTEST_N_ROWS; r++) {
        int64_t n = r < OPTEST_N_ROWS ? optest_rows[r] : 300001;
        optest  o;
        optest_begin(&o);
        o.repeat = n > 1000 ? 3 : OPTEST_REPEAT;
        /* Same count, other dims. */
        tensor *x = optest_in(&o, "x", 1, 2, DIMS(n, 1)), *acc = optest_acc(&o, "y", 2, 2, DIMS(n));
        optest_compare(&o, OPTEST_FN(add_fwd), &(xy_args){.x = x, .y = acc});
        optest_freeze(&o);
        tensor *y = optest_out(&o, "y", DT_F32, DIMS(n));
        optest_compare(&o, OPTEST_FN(copy_fwd), &(xy_args){.x = x, .y = y});
        assert_true(n == 0 || memcmp(x->data, y->data, tensor_bytes(x)) == 0);
        optest_compare(&o, OPTEST_FN(zero_fwd), &(xy_args){.y = y});
        for (int64_t i = 0; i < n; i++) assert_true(F32(y)[i] == 0);
        optest_end(&o);
    }
}

/* copy is the one op that casts: to the nearest bf16, ties to even, and back without loss. */
static void test_copy_casts(void **state) {
    static const uint32_t hard[] = {0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F7F8000, 0xFF7F7FFF,
                                    0x80000000, 0x00008000, 0x00018000, 0x7F800000, 0xFF800000, 0x007FFFFF, 0x00000001};
    (void)state;
    for (int r = 0; r <= OPTEST_N_ROWS; r++) {
        int64_t n = r < OPTEST_N_ROWS ? optest_rows[r] : 300001;
        optest  o;
        optest_begin(&o);
        o.repeat = n > 1000 ? 3 : OPTEST_REPEAT;
        tensor *x = optest_in(&o, "x", 1, 2, DIMS(n)), *y = optest_out(&o, "y", DT_BF16, DIMS(n));
        for (int64_t i = 0; i < n && i < (int64_t)(sizeof hard / sizeof *hard); i++) memcpy(F32(x) + i, hard + i, 4);
        optest_keep(&o, x);
        optest_run(&o, optest_tested(), OPTEST_FN(copy_fwd), &(xy_args){.x = x, .y = y});
        for (int64_t i = 0; i < n; i++) {
            float want = bf16_to_f32(
                f32_to_bf16(optest_now == OPTEST_GPU_BF16 ? bf16_to_f32(f32_to_bf16(F32(x)[i])) : F32(x)[i]));
            float got = bf16_to_f32(BF16(y)[i]);
            if (memcmp(&got, &want, 4) != 0)
                fail_msg("%a became %a, wanted %a", (double)F32(x)[i], (double)got, (double)want);
        }
        optest_freeze(&o);
        tensor *z = optest_out(&o, "z", DT_F32, DIMS(n));
        optest_run(&o, optest_tested(), OPTEST_FN(copy_fwd), &(xy_args){.x = y, .y = z});
        for (int64_t i = 0; i < n; i++) {
            float want = bf16_to_f32(BF16(y)[i]);
            if (memcmp(F32(z) + i, &want, 4) != 0)
                fail_msg("z[%lld] is %a, wanted %a", (long long)i, (double)F32(z)[i], (double)want);
        }
        optest_end(&o);
    }
}

/* n of k rows, none twice, in random order. */
static void gather_case(int n, int k, int ch, bool grad) {
    int64_t *order = malloc(((size_t)k + 1) * sizeof *order);
    int32_t *index = malloc(((size_t)n + 1) * sizeof *index);
    optest   o;
    assert_true(order && index && n <= k);
    rng_permutation((rng_key){.purpose = RNG_TEST, .sample = (uint64_t)k}, k, order);
    for (int i = 0; i < n; i++) index[i] = (int32_t)order[i];
    optest_begin(&o);
    gather_rows_args a = {0};
    tensor          *x = optest_in(&o, "x", 1, 2, DIMS(k, ch)), *y = optest_out(&o, "y", DT_F32, DIMS(n, ch));
    a.x = x, a.y = y, a.index = optest_i32(&o, "index", index, DIMS(n));
    optest_compare(&o, OPTEST_FN(gather_rows_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 2, 2, DIMS(n, ch)), *dx = optest_out(&o, "dx", DT_F32, DIMS(k, ch));
    a.dy = dy, a.dx = dx;
    optest_compare(&o, OPTEST_FN(gather_rows_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(gather_rows_fwd), OPTEST_FN(gather_rows_bwd), &a, (tensor *[]){x, dx, NULL},
                    (tensor *[]){y, dy, NULL}, 0.05, 1e-3);
    optest_end(&o);
    free(order);
    free(index);
}

static void test_gather(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++) {
        gather_case(optest_rows[r], optest_rows[r], 1, false);
        gather_case(optest_rows[r], optest_rows[r] + 5, 7, false);
        gather_case(optest_rows[r] / 2, optest_rows[r], 64, false);
    }
    gather_case(3, 5, 4, true);
}

static void test_columns(void **state) {
    static const int width[][6] = {{1}, {64, 64, 64}, {5, 0, 3}, {1, 2, 3, 4, 5, 6}};
    static const int parts[] = {1, 3, 3, 6};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int w = 0; w < 4; w++) {
            optest          o;
            split_cols_args s = {.n_parts = parts[w]};
            merge_cols_args m = {.n_parts = parts[w]};
            int64_t         total = 0;
            optest_begin(&o);
            for (int p = 0; p < parts[w]; p++) total += width[w][p];
            s.x = optest_in(&o, "x", 1, 2, DIMS(optest_rows[r], total));
            for (int p = 0; p < parts[w]; p++)
                m.part[p] = s.part[p] = optest_out(&o, "part", DT_F32, DIMS(optest_rows[r], width[w][p]));
            optest_compare(&o, OPTEST_FN(split_cols_fwd), &s);
            for (int64_t n = 0; n < optest_rows[r]; n++)
                assert_true(F32(s.part[0])[n * width[w][0]] == F32(s.x)[n * total]);
            optest_freeze(&o);
            m.x = optest_out(&o, "back", DT_F32, DIMS(optest_rows[r], total));
            optest_compare(&o, OPTEST_FN(merge_cols_fwd), &m);
            assert_true(optest_rows[r] == 0 || memcmp(m.x->data, s.x->data, tensor_bytes(s.x)) == 0);
            optest_end(&o);
        }
}

static void test_embed_ape(void **state) {
    static const int ch[] = {1, 6, 16, 64, 130};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int w = 0; w < 10; w++) {
            int      n = optest_rows[r];
            bool     wide = w >= 5; /* a coordinate range too wide for a table */
            int32_t *coord = malloc(((size_t)n * 3 + 1) * sizeof *coord);
            optest   o;
            assert_non_null(coord);
            for (int i = 0; i < 3 * n; i++) coord[i] = (i * 7919 % 64) - (wide ? i * 1000 : 5);
            optest_begin(&o);
            o.repeat = 5;
            tensor        *x = optest_in(&o, "x", 1, 2, DIMS(n, ch[w % 5]));
            embed_ape_args a = {.x = x,
                                .coord = optest_i32(&o, "coord", coord, DIMS(n, 3)),
                                .factor = w & 1 ? 0.5f : 1.0f,
                                .y = optest_out(&o, "y", DT_F32, DIMS(n, ch[w % 5]))};
            /* Both work in double: one rounding of the sum, one of the table, |y| <= 2. */
            optest_set_tol(&o, a.y, 2e-7);
            optest_compare(&o, OPTEST_FN(embed_ape_fwd), &a);
            optest_end(&o);
            free(coord);
        }
}

/* R§3.5 spelled out for one row; R§5.2 for one time. */
static void test_embed_values(void **state) {
    enum { C = 14, D = 6 };
    const int32_t coord[3] = {3, 0, 7};
    optest        o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 0, DIMS(1, C)), *y = optest_out(&o, "y", DT_F32, DIMS(1, C));
    optest_run(&o, &backend_cpu, OPTEST_FN(embed_ape_fwd),
               &(embed_ape_args){.x = x, .coord = optest_i32(&o, "coord", coord, DIMS(1, 3)), .factor = 2, .y = y});
    const double want[C] = {sin(6), sin(0.06), cos(6), cos(0.06), 0, 0, 1, 1, sin(14), sin(0.14), cos(14), cos(0.14)};
    for (int i = 0; i < C; i++) expect_le(fabs(F32(y)[i] - want[i]), 1e-7, "embed_ape");
    tensor *t = optest_in(&o, "t", 1, 0, DIMS(1)), *e = optest_out(&o, "e", DT_F32, DIMS(1, D));
    F32(t)[0] = 437.5f;
    optest_keep(&o, t);
    optest_run(&o, &backend_cpu, OPTEST_FN(embed_time_fwd), &(embed_time_args){.t = t, .y = e});
    for (int i = 0; i < D; i++) {
        double angle = 437.5 * pow(10000, -(double)(i % 3) / 3);
        expect_le(fabs(F32(e)[i] - (i < 3 ? cos(angle) : sin(angle))), 1e-7, "embed_time");
    }
    optest_end(&o);
}

static void test_embed_time(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++) {
        optest o;
        optest_begin(&o);
        o.repeat = 5;
        embed_time_args a = {.t = optest_in(&o, "t", 1, 2000, DIMS(optest_rows[r])),
                             .y = optest_out(&o, "y", DT_F32, DIMS(optest_rows[r], 18))};
        optest_set_tol(&o, a.y, 1e-7);
        optest_compare(&o, OPTEST_FN(embed_time_fwd), &a);
        optest_end(&o);
    }
}

static void add_table_case(int n, int k, int ch, bool grad) {
    int32_t *index = malloc((size_t)(2 * n + k + 1) * sizeof *index);
    optest   o;
    assert_non_null(index);
    int32_t *order = index + n, *first = order + n;
    for (int i = 0; i < n; i++) index[i] = i * 31 % k;
    optest_begin(&o);
    add_table_args a = {0};
    tensor        *x = optest_in(&o, "x", 1, 2, DIMS(n, ch)), *table = optest_in(&o, "table", 2, 2, DIMS(k, ch));
    tensor        *y = optest_out(&o, "y", DT_F32, DIMS(n, ch));
    a.x = x, a.table = table, a.y = y, a.index = optest_i32(&o, "index", index, DIMS(n));
    optest_compare(&o, OPTEST_FN(add_table_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 3, 2, DIMS(n, ch)), *dtable = optest_acc(&o, "dtable", 4, 2, DIMS(k, ch));
    a.dy = dy, a.dtable = dtable;
    for (int i = 0, at = 0; i <= k; i++) {
        first[i] = at;
        for (int j = 0; j < n; j++)
            if (index[j] == i) order[at++] = j;
    }
    a.order = optest_i32(&o, "order", order, DIMS(n)), a.first = optest_i32(&o, "first", first, DIMS(k + 1));
    optest_compare(&o, OPTEST_FN(add_table_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(add_table_fwd), OPTEST_FN(add_table_bwd), &a,
                    (tensor *[]){x, dy, table, dtable, NULL}, (tensor *[]){y, dy, NULL}, 0.05, 1e-3);
    optest_end(&o);
    free(index);
}

static void test_add_table(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++) {
        add_table_case(optest_rows[r], 1, 1, false);
        add_table_case(optest_rows[r], 64, 13, false);
        add_table_case(optest_rows[r], 7, 64, false);
    }
    add_table_case(7, 3, 4, true);
}

static void branch_gate_case(int n, int heads, int d, bool grad) {
    optest o;
    optest_begin(&o);
    branch_gate_args a = {0};
    tensor          *z = optest_in(&o, "z", 9, 8, DIMS(n, 3)), *out = optest_out(&o, "out", DT_F32, DIMS(n, heads, d));
    if (n > 3) { /* gates that are as good as closed, or open */
        F32(z)[1] = -120, F32(z)[5] = 120;
        optest_keep(&o, z);
    }
    for (int i = 0; i < 3; i++) a.o[i] = optest_in(&o, "o", (uint32_t)i + 1, 2, DIMS(n, heads, d));
    a.z = z, a.out = out;
    optest_compare(&o, OPTEST_FN(branch_gate_fwd), &a);
    optest_freeze(&o);
    tensor *dout = optest_in(&o, "dout", 4, 2, DIMS(n, heads, d)), *dz = optest_out(&o, "dz", DT_F32, DIMS(n, 3));
    for (int i = 0; i < 3; i++) {
        tensor *lse = optest_in(&o, "lse", (uint32_t)i + 5, 20, DIMS(n, heads));
        if (n > 1) F32(lse)[heads] = -INFINITY; /* no key */
        optest_keep(&o, lse);
        a.lse[i] = lse;
        a.stat[i] = optest_out(&o, "stat", DT_F32, DIMS(n, heads, 2));
        optest_set_terms(&o, a.stat[i], d);
    }
    a.dout = dout, a.dz = dz;
    optest_set_terms(&o, dz, heads * d);
    optest_compare(&o, OPTEST_FN(branch_gate_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(branch_gate_fwd), OPTEST_FN(branch_gate_bwd), &a, (tensor *[]){z, dz, NULL},
                    (tensor *[]){out, dout, NULL}, 0.02, 1e-3);
    optest_end(&o);
}

static void test_branch_gate(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++) {
        branch_gate_case(optest_rows[r], 1, 1, false);
        branch_gate_case(optest_rows[r], 4, 32, false);
        branch_gate_case(optest_rows[r], 3, 7, false);
    }
    branch_gate_case(4, 2, 3, true);
}

static void test_nan(void **state) {
    const int32_t index[5] = {0}, coord[15] = {0};
    optest        o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(5, 12)), *y = optest_out(&o, "y", DT_F32, DIMS(5, 12));
    tensor *at = optest_i32(&o, "index", index, DIMS(5)), *place = optest_i32(&o, "coord", coord, DIMS(5, 3));
    optest_nan(&o, OPTEST_FN(copy_fwd), &(xy_args){.x = x, .y = y}, x, y);
    optest_nan(&o, OPTEST_FN(split_cols_fwd), &(split_cols_args){.x = x, .part = {y}, .n_parts = 1}, x, y);
    optest_nan(&o, OPTEST_FN(add_table_fwd), &(add_table_args){.x = x, .table = x, .index = at, .y = y}, x, y);
    optest_nan(&o, OPTEST_FN(embed_ape_fwd), &(embed_ape_args){.x = x, .coord = place, .factor = 1, .y = y}, x, y);
    tensor *b[3], *z = optest_in(&o, "z", 1, 2, DIMS(5, 3)), *out = optest_out(&o, "out", DT_F32, DIMS(5, 2, 3));
    for (int i = 0; i < 3; i++) b[i] = optest_in(&o, "o", (uint32_t)i, 2, DIMS(5, 2, 3));
    branch_gate_args g = {.o = {b[0], b[1], b[2]}, .z = z, .out = out};
    optest_nan(&o, OPTEST_FN(branch_gate_fwd), &g, b[2], out);
    optest_nan(&o, OPTEST_FN(branch_gate_fwd), &g, z, out);
    optest_end(&o);
}

static void test_wrong(void **state) {
    const int32_t index[3] = {0, 4, 1};
    optest        o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(3, 4)), *y = optest_out(&o, "y", DT_F32, DIMS(3, 5));
    tensor *at = optest_i32(&o, "index", index, DIMS(3)), *same = optest_out(&o, "same", DT_F32, DIMS(3, 4));
    optest_fatal(OPTEST_FN(add_fwd), &(xy_args){.x = x, .y = y}, "x has 12 elements, y 15");
    optest_fatal(OPTEST_FN(copy_fwd), &(xy_args){.x = at, .y = y}, "x is i32");
    optest_fatal(OPTEST_FN(zero_fwd), &(xy_args){.x = x}, "y is not given");
    optest_fatal(OPTEST_FN(split_cols_fwd), &(split_cols_args){.x = x, .part = {y}, .n_parts = 1}, "5 columns, x 4");
    optest_fatal(OPTEST_FN(merge_cols_fwd), &(merge_cols_args){.x = y, .part = {x}, .n_parts = 7}, "7 parts");
    optest_fatal(OPTEST_FN(add_table_fwd), &(add_table_args){.x = x, .table = x, .index = at, .y = same},
                 "index[1] is 4, wanted 0 to 2");
    optest_fatal(OPTEST_FN(embed_ape_fwd), &(embed_ape_args){.x = x, .coord = at, .factor = 1, .y = same},
                 "coord is i32 (3), wanted i32 (3,3)");
    const int32_t  first[4] = {0, 1, 2, 3}, again[3] = {0, 2, 2};
    tensor        *starts = optest_i32(&o, "first", first, DIMS(4)), *repeats = optest_i32(&o, "order", again, DIMS(3));
    add_table_args b0 = {.dy = x, .dtable = same, .first = starts, .order = repeats};
    optest_fatal(OPTEST_FN(add_table_bwd), &b0, "order names row 2 twice");
    b0.dy = y, b0.dtable = optest_out(&o, "table", DT_F32, DIMS(4, 5));
    optest_fatal(OPTEST_FN(add_table_bwd), &b0, "rows of 3 indices for a table of 4");
    tensor *t = optest_in(&o, "t", 1, 2, DIMS(3));
    optest_fatal(OPTEST_FN(embed_time_fwd), &(embed_time_args){.t = t, .y = y}, "odd width 5");
    tensor *b = optest_in(&o, "o", 1, 2, DIMS(3, 2, 2)), *out = optest_out(&o, "out", DT_F32, DIMS(3, 2, 2));
    optest_fatal(OPTEST_FN(branch_gate_fwd), &(branch_gate_args){.o = {b, b, x}, .z = x, .out = out},
                 "o[2] is f32 (3,4)");
    optest_fatal(OPTEST_FN(branch_gate_fwd), &(branch_gate_args){.o = {b, b, b}, .z = x, .out = out},
                 "z is f32 (3,4), wanted f32 (3,3)");
    const int32_t twice[3] = {0, 2, 2}, outside[3] = {0, 1, 3};
    tensor       *w = optest_out(&o, "wide", DT_F32, DIMS(3, 4));
    optest_fatal(OPTEST_FN(gather_rows_fwd), &(gather_rows_args){.x = x, .index = at, .y = y},
                 "y is f32 (3,5), wanted f32 (*,4)");
    optest_fatal(OPTEST_FN(gather_rows_fwd),
                 &(gather_rows_args){.x = x, .index = optest_i32(&o, "twice", twice, DIMS(3)), .y = w},
                 "index names row 2 twice");
    optest_fatal(OPTEST_FN(gather_rows_bwd),
                 &(gather_rows_args){.index = optest_i32(&o, "outside", outside, DIMS(3)), .dy = x, .dx = w},
                 "index[2] is 3, wanted 0 to 2");
    optest_end(&o);
}

/* Sizes of the networks. */
static void test_wide(void **state) {
    (void)state;
    for (int w = 0; w < 4; w++) {
        static const int64_t width[][3] = {{1024, 1024, 1024}, {1024, 64, 64}, {1030, 8, 3}, {48, 48, 48}};
        optest               o;
        int64_t              total = width[w][0] + width[w][1] + width[w][2], n = w == 3 ? 20001 : 301;
        optest_begin(&o);
        o.repeat = 5;
        split_cols_args s = {.x = optest_in(&o, "x", 1, 2, DIMS(n, total)), .n_parts = 3};
        merge_cols_args m = {.n_parts = 3};
        for (int p = 0; p < 3; p++) m.part[p] = s.part[p] = optest_out(&o, "part", DT_F32, DIMS(n, width[w][p]));
        optest_compare(&o, OPTEST_FN(split_cols_fwd), &s);
        optest_freeze(&o);
        m.x = optest_out(&o, "back", DT_F32, DIMS(n, total));
        optest_compare(&o, OPTEST_FN(merge_cols_fwd), &m);
        assert_memory_equal(m.x->data, s.x->data, tensor_bytes(s.x));
        optest_end(&o);
    }
    branch_gate_case(1003, 32, 32, false);
    branch_gate_case(257, 12, 64, false);
    branch_gate_case(5000, 2, 16, false);
    gather_case(777, 1500, 1024, false);
    gather_case(4000, 4000, 24, false);
    add_table_case(5000, 512, 64, false);
    add_table_case(3001, 64, 1000, false);
    add_table_case(70000, 3, 8, false); /* many rows into few */
    add_table_case(20000, 1, 64, false);
}

static void test_embed_wide(void **state) {
    enum { N = 1003, C = 1024 };
    static int32_t coord[3 * N];
    optest         o;
    (void)state;
    for (int i = 0; i < 3 * N; i++) coord[i] = i * 7919 % 128;
    optest_begin(&o);
    o.repeat = 5;
    embed_ape_args a = {.x = optest_in(&o, "x", 1, 2, DIMS(N, C)),
                        .coord = optest_i32(&o, "coord", coord, DIMS(N, 3)),
                        .factor = 0.5f,
                        .y = optest_out(&o, "y", DT_F32, DIMS(N, C))};
    optest_set_tol(&o, a.y, 2e-7);
    optest_compare(&o, OPTEST_FN(embed_ape_fwd), &a);
    optest_end(&o);
    optest_begin(&o);
    embed_time_args e = {.t = optest_in(&o, "t", 1, 2000, DIMS(64)), .y = optest_out(&o, "y", DT_F32, DIMS(64, 256))};
    optest_set_tol(&o, e.y, 1e-7);
    optest_compare(&o, OPTEST_FN(embed_time_fwd), &e);
    optest_end(&o);
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_add_zero_copy), cmocka_unit_test(test_copy_casts),  cmocka_unit_test(test_gather),
        cmocka_unit_test(test_columns),       cmocka_unit_test(test_embed_ape),   cmocka_unit_test(test_embed_time),
        cmocka_unit_test(test_add_table),     cmocka_unit_test(test_branch_gate), cmocka_unit_test(test_nan),
    };
    const struct CMUnitTest cpu[] = {cmocka_unit_test(test_embed_values), cmocka_unit_test(test_wrong)};
    const struct CMUnitTest gpu[] = {cmocka_unit_test(test_wide), cmocka_unit_test(test_embed_wide)};
    return optest_main(argc, argv,
                       &(optest_suite){.name = "elementwise", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
