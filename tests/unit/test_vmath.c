/* The vector functions against the C library in double, over float bit patterns of all sizes. */
#include "harness/harness.h"
#include "kernels/cpu/vmath.h"

#include <string.h>

/* Error in units of the last place of the exact value; subnormals count in the smallest normal's ulp. */
static double ulps(float got, double want) {
    int e;
    if (isnan(want)) return isnan(got) ? 0 : INFINITY;
    if (fabs(want) > 3.4028235e38) return isinf(got) && (got > 0) == (want > 0) ? 0 : INFINITY;
    frexp(want, &e);
    return fabs(got - want) / ldexp(1, (e < -125 ? -125 : e) - 24);
}

static double exact_sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void sweep(void (*array)(const float *, float *, int64_t), double (*exact)(double), double lowest, double bound,
                  const char *name) {
    double worst = 0;
    for (uint64_t u = 0; u < 0x100000000ull; u += 13 * 997) {
        float x[13], y[13]; /* one whole vector and a tail */
        for (uint64_t i = 0; i < 13; i++) {
            uint32_t bits = (uint32_t)(u + i * 997);
            memcpy(&x[i], &bits, 4);
        }
        array(x, y, 13);
        for (int i = 0; i < 13; i++) {
            if (x[i] < lowest) continue;
            double e = ulps(y[i], exact((double)x[i]));
            if (!(e <= worst)) worst = e;
        }
    }
    expect_le(worst, bound, name);
}

static void test_accuracy(void **state) {
    (void)state;
    sweep(vexp_array, exp, -INFINITY, 1.5, "vexp");
    sweep(vtanh_array, tanh, -INFINITY, 2, "vtanh");
    sweep(verf_array, erf, -INFINITY, 2, "verf");
    sweep(vsigmoid_array, exact_sigmoid, -88, 3, "vsigmoid"); /* below, exp(-x) overflows and 0 is right enough */
}

static void test_tail_and_alias(void **state) {
    float x[40], whole[40], part[41];
    (void)state;
    fill_rule(x, 40, 3, 20);
    vexp_array(x, whole, 40);
    for (int n = 0; n <= 40; n++) {
        for (int i = 0; i <= 40; i++) part[i] = i < 40 ? x[i] : 77;
        if (n < 40) part[n] = 77;
        vexp_array(part, part, n);
        assert_true(n == 0 || memcmp(part, whole, (size_t)n * 4) == 0);
        assert_true(part[n] == 77);
    }
    assert_true(vexp1(x[5]) == whole[5]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_accuracy), cmocka_unit_test(test_tail_and_alias)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
