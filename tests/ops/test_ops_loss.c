/* vae_sample, the losses, sum_squares, adamw against ref, gradients, wrong arguments. */
#include "core/half.h"
#include "ops/optest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = OPTEST_SAMPLES };
/* f64 sums: each addition rounds 1e-16, with random signs; ref adds one after the other. */
static double sum_tol(double terms) {
    return 1e-13 * fmax(1, terms / 1e5);
}

static void vae_case(int n, int ch, bool noise, bool with_dz, double scale, bool grad) {
    optest o;
    optest_begin(&o);
    vae_sample_args a = {.kl_scale = 0.25};
    tensor *x = optest_in(&o, "moments", 1, scale, DIMS(n, 2 * ch)), *z = optest_out(&o, "z", DT_F32, DIMS(n, ch));
    tensor *kl = optest_out(&o, "kl", DT_F64, DIMS(1)), *dz = NULL;
    a.moments = x, a.z = z, a.kl = kl;
    optest_set_tol(&o, kl, sum_tol((double)n * ch));
    if (noise) a.eps = optest_in(&o, "eps", 2, 3, DIMS(n, ch));
    optest_compare(&o, OPTEST_FN(vae_sample_fwd), &a);
    optest_freeze(&o);
    if (with_dz) a.dz = dz = optest_in(&o, "dz", 3, 2, DIMS(n, ch));
    tensor *dx = optest_out(&o, "dmoments", DT_F32, DIMS(n, 2 * ch));
    a.dmoments = dx;
    optest_compare(&o, OPTEST_FN(vae_sample_bwd), &a);
    /* The loss is <dz, z> + kl_scale kl. */
    if (grad) {
        tensor weight = tensor_wrap(&a.kl_scale, DT_F64, DIMS(1));
        optest_grad(&o, OPTEST_FN(vae_sample_fwd), OPTEST_FN(vae_sample_bwd), &a, (tensor *[]){x, dx, NULL},
                    with_dz ? (tensor *[]){z, dz, kl, &weight, NULL} : (tensor *[]){kl, &weight, NULL}, 0.02, 1e-3);
    }
    optest_end(&o);
}

static void test_vae_sample(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int k = 0; k < 4; k++) vae_case(optest_rows[r], k & 1 ? 16 : 3, k & 1, k & 2, 4, false);
    vae_case(40, 3, true, true, 120, false); /* log-variances beyond the clamp */
    vae_case(5, 2, true, true, 4, true);
    vae_case(5, 2, true, false, 4, true);
}

/* Outside [-30, 20] the clamp passes no gradient. */
static void test_vae_clamp(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "moments", 1, 0, DIMS(4, 2)), *dx = optest_out(&o, "dmoments", DT_F32, DIMS(4, 2));
    for (int i = 0; i < 4; i++) F32(x)[2 * i + 1] = (float[]){-31, -29, 19, 21}[i];
    optest_keep(&o, x);
    optest_run(&o, optest_tested(), OPTEST_FN(vae_sample_bwd),
               &(vae_sample_args){.moments = x, .kl_scale = 1, .dmoments = dx});
    for (int i = 0; i < 4; i++) assert_true((F32(dx)[2 * i + 1] == 0) == (i == 0 || i == 3));
    optest_end(&o);
}

