#include "golden/net_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "gpu/hosted.h"

void net_load(rig *n, params *p, h5_file f, const char *group) {
    int    n_names;
    char **names = h5_list(f, h5_path("%s/weights", group), &n_names);
    rig_params(n, p);
    for (int i = 0; i < n_names; i++) {
        h5_dims d;
        float  *w = h5_f32(f, h5_path("%s/weights/%s", group, names[i]), &d);
        param  *r = params_find(p, names[i]);
        if (!r) fail_msg("%s: the table has no parameter %s", group, names[i]);
        assert_int_equal(d.rank, r->n_dims);
        for (int k = 0; k < d.rank; k++) assert_int_equal(d.n[k], r->dim[k]);
        rig_set_weight(p, r, w);
        free(w);
    }
    rig_weights_done(n, p);
    assert_int_equal(n_names, p->n);
    h5_list_free(names, n_names);
}

double net_bound(const rig *n, h5_file f, const char *path, const char *name) {
    char text[64];
    snprintf(text, sizeof text, "%s_%s", n->bf16 ? "bf16" : "fp32", name);
    return (n->bf16 ? NET_BOUND_16 : NET_BOUND) * h5_attr_double(f, path, text, NAN);
}

/* ---- what sim16 allows ---------------------------------------------------------------------------------------- */

enum { MOST_NOTES = 4096 };
static struct {
    bool on;
    int  n;
    struct {
        uint64_t what; /* hash of the text */
        double   error;
    } at[MOST_NOTES];
} notes;

void net_measure(bool on) {
    if (on) notes.n = 0;
    notes.on = on;
}

double net_judge(const rig *n, double error, double bound, const char *what) {
    uint64_t key = hash_text(what);
    if (notes.on) {
        CHECK(notes.n < MOST_NOTES, "more than %d comparisons in a case", MOST_NOTES);
        notes.at[notes.n].what = key;
        notes.at[notes.n++].error = error;
        return error / bound;
    }
    for (int i = 0; n->bf16 && i < notes.n; i++)
        if (notes.at[i].what == key) bound = fmax(bound, NET_BOUND_16 * notes.at[i].error);
    expect_le(error, bound, what);
    return error / bound;
}

double net_compare(rig *n, h5_file f, const char *path, const tensor *got) {
    h5_dims      d;
    float       *want = h5_f32(f, path, &d);
    const float *x = rig_f32(n, got);
    assert_int_equal(d.count, tensor_count(got));
    /* Where the result is nothing but errors, the largest of a few dozen of them: three times in place of twice. */
    bool   zero = h5_attr_double(f, path, "analytically_zero", 0) != 0;
    double more = zero && n->bf16 ? 1.5 : 1;
    double worst = net_judge(n, max_abs(x, want, d.count) / more, net_bound(n, f, path, "max_abs"),
                             h5_path("%s, largest error", path));
    if (!zero)
        worst = fmax(worst, net_judge(n, rel_l2(x, want, d.count), net_bound(n, f, path, "rel_l2"),
                                      h5_path("%s, relative L2", path)));
    free(want);
    return worst;
}

double net_compare_rel(rig *n, h5_file f, const char *path, const tensor *got, double bound) {
    h5_dims d;
    float  *want = h5_f32(f, path, &d);
    assert_int_equal(d.count, tensor_count(got));
    double r = net_judge(n, rel_l2(rig_f32(n, got), want, d.count), bound, h5_path("%s, relative L2", path));
    free(want);
    return r;
}

double net_compare_grads(rig *n, h5_file f, const char *group, const params *p) {
    double worst = 0;
    int    n_names;
    char **names = h5_list(f, h5_path("%s/grads", group), &n_names);
    for (int i = 0; i < n_names; i++) {
        param *r = params_find(p, names[i]);
        if (!r) fail_msg("%s: the table has no parameter %s", group, names[i]);
        worst = fmax(worst, net_compare(n, f, h5_path("%s/grads/%s", group, names[i]), &r->g));
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

static void (*case_fn)(void **state);

static void run_case(void **state) {
    net_case k = *(const net_case *)*state;
    void    *p = &k;
    net_measure(true);
    if (strcmp(k.backend, "gpu bf16") == 0) {
        k.backend = "sim bf16";
        case_fn(&p);
        k.backend = "gpu bf16";
    }
    net_measure(false);
    case_fn(&p);
}

int net_run_cases(int argc, char **argv, const char *name, void (*fn)(void **state)) {
    enum { N_BACKENDS = 2 };
    const char *const *backends = hosted_names(argc, argv);
    if (!backends) return test_exit(0);
    h5_file            f = h5_open(golden_path(name));
    int                n_groups;
    char             **groups = h5_list(f, "/", &n_groups);
    int                n = n_groups * N_BACKENDS;
    net_case          *cases = calloc((size_t)n + 1, sizeof *cases);
    struct CMUnitTest *tests = calloc((size_t)n + 1, sizeof *tests);
    char(*titles)[160] = calloc((size_t)n + 1, sizeof *titles);
    CHECK(cases && tests && titles && n > 0, "no case in %s.h5", name);
    case_fn = fn;
    for (int i = 0; i < n; i++) {
        cases[i] = (net_case){.f = f, .group = groups[i / N_BACKENDS], .backend = backends[i % N_BACKENDS]};
        snprintf(titles[i], sizeof titles[i], "%s on %s", cases[i].group, cases[i].backend);
        tests[i] = (struct CMUnitTest){.name = titles[i], .test_func = run_case, .initial_state = &cases[i]};
    }
    int failed = _cmocka_run_group_tests(name, tests, (size_t)n, NULL, NULL);
    free(cases);
    free(tests);
    free(titles);
    h5_list_free(groups, n_groups);
    h5_close(f);
    return test_exit(failed);
}
