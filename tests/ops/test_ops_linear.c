/* linear and act against ref, gradients of ref, wrong arguments. */
#include "gpu/hosted.h"
#include "ops/optest.h"

#include <math.h>
#include <string.h>

enum { N_ACTS = ACT_TANH + 1 };

static void linear_case(int64_t n, int64_t in, int64_t out, act_kind act, bool w_in_out, bool bias, bool grad) {
    optest o;
    optest_begin(&o);
    linear_args a = {.w_in_out = w_in_out, .act = act};
    tensor     *x = optest_in(&o, "x", 1, 2, DIMS(n, in)), *b = NULL;
    tensor     *w = optest_in(&o, "w", 2, 2, w_in_out ? (const int64_t[]){in, out} : (const int64_t[]){out, in}, 2);
    a.x = x;
    a.w = w;
    if (bias) a.b = b = optest_in(&o, "b", 3, 1, DIMS(out));
    tensor *y = a.y = optest_out(&o, "y", DT_F32, DIMS(n, out));
    if (act != ACT_NONE) a.pre = optest_out(&o, "pre", DT_F32, DIMS(n, out));
    optest_set_terms(&o, y, in);
    if (act != ACT_NONE) optest_set_terms(&o, a.pre, in);
    optest_compare(&o, OPTEST_FN(linear_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 4, 2, DIMS(n, out)), *db = NULL;
    a.dx_add = !grad && n % 2; /* odd numbers of rows: dx is added to */
    tensor *dx = a.dx = a.dx_add ? optest_acc(&o, "dx", 7, 2, DIMS(n, in)) : optest_out(&o, "dx", DT_F32, DIMS(n, in));
    tensor *dw = a.dw = optest_acc(&o, "dw", 5, 2, w->dim, 2);
    a.dy = dy;
    optest_set_terms(&o, dx, out);
    optest_set_terms(&o, dw, n);
    if (bias) a.db = db = optest_acc(&o, "db", 6, 2, DIMS(out));
    optest_compare(&o, OPTEST_FN(linear_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(linear_fwd), OPTEST_FN(linear_bwd), &a, (tensor *[]){x, dx, w, dw, b, db, NULL},
                    (tensor *[]){y, dy, NULL}, 0.02, 3e-4);
    optest_end(&o);
}

static void test_linear_sizes(void **state) {
    static const int64_t width[][2] = {{1, 1}, {5, 7}, {64, 64}, {33, 130}};
    (void)state;
    int act = 0;
    for (int r = 0; r < OPTEST_N_ROWS; r++)
        for (int i = 0; i < 4; i++, act = (act + 1) % N_ACTS)
            linear_case(optest_rows[r], width[i][0], width[i][1], (act_kind)act, (r + i) & 1, i != 2, false);
    linear_case(2, 200, 2000, ACT_SILU, false, true, false);       /* few rows: cut by columns */
    linear_case(1100, 3, 2000, ACT_GELU_TANH, false, true, false); /* several pieces, threads */
    linear_case(3000, 96, 160, ACT_NONE, true, true, false);
}

static void test_linear_gradients(void **state) {
    (void)state;
    for (int act = 0; act < N_ACTS; act++)
        for (int layout = 0; layout < 2; layout++) linear_case(3, 4, 5, (act_kind)act, layout, true, true);
}

/* Only some gradients are wanted: the others must not be touched or needed. */
static void test_linear_optional(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        optest o;
        optest_begin(&o);
        linear_args a = {.x = optest_in(&o, "x", 1, 2, DIMS(65, 12)),
                         .w = optest_in(&o, "w", 2, 2, DIMS(9, 12)),
                         .dy = optest_in(&o, "dy", 3, 2, DIMS(65, 9))};
        if (which == 0) a.dx = optest_out(&o, "dx", DT_F32, DIMS(65, 12));
        if (which == 1) {
            a.dw = optest_acc(&o, "dw", 4, 2, DIMS(9, 12));
            optest_set_terms(&o, a.dw, 65);
        }
        if (which == 2) a.db = optest_acc(&o, "db", 5, 2, DIMS(9));
        optest_compare(&o, OPTEST_FN(linear_bwd), &a);
        optest_end(&o);
    }
}

/* The layer before has an activation: dx is the gradient in front of it. */
static void test_linear_in_act(void **state) {
    static const int64_t shape[][3] = {{65, 12, 9},   {300, 64, 32}, {257, 256, 24},
                                       {1000, 32, 1}, {129, 3, 40},  {0, 8, 8}};
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int act = ACT_NONE + 1; act < N_ACTS; act++) {
            int64_t n = shape[i][0], in = shape[i][1], out = shape[i][2];
            optest  o;
            optest_begin(&o);
            linear_args a = {.x = optest_in(&o, "x", 1, 2, DIMS(n, in)),
                             .w = optest_in(&o, "w", 2, 2, DIMS(out, in)),
                             .dy = optest_in(&o, "dy", 3, 2, DIMS(n, out)),
                             .in_act = (act_kind)act,
                             .in_pre = optest_in(&o, "in_pre", 4, 3, DIMS(n, in))};
            a.dx = optest_out(&o, "dx", DT_F32, DIMS(n, in));
            a.dw = optest_acc(&o, "dw", 5, 2, DIMS(out, in));
            optest_set_terms(&o, a.dx, out);
            optest_set_terms(&o, a.dw, n);
            optest_compare(&o, OPTEST_FN(linear_bwd), &a);
            optest_end(&o);
        }
}

