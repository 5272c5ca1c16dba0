/* Metrics on shapes whose answers are known. */
#include "eval/metrics.h"
#include "eval/nearest.h"
#include "harness/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Latitude-longitude sphere of 2*n^2 faces. */
static mesh make_sphere(int n, double radius) {
    mesh m = {.n_vertices = (int64_t)(n + 1) * 2 * n, .n_faces = (int64_t)n * 4 * n};
    m.position = malloc(12 * (size_t)m.n_vertices);
    m.face = malloc(12 * (size_t)m.n_faces);
    for (int i = 0; i <= n; i++)
        for (int j = 0; j < 2 * n; j++) {
            double a = M_PI * i / n, b = M_PI * j / n;
            float *p = m.position + 3 * (i * 2 * n + j);
            p[0] = (float)(radius * sin(a) * cos(b)), p[1] = (float)(radius * sin(a) * sin(b)),
            p[2] = (float)(radius * cos(a));
        }
    for (int i = 0, f = 0; i < n; i++)
        for (int j = 0; j < 2 * n; j++, f += 2) {
            int32_t       a = i * 2 * n + j, b = i * 2 * n + (j + 1) % (2 * n), c = a + 2 * n, d = b + 2 * n;
            const int32_t quad[6] = {a, c, b, b, c, d};
            memcpy(m.face + 3 * f, quad, sizeof quad);
        }
    return m;
}

static const double thresholds[2] = {0.01, 0.03};

static surface_options options_of(int64_t points) {
    return (surface_options){points, 2, thresholds, {5, RNG_EVAL, 0, 1}};
}

static void test_same_mesh(void **unused) {
    (void)unused;
    mesh            m = make_sphere(24, 0.5);
    surface_options o = options_of(5000);
    surface_stats   s;
    status          st = {0};
    assert_true(surface_compare(&m, &m, &o, &s, &st));
    expect_le(s.chamfer, 1e-7, "chamfer of a mesh with itself");
    expect_le(fabs(s.f1[0] - 1) + fabs(s.f1[1] - 1), 0, "F1");
    expect_le(s.normal_degrees, 0.2, "normals"); /* points on edges may meet the other face */
    assert_false(s.pred_empty || s.truth_empty);
    mesh_free(&m);
}

/* Radii 0.50 and 0.52: both directions are 0.02, less the facets' sagitta of r (pi/2n)^2/2. */
static void test_two_spheres(void **unused) {
    (void)unused;
    mesh            a = make_sphere(96, 0.50), b = make_sphere(96, 0.52);
    surface_options o = options_of(20000);
    surface_stats   s, t;
    status          st = {0};
    assert_true(surface_compare(&a, &b, &o, &s, &st));
    expect_le(fabs(s.chamfer - 0.02), 2e-4, "chamfer");
    expect_le(fabs(s.to_truth - 0.02) + fabs(s.to_pred - 0.02), 4e-4, "directions");
    expect_le(s.f1[0], 0, "F1 at half the gap");
    expect_le(fabs(s.f1[1] - 1), 0, "F1 above the gap");
    expect_le(s.normal_degrees, 2, "normals");
    for (int64_t i = 0; i < b.n_faces; i++) { /* inside out */
        int32_t k = b.face[3 * i];
        b.face[3 * i] = b.face[3 * i + 1];
        b.face[3 * i + 1] = k;
    }
    assert_true(surface_compare(&a, &b, &o, &t, &st));
    expect_le(fabs(t.chamfer - s.chamfer), 1e-9, "chamfer does not see orientation");
    expect_le(fabs(t.normal_degrees - 180), 2, "normals of an inverted surface");
    mesh_free(&a);
    mesh_free(&b);
}

/* Half the truth is missing: precision stays, recall falls to a half. */
static void test_missing_half(void **unused) {
    (void)unused;
    mesh            a = make_sphere(64, 0.5), b = make_sphere(64, 0.5);
    surface_options o = options_of(20000);
    surface_stats   s;
    status          st = {0};
    a.n_faces /= 2;
    assert_true(surface_compare(&a, &b, &o, &s, &st));
    expect_le(fabs(s.precision[0] - 1), 0, "precision");
    expect_le(fabs(s.recall[0] - 0.5), 0.03, "recall");
    expect_le(fabs(s.f1[0] - 2 * s.precision[0] * s.recall[0] / (s.precision[0] + s.recall[0])), 1e-12, "F1");
    assert_true(s.to_truth < 1e-6 && s.to_pred > 0.05);
    mesh_free(&a);
    mesh_free(&b);
}

