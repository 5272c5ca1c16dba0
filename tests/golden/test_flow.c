/* Rectified flow against the published scheduler, TRELLIS's trainer and sampler: time grids, guided trajectories on the
 * toy velocity, the training loss, the time distribution. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "golden/net_check.h"
#include "gpu/hosted.h"
#include "kernels/backend.h"
#include "core/rng.h"
#include "model/flow.h"

static const double SIGMA_BOUND = 1e-6, TRAJECTORY_BOUND = 1e-5;

static h5_file file;

/* v = tanh(x)*cos(a*t) + b*cond*sin(x + c*t), numbers from the file. */
static struct { double a, b, c; } toy;

static void toy_read(void) {
    char *text = h5_attr_string(file, "/", "toy_velocity");
    assert_int_equal(sscanf(text, "v = tanh(x)*cos(%lf*t) + %lf*cond*sin(x + %lf*t)", &toy.a, &toy.b, &toy.c), 3);
    free(text);
}

static void toy_velocity(const float *x, const float *cond, double t, int64_t n, float *v) {
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(tanh(x[i]) * cos(toy.a * t) + toy.b * (cond ? cond[i] : 0) * sin(x[i] + toy.c * t));
}

/* A file may hold some of the groups only. */
static void needs(const char *group) {
    if (h5_exists(file, group)) return;
    print_message("skipped: the file has no group %s\n", group);
    skip();
}

static float *floats(int64_t n) {
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    assert_non_null(x);
    return x;
}

/* The number behind `word` in a name such as "shift6" or "mean1_std0.5". */
static double number_in(const char *name, const char *word) {
    const char *at = strstr(name, word);
    assert_non_null(at);
    char  *end;
    double v = strtod(at + strlen(word), &end);
    assert_true(end > at + strlen(word));
    return v;
}

static void check_schedule(const char *group, int steps, double shift) {
    h5_dims d;
    double *sigma = malloc((size_t)(steps + 1) * sizeof *sigma);
    assert_non_null(sigma);
    flow_sigmas(steps, shift, sigma);
    float *want = h5_f32(file, h5_path("%s/sigmas", group), &d);
    assert_int_equal(d.count, steps + 1);
    for (int i = 0; i <= steps; i++) expect_le(fabs(sigma[i] - want[i]), SIGMA_BOUND, h5_path("%s sigma %d", group, i));
    free(want);
    want = h5_f32(file, h5_path("%s/timesteps", group), &d);
    assert_int_equal(d.count, steps);
    for (int i = 0; i < steps; i++)
        expect_le(fabs(1000 * sigma[i] - want[i]), 1000 * SIGMA_BOUND, h5_path("%s time %d", group, i));
    free(want);
    free(sigma);
}

/* Runs the trajectory that starts at `start` and compares every step with <group>/out/x. x0 (TRELLIS): the estimate of
 * the data, (1-s) x - (s + (1-s) t) v, against <group>/out/x0. */
static void check_trajectory(const char *group, const char *start, const double *sigma, int steps, double guidance,
                             bool x0, double sigma_min) {
    h5_dims d, d_out;
    float  *x = h5_f32(file, h5_path("%s/in/%s", group, start), &d);
    float  *cond = h5_f32(file, h5_path("%s/in/cond", group), NULL);
    float  *want = h5_f32(file, h5_path("%s/out/x", group), &d_out);
    float  *want0 = x0 ? h5_f32(file, h5_path("%s/out/x0", group), NULL) : NULL;
    int64_t n = d.count;
    float  *v_cond = floats(n), *v_zero = floats(n), *data = floats(n);
    assert_int_equal(d_out.count, n * steps);
    for (int i = 0; i < steps; i++) {
        double t = 1000 * sigma[i], s = sigma_min;
        toy_velocity(x, cond, t, n, v_cond);
        toy_velocity(x, NULL, t, n, v_zero);
        for (int64_t j = 0; x0 && j < n; j++) {
            double v = v_zero[j] + guidance * ((double)v_cond[j] - v_zero[j]);
            data[j] = (float)((1 - s) * x[j] - (s + (1 - s) * sigma[i]) * v);
        }
        if (x0) expect_le(rel_l2(data, want0 + i * n, n), TRAJECTORY_BOUND, h5_path("%s data, step %d", group, i));
        flow_euler_step(x, v_cond, v_zero, n, guidance, sigma[i], sigma[i + 1]);
        expect_le(rel_l2(x, want + i * n, n), TRAJECTORY_BOUND, h5_path("%s, step %d", group, i));
    }
    float *all[] = {x, cond, want, want0, v_cond, v_zero, data};
    for (int i = 0; i < 7; i++) free(all[i]);
}

