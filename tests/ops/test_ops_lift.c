/* lift_pool against ref, gradients of ref, against the ops that it is made of, wrong arguments. */
#include "core/rng.h"
#include "ops/optest.h"

#include <math.h>
#include <string.h>

enum { B = 4, MOST = 40000 };

static int32_t first[B + 1], pool_first[MOST], pool_sample[B + 1];

/* About n values in four samples, the second one without any; parents of up to eight members, some of none, or as many
 * as `members` says. Returns the number of parents. */
static int64_t make_parents(int64_t n, int members) {
    int64_t p = 0, at = 0;
    pool_first[0] = 0;
    for (int b = 0; b < B; b++) {
        int64_t end = b == 0 ? n / 3 : b == 1 ? at : b == 2 ? at + (n > 2) : n;
        first[b] = (int32_t)at;
        pool_sample[b] = (int32_t)p;
        while (at < end) {
            int64_t some = members;
            if (!some) some = (int64_t)(9 * rng_uniform((rng_key){.purpose = RNG_TEST}, (uint64_t)p));
            at = at + some < end ? at + some : end;
            pool_first[++p] = (int32_t)at;
        }
    }
    first[B] = (int32_t)n;
    pool_sample[B] = (int32_t)p;
    return p;
}

typedef struct {
    int64_t n, C;
    int     groups, members; /* members of a parent; 0: up to eight */
    bool    add_one, want_dv, grad;
    double  mean;
} lift_case;