/* x is given before its activation, forward and backward. */
static void test_linear_of(void **state) {
    static const int64_t shape[][3] = {{65, 12, 9},  {300, 64, 32}, {1000, 32, 1}, {4099, 32, 1}, {70000, 33, 3},
                                       {129, 3, 40}, {1, 8, 1},     {0, 8, 1},     {20001, 40, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int act = ACT_NONE; act <= ACT_TANH; act += ACT_TANH - ACT_NONE) {
            int64_t n = shape[i][0], in = shape[i][1], out = shape[i][2];
            optest  o;
            optest_begin(&o);
            o.repeat = 5;
            linear_args a = {.x = optest_in(&o, "x", 1, 3, DIMS(n, in)),
                             .w = optest_in(&o, "w", 2, 2, DIMS(out, in)),
                             .b = optest_in(&o, "b", 3, 1, DIMS(out)),
                             .y = optest_out(&o, "y", DT_F32, DIMS(n, out)),
                             .act = (act_kind)act,
                             .in_act = i % 2 ? ACT_GELU_TANH : ACT_SILU};
            a.in_pre = a.x;
            if (act != ACT_NONE) {
                a.pre = optest_out(&o, "pre", DT_F32, DIMS(n, out));
                optest_set_terms(&o, a.pre, in);
            }
            optest_set_terms(&o, a.y, in);
            optest_compare(&o, OPTEST_FN(linear_fwd), &a);
            optest_freeze(&o);
            a.dy = optest_in(&o, "dy", 4, 2, DIMS(n, out));
            a.dx = optest_out(&o, "dx", DT_F32, DIMS(n, in));
            a.dw = optest_acc(&o, "dw", 5, 2, DIMS(out, in));
            a.db = optest_acc(&o, "db", 6, 2, DIMS(out));
            optest_set_terms(&o, a.dx, out);
            optest_set_terms(&o, a.dw, n);
            optest_set_terms(&o, a.db, n);
            optest_compare(&o, OPTEST_FN(linear_bwd), &a);
            optest_end(&o);
        }
}

static void test_linear_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(4, 6)), *w = optest_in(&o, "w", 2, 2, DIMS(5, 6));
    tensor *y = optest_out(&o, "y", DT_F32, DIMS(4, 5)), *b = optest_in(&o, "b", 3, 1, DIMS(5));
    tensor  other = *y, gpu = *y;
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = x, .y = y}, "y is f32 (4,5), wanted f32 (4,4)");
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .b = x, .y = y},
                 "b is f32 (4,6), wanted f32 (5)");
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .b = b}, "y is not given");
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .y = y, .w_in_out = true}, "w is f32 (5,6)");
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .y = y, .act = ACT_SILU}, "pre is not given");
    other.dt = DT_I32;
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .y = &other},
                 "y is i32 (4,5), wanted f32 (4,5)");
    gpu.dev = DEV_CUDA;
    optest_fatal(OPTEST_FN(linear_fwd), &(linear_args){.x = x, .w = w, .y = &gpu}, "y is on the GPU");
    optest_fatal(OPTEST_FN(linear_bwd), &(linear_args){.x = x, .w = w, .dy = y, .dx = w}, "dx is f32 (5,6)");
    /* A dry run checks and touches nothing. */
    ctx c = optest_ctx(&backend_cpu);
    c.dry = true;
    poison(y->data, tensor_bytes(y));
    linear_fwd(&c, &(linear_args){.x = x, .w = w, .y = y});
    for (int64_t i = 0; i < tensor_count(y); i++) assert_true(isnan(F32(y)[i]));
    optest_end(&o);
}