static void sdf_case(int m, bool sharp, bool grad) {
    uint8_t *bits = malloc((size_t)m / 8 + 2);
    optest   o;
    assert_non_null(bits);
    for (int i = 0; i <= m / 8; i++) bits[i] = (uint8_t)(i * 37 + 11);
    optest_begin(&o);
    o.repeat = m > 1000 ? 5 : OPTEST_REPEAT;
    sdf_loss_args a = {.scale = {0.5, 0.25, 2}};
    tensor       *pred = optest_in(&o, "pred", 1, 2, DIMS(m)), *target = optest_in(&o, "target", 2, 2.6, DIMS(m));
    tensor       *sums = optest_out(&o, "sums", DT_F64, DIMS(3)), *counts = optest_out(&o, "counts", DT_F64, DIMS(3));
    for (int i = 0; i < m; i++) /* exactly +-1 is outside */
        if (fabsf(F32(target)[i]) > 1) F32(target)[i] = F32(target)[i] > 0 ? 1.0f : -1.0f;
    optest_keep(&o, target);
    a.pred = pred, a.target = target, a.sums = sums, a.counts = counts;
    if (sharp) a.sharp = optest_bytes(&o, "sharp", bits, (m + 7) / 8);
    optest_set_tol(&o, sums, sum_tol(m));
    optest_compare(&o, OPTEST_FN(sdf_loss_fwd), &a);
    assert_true(F64(counts)[0] + F64(counts)[1] == m);
    assert_true(sharp || F64(counts)[2] == 0);
    optest_freeze(&o);
    tensor *dpred = optest_out(&o, "dpred", DT_F32, DIMS(m));
    a.dpred = dpred;
    optest_compare(&o, OPTEST_FN(sdf_loss_bwd), &a);
    tensor weight = tensor_wrap(a.scale, DT_F64, DIMS(3));
    if (grad)
        optest_grad(&o, OPTEST_FN(sdf_loss_fwd), OPTEST_FN(sdf_loss_bwd), &a, (tensor *[]){pred, dpred, NULL},
                    (tensor *[]){sums, &weight, NULL}, 0.02, 1e-4);
    optest_end(&o);
    free(bits);
}

static void test_sdf_loss(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int sharp = 0; sharp < 2; sharp++) sdf_case(optest_rows[r], sharp, optest_rows[r] == 63);
    sdf_case(100003, true, false);
}

static void mse_case(int n, int ch, bool grad) {
    optest o;
    optest_begin(&o);
    mse_rows_args a = {.scale = 0.125};
    tensor       *pred = optest_in(&o, "pred", 1, 2, DIMS(n, ch)), *sums = optest_out(&o, "sums", DT_F64, DIMS(B));
    a.pred = pred, a.target = optest_in(&o, "target", 2, 2, DIMS(n, ch)), a.first = optest_samples(&o, n),
    a.sums = sums;
    optest_set_tol(&o, sums, sum_tol((double)n * ch));
    optest_compare(&o, OPTEST_FN(mse_rows_fwd), &a);
    assert_true(F64(sums)[1] == 0);
    optest_freeze(&o);
    tensor *dpred = optest_out(&o, "dpred", DT_F32, DIMS(n, ch));
    a.dpred = dpred;
    optest_compare(&o, OPTEST_FN(mse_rows_bwd), &a);
    double weights[B] = {0.125, 0.125, 0.125, 0.125};
    tensor weight = tensor_wrap(weights, DT_F64, DIMS(B));
    if (grad)
        optest_grad(&o, OPTEST_FN(mse_rows_fwd), OPTEST_FN(mse_rows_bwd), &a, (tensor *[]){pred, dpred, NULL},
                    (tensor *[]){sums, &weight, NULL}, 0.02, 1e-4);
    optest_end(&o);
}

static void test_mse_flow(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int ch = 1; ch <= 16; ch += 5) {
            mse_case(optest_rows[r], ch, optest_rows[r] == 3);
            optest o;
            optest_begin(&o);
            flow_noise_args a = {.x0 = optest_in(&o, "x0", 1, 2, DIMS(optest_rows[r], ch)),
                                 .eps = optest_in(&o, "eps", 2, 4, DIMS(optest_rows[r], ch)),
                                 .t = optest_in(&o, "t", 3, 1, DIMS(B)),
                                 .first = optest_samples(&o, optest_rows[r]),
                                 .sigma_min = 1e-5,
                                 .x_t = optest_out(&o, "x_t", DT_F32, DIMS(optest_rows[r], ch)),
                                 .v = optest_out(&o, "v", DT_F32, DIMS(optest_rows[r], ch))};
            optest_compare(&o, OPTEST_FN(flow_noise_fwd), &a);
            optest_end(&o);
        }
}

static void test_sum_squares(void **state) {
    (void)state;
    for (int r = 0; r <= OPTEST_N_ROWS; r++) {
        int    n = r < OPTEST_N_ROWS ? optest_rows[r] : 200001;
        optest o;
        optest_begin(&o);
        o.repeat = 5;
        tensor *x = optest_in(&o, "x", 1, 2, DIMS(n)), *out = optest_out(&o, "out", DT_F64, DIMS(1));
        optest_set_tol(&o, out, sum_tol(n));
        optest_compare(&o, OPTEST_FN(sum_squares_fwd), &(sum_squares_args){.x = x, .out = out});
        if (n) optest_nan(&o, OPTEST_FN(sum_squares_fwd), &(sum_squares_args){.x = x, .out = out}, x, out);
        optest_end(&o);
    }
}

