/* layer_norm, group_norm, rms_norm, gate_residual against ref, gradients of ref, empty samples, wrong arguments. */
#include "ops/optest.h"

enum { B = OPTEST_SAMPLES };

/* dx is rstd times a difference of terms that may cancel to nothing (one row, one channel). |gamma dy| <= 1 here. */
static double largest(const tensor *t) {
    double max = 0;
    for (int64_t i = 0; i < tensor_count(t); i++)
        if (F32(t)[i] > max) max = F32(t)[i];
    return max;
}

static void layer_norm_case(int n, int ch, bool affine, bool modulated, double scale, bool grad) {
    optest o;
    optest_begin(&o);
    layer_norm_args a = {.eps = 1e-5};
    tensor         *x = optest_in(&o, "x", 1, scale, DIMS(n, ch)), *gamma = NULL, *beta = NULL, *sc = NULL, *sh = NULL;
    tensor         *y = optest_out(&o, "y", DT_F32, DIMS(n, ch));
    tensor         *dgamma = NULL, *dbeta = NULL, *dscale = NULL, *dshift = NULL;
    a.x = x;
    a.y = y;
    a.mean = optest_out(&o, "mean", DT_F32, DIMS(n));
    a.rstd = optest_out(&o, "rstd", DT_F32, DIMS(n));
    if (affine) {
        a.gamma = gamma = optest_in(&o, "gamma", 2, 2, DIMS(ch));
        a.beta = beta = optest_in(&o, "beta", 3, 2, DIMS(ch));
    }
    if (modulated) {
        a.scale = sc = optest_in(&o, "scale", 4, 1, DIMS(B, ch));
        a.shift = sh = optest_in(&o, "shift", 5, 1, DIMS(B, ch));
        a.first = optest_samples(&o, n);
    }
    optest_compare(&o, OPTEST_FN(layer_norm_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 6, 2, DIMS(n, ch));
    /* Odd numbers of rows: dx is added to, as it is or from another tensor. */
    bool    adds = !grad && n % 2, in_place = adds && n % 4 == 1;
    tensor *dx = in_place ? optest_acc(&o, "dx", 9, 2, DIMS(n, ch)) : optest_out(&o, "dx", DT_F32, DIMS(n, ch));
    if (adds) a.dx_add = in_place ? dx : optest_in(&o, "dx_add", 9, 2, DIMS(n, ch));
    a.dy = dy;
    a.dx = dx;
    if (affine) {
        a.dgamma = dgamma = optest_acc(&o, "dgamma", 7, 2, DIMS(ch));
        a.dbeta = dbeta = optest_acc(&o, "dbeta", 8, 2, DIMS(ch));
    }
    if (modulated) {
        a.dscale = dscale = optest_out(&o, "dscale", DT_F32, DIMS(B, ch));
        a.dshift = dshift = optest_out(&o, "dshift", DT_F32, DIMS(B, ch));
    }
    optest_set_floor(&o, dx, largest(a.rstd));
    optest_compare(&o, OPTEST_FN(layer_norm_bwd), &a);
    tensor *pairs[11] = {x, dx};
    int     k = 2;
    if (affine) pairs[k++] = gamma, pairs[k++] = dgamma, pairs[k++] = beta, pairs[k++] = dbeta;
    if (modulated) pairs[k++] = sc, pairs[k++] = dscale, pairs[k++] = sh, pairs[k++] = dshift;
    if (grad)
        optest_grad(&o, OPTEST_FN(layer_norm_fwd), OPTEST_FN(layer_norm_bwd), &a, pairs, (tensor *[]){y, dy, NULL},
                    0.01, 1e-3);
    optest_end(&o);
}

static void test_layer_norm(void **state) {
    static const int width[] = {1, 7, 48, 130};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int w = 0; w < 4; w++) layer_norm_case(optest_rows[r], width[w], (r + w) & 1, (r + w) & 2, 4, false);
    for (int k = 0; k < 4; k++) {
        layer_norm_case(5, 6, k & 1, k & 2, 4, true);
        layer_norm_case(1000, 64, k & 1, k & 2, 4, false);
    }
}