typedef struct {
    ctx         c;
    linear_args a;
} dry_call;

static void call_linear(void *p) {
    dry_call *d = p;
    linear_fwd(&d->c, &d->a);
}

static void test_missing_entry(void **state) {
    backend  empty = {.name = "empty", .dev = DEV_CPU};
    optest   o;
    dry_call d = {.c = optest_ctx(&empty)};
    (void)state;
    optest_begin(&o);
    d.a = (linear_args){.x = optest_in(&o, "x", 1, 2, DIMS(4, 6)),
                        .w = optest_in(&o, "w", 2, 2, DIMS(5, 6)),
                        .y = optest_out(&o, "y", DT_F32, DIMS(4, 5))};
    const char *text = expect_fatal(call_linear, &d);
    assert_non_null(text);
    assert_non_null(strstr(text, "back end empty has no linear_fwd"));
    optest_end(&o);
}

static void test_linear_nan(void **state) {
    optest o;
    (void)state;
    for (int act = 0; act < N_ACTS; act++) {
        optest_begin(&o);
        tensor     *x = optest_in(&o, "x", 1, 2, DIMS(65, 12)), *y = optest_out(&o, "y", DT_F32, DIMS(65, 9));
        linear_args a = {.x = x, .w = optest_in(&o, "w", 2, 2, DIMS(9, 12)), .y = y, .act = (act_kind)act};
        if (act != ACT_NONE) a.pre = optest_out(&o, "pre", DT_F32, DIMS(65, 9));
        optest_nan(&o, OPTEST_FN(linear_fwd), &a, x, y);
        optest_end(&o);
    }
}

static void test_act(void **state) {
    optest o;
    (void)state;
    for (int act = 0; act < N_ACTS; act++)
        for (int r = 0; r <= OPTEST_N_ROWS; r++) {
            int64_t n = r < OPTEST_N_ROWS ? optest_rows[r] : 70001;
            /* Wide values reach the flat ends of every function. */
            for (int wide = 0; wide < 2; wide++) {
                optest_begin(&o);
                o.repeat = n > 1000 ? 3 : OPTEST_REPEAT;
                act_args a = {.act = (act_kind)act};
                tensor  *x = optest_in(&o, "x", 1, wide ? 200 : 4, DIMS(n)), *y = optest_out(&o, "y", DT_F32, DIMS(n));
                a.x = x;
                a.y = y;
                optest_compare(&o, OPTEST_FN(act_fwd), &a);
                optest_freeze(&o);
                tensor *dy = optest_in(&o, "dy", 2, 2, DIMS(n)), *dx = optest_out(&o, "dx", DT_F32, DIMS(n));
                a.dy = dy;
                a.dx = dx;
                optest_compare(&o, OPTEST_FN(act_bwd), &a);
                if (n == 63 && !wide)
                    optest_grad(&o, OPTEST_FN(act_fwd), OPTEST_FN(act_bwd), &a, (tensor *[]){x, dx, NULL},
                                (tensor *[]){y, dy, NULL}, 0.02, 3e-4);
                optest_end(&o);
            }
        }
}