static void adamw_case(int n, bool ema, bool w16, int64_t step, double decay) {
    optest o;
    optest_begin(&o);
    o.repeat = n > 1000 ? 3 : OPTEST_REPEAT;
    adamw_args a = {.grad_scale = 0.7,
                    .lr = 1e-2,
                    .beta1 = 0.9,
                    .beta2 = 0.999,
                    .eps = 1e-8,
                    .weight_decay = decay,
                    .ema_decay = 0.999,
                    .step = step,
                    .grad = optest_in(&o, "grad", 1, 2, DIMS(n))};
    a.w = optest_acc(&o, "w", 2, 2, DIMS(n));
    a.m = optest_acc(&o, "m", 3, 1, DIMS(n));
    a.v = optest_acc(&o, "v", 4, 0, DIMS(n));
    if (ema) a.ema = optest_acc(&o, "ema", 5, 2, DIMS(n));
    if (w16) a.w16 = optest_out(&o, "w16", DT_BF16, DIMS(n));
    /* One defined arithmetic: equal bits. */
    tensor *all[] = {a.w, a.m, a.v, a.ema};
    for (int i = 0; i < 4; i++)
        if (all[i]) optest_set_tol(&o, all[i], 1e-30);
    optest_compare(&o, OPTEST_FN(adamw_fwd), &a);
    for (int i = 0; w16 && i < n; i++) assert_int_equal(BF16(a.w16)[i], f32_to_bf16(F32(a.w)[i]));
    optest_end(&o);
}

static void test_adamw(void **state) {
    (void)state;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int k = 0; k < 4; k++) adamw_case(optest_rows[r], k & 1, (k + r) & 2, k & 2 ? 1000 : 1, k & 1 ? 0.1 : 0);
    adamw_case(100003, true, true, 7, 0.1);
}

static void muon_case(int rows, int cols, double scale, bool ema, bool w16) {
    optest o;
    optest_begin(&o);
    if (rows * cols > 1000) o.repeat = 3;
    muon_args a = {.grad_scale = 0.7,
                   .lr = 1e-2,
                   .momentum = 0.95,
                   .weight_decay = ema ? 0.1 : 0,
                   .ema_decay = 0.9,
                   .grad = optest_in(&o, "grad", 1, scale, DIMS(rows, cols))};
    a.w = optest_acc(&o, "w", 2, 2, DIMS(rows, cols));
    a.m = optest_acc(&o, "m", 3, scale, DIMS(rows, cols));
    if (ema) a.ema = optest_acc(&o, "ema", 5, 2, DIMS(rows, cols));
    if (w16) a.w16 = optest_out(&o, "w16", DT_BF16, DIMS(rows, cols));
    /* The rounds on the square matrix round its entries, which are at most 1 (|X| is), with the slope of P there, 4.8,
     * and the largest growth of the other four rounds, 3.4^4: the direction is off by 5 * 4.8 * 140 * 2^-24 = 2e-4 of
     * |X|, which the step of 0.2 lr sqrt(max(rows, cols)) scales. */
    double off = 2e-4 * a.lr * MUON_SIZE * sqrt(rows > cols ? rows : cols);
    optest_set_floor(&o, a.w, ldexp(off, 22));
    if (ema) optest_set_floor(&o, a.ema, ldexp(off, 22));
    optest_compare(&o, OPTEST_FN(muon_fwd), &a);
    for (int i = 0; w16 && i < rows * cols; i++) assert_int_equal(BF16(a.w16)[i], f32_to_bf16(F32(a.w)[i]));
    optest_end(&o);
}

static void test_muon(void **state) {
    static const int shape[][2] = {{1, 1}, {1, 7}, {5, 3}, {17, 64}, {64, 17}, {65, 65}, {216, 16}, {33, 300}};
    (void)state;
    for (int k = 0; k < 8; k++) muon_case(shape[k][0], shape[k][1], k & 1 ? 2 : 1e-6, k & 1, k & 2);
    muon_case(12, 20, 0, true, true); /* no gradient: no step */
}