static void run_case(lift_case k) {
    optest o;
    optest_begin(&o);
    if (k.n * k.C > 100000) o.repeat = 5;
    int64_t        P = make_parents(k.n, k.members);
    tensor        *v = optest_in(&o, "v", 1, 2, DIMS(k.n, 1)), *w = optest_in(&o, "w", 2, 2, DIMS(k.C, 1));
    tensor        *b = optest_in(&o, "b", 3, 2, DIMS(k.C)), *gamma = optest_in(&o, "gamma", 4, 2, DIMS(k.C));
    tensor        *beta = optest_in(&o, "beta", 5, 2, DIMS(k.C)), *y = optest_out(&o, "y", DT_F32, DIMS(P, k.C));
    tensor        *skip = optest_out(&o, "skip", DT_F32, DIMS(P, k.C));
    lift_pool_args a = {.v = v,
                        .w = w,
                        .b = b,
                        .gamma = gamma,
                        .beta = beta,
                        .first = optest_i32(&o, "first", first, DIMS(B + 1)),
                        .pool_first = optest_i32(&o, "pool_first", pool_first, DIMS(P + 1)),
                        .pool_sample = optest_i32(&o, "pool_sample", pool_sample, DIMS(B + 1)),
                        .groups = k.groups,
                        .eps = 1e-5,
                        .add_one = k.add_one,
                        .y = y,
                        .skip = skip,
                        .moments = optest_out(&o, "moments", DT_F64, DIMS(B, 2))};
    for (int64_t i = 0; i < k.n; i++) F32(v)[i] += (float)k.mean;
    optest_keep(&o, v);
    optest_set_terms(&o, y, 8);
    optest_set_terms(&o, skip, 8);
    optest_compare(&o, OPTEST_FN(lift_pool_fwd), &a);
    if (k.grad) optest_nan(&o, OPTEST_FN(lift_pool_fwd), &a, v, y);
    optest_run(&o, optest_tested(), OPTEST_FN(lift_pool_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 6, 2, DIMS(P, k.C)), *dskip = optest_in(&o, "dskip", 7, 2, DIMS(P, k.C));
    tensor *dv = k.want_dv ? optest_out(&o, "dv", DT_F32, DIMS(k.n, 1)) : NULL;
    tensor *dw = optest_acc(&o, "dw", 8, 2, DIMS(k.C, 1)), *db = optest_acc(&o, "db", 9, 2, DIMS(k.C));
    tensor *dgamma = optest_acc(&o, "dgamma", 10, 2, DIMS(k.C)), *dbeta = optest_acc(&o, "dbeta", 11, 2, DIMS(k.C));
    a.dy = dy, a.dskip = dskip, a.dv = dv, a.dw = dw, a.db = db, a.dgamma = dgamma, a.dbeta = dbeta;
    /* The gradient of u is rstd times terms that cancel: to nothing in the sample of one row, where rstd is largest. */
    const tensor *cancels[3] = {dw, db, dv};
    for (int i = 0; i < (dv ? 3 : 2); i++) optest_set_floor(&o, cancels[i], 1 / sqrt(a.eps));
    tensor *terms[4] = {dw, db, dgamma, dbeta};
    for (int i = 0; i < 4; i++) optest_set_terms(&o, terms[i], k.n);
    optest_compare(&o, OPTEST_FN(lift_pool_bwd), &a);
    if (k.grad)
        optest_grad(&o, OPTEST_FN(lift_pool_fwd), OPTEST_FN(lift_pool_bwd), &a,
                    (tensor *[]){v, dv, w, dw, b, db, gamma, dgamma, beta, dbeta, NULL},
                    (tensor *[]){y, dy, skip, dskip, NULL}, 0.005, 1e-3);
    optest_end(&o);
}

static void test_lift(void **state) {
    static const int64_t rows[] = {0, 1, 3, 63, 64, 65, 1000};
    static const int     shape[][2] = {{1, 1}, {2, 6}, {32, 32}, {32, 64}};
    (void)state;
    for (int r = 0; r < 7; r++)
        for (int s = 0; s < 4; s++)
            run_case((lift_case){.n = rows[r],
                                 .groups = shape[s][0],
                                 .C = shape[s][1],
                                 .add_one = (r + s) & 1,
                                 .want_dv = r & 1 || s == 2,
                                 .members = s == 3 ? 19 : 0});
    /* Values far from zero: what the statistics lose would show. */
    run_case((lift_case){.n = 1000, .groups = 8, .C = 32, .want_dv = true, .mean = 50});
    run_case((lift_case){.n = 14, .groups = 2, .C = 4, .add_one = true, .want_dv = true, .grad = true});
    run_case((lift_case){.n = 14, .groups = 4, .C = 4, .want_dv = true, .grad = true});
}

static void test_lift_wide(void **state) {
    static const int shape[][3] = {{20000, 32, 32}, {4001, 8, 64}, {3000, 5, 15}, {5000, 32, 128}, {39000, 1, 8}};
    (void)state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        run_case((lift_case){.n = shape[i][0],
                             .groups = shape[i][1],
                             .C = shape[i][2],
                             .add_one = i & 1,
                             .want_dv = i == 1,
                             .members = i == 4 ? 8 : 0});
}

/* The ops that it is made of, in double: nn_linear, GroupNorm with SiLU, and both poolings. */
static void test_lift_is_its_parts(void **state) {
    enum { N = 200, C = 12 };
    optest o;
    (void)state;
    optest_begin(&o);
    int64_t P = make_parents(N, 0);
    tensor *v = optest_in(&o, "v", 1, 2, DIMS(N, 1)), *w = optest_in(&o, "w", 2, 2, DIMS(C, 1));
    tensor *b = optest_in(&o, "b", 3, 2, DIMS(C)), *u = optest_out(&o, "u", DT_F32, DIMS(N, C));
    tensor *gamma = optest_in(&o, "gamma", 4, 2, DIMS(C)), *beta = optest_in(&o, "beta", 5, 2, DIMS(C));
    tensor *h = optest_out(&o, "h", DT_F32, DIMS(N, C)), *mean = optest_out(&o, "mean", DT_F32, DIMS(B, 3));
    tensor *rstd = optest_out(&o, "rstd", DT_F32, DIMS(B, 3)), *moments = optest_out(&o, "m", DT_F64, DIMS(B, 2));
    tensor *of = optest_i32(&o, "first", first, DIMS(B + 1));
    tensor *parents = optest_i32(&o, "parents", pool_first, DIMS(P + 1));
    tensor *samples = optest_i32(&o, "samples", pool_sample, DIMS(B + 1)), *y[4];
    for (int i = 0; i < 4; i++) y[i] = optest_out(&o, "y", DT_F32, DIMS(P, C));
    ctx c = optest_ctx(&backend_ref);
    linear_fwd(&c, &(linear_args){.x = v, .w = w, .b = b, .y = u});
    group_norm_fwd(&c, &(group_norm_args){.x = u,
                                          .gamma = gamma,
                                          .beta = beta,
                                          .first = of,
                                          .groups = 3,
                                          .act = ACT_SILU,
                                          .eps = 1e-5,
                                          .y = h,
                                          .mean = mean,
                                          .rstd = rstd});
    pool_fwd(&c, &(pool_args){.x = h, .first = parents, .add_one = true, .y = y[0]});
    pool_fwd(&c, &(pool_args){.x = u, .first = parents, .add_one = true, .y = y[1]});
    lift_pool_fwd(&c, &(lift_pool_args){.v = v,
                                        .w = w,
                                        .b = b,
                                        .gamma = gamma,
                                        .beta = beta,
                                        .first = of,
                                        .pool_first = parents,
                                        .pool_sample = samples,
                                        .groups = 3,
                                        .eps = 1e-5,
                                        .add_one = true,
                                        .y = y[2],
                                        .skip = y[3],
                                        .moments = moments});
    for (int i = 0; i < 2; i++)
        for (int64_t at = 0; at < P * C; at++)
            expect_le(fabs((double)F32(y[i])[at] - (double)F32(y[i + 2])[at]), 2e-6, i ? "skip" : "y");
    optest_end(&o);
}

static void test_lift_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor        *v = optest_in(&o, "v", 1, 2, DIMS(6, 1)), *w = optest_in(&o, "w", 2, 2, DIMS(4, 1));
    tensor        *c4 = optest_in(&o, "c4", 3, 2, DIMS(4)), *y = optest_out(&o, "y", DT_F32, DIMS(3, 4));
    tensor        *rows = optest_i32(&o, "rows", (int32_t[]){0, 2, 6}, DIMS(3));
    tensor        *parents = optest_i32(&o, "parents", (int32_t[]){0, 2, 3, 6}, DIMS(4));
    tensor        *samples = optest_i32(&o, "samples", (int32_t[]){0, 1, 3}, DIMS(3));
    tensor        *others = optest_i32(&o, "others", (int32_t[]){0, 2, 3}, DIMS(3));
    tensor        *one = optest_i32(&o, "one", (int32_t[]){0, 3}, DIMS(2));
    lift_pool_args good = {.v = v,
                           .w = w,
                           .b = c4,
                           .gamma = c4,
                           .beta = c4,
                           .first = rows,
                           .pool_first = parents,
                           .pool_sample = samples,
                           .groups = 2,
                           .eps = 1e-5,
                           .y = y,
                           .skip = y,
                           .moments = optest_out(&o, "moments", DT_F64, DIMS(2, 2))},
                   a = good;
    a.pool_sample = others;
    optest_fatal(OPTEST_FN(lift_pool_fwd), &a, "the parents of sample 1 begin with row 3, the sample with row 2");
    a.pool_sample = one;
    optest_fatal(OPTEST_FN(lift_pool_fwd), &a, "first has 2 samples, pool_sample 1");
    a = good, a.groups = 3;
    optest_fatal(OPTEST_FN(lift_pool_fwd), &a, "3 groups do not divide 4 channels");
    a = good, a.eps = 0;
    optest_fatal(OPTEST_FN(lift_pool_fwd), &a, "eps 0");
    a = good, a.v = w;
    optest_fatal(OPTEST_FN(lift_pool_fwd), &a, "0 to 4");
    a = good, a.dy = y, a.dskip = y, a.dw = w;
    optest_fatal(OPTEST_FN(lift_pool_bwd), &a, "both or neither");
    optest_end(&o);
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {cmocka_unit_test(test_lift)};
    const struct CMUnitTest cpu[] = {cmocka_unit_test(test_lift_is_its_parts), cmocka_unit_test(test_lift_wrong)};
    const struct CMUnitTest gpu[] = {cmocka_unit_test(test_lift_wide)};
    return optest_main(argc, argv,
                       &(optest_suite){.name = "lift", OPTEST_LIST(every), OPTEST_LIST(cpu), OPTEST_LIST(gpu)});
}