static void euler(void **state) {
    (void)state;
    needs("/euler");
    int    n_shifts, n_parts, n_tables = 0, n_paths = 0;
    char **shifts = h5_list(file, "/euler", &n_shifts);
    for (int s = 0; s < n_shifts; s++) {
        double shift = number_in(shifts[s], "shift");
        char **parts = h5_list(file, h5_path("/euler/%s", shifts[s]), &n_parts);
        for (int p = 0; p < n_parts; p++) {
            char group[160];
            snprintf(group, sizeof group, "/euler/%s/%s", shifts[s], parts[p]);
            if (strncmp(parts[p], "steps", 5) == 0) {
                check_schedule(group, (int)number_in(parts[p], "steps"), shift);
                n_tables++;
            } else {
                int     steps = net_int(file, group, "steps");
                double *sigma = malloc((size_t)(steps + 1) * sizeof *sigma);
                assert_non_null(sigma);
                flow_sigmas(steps, shift, sigma);
                check_trajectory(group, "x", sigma, steps, h5_attr_double(file, group, "guidance_scale", NAN), false,
                                 0);
                n_paths++;
                free(sigma);
            }
        }
        h5_list_free(parts, n_parts);
    }
    h5_list_free(shifts, n_shifts);
    assert_true(n_tables > 0 && n_paths > 0);
}

static void trellis_euler(void **state) {
    (void)state;
    needs("/trellis_euler");
    int    n;
    char **names = h5_list(file, "/trellis_euler", &n);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const char *g = h5_path("/trellis_euler/%s", names[i]);
        char        group[160];
        snprintf(group, sizeof group, "%s", g);
        int     steps = net_int(file, group, "steps");
        double *sigma = malloc((size_t)(steps + 1) * sizeof *sigma);
        assert_non_null(sigma);
        flow_sigmas_trellis(steps, h5_attr_double(file, group, "rescale_t", NAN), sigma);
        check_trajectory(group, "noise", sigma, steps, 1 + h5_attr_double(file, group, "cfg_strength", NAN), true,
                         h5_attr_double(file, group, "sigma_min", NAN));
        free(sigma);
    }
    h5_list_free(names, n);
}

/* flow_noise and mse_rows on a back end, as the trainer calls them. */
static void loss(void **state) {
    needs("/loss");
    rig r;
    rig_open(&r, *state, 16);
    tensor  x0 = net_f32(&r.host, file, "/loss/in/x0"), eps = net_f32(&r.host, file, "/loss/in/noise");
    tensor  t = net_f32(&r.host, file, "/loss/in/t");
    int64_t samples = x0.dim[0], n = tensor_count(&x0), width = x0.dim[x0.n_dims - 1], rows = n / width;
    tensor  first = arena_tensor(&r.host, DT_I32, DIMS(samples + 1));
    for (int64_t s = 0; s <= samples; s++) I32(&first)[s] = (int32_t)(rows / samples * s);
    first = rig_send(&r, first);
    x0 = rig_send(&r, tensor_view(&x0, DIMS(rows, width)));
    eps = rig_send(&r, tensor_view(&eps, DIMS(rows, width)));
    tensor sent_t = rig_send(&r, t);
    tensor x_t = arena_tensor(&r.step, DT_F32, x0.dim, 2), v = arena_tensor(&r.step, DT_F32, x0.dim, 2);
    flow_noise_fwd(&r.c, &(flow_noise_args){.x0 = &x0,
                                            .eps = &eps,
                                            .t = &sent_t,
                                            .first = &first,
                                            .x_t = &x_t,
                                            .v = &v,
                                            .sigma_min = h5_attr_double(file, "/loss", "sigma_min", NAN)});
    net_compare_rel(&r, file, "/loss/out/x_t", &x_t, 1e-6);
    net_compare_rel(&r, file, "/loss/out/target_v", &v, 1e-6);

    tensor       pred = arena_tensor(&r.host, DT_F32, x0.dim, 2), sums = arena_tensor(&r.step, DT_F64, DIMS(samples));
    const float *noisy = rig_f32(&r, &x_t);
    float       *cond = h5_f32(file, "/loss/in/cond", NULL);
    tensor       time = arena_tensor(&r.host, DT_F32, DIMS(samples));
    for (int64_t s = 0; s < samples; s++) {
        int64_t at = n / samples * s;
        F32(&time)[s] = 1000 * F32(&t)[s];
        toy_velocity(noisy + at, cond + at, F32(&time)[s], n / samples, F32(&pred) + at);
    }
    net_compare_rel(&r, file, "/loss/out/t_model", &time, 1e-6);
    net_compare_rel(&r, file, "/loss/out/pred", &pred, 1e-5);
    pred = rig_send(&r, pred);
    mse_rows_fwd(&r.c, &(mse_rows_args){.pred = &pred, .target = &v, .first = &first, .sums = &sums});
    tensor seen = rig_see(&r, &sums);
    double total = 0, want = h5_scalar(file, "/loss/out/mse");
    for (int64_t s = 0; s < samples; s++) total += F64(&seen)[s];
    expect_le(fabs(total / (double)n - want), 1e-5 * want, "mse");
    free(cond);
    rig_close(&r);
}