static void test_act_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(7)), *y = optest_out(&o, "y", DT_F32, DIMS(7));
    tensor *z = optest_out(&o, "z", DT_F32, DIMS(8));
    optest_fatal(OPTEST_FN(act_fwd), &(act_args){.act = ACT_SILU, .x = x, .y = z}, "y is f32 (8), wanted f32 (7)");
    optest_fatal(OPTEST_FN(act_fwd), &(act_args){.act = ACT_SILU, .x = y, .y = y}, "y may not be");
    optest_fatal(OPTEST_FN(act_fwd), &(act_args){.act = (act_kind)9, .x = x, .y = y}, "act is 9");
    optest_nan(&o, OPTEST_FN(act_fwd), &(act_args){.act = ACT_GELU_ERF, .x = x, .y = y}, x, y);
    optest_end(&o);
}

/* Widths of the networks' first, last and widest layers, rows off the tiles, the other storage of W, few rows (one per
 * sample) of a wide layer; in bf16 also outputs in f32. */
static void test_linear_shapes(void **state) {
    static const int64_t shape[][3] = {
        /* N, I, O */
        {1000, 1, 32},   {999, 32, 1},   {300, 1024, 3}, {300, 16, 1024}, {300, 1024, 16},
        {129, 588, 257}, {2, 1024, 768}, {1, 256, 1024}, {127, 128, 128}, {128, 64, 192},
        {130, 512, 136}, {65, 72, 200},  {1, 1, 1},      {4097, 40, 24},  {33, 1000, 40},
        {257, 96, 288},  {513, 24, 8},   {16, 2048, 16}, {70000, 8, 3},   {70001, 3, 8},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int k = 0; k < 3; k++) { /* plain; GELU; the other storage with SiLU or tanh */
            act_kind act = k == 0 ? ACT_NONE : k == 1 ? ACT_GELU_TANH : i & 1 ? ACT_SILU : ACT_TANH;
            linear_case(shape[i][0], shape[i][1], shape[i][2], act, k == 2, (i + (size_t)k) % 3 != 0, false);
        }
}

static void test_linear_wide(void **state) {
    (void)state;
    hosted_set_wide(true);
    for (int k = 0; k < 2; k++) {
        linear_case(1000, 32, 1, k ? ACT_TANH : ACT_NONE, false, true, false);
        linear_case(300, 1024, 16, k ? ACT_TANH : ACT_NONE, false, true, false);
        linear_case(65, 40, 33, k ? ACT_SILU : ACT_NONE, true, k, false);
        linear_case(0, 64, 32, ACT_NONE, false, true, false);
    }
    hosted_set_wide(false);
}

static void test_act_large(void **state) {
    (void)state;
    for (int act = 0; act < N_ACTS; act++) {
        optest o;
        optest_begin(&o);
        o.repeat = 3;
        tensor  *x = optest_in(&o, "x", 1, 12, DIMS(1000003)), *y = optest_out(&o, "y", DT_F32, DIMS(1000003));
        act_args a = {.act = (act_kind)act, .x = x, .y = y};
        optest_compare(&o, OPTEST_FN(act_fwd), &a);
        optest_end(&o);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_linear_sizes),  cmocka_unit_test(test_linear_optional),
        cmocka_unit_test(test_linear_in_act), cmocka_unit_test(test_linear_of),
        cmocka_unit_test(test_linear_nan),    cmocka_unit_test(test_act),
    };
    const struct CMUnitTest cpu[] = {
        cmocka_unit_test(test_linear_gradients),
        cmocka_unit_test(test_linear_wrong),
        cmocka_unit_test(test_missing_entry),
        cmocka_unit_test(test_act_wrong),
    };
    const struct CMUnitTest gpu[] = {
        cmocka_unit_test(test_linear_shapes),
        cmocka_unit_test(test_linear_wide),
        cmocka_unit_test(test_act_large),
    };
    return optest_main(argc, argv,
                       &(optest_suite){.name = "linear", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