/* The norm of x + gate[b] h, the sum itself among the results. */
static void residual_norm_case(int n, int ch, bool gated, bool affine, bool modulated) {
    optest o;
    optest_begin(&o);
    o.repeat = 5;
    tensor         *rows = gated || modulated ? optest_samples(&o, n) : NULL;
    layer_norm_args a = {.x = optest_in(&o, "x", 1, 4, DIMS(n, ch)),
                         .h = optest_in(&o, "h", 2, 4, DIMS(n, ch)),
                         .gate = gated ? optest_in(&o, "gate", 3, 1, DIMS(B, ch)) : NULL,
                         .gamma = affine ? optest_in(&o, "gamma", 4, 2, DIMS(ch)) : NULL,
                         .beta = affine ? optest_in(&o, "beta", 5, 2, DIMS(ch)) : NULL,
                         .scale = modulated ? optest_in(&o, "scale", 6, 1, DIMS(B, ch)) : NULL,
                         .shift = modulated ? optest_in(&o, "shift", 7, 1, DIMS(B, ch)) : NULL,
                         .first = rows,
                         .eps = 1e-5,
                         .sum = optest_out(&o, "sum", DT_F32, DIMS(n, ch)),
                         .y = optest_out(&o, "y", DT_F32, DIMS(n, ch)),
                         .mean = optest_out(&o, "mean", DT_F32, DIMS(n)),
                         .rstd = optest_out(&o, "rstd", DT_F32, DIMS(n))};
    optest_compare(&o, OPTEST_FN(layer_norm_fwd), &a);
    optest_end(&o);
}

static void test_residual_norm(void **state) {
    static const int width[] = {5, 48, 130};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int w = 0; w < 3; w++) residual_norm_case(optest_rows[r], width[w], (r + w) & 1, r & 1, w & 1);
    for (int k = 0; k < 8; k++) residual_norm_case(65, 64, k & 1, k & 2, k & 4);
}

static void group_norm_case(int n, int groups, int ch, act_kind act, bool grad) {
    optest o;
    optest_begin(&o);
    group_norm_args a = {.groups = groups, .act = act, .eps = 1e-5};
    tensor         *x = optest_in(&o, "x", 1, 4, DIMS(n, ch)), *gamma = optest_in(&o, "gamma", 2, 2, DIMS(ch));
    tensor         *beta = optest_in(&o, "beta", 3, 2, DIMS(ch)), *y = optest_out(&o, "y", DT_F32, DIMS(n, ch));
    a.x = x, a.gamma = gamma, a.beta = beta, a.y = y;
    a.first = optest_samples(&o, n);
    a.mean = optest_out(&o, "mean", DT_F32, DIMS(B, groups));
    a.rstd = optest_out(&o, "rstd", DT_F32, DIMS(B, groups));
    optest_compare(&o, OPTEST_FN(group_norm_fwd), &a);
    for (int g = 0; g < groups; g++) { /* the sample without rows */
        assert_true(F32(a.mean)[groups + g] == 0);
        assert_true(F32(a.rstd)[groups + g] == 0);
    }
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 4, 2, DIMS(n, ch)), *dx = optest_out(&o, "dx", DT_F32, DIMS(n, ch));
    tensor *dgamma = optest_acc(&o, "dgamma", 5, 2, DIMS(ch)), *dbeta = optest_acc(&o, "dbeta", 6, 2, DIMS(ch));
    a.dy = dy, a.dx = dx, a.dgamma = dgamma, a.dbeta = dbeta;
    optest_set_floor(&o, dx, largest(a.rstd));
    optest_compare(&o, OPTEST_FN(group_norm_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(group_norm_fwd), OPTEST_FN(group_norm_bwd), &a,
                    (tensor *[]){x, dx, gamma, dgamma, beta, dbeta, NULL}, (tensor *[]){y, dy, NULL}, 0.01, 1e-3);
    optest_end(&o);
}

static void test_group_norm(void **state) {
    static const int shape[][2] = {{1, 1}, {2, 6}, {32, 64}, {4, 100}};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int s = 0; s < 4; s++)
            group_norm_case(optest_rows[r], shape[s][0], shape[s][1], (r + s) & 1 ? ACT_SILU : ACT_NONE, false);
    group_norm_case(9, 2, 4, ACT_NONE, true);
    group_norm_case(9, 2, 4, ACT_SILU, true);
    group_norm_case(2500, 8, 64, ACT_SILU, false);
}

