/* The cost model: exact fits, the best non-negative ones, order of costs. */
#include <math.h>
#include <string.h>

#include "core/fit.h"
#include "core/rng.h"
#include "harness/harness.h"
#include "train/cost_model.h"

static double random_at(uint64_t i) {
    return rng_uniform((rng_key){.seed = 4, .purpose = RNG_TEST}, i);
}

static bool near(double a, double b, double share) {
    return fabs(a - b) <= share * fabs(b);
}

static cost_point point_of(const cost_model *m, double samples, double n) {
    return (cost_point){samples, samples * n, samples * n * n,
                        m->step + samples * (m->sample + m->token * n + m->token2 * n * n)};
}

static void test_exact(void **state) {
    (void)state;
    cost_model want = {.token = 8.04, .token2 = 3.8e-5, .sample = 400, .step = 2500}, got;
    double     size[] = {2000, 4096, 10655, 45904, 131072};
    cost_point p[15];
    int        n = 0;
    for (int i = 0; i < 5; i++)
        for (int samples = 1; samples <= 4; samples *= 2) p[n++] = point_of(&want, samples, size[i]);
    assert_true(cost_fit(p, n, &got) < 1e-6);
    assert_true(near(got.token, want.token, 1e-4) && near(got.token2, want.token2, 1e-4));
    assert_true(near(got.sample, want.sample, 1e-2) && near(got.step, want.step, 1e-2));
}

/* A term that is not there, or that would be negative, is left out; two measured sizes give two terms. */
static void test_terms_left_out(void **state) {
    (void)state;
    cost_model linear = {.token = 5}, got;
    cost_point p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = point_of(&linear, 1, 1000 * (i + 1));
        p[i].us -= 50; /* a negative start */
    }
    double error = cost_fit(p, 4, &got);
    assert_true(got.token > 0 && got.token2 >= 0 && got.sample == 0 && got.step == 0);
    assert_true(error < 0.05);
    cost_point two[] = {{1, 45904, 45904.0 * 45904, 448400}, {4, 42620, 4 * 10655.0 * 10655, 359700}};
    assert_true(cost_fit(two, 2, &got) < 1e-9);
    assert_true(near(got.token, 8.04, 0.01) && near(got.token2, 3.77e-5, 0.01));
    assert_true(cost_fit(NULL, 0, &got) == 0 && got.token == 0 && got.step == 0);
}

/* Against the definition: no other non-negative point nearby is better. */
static void test_optimal(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 50; round++) {
        double a[36], b[12], x[3], base = 0;
        for (int i = 0; i < 36; i++) a[i] = random_at(100 * round + (uint64_t)i);
        for (int i = 0; i < 12; i++) b[i] = random_at(100 * round + 50 + (uint64_t)i) - 0.3;
        double one[12];
        for (int i = 0; i < 12; i++) one[i] = 1;
        double error = fit_nonnegative(a, b, one, 12, 3, x);
        for (int k = 0; k < 3; k++) assert_true(x[k] >= 0);
        for (int move = -1; move < 6; move++) {
            double y[3] = {x[0], x[1], x[2]}, sum = 0;
            if (move >= 0) y[move / 2] += move % 2 ? 1e-3 : -1e-3;
            if (move >= 0 && y[move / 2] < 0) continue;
            for (int i = 0; i < 12; i++)
                sum += pow(a[3 * i] * y[0] + a[3 * i + 1] * y[1] + a[3 * i + 2] * y[2] - b[i], 2);
            if (move < 0) base = sum;
            assert_true(sum >= base);
        }
        assert_true(near(error, sqrt(base / 12), 1e-9));
    }
}

/* Costs grow with tokens whatever the coefficients; all 0 counts tokens. */
static void test_costs(void **state) {
    (void)state;
    cost_model m[] = {{0}, {.token = 1}, {.token2 = 1e-6}, {.token = 8, .token2 = 4e-5, .sample = 100, .step = 1e9}};
    for (int k = 0; k < 4; k++)
        for (int64_t n = 1, last = 0; n < (int64_t)1 << 40; n *= 3) {
            int64_t c = cost_of(&m[k], n);
            assert_true(c >= last && c >= 1);
            last = c;
        }
    assert_int_equal(cost_of(&m[0], 123), cost_of(&m[1], 123));
    assert_int_equal(cost_of(&m[3], 1000), 100000 + 8000000 + 40000);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact), cmocka_unit_test(test_terms_left_out),
                                       cmocka_unit_test(test_optimal), cmocka_unit_test(test_costs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