/* A million times as the trainer draws them, against the exact moments and bins, five standard errors each. The fourth
 * central moment of a variable in (0,1) is at most its variance, so the variance's error is below sqrt(var/n). */
static void logit_normal(void **state) {
    (void)state;
    needs("/logit_normal");
    enum { DRAWS = 1000000, PER_STEP = 64 };
    int    n_names, n_sets = 0;
    char **names = h5_list(file, "/logit_normal", &n_names);
    for (int k = 0; k < n_names; k++) {
        if (strncmp(names[k], "mean", 4) != 0) continue;
        const char *g = h5_path("/logit_normal/%s", names[k]);
        double      mean = number_in(names[k], "mean"), std = number_in(names[k], "_std"), sum = 0, square = 0;
        double      want_mean = h5_attr_double(file, g, "exact_mean", NAN);
        double      want_var = h5_attr_double(file, g, "exact_var", NAN);
        h5_dims     d;
        double     *p = h5_f64(file, h5_path("%s/exact_bin_probability", g), &d);
        int64_t     count[64] = {0};
        assert_in_range(d.count, 1, 64);
        for (int i = 0; i < DRAWS; i++) {
            rng_key key = {.seed = 1,
                           .purpose = RNG_FLOW_TIME,
                           .step = (uint64_t)(i / PER_STEP),
                           .sample = (uint64_t)(i % PER_STEP)};
            double  x = flow_time(rng_normal(key, 0), mean, std);
            assert_true(x > 0 && x < 1);
            sum += x;
            square += (x - want_mean) * (x - want_mean);
            count[(int)(x * (double)d.count)]++;
        }
        expect_le(fabs(sum / DRAWS - want_mean), 5 * sqrt(want_var / DRAWS), h5_path("%s mean", g));
        expect_le(fabs(square / DRAWS - want_var), 5 * sqrt(want_var / DRAWS), h5_path("%s variance", g));
        for (int64_t b = 0; b < d.count; b++)
            expect_le(fabs((double)count[b] / DRAWS - p[b]), 5 * sqrt(p[b] * (1 - p[b]) / DRAWS),
                      h5_path("%s bin %d", g, (int)b));
        free(p);
        n_sets++;
    }
    assert_true(n_sets > 0);
    h5_list_free(names, n_names);

    if (!h5_exists(file, "/logit_normal/transform")) return;
    h5_dims d;
    float  *normal = h5_f32(file, "/logit_normal/transform/in/normal", &d);
    names = h5_list(file, "/logit_normal/transform/out", &n_names);
    for (int k = 0; k < n_names; k++) {
        float *want = h5_f32(file, h5_path("/logit_normal/transform/out/%s", names[k]), NULL);
        for (int64_t i = 0; i < d.count; i++)
            expect_le(fabs(flow_time(normal[i], number_in(names[k], "mean"), number_in(names[k], "_std")) - want[i]),
                      1e-6, names[k]);
        free(want);
    }
    assert_true(n_names > 0);
    free(normal);
    h5_list_free(names, n_names);
}

int main(int argc, char **argv) {
    const char *const *name = hosted_names(argc, argv);
    if (!name) return test_exit(0);
    file = h5_open(golden_path("flow"));
    toy_read();
    const struct CMUnitTest tests[] = {cmocka_unit_test(euler),
                                       cmocka_unit_test(trellis_euler),
                                       cmocka_unit_test(logit_normal),
                                       {"loss on the first", loss, NULL, NULL, (void *)(uintptr_t)name[0]},
                                       {"loss on the second", loss, NULL, NULL, (void *)(uintptr_t)name[1]}};
    int                     failed = cmocka_run_group_tests(tests, NULL, NULL);
    h5_close(file);
    return test_exit(failed);
}
