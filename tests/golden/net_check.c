#include "golden/net_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void net_load(rig *n, params *p, h5_file f, const char *group) {
    int    n_names;
    char **names = h5_list(f, h5_path("%s/weights", group), &n_names);
    params_alloc(p, &n->weights, true, false);
    for (int i = 0; i < n_names; i++) {
        h5_dims d;
        float  *w = h5_f32(f, h5_path("%s/weights/%s", group, names[i]), &d);
        param  *r = params_find(p, names[i]);
        if (!r) fail_msg("%s: the table has no parameter %s", group, names[i]);
        assert_int_equal(d.rank, r->n_dims);
        for (int k = 0; k < d.rank; k++) assert_int_equal(d.n[k], r->dim[k]);
        memcpy(r->w.data, w, (size_t)d.count * sizeof *w);
        free(w);
    }
    assert_int_equal(n_names, p->n);
    h5_list_free(names, n_names);
}

double net_compare(h5_file f, const char *path, const float *got, int64_t n) {
    h5_dims d;
    float  *want = h5_f32(f, path, &d);
    assert_int_equal(d.count, n);
    double rel_bound = NET_BOUND * h5_attr_double(f, path, "fp32_rel_l2", NAN);
    double abs_bound = NET_BOUND * h5_attr_double(f, path, "fp32_max_abs", NAN);
    double rel = rel_l2(got, want, n), abs = max_abs(got, want, n), worst = abs / abs_bound;
    expect_le(abs, abs_bound, h5_path("%s, largest error", path));
    if (h5_attr_double(f, path, "analytically_zero", 0) == 0) {
        expect_le(rel, rel_bound, h5_path("%s, relative L2", path));
        worst = fmax(worst, rel / rel_bound);
    }
    free(want);
    return worst;
}

double net_compare_rel(h5_file f, const char *path, const float *got, int64_t n, double bound) {
    h5_dims d;
    float  *want = h5_f32(f, path, &d);
    assert_int_equal(d.count, n);
    double rel = rel_l2(got, want, n);
    expect_le(rel, bound, h5_path("%s, relative L2", path));
    free(want);
    return rel / bound;
}

double net_compare_grads(h5_file f, const char *group, const params *p) {
    double worst = 0;
    int    n_names;
    char **names = h5_list(f, h5_path("%s/grads", group), &n_names);
    for (int i = 0; i < n_names; i++) {
        param *r = params_find(p, names[i]);
        if (!r) fail_msg("%s: the table has no parameter %s", group, names[i]);
        worst = fmax(worst, net_compare(f, h5_path("%s/grads/%s", group, names[i]), F32(&r->g), r->count));
    }
    assert_int_equal(n_names, p->n);
    h5_list_free(names, n_names);
    return worst;
}

tensor net_f32(arena *a, h5_file f, const char *path) {
    h5_dims d;
    float  *x = h5_f32(f, path, &d);
    CHECK(d.rank <= TENSOR_MAX_DIMS, "%s has %d dims", path, d.rank);
    tensor t = arena_tensor(a, DT_F32, d.n, d.rank);
    memcpy(t.data, x, (size_t)d.count * sizeof *x);
    free(x);
    return t;
}

void net_coords(arena *a, h5_file f, const char *path, int n_samples, tensor *coord, tensor *first) {
    h5_dims  d;
    int32_t *x = h5_i32(f, path, &d);
    CHECK(d.rank == 2 && d.n[1] == 4, "%s is not (N,4)", path);
    int64_t n = d.n[0];
    if (n_samples < 0) n_samples = n ? x[4 * (n - 1)] + 1 : 0;
    *coord = arena_tensor(a, DT_I32, DIMS(n, 3));
    *first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    memset(first->data, 0, tensor_bytes(first));
    for (int64_t i = 0; i < n; i++) {
        CHECK(x[4 * i] < n_samples && (i == 0 || x[4 * i] >= x[4 * i - 4]), "%s: row %lld of sample %d", path,
              (long long)i, x[4 * i]);
        I32(first)[x[4 * i] + 1]++;
        memcpy(I32(coord) + 3 * i, x + 4 * i + 1, 3 * sizeof *x);
    }
    for (int s = 0; s < n_samples; s++) I32(first)[s + 1] += I32(first)[s];
    free(x);
}

int net_int(h5_file f, const char *group, const char *name) {
    return (int)h5_attr_double(f, group, name, NAN);
}

int net_run_cases(const char *name, void (*fn)(void **state)) {
    static const char *const backends[] = {"ref", "cpu"};
    enum { N_BACKENDS = sizeof backends / sizeof *backends };
    h5_file            f = h5_open(golden_path(name));
    int                n_groups;
    char             **groups = h5_list(f, "/", &n_groups);
    int                n = n_groups * N_BACKENDS;
    net_case          *cases = calloc((size_t)n + 1, sizeof *cases);
    struct CMUnitTest *tests = calloc((size_t)n + 1, sizeof *tests);
    char(*titles)[160] = calloc((size_t)n + 1, sizeof *titles);
    CHECK(cases && tests && titles && n > 0, "no case in %s.h5", name);
    for (int i = 0; i < n; i++) {
        cases[i] = (net_case){.f = f, .group = groups[i / N_BACKENDS], .backend = backends[i % N_BACKENDS]};
        snprintf(titles[i], sizeof titles[i], "%s on %s", cases[i].group, cases[i].backend);
        tests[i] = (struct CMUnitTest){.name = titles[i], .test_func = fn, .initial_state = &cases[i]};
    }
    int failed = _cmocka_run_group_tests(name, tests, (size_t)n, NULL, NULL);
    free(cases);
    free(tests);
    free(titles);
    h5_list_free(groups, n_groups);
    h5_close(f);
    return failed;
}