/* A mean far from zero must not eat the digits of the variance. */
static void test_norms_far_from_zero(void **state) {
    enum { N = 65, C = 64 };
    bool gpu = optest_now != OPTEST_CPU;
    (void)state;
    if (optest_now == OPTEST_GPU_BF16) return; /* bf16 has no digits left there: all values are 4096 */
    for (int group = 0; group < 2; group++) {
        optest o;
        optest_begin(&o);
        tensor *x = optest_in(&o, "x", 1, 2, DIMS(N, C)), *gamma = optest_in(&o, "gamma", 2, 2, DIMS(C));
        tensor *beta = optest_in(&o, "beta", 3, 2, DIMS(C)), *y = optest_out(&o, "y", DT_F32, DIMS(N, C));
        tensor *mean = optest_out(&o, "mean", DT_F32, DIMS(group ? 1 : N, group ? 8 : 1));
        tensor *rstd = optest_out(&o, "rstd", DT_F32, DIMS(group ? 1 : N, group ? 8 : 1));
        for (int64_t i = 0; i < N * C; i++) F32(x)[i] += 4096;
        optest_keep(&o, x);
        /* The stored mean is rounded to ulp(4096)/2 = 2.4e-4; y follows with rstd about 1.7. A GPU sums in float: the
         * six levels of a sum of 64 values are rounded so, too. Differences from the mean are exact, but all off by its
         * error e <= 1.7e-3, and the variance, 0.33, by e^2. */
        optest_set_tol(&o, y, gpu ? 2e-3 : group ? 1e-3 : 1e-6);
        optest_set_tol(&o, mean, gpu ? 4e-7 : 1e-7);
        optest_set_tol(&o, rstd, gpu ? 1e-5 : 1e-6);
        if (group) {
            group_norm_args g = {.x = x,
                                 .gamma = gamma,
                                 .beta = beta,
                                 .groups = 8,
                                 .eps = 1e-5,
                                 .y = y,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .first = optest_first(&o, "first", (int[]){N}, 1)};
            optest_compare(&o, OPTEST_FN(group_norm_fwd), &g);
        } else {
            tensor          m = tensor_view(mean, DIMS(N)), r = tensor_view(rstd, DIMS(N));
            layer_norm_args l = {.x = x, .gamma = gamma, .beta = beta, .eps = 1e-5, .y = y, .mean = &m, .rstd = &r};
            optest_compare(&o, OPTEST_FN(layer_norm_fwd), &l);
        }
        optest_end(&o);
    }
}

