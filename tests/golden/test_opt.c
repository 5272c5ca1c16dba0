/* opt.h5: AdamW with clipping by the global norm and EMA, every step of every case; the adaptive limit. A case with
 * in/param is an optimiser run, one with in/grad_norm a stream of norms; names, sizes and numbers come from the file.
 */
#include "gpu/hosted.h"
#include "harness/h5.h"
#include "harness/harness.h"
#include "kernels/backend.h"
#include "nn/clip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAR = 8 }; /* floats of padding before and behind each slab, NaN */

/* All parameters of a case one behind the other, as training keeps them. */
typedef struct {
    float *block;
    tensor t;
} slab;

static slab slab_new(int64_t n, bool zero) {
    slab s = {.block = malloc((size_t)(n + 2 * FAR) * sizeof(float))};
    assert_non_null(s.block);
    poison(s.block, (size_t)(n + 2 * FAR) * sizeof(float));
    s.t = tensor_wrap(s.block + FAR, DT_F32, DIMS(n));
    if (zero) memset(s.t.data, 0, tensor_bytes(&s.t));
    return s;
}

static void slab_free(slab *s) {
    for (int i = 0; i < FAR; i++) assert_true(isnan(s->block[i]) && isnan(s->block[FAR + s->t.dim[0] + i]));
    free(s->block);
}

/* `group` may be one of h5_path's texts, which are reused in turn: copied. */
static void load(h5_file f, const char *group_text, char **names, int n_names, float *out) {
    char group[256];
    snprintf(group, sizeof group, "%s", group_text);
    for (int i = 0; i < n_names; i++) {
        h5_dims d;
        float  *x = h5_f32(f, h5_path("%s/%s", group, names[i]), &d);
        memcpy(out, x, (size_t)d.count * sizeof *x);
        out += d.count;
        free(x);
    }
}

/* A parameter of a few elements does not average its errors: one bit of one element is 1.2e-7. */
enum { FEW = 8, FEW_TIMES = 4 };

/* Each parameter against <run>/step<i>/<state> of the case, so that a failure names it. With `drift` the bound grows to
 * twice the distance between the file's own float32 and float64 runs, which widens with the number of steps. */
static void compare(h5_file f, const char *run_text, const char *state_text, char **names, int n_names,
                    const float *got, double bound, const char *drift) {
    char run[256], state[64];
    snprintf(run, sizeof run, "%s", run_text);
    snprintf(state, sizeof state, "%s", state_text);
    for (int i = 0; i < n_names; i++) {
        h5_dims     d;
        const char *path = h5_path("%s/%s/%s", run, state, names[i]);
        float      *x = h5_f32(f, path, &d),
              *y = drift ? h5_f32(f, h5_path("%s/%s/%s", drift, state, names[i]), NULL) : NULL;
        double least = d.count < FEW ? FEW_TIMES * bound : bound;
        expect_le(rel_l2(got, x, d.count), y ? fmax(least, 2 * rel_l2(y, x, d.count)) : least, path);
        got += d.count;
        free(x), free(y);
    }
}

/* With `their_norm` the clip factor follows from the file's float32 norm, and every state must agree to rounding
 * (1e-7). With our own norm, which is exact, the states are compared to the float64 run: float32's rounding of the norm
 * alone moves exp_avg_sq by 1.2e-7 against the float32 run. */