static void test_empty(void **unused) {
    (void)unused;
    mesh            a = make_sphere(8, 0.5), none = {0}, flat = make_sphere(8, 0);
    surface_options o = options_of(100);
    surface_stats   s;
    status          st = {0};
    assert_true(surface_compare(&none, &a, &o, &s, &st));
    assert_true(s.pred_empty && !s.truth_empty && isnan(s.chamfer) && isnan(s.f1[0]) && isnan(s.normal_degrees));
    json_t *j = json_object();
    metrics_put_surface(j, &s, &o);
    assert_true(json_is_null(json_object_get(j, "chamfer")));
    assert_string_equal(json_string_value(json_object_get(j, "empty")), "prediction");
    json_decref(j);
    assert_true(surface_compare(&a, &flat, &o, &s, &st));
    assert_true(!s.pred_empty && s.truth_empty && isnan(s.chamfer));
    mesh_free(&a);
    mesh_free(&flat);
}

/* Equal to a search over all faces. */
static void test_nearest(void **unused) {
    (void)unused;
    mesh    m = make_sphere(6, 0.7);
    nearest n;
    status  st = {0};
    assert_true(nearest_build(&n, &m, &st));
    for (int i = 0; i < 500; i++) {
        double  p[3], best = INFINITY;
        int64_t face, f1;
        for (int k = 0; k < 3; k++) p[k] = 2 * rng_uniform((rng_key){1, RNG_TEST, 0, 0}, (uint64_t)(3 * i + k)) - 1;
        double d = nearest_find(&n, p, &face);
        for (int64_t f = 0; f < m.n_faces; f++) {
            mesh one = m;
            one.n_faces = 1;
            one.face = m.face + 3 * f;
            nearest t;
            assert_true(nearest_build(&t, &one, &st));
            best = fmin(best, nearest_find(&t, p, &f1));
            nearest_free(&t);
        }
        expect_le(fabs(d - best), 1e-12, "nearest distance");
        expect_le(fabs(d - fabs(sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) - 0.7)), 0.06, "distance to a sphere");
    }
    nearest_free(&n);
    mesh_free(&m);
}

static void test_band(void **unused) {
    (void)unused;
    const float target[6] = {0.5f, -0.5f, 1, -1, 0.25f, -0.25f}, pred[6] = {0.25f, 0.5f, -1, -1, 0.25f, -0.5f};
    band_stats  b = {0};
    assert_true(isnan(band_sign_accuracy(&b)) && isnan(band_error(&b)));
    band_add(&b, pred, target, 6);
    assert_int_equal(b.n_band, 4);
    expect_le(fabs(band_sign_accuracy(&b) - 0.75), 0, "sign accuracy");
    expect_le(fabs(band_error(&b) - (0.25 + 1 + 0 + 0.25) / 4), 1e-12, "band error");
    const float bad = NAN, t = 0;
    band_add(&b, &bad, &t, 1);
    assert_int_equal(b.n_bad, 1);
    expect_le(fabs(band_sign_accuracy(&b) - 0.6), 1e-12, "a NaN counts as wrong");
    assert_true(isnan(band_error(&b)));
}

static void test_summary(void **unused) {
    (void)unused;
    json_t *a =
        json_pack("[{s:s,s:i,s:f,s:n}, {s:s,s:i,s:f,s:n}, {s:s,s:i,s:n,s:n}]", "category", "chair", "id", 1, "chamfer",
                  1.0, "x", "category", "chair", "id", 2, "chamfer", 3.0, "x", "category", "", "id", 3, "chamfer", "x");
    assert_non_null(a);
    json_t *s = metrics_summary(a), *all = json_object_get(s, "overall"), *c = json_object_get(all, "chamfer");
    assert_int_equal(json_integer_value(json_object_get(all, "shapes")), 3);
    expect_le(fabs(json_number_value(json_object_get(c, "mean")) - 2), 1e-12, "mean");
    assert_int_equal(json_integer_value(json_object_get(c, "n")), 2);
    assert_null(json_object_get(all, "id"));
    assert_true(json_is_null(json_object_get(json_object_get(all, "x"), "mean")));
    json_t *none = json_object_get(json_object_get(s, "category"), "none");
    assert_true(json_is_null(json_object_get(json_object_get(none, "chamfer"), "mean")));
    json_decref(s);
    json_decref(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_mesh), cmocka_unit_test(test_two_spheres), cmocka_unit_test(test_missing_half),
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_nearest),     cmocka_unit_test(test_band),
        cmocka_unit_test(test_summary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
