/* Layers that stand for several: the same values and gradients as those they are made of. */
#include <string.h>

#include "harness/harness.h"
#include "nn/layers.h"
#include "nn/rig.h"

enum { ROWS = 7, INNER = 16 };

typedef struct {
    float y[2][ROWS * 8], dx[ROWS * INNER], dw[2][8 * INNER];
} result;

/* Two products of x, `first` and 8 outputs wide; `joined`: by one call. */
static void two_products(const char *back_end, int64_t first, int64_t inner, bool joined, result *out) {
    rig    r;
    params p;
    rig_open(&r, back_end, 16);
    params_init(&p);
    int64_t wide[2] = {first, 8};
    param  *w[2];
    for (int i = 0; i < 2; i++) w[i] = params_add(&p, 0, INIT_NORMAL, 1, DIMS(wide[i], inner), "w%d", i);
    rig_params(&r, &p);
    params_randomize(&p, 5);
    rig_weights_done(&r, &p);
    float x[ROWS * INNER], dy[ROWS * 8];
    fill_rule(x, ROWS * inner, 1, 1);
    tape_begin(&r.t);
    var *in = tape_leaf(&r.t, tensor_wrap(x, DT_F32, DIMS(ROWS, inner)), true), *y[2];
    if (joined)
        nn_linear_two(&r.t, in, w[0], w[1], y);
    else
        for (int i = 0; i < 2; i++) y[i] = nn_linear(&r.t, in, w[i], NULL, ACT_NONE);
    memset(out, 0, sizeof *out);
    for (int i = 0; i < 2; i++) {
        fill_rule(dy, ROWS * wide[i], 2 + (uint32_t)i, 1);
        tensor g = tensor_wrap(dy, DT_F32, DIMS(ROWS, wide[i]));
        tape_seed(&r.t, y[i], &g);
        memcpy(out->y[i], F32(&y[i]->v), tensor_bytes(&y[i]->v));
    }
    tape_backward(&r.t);
    memcpy(out->dx, F32(&in->g), tensor_bytes(&in->g));
    for (int i = 0; i < 2; i++) memcpy(out->dw[i], F32(&w[i]->g), tensor_bytes(&w[i]->g));
    params_free(&p);
    rig_close(&r);
}

static void expect_alike(const float *a, const float *b, int n, const char *what) {
    double largest = 0, worst = 0;
    for (int i = 0; i < n; i++) {
        largest = b[i] > largest ? b[i] : largest;
        double d = (double)a[i] - b[i];
        if (!(d * d <= worst * worst)) worst = d < 0 ? -d : d;
    }
    assert_true(largest > 0.1);
    expect_le(worst, 1e-6 * largest, what);
}

static void test_linear_two(void **state) {
    /* Side by side in the table, and with padding between them. */
    static const int64_t first[] = {8, 3, 3}, inner[] = {INNER, INNER, 5};
    (void)state;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 3; i++) {
            result one, two;
            two_products(b ? "cpu" : "ref", first[i], inner[i], true, &one);
            two_products(b ? "cpu" : "ref", first[i], inner[i], false, &two);
            for (int k = 0; k < 2; k++) {
                expect_alike(one.y[k], two.y[k], ROWS * 8, "y");
                expect_alike(one.dw[k], two.dw[k], 8 * INNER, "dw");
            }
            expect_alike(one.dx, two.dx, ROWS * INNER, "dx");
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear_two)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
