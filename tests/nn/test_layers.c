/* Layers that stand for several: the same values and gradients as those they are made of. */
#include <math.h>
#include <string.h>

#include "harness/harness.h"
#include "nn/layers.h"
#include "nn/rig.h"

enum { ROWS = 7, INNER = 16 };

typedef struct {
    float y[3][ROWS * 8], dx[ROWS * INNER], dw[3][8 * INNER];
} result;

/* Three products of x, `wide` outputs each; `joined`: by one call. */
static void three_products(const char *back_end, const int64_t *wide, bool joined, result *out) {
    rig    r;
    params p;
    rig_open(&r, back_end, 16);
    params_init(&p);
    param *w[3];
    for (int i = 0; i < 3; i++) w[i] = params_add(&p, 0, INIT_NORMAL, 1, DIMS(wide[i], INNER), "w%d", i);
    rig_params(&r, &p);
    params_randomize(&p, 5);
    rig_weights_done(&r, &p);
    float x[ROWS * INNER], dy[ROWS * 8];
    fill_rule(x, ROWS * INNER, 1, 1);
    memset(out, 0, sizeof *out);
    for (int round = 0; round < 2; round++) { /* gradients of weights add up */
        tape_begin(&r.t);
        poison(r.t.step->base, r.t.step->size);
        var *in = tape_leaf(&r.t, tensor_wrap(x, DT_F32, DIMS(ROWS, INNER)), true), *y[3];
        if (joined)
            nn_linear_many(&r.t, in, 3, w, y);
        else
            for (int i = 0; i < 3; i++) y[i] = nn_linear(&r.t, in, w[i], NULL, ACT_NONE);
        for (int i = 0; i < 3; i++) {
            fill_rule(dy, ROWS * wide[i], 2 + (uint32_t)i, 1);
            tensor g = tensor_wrap(dy, DT_F32, DIMS(ROWS, wide[i]));
            tape_seed(&r.t, y[i], &g);
            memcpy(out->y[i], F32(&y[i]->v), tensor_bytes(&y[i]->v));
        }
        tape_backward(&r.t);
        memcpy(out->dx, F32(&in->g), tensor_bytes(&in->g));
    }
    for (int i = 0; i < 3; i++) memcpy(out->dw[i], F32(&w[i]->g), tensor_bytes(&w[i]->g));
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

/* Widths of whole pieces, with a rest, and nothing but a rest. */
static void test_linear_many(void **state) {
    static const int64_t wide[][3] = {{8, 8, 8}, {8, 8, 3}, {8, 3, 8}, {3, 8, 1}, {2, 3, 3}};
    (void)state;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 5; i++) {
            result one, three;
            three_products(b ? "cpu" : "ref", wide[i], true, &one);
            three_products(b ? "cpu" : "ref", wide[i], false, &three);
            for (int k = 0; k < 3; k++) {
                expect_alike(one.y[k], three.y[k], ROWS * 8, "y");
                expect_alike(one.dw[k], three.dw[k], 8 * INNER, "dw");
            }
            expect_alike(one.dx, three.dx, ROWS * INNER, "dx");
        }
}

enum { WIDE = 12, SAMPLES = 2 };

typedef struct {
    float sum[ROWS * WIDE], y[ROWS * WIDE], grad[5][ROWS * WIDE];
} norm_result;

/* A norm behind a residual, by one call or by two; `modulated`: with gate, else with gamma and beta. */
static void residual_norm(const char *back_end, bool modulated, bool joined, norm_result *out) {
    static int32_t first[SAMPLES + 1] = {0, 3, ROWS};
    tensor         rows = tensor_wrap(first, DT_I32, DIMS(SAMPLES + 1));
    rig            r;
    params         p;
    float          v[5][ROWS * WIDE], dy[2][ROWS * WIDE];
    var           *in[5], *x, *y; /* x, h (N,C); gate, shift, scale (B,C) */
    rig_open(&r, back_end, 1);
    params_init(&p);
    param *gamma = params_add(&p, 0, INIT_NORMAL, 1, DIMS(WIDE), "gamma"),
          *beta = params_add(&p, 0, INIT_NORMAL, 1, DIMS(WIDE), "beta");
    rig_params(&r, &p);
    params_randomize(&p, 5);
    rig_weights_done(&r, &p);
    tape_begin(&r.t);
    for (int i = 0; i < 5; i++) {
        fill_rule(v[i], ROWS * WIDE, 1 + (uint32_t)i, 1);
        in[i] = tape_leaf(&r.t, tensor_wrap(v[i], DT_F32, DIMS(i < 2 ? ROWS : SAMPLES, WIDE)), true);
    }
    x = in[0];
    if (joined && modulated)
        y = nn_residual_norm_modulate(&r.t, &x, in[1], in[2], in[3], in[4], &rows, 1e-6);
    else if (joined)
        y = nn_residual_layer_norm(&r.t, &x, in[1], NULL, NULL, gamma, beta, 1e-6);
    else {
        x = nn_gate_residual(&r.t, x, in[1], modulated ? in[2] : NULL, &rows);
        y = modulated ? nn_norm_modulate(&r.t, x, in[3], in[4], &rows, 1e-6)
                      : nn_layer_norm(&r.t, x, gamma, beta, 1e-6);
    }
    for (int i = 0; i < 2; i++) {
        fill_rule(dy[i], ROWS * WIDE, 7 + (uint32_t)i, 1);
        tensor g = tensor_wrap(dy[i], DT_F32, DIMS(ROWS, WIDE));
        tape_seed(&r.t, i ? x : y, &g);
    }
    tape_backward(&r.t);
    memset(out, 0, sizeof *out);
    memcpy(out->sum, x->v.data, sizeof out->sum);
    memcpy(out->y, y->v.data, sizeof out->y);
    for (int i = 0; i < 5; i++)
        if (in[i]->g_live) memcpy(out->grad[i], in[i]->g.data, tensor_bytes(&in[i]->g));
    if (!modulated) memcpy(out->grad[2], gamma->g.data, tensor_bytes(&gamma->g));
    params_free(&p);
    rig_close(&r);
}