static void rms_norm_case(int n, int heads, int d, double scale, bool grad) {
    optest o;
    optest_begin(&o);
    rms_norm_args a = {0};
    tensor *x = optest_in(&o, "x", 1, scale, DIMS(n, heads, d)), *gamma = optest_in(&o, "gamma", 2, 2, DIMS(heads, d));
    tensor *y = optest_out(&o, "y", DT_F32, DIMS(n, heads, d));
    a.x = x, a.gamma = gamma, a.y = y;
    optest_compare(&o, OPTEST_FN(rms_norm_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 3, 2, DIMS(n, heads, d)), *dx = optest_out(&o, "dx", DT_F32, DIMS(n, heads, d));
    tensor *dgamma = optest_acc(&o, "dgamma", 4, 2, DIMS(heads, d));
    a.dy = dy, a.dx = dx, a.dgamma = dgamma;
    optest_compare(&o, OPTEST_FN(rms_norm_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(rms_norm_fwd), OPTEST_FN(rms_norm_bwd), &a, (tensor *[]){x, dx, gamma, dgamma, NULL},
                    (tensor *[]){y, dy, NULL}, 0.01, 1e-3);
    optest_end(&o);
}

static void test_rms_norm(void **state) {
    static const int shape[][2] = {{1, 1}, {2, 7}, {4, 32}, {3, 20}};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int s = 0; s < 4; s++) rms_norm_case(optest_rows[r], shape[s][0], shape[s][1], 2, false);
    rms_norm_case(3, 2, 5, 4, true);
    rms_norm_case(3, 2, 16, 0, false);     /* zero vectors: y = 0, finite gradients */
    rms_norm_case(3, 2, 16, 1e-14, false); /* shorter than the limit */
}

static void gate_case(int n, int ch, bool gated, bool grad) {
    optest o;
    optest_begin(&o);
    gate_residual_args a = {0};
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(n, ch)), *h = optest_in(&o, "h", 2, 2, DIMS(n, ch)), *gate = NULL;
    tensor *y = optest_out(&o, "y", DT_F32, DIMS(n, ch)), *dgate = NULL;
    a.x = x, a.h = h, a.y = y;
    if (gated) {
        a.gate = gate = optest_in(&o, "gate", 3, 2, DIMS(B, ch));
        a.first = optest_samples(&o, n);
    }
    optest_compare(&o, OPTEST_FN(gate_residual_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 4, 2, DIMS(n, ch)), *dh = optest_out(&o, "dh", DT_F32, DIMS(n, ch));
    a.dy = dy, a.dh = dh;
    if (gated) a.dgate = dgate = optest_out(&o, "dgate", DT_F32, DIMS(B, ch));
    optest_compare(&o, OPTEST_FN(gate_residual_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(gate_residual_fwd), OPTEST_FN(gate_residual_bwd), &a,
                    (tensor *[]){x, dy, h, dh, gate, dgate, NULL}, (tensor *[]){y, dy, NULL}, 0.05, 1e-3);
    optest_end(&o);
}

static void test_gate_residual(void **state) {
    static const int width[] = {1, 7, 64, 130};
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int w = 0; w < 4; w++) gate_case(optest_rows[r], width[w], (r + w) & 1, false);
    gate_case(1000, 64, true, false);
    gate_case(6, 3, true, true);
    gate_case(6, 3, false, true);
}

static void test_nan(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(65, 12)), *y = optest_out(&o, "y", DT_F32, DIMS(65, 12));
    tensor *g = optest_in(&o, "gamma", 2, 2, DIMS(12)), *b = optest_in(&o, "beta", 3, 2, DIMS(12));
    tensor *mean = optest_out(&o, "mean", DT_F32, DIMS(65)), *rstd = optest_out(&o, "rstd", DT_F32, DIMS(65));
    optest_nan(&o, OPTEST_FN(layer_norm_fwd),
               &(layer_norm_args){.x = x, .gamma = g, .beta = b, .eps = 1e-5, .y = y, .mean = mean, .rstd = rstd}, x,
               y);
    optest_nan(&o, OPTEST_FN(gate_residual_fwd), &(gate_residual_args){.x = x, .h = x, .y = y}, x, y);
    tensor *m2 = optest_out(&o, "mean", DT_F32, DIMS(1, 3)), *r2 = optest_out(&o, "rstd", DT_F32, DIMS(1, 3));
    optest_nan(&o, OPTEST_FN(group_norm_fwd),
               &(group_norm_args){.x = x,
                                  .gamma = g,
                                  .beta = b,
                                  .eps = 1e-5,
                                  .y = y,
                                  .mean = m2,
                                  .rstd = r2,
                                  .groups = 3,
                                  .act = ACT_SILU,
                                  .first = optest_first(&o, "first", (int[]){65}, 1)},
               x, y);
    tensor *x3 = optest_in(&o, "x", 1, 2, DIMS(65, 3, 4)), *y3 = optest_out(&o, "y", DT_F32, DIMS(65, 3, 4));
    tensor *g3 = optest_in(&o, "gamma", 2, 2, DIMS(3, 4));
    optest_nan(&o, OPTEST_FN(rms_norm_fwd), &(rms_norm_args){.x = x3, .gamma = g3, .y = y3}, x3, y3);
    optest_end(&o);
}