/* A step of size one in every direction: the singular values of what is taken off are near one. For a matrix with
 * orthogonal rows of one length they are all the same number. */
static void test_muon_direction(void **state) {
    enum { N = 4 };
    static const float hadamard[N * N] = {1, 1, 1, 1, 1, -1, 1, -1, 1, 1, -1, -1, 1, -1, -1, 1};
    optest             o;
    (void)state;
    optest_begin(&o);
    muon_args a = {.grad_scale = 1, .lr = 1, .grad = optest_in(&o, "grad", 1, 1, DIMS(N, N))};
    memcpy(a.grad->data, hadamard, sizeof hadamard);
    optest_keep(&o, a.grad);
    a.w = optest_acc(&o, "w", 2, 0, DIMS(N, N));
    a.m = optest_acc(&o, "m", 3, 0, DIMS(N, N));
    optest_run(&o, optest_tested(), OPTEST_FN(muon_fwd), &a);
    double x = 0.5; /* each singular value of u/|u| */
    for (int round = 0; round < MUON_ROUNDS; round++) x = MUON_A * x + MUON_B * x * x * x + MUON_C * pow(x, 5);
    for (int i = 0; i < N * N; i++) /* 0.2 sqrt(4) x times the orthogonal matrix hadamard/2 */
        expect_le(fabs((double)F32(a.w)[i] + 0.4 * x * (double)hadamard[i] / 2), 1e-5, "w");
    optest_end(&o);
}

/* Cutting the slab anywhere gives the same bits: split optimizer state must agree with the whole. */
static void test_adamw_split(void **state) {
    enum { N = 10007, CUT = 4321 };
    optest     o;
    adamw_args base = {
        .grad_scale = 0.3, .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .ema_decay = 0.99, .step = 3};
    tensor *item[6];
    float  *whole[6];
    (void)state;
    optest_begin(&o);
    for (int k = 0; k < 4; k++) item[k] = optest_acc(&o, "state", (uint32_t)k + 1, k == 2 ? 0 : 2, DIMS(N));
    item[4] = optest_in(&o, "grad", 9, 2, DIMS(N));
    item[5] = optest_out(&o, "w16", DT_BF16, DIMS(N));
    for (int p = 0; p < 3; p++) { /* 0: whole; 1, 2: the parts, each from the start */
        int64_t    at = p == 2 ? CUT : 0, n = p == 0 ? N : p == 1 ? CUT : N - CUT;
        tensor     t[6];
        adamw_args a = base;
        for (int k = 0; k < 6; k++) t[k] = tensor_rows(item[k], at, n);
        a.w = &t[0], a.m = &t[1], a.v = &t[2], a.ema = &t[3], a.grad = &t[4], a.w16 = &t[5];
        optest_run(&o, optest_tested(), OPTEST_FN(adamw_fwd), &a);
        for (int k = 0; k < 6; k++) {
            size_t bytes = tensor_bytes(item[k]), from = (size_t)at * dtype_size(item[k]->dt);
            if (p == 0) {
                whole[k] = malloc(bytes);
                assert_non_null(whole[k]);
                memcpy(whole[k], item[k]->data, bytes);
            }
            assert_memory_equal((char *)item[k]->data + from, (char *)whole[k] + from, tensor_bytes(&t[k]));
        }
    }
    for (int k = 0; k < 6; k++) free(whole[k]);
    optest_end(&o);
}