static void test_residual_norm(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        norm_result one, two;
        residual_norm(k & 1 ? "cpu" : "ref", k & 2, true, &one);
        residual_norm(k & 1 ? "cpu" : "ref", k & 2, false, &two);
        assert_memory_equal(&one, &two, sizeof one);
        for (int i = 0; i < (k & 2 ? 5 : 3); i++) assert_true(one.grad[i][0] != 0);
    }
}

enum { HEADS = 2, KEY_HEADS = 1, HEAD = 4 };

typedef struct {
    float o[3][ROWS * HEADS * HEAD], grad[4][ROWS * HEADS * HEAD]; /* of q, k, v, z */
} gate_result;

/* Three attentions of the same rows in segments of their own; `gated`: their gated sum gets the gradient, else each
 * gets it times its gate, and the gates' gradients are made here. */
static void three_branches(const char *back_end, bool gated, gate_result *out) {
    static int32_t one[] = {0, ROWS}, two[] = {0, 3, ROWS}, most[] = {0, 1, 5, 5, ROWS}; /* one of a row, of none */
    static int32_t order[] = {3, 6, 0, 5, 1, 2, 4};
    static const int64_t wide[] = {HEADS * HEAD, KEY_HEADS * HEAD, KEY_HEADS * HEAD, 3};
    tensor               first[] = {tensor_wrap(one, DT_I32, DIMS(2)), tensor_wrap(two, DT_I32, DIMS(3)),
                                    tensor_wrap(most, DT_I32, DIMS(5))};
    tensor               shuffled = tensor_wrap(order, DT_I32, DIMS(ROWS));
    float                x[4][ROWS * HEADS * HEAD], dy[ROWS * HEADS * HEAD], part[3][ROWS * HEADS * HEAD];
    rig                  r;
    var                 *in[4], *o[3];
    attn_rows            rows[3];
    rig_open(&r, back_end, 1);
    tape_begin(&r.t);
    poison(r.t.step->base, r.t.step->size);
    memset(out, 0, sizeof *out);
    for (int i = 0; i < 4; i++) {
        fill_rule(x[i], ROWS * wide[i], 1 + (uint32_t)i, 3);
        in[i] = tape_leaf(&r.t, tensor_wrap(x[i], DT_F32, DIMS(ROWS, wide[i])), true);
    }
    for (int i = 0; i < 3; i++) {
        const tensor *by = i == 2 ? &shuffled : NULL;
        o[i] = nn_attn(&r.t, in[0], in[1], in[2], HEADS, KEY_HEADS, (segments){&first[i], &first[i], by, by},
                       gated ? &rows[i] : NULL);
        memcpy(out->o[i], o[i]->v.data, tensor_bytes(&o[i]->v));
    }
    fill_rule(dy, ROWS * wide[0], 7, 1);
    tensor g = tensor_wrap(dy, DT_F32, DIMS(ROWS, wide[0]));
    if (gated) tape_seed(&r.t, nn_branch_gate(&r.t, o, rows, in[3]), &g);
    for (int i = 0; i < 3 && !gated; i++) {
        for (int n = 0; n < ROWS; n++) {
            double w = 1 / (1 + exp(-(double)x[3][3 * n + i])), dot = 0;
            for (int c = n * HEADS * HEAD; c < (n + 1) * HEADS * HEAD; c++) {
                part[i][c] = (float)(w * (double)dy[c]);
                dot += (double)out->o[i][c] * (double)dy[c];
            }
            out->grad[3][3 * n + i] = (float)(w * (1 - w) * dot);
        }
        g.data = part[i];
        tape_seed(&r.t, o[i], &g);
    }
    tape_backward(&r.t);
    for (int i = 0; i < (gated ? 4 : 3); i++) memcpy(out->grad[i], in[i]->g.data, tensor_bytes(&in[i]->g));
    rig_close(&r);
}

static void test_gated_branches(void **state) {
    (void)state;
    for (int b = 0; b < 2; b++) {
        gate_result sum, each;
        three_branches(b ? "cpu" : "ref", true, &sum);
        three_branches(b ? "cpu" : "ref", false, &each);
        assert_memory_equal(sum.o, each.o, sizeof sum.o);
        for (int i = 0; i < 4; i++) expect_alike(sum.grad[i], each.grad[i], ROWS * HEADS * HEAD, "gradient");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear_many), cmocka_unit_test(test_residual_norm),
                                       cmocka_unit_test(test_gated_branches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