static void run_case(h5_file f, const char *name, const backend *be, bool their_norm) {
    int     n_names, n_steps;
    char    group[256];
    int64_t n = 0;
    snprintf(group, sizeof group, "%s/in/param", name);
    char **names = h5_list(f, group, &n_names);
    char **steps = h5_list(f, h5_path("%s/in/grad", name), &n_steps);
    h5_list_free(steps, n_steps);
    assert_true(n_names > 0 && n_steps > 0);
    for (int i = 0; i < n_names; i++) {
        h5_dims d;
        free(h5_f32(f, h5_path("%s/%s", group, names[i]), &d));
        n += d.count;
    }
    slab w = slab_new(n, false), m = slab_new(n, true), v = slab_new(n, true), ema = slab_new(n, false),
         g = slab_new(n, false);
    load(f, group, names, n_names, F32(&w.t));
    memcpy(ema.t.data, w.t.data, tensor_bytes(&w.t));
    arena      memory = arena_new("clip", 4096);
    ctx        c = {.be = be, .scratch = arena_new("scratch", 1 << 20), .deterministic = true};
    clip_state clip = clip_new(&memory, h5_attr_double(f, name, "max_norm", NAN), 95, 0);
    adamw_args a = {.w = &w.t,
                    .m = &m.t,
                    .v = &v.t,
                    .ema = &ema.t,
                    .grad = &g.t,
                    .lr = h5_attr_double(f, name, "lr", NAN),
                    .beta1 = h5_attr_double(f, name, "beta1", NAN),
                    .beta2 = h5_attr_double(f, name, "beta2", NAN),
                    .eps = h5_attr_double(f, name, "eps", NAN),
                    .weight_decay = h5_attr_double(f, name, "weight_decay", NAN),
                    .ema_decay = h5_attr_double(f, name, "ema", NAN)};
    char       drift[256];
    snprintf(drift, sizeof drift, "%s/out_fp32", name);
    float *clipped = malloc((size_t)n * sizeof *clipped);
    assert_non_null(clipped);
    for (int step = 1; step <= n_steps; step++) {
        double sum;
        tensor out = tensor_wrap(&sum, DT_F64, DIMS(1));
        load(f, h5_path("%s/in/grad/step%d", name, step), names, n_names, F32(&g.t));
        sum_squares_fwd(&c, &(sum_squares_args){.x = &g.t, .out = &out});
        double norm = sqrt(sum), want = h5_scalar(f, h5_path("%s/out_fp64/step%d/grad_norm", name, step));
        expect_le(fabs(norm - want), 1e-14 * want, "grad_norm against float64");
        want = h5_scalar(f, h5_path("%s/out_fp32/step%d/grad_norm", name, step));
        expect_le(fabs(norm - want), 1e-6 * want, "grad_norm against float32");
        if (their_norm) norm = want;
        a.grad_scale = clip_factor(norm, clip_limit(&clip));
        a.step = step;
        for (int64_t i = 0; i < n; i++) clipped[i] = F32(&g.t)[i] * (float)a.grad_scale;
        adamw_fwd(&c, &a);
        const struct {
            const char  *name;
            const float *got;
        } check[] = {{"clipped_grad", clipped},
                     {"param", F32(&w.t)},
                     {"exp_avg", F32(&m.t)},
                     {"exp_avg_sq", F32(&v.t)},
                     {"ema", F32(&ema.t)}};
        for (size_t k = 0; k < sizeof check / sizeof *check; k++)
            compare(f, h5_path("%s/%s", name, their_norm ? "out_fp32" : "out_fp64"),
                    h5_path("step%d/%s", step, check[k].name), names, n_names, check[k].got, their_norm ? 1e-7 : 4e-7,
                    their_norm ? NULL : drift);
    }
    free(clipped);
    slab_free(&w), slab_free(&m), slab_free(&v), slab_free(&ema), slab_free(&g);
    arena_free(&c.scratch), arena_free(&memory);
    h5_list_free(names, n_names);
}

static void run_norms(h5_file f, const char *name) {
    h5_dims d, d2;
    float  *norm = h5_f32(f, h5_path("%s/in/grad_norm", name), &d);
    double *limit = h5_f64(f, h5_path("%s/out/max_norm_used", name), &d2);
    double *clipped = h5_f64(f, h5_path("%s/out/clipped_norm", name), NULL);
    int64_t window = (int64_t)h5_attr_double(f, name, "buffer_size", NAN);
    arena   memory = arena_new("clip", (size_t)window * 8 + 1024);
    assert_true(d.count == d2.count && d.count > 0);
    clip_state s = clip_new(&memory, h5_attr_double(f, name, "max_norm", NAN),
                            h5_attr_double(f, name, "clip_percentile", NAN), window);
    for (int64_t i = 0; i < d.count; i++) {
        double used = clip_limit(&s);
        /* The file's percentile is interpolated in float32. */
        expect_le(fabs(used - limit[i]), 2e-7 * limit[i], "max_norm_used");
        expect_le(fabs(norm[i] * clip_factor(norm[i], used) - clipped[i]), 4e-7 * clipped[i], "clipped_norm");
        clip_observe(&s, norm[i]);
    }
    arena_free(&memory);
    free(norm), free(limit), free(clipped);
}

static const char *const *backends;

static void test_every_case(void **state) {
    h5_file f = h5_open(golden_path("opt"));
    int     n_cases, checked = 0;
    char  **cases = h5_list(f, "/", &n_cases);
    (void)state;
    for (int i = 0; i < n_cases; i++) {
        if (h5_exists(f, h5_path("%s/in/param", cases[i]))) {
            for (int k = 0; k < 4; k++) run_case(f, cases[i], hosted_find(backends[k & 1]), k & 2);
            checked++;
        } else if (h5_exists(f, h5_path("%s/in/grad_norm", cases[i]))) {
            run_norms(f, cases[i]);
            checked++;
        } else {
            fail_msg("case %s is of no known kind", cases[i]);
        }
    }
    assert_true(checked > 0);
    h5_list_free(cases, n_cases);
    h5_close(f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_case)};
    backends = hosted_names(argc, argv);
    return test_exit(backends ? cmocka_run_group_tests(tests, NULL, NULL) : 0);
}