static void test_nan(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 1, DIMS(5, 4)), *y = optest_in(&o, "y", 2, 1, DIMS(5, 4));
    tensor *first = optest_first(&o, "first", (int[]){5}, 1), *sum1 = optest_out(&o, "sums", DT_F64, DIMS(1));
    tensor *p = optest_in(&o, "pred", 1, 1, DIMS(9)), *t = optest_in(&o, "target", 2, 1, DIMS(9));
    tensor *sum3 = optest_out(&o, "sums", DT_F64, DIMS(3)), *n3 = optest_out(&o, "counts", DT_F64, DIMS(3));
    tensor *z = optest_out(&o, "z", DT_F32, DIMS(5, 2));
    optest_nan(&o, OPTEST_FN(mse_rows_fwd), &(mse_rows_args){.pred = x, .target = y, .first = first, .sums = sum1}, x,
               sum1);
    optest_nan(&o, OPTEST_FN(sdf_loss_fwd), &(sdf_loss_args){.pred = p, .target = t, .sums = sum3, .counts = n3}, p,
               sum3);
    optest_nan(&o, OPTEST_FN(sdf_loss_fwd), &(sdf_loss_args){.pred = p, .target = t, .sums = sum3, .counts = n3}, t,
               sum3);
    optest_nan(&o, OPTEST_FN(vae_sample_fwd), &(vae_sample_args){.moments = x, .z = z, .kl = sum1}, x, z);
    optest_nan(&o, OPTEST_FN(vae_sample_fwd), &(vae_sample_args){.moments = x, .z = z, .kl = sum1}, x, sum1);
    optest_end(&o);
}

static void test_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 1, DIMS(5, 3)), *f = optest_in(&o, "f", 1, 1, DIMS(15));
    tensor *d1 = optest_out(&o, "d1", DT_F64, DIMS(1)), *d3 = optest_out(&o, "d3", DT_F64, DIMS(3));
    tensor *first = optest_first(&o, "first", (int[]){5}, 1);
    optest_fatal(OPTEST_FN(vae_sample_fwd), &(vae_sample_args){.moments = x, .z = x, .kl = d1}, "odd width 3");
    optest_fatal(OPTEST_FN(sdf_loss_fwd), &(sdf_loss_args){.pred = f, .target = f, .sums = d3, .counts = f},
                 "counts is f32");
    optest_fatal(OPTEST_FN(sdf_loss_fwd), &(sdf_loss_args){.pred = x, .target = x, .sums = d3, .counts = d3},
                 "wanted f32 (*)");
    optest_fatal(OPTEST_FN(mse_rows_fwd), &(mse_rows_args){.pred = x, .target = x, .first = first, .sums = d3},
                 "sums is f64 (3), wanted f64 (1)");
    optest_fatal(OPTEST_FN(flow_noise_fwd), &(flow_noise_args){.x0 = x, .eps = f, .first = first}, "eps is f32 (15)");
    optest_fatal(OPTEST_FN(sum_squares_fwd), &(sum_squares_args){.x = f, .out = f}, "out is f32 (15), wanted f64 (1)");
    optest_fatal(OPTEST_FN(adamw_fwd), &(adamw_args){.w = f, .m = f, .v = f, .grad = f}, "step is 0");
    optest_fatal(OPTEST_FN(adamw_fwd), &(adamw_args){.w = f, .m = f, .v = x, .grad = f, .step = 1}, "v is f32 (5,3)");
    optest_end(&o);
}

/* Several waves of blocks, and tails that are no multiple of a vector. */
static void test_large(void **state) {
    optest o;
    (void)state;
    adamw_case(3000001, true, true, 7, 0.1);
    adamw_case(2000003, false, false, 1, 0);
    sdf_case(3000017, true, false);
    mse_case(100003, 16, false);
    vae_case(50001, 16, true, true, 4, false);
    optest_begin(&o);
    o.repeat = 3;
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(9000007)), *out = optest_out(&o, "out", DT_F64, DIMS(1));
    optest_set_tol(&o, out, sum_tol(9000007));
    optest_compare(&o, OPTEST_FN(sum_squares_fwd), &(sum_squares_args){.x = x, .out = out});
    optest_end(&o);
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_vae_sample),  cmocka_unit_test(test_vae_clamp),   cmocka_unit_test(test_sdf_loss),
        cmocka_unit_test(test_mse_flow),    cmocka_unit_test(test_sum_squares), cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_adamw_split), cmocka_unit_test(test_muon),        cmocka_unit_test(test_muon_direction),
        cmocka_unit_test(test_nan),
    };
    const struct CMUnitTest cpu[] = {cmocka_unit_test(test_wrong)};
    const struct CMUnitTest gpu[] = {cmocka_unit_test(test_large)};
    return optest_main(argc, argv,
                       &(optest_suite){.name = "loss", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