static void test_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(6, 8)), *y = optest_out(&o, "y", DT_F32, DIMS(6, 8));
    tensor *g = optest_in(&o, "g", 2, 2, DIMS(8)), *s = optest_in(&o, "s", 3, 2, DIMS(2, 8));
    tensor *first = optest_first(&o, "first", (int[]){2, 4}, 2), *bad = optest_first(&o, "bad", (int[]){2, 5}, 2);
    tensor *down = optest_i32(&o, "down", (int32_t[]){0, 7, 6}, DIMS(3));
    tensor *n6 = optest_out(&o, "n6", DT_F32, DIMS(6)), *bg = optest_out(&o, "bg", DT_F32, DIMS(2, 4));
    layer_norm_args ln = {.x = x, .y = y, .eps = 1e-5, .mean = n6, .rstd = n6}, l = ln;
    l.gamma = g;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "both or neither");
    l = ln, l.h = x;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "both or neither");
    l = ln, l.gate = s;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "gate without h");
    l.h = x, l.sum = y, l.first = first, l.gate = x;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "gate is f32 (6,8), wanted f32 (2,8)");
    l = ln, l.scale = s, l.shift = s;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "first is not given");
    l.first = bad;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "first runs from 0 to 7, wanted 0 to 6");
    l.first = down;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "first[1] is 7, the next is 6");
    l = ln, l.mean = g;
    optest_fatal(OPTEST_FN(layer_norm_fwd), &l, "mean is f32 (8), wanted f32 (6)");
    group_norm_args
        gn = {.x = x, .y = y, .gamma = g, .beta = g, .eps = 1e-5, .groups = 4, .first = first, .mean = bg, .rstd = bg},
        q = gn;
    q.groups = 3;
    optest_fatal(OPTEST_FN(group_norm_fwd), &q, "3 groups do not divide 8 channels");
    q = gn, q.act = ACT_TANH;
    optest_fatal(OPTEST_FN(group_norm_fwd), &q, "act is 5");
    q = gn, q.mean = n6;
    optest_fatal(OPTEST_FN(group_norm_fwd), &q, "mean is f32 (6), wanted f32 (2,4)");
    optest_fatal(OPTEST_FN(rms_norm_fwd), &(rms_norm_args){.x = x, .gamma = g, .y = y}, "x has 2 dims");
    optest_fatal(OPTEST_FN(gate_residual_fwd), &(gate_residual_args){.x = x, .h = x, .y = y, .gate = g, .first = first},
                 "gate is f32 (8), wanted f32 (2,8)");
    optest_fatal(OPTEST_FN(gate_residual_bwd), &(gate_residual_args){.dy = x, .dh = y, .dgate = s},
                 "dgate without gate");
    optest_end(&o);
}

/* Widths of the networks, one that needs every lane of several warps, rows of many samples. */
static void test_layer_norm_wide(void **state) {
    static const int64_t width[] = {8, 64, 256, 512, 768, 1000, 1024, 1030, 1536, 2048, 4096};
    (void)state;
    for (size_t w = 0; w < sizeof width / sizeof *width; w++)
        for (int k = 0; k < 4; k++) layer_norm_case(w % 2 ? 257 : 131, (int)width[w], k & 1, k & 2, 4, false);
    layer_norm_case(20000, 32, false, true, 4, false);
    layer_norm_case(3, 1024, true, true, 4, false); /* samples of one row and none */
}

static void test_residual_norm_wide(void **state) {
    static const int width[] = {256, 512, 1024, 1030, 2048};
    (void)state;
    for (int w = 0; w < 5; w++)
        for (int k = 0; k < 3; k++) residual_norm_case(131, width[w], k & 1, k == 1, k == 2);
}

static void test_group_norm_wide(void **state) {
    static const int shape[][3] = {/* rows, groups, channels */
                                   {4001, 32, 32},  {4001, 32, 64}, {1000, 32, 128}, {1000, 32, 512}, {777, 32, 1024},
                                   {30000, 32, 32}, {5, 32, 64},    {1, 4, 100},     {70001, 1, 8},   {2049, 5, 15}};
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int k = 0; k < 2; k++)
            group_norm_case(shape[i][0], shape[i][1], shape[i][2], k ? ACT_SILU : ACT_NONE, false);
}

static void test_rms_norm_wide(void **state) {
    static const int shape[][3] = {{1000, 32, 32}, {300, 16, 64}, {257, 8, 128},
                                   {5000, 2, 32},  {33, 12, 96},  {7, 1, 256}};
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        rms_norm_case(shape[i][0], shape[i][1], shape[i][2], 2, false);
}

static void test_gate_wide(void **state) {
    (void)state;
    for (int gated = 0; gated < 2; gated++) {
        gate_case(1003, 1024, gated, false);
        gate_case(257, 1030, gated, false);
        gate_case(20001, 24, gated, false);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_layer_norm),          cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_norms_far_from_zero), cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_gate_residual),       cmocka_unit_test(test_nan),
        cmocka_unit_test(test_residual_norm),
    };
    const struct CMUnitTest cpu[] = {cmocka_unit_test(test_wrong)};
    const struct CMUnitTest gpu[] = {
        cmocka_unit_test(test_layer_norm_wide), cmocka_unit_test(test_residual_norm_wide),
        cmocka_unit_test(test_group_norm_wide), cmocka_unit_test(test_rms_norm_wide),
        cmocka_unit_test(test_gate_wide),
    };
    return optest_main(argc, argv,
                       &(optest_suite){.name = "norm", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
