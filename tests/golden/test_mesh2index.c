/* mesh2index.h5: normalisation, unsigned distance band on a grid, selected voxels, latent voxels, block order. */
#include "data_prep/bvh.h"
#include "data_prep/normalize.h"
#include "data_prep/sdf.h"
#include "harness/h5.h"
#include "harness/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static h5_file file;
static char  **cases;
static int     n_cases;

static int open_file(void **state) {
    (void)state;
    file = h5_open(golden_path("mesh2index"));
    cases = h5_list(file, "/", &n_cases);
    return 0;
}

static int close_file(void **state) {
    (void)state;
    h5_list_free(cases, n_cases);
    h5_close(file);
    return 0;
}

static double number(const char *name, const char *what) {
    return h5_attr_double(file, name, what, NAN);
}

static mesh read_mesh(const char *name, double center[3], double *scale) {
    mesh    m = {0};
    h5_dims dv, df;
    status  st = {0};
    m.position = h5_f32(file, h5_path("%s/in/vertices", name), &dv);
    m.face = h5_i32(file, h5_path("%s/in/faces", name), &df);
    m.n_vertices = dv.n[0];
    m.n_faces = df.n[0];
    assert_true(normalize_of(&m, name, center, scale, &st));
    return m;
}

static void test_normalise(void **state) {
    (void)state;
    for (int i = 0; i < n_cases; i++) {
        double  center[3], scale, worst = 0;
        mesh    m = read_mesh(cases[i], center, &scale);
        double *v = h5_f64(file, h5_path("%s/in/vertices", cases[i]), NULL),
               *want = h5_f64(file, h5_path("%s/out/vertices_normalized", cases[i]), NULL);
        for (int64_t k = 0; k < 3 * m.n_vertices; k++)
            worst = fmax(worst, fabs((v[k] - center[k % 3]) * scale - want[k]));
        expect_le(worst, 2e-7, "normalised vertices"); /* centre and scale come from float vertices */
        free(v), free(want);
        mesh_free(&m);
    }
}

/* Distance at grid points: from the program's field, which has whole tiles of 8^3 points only, or from its search tree
 * when the file's grid is no multiple of 8. +inf where the field has no tile or nothing is near. */
typedef struct {
    int       size;
    bool      tiles;
    double    limit;
    sdf_field f;
    bvh      *tree;
} distances;

static double distance_at(const distances *d, const int32_t c[3]) {
    if (!d->tiles) {
        double p[3];
        for (int k = 0; k < 3; k++) p[k] = (double)c[k] / (d->size - 1) - 0.5;
        return bvh_distance(d->tree, p, d->limit);
    }
    int64_t T = d->size / 8, tile = d->f.tile_at[(c[0] / 8 * T + c[1] / 8) * T + c[2] / 8];
    return tile < 0 ? INFINITY : (double)d->f.s[512 * tile + c[0] % 8 * 64 + c[1] % 8 * 8 + c[2] % 8];
}

/* Distances of the whole band, found in a band as wide as the stored one. */
static void test_band(void **state) {
    (void)state;
    for (int i = 0; i < n_cases; i++) {
        const char *name = cases[i];
        int         D = (int)number(name, "size");
        double      threshold = number(name, "threshold_voxels"), center[3], scale, widest = 0, worst = 0;
        h5_dims     db, ds;
        int32_t    *band = h5_i32(file, h5_path("%s/out/band_index", name), &db),
                *selected = h5_i32(file, h5_path("%s/out/selected_index", name), &ds),
                *stored = h5_i32(file, h5_path("%s/out/selected_udf_int", name), NULL);
        double *distance = h5_f64(file, h5_path("%s/out/band_distance", name), NULL);
        for (int64_t k = 0; k < db.n[0]; k++) widest = fmax(widest, distance[k]);
        mesh m = read_mesh(name, center, &scale);
        normalize_apply(&m, center, scale);
        sdf_shape   shape;
        status      st = {0};
        distances   d = {.size = D, .tiles = D >= 16 && D % 8 == 0, .limit = widest + 1.0 / D};
        sdf_options o = sdf_default_options(D, ceil(widest * D) + 1);
        o.unsigned_only = true;
        assert_true(sdf_shape_build(&m, &o, name, &shape, &st));
        d.tree = &shape.tree;
        if (d.tiles) assert_true(sdf_field_build(&shape, &o, name, &d.f, &st));
        for (int64_t k = 0; k < db.n[0]; k++) worst = fmax(worst, fabs(distance_at(&d, band + 3 * k) - distance[k]));
        expect_le(worst, 3e-7, "band distance"); /* float vertices after normalisation: 0.5 * 2^-24 * a few */
        int64_t n = 0;
        for (int x = 0; x < D; x++)
            for (int y = 0; y < D; y++)
                for (int z = 0; z < D; z++) {
                    int32_t c[3] = {x, y, z};
                    double  u = distance_at(&d, c);
                    if (!(u < threshold / D)) continue;
                    assert_true(n < ds.n[0]);
                    assert_memory_equal(c, selected + 3 * n, sizeof c);
                    assert_true(abs((int32_t)(1e7 * u) - stored[n]) <= 3);
                    n++;
                }
        assert_int_equal(n, ds.n[0]);
        free(band), free(selected), free(stored), free(distance);
        if (d.tiles) sdf_field_free(&d.f);
        sdf_shape_free(&shape);
        mesh_free(&m);
    }
}

typedef struct {
    uint64_t key;
    int32_t  c[3];
} entry;

static int by_key(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

/* Divide, unique, sort by the order key of R§4.2; block 0 stands for plain lexicographic order. */
static int64_t latent(const int32_t *selected, int64_t n, int factor, int block, entry **out) {
    entry  *e = malloc((size_t)n * sizeof *e);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int a = 0; a < 3; a++) e[i].c[a] = selected[3 * i + a] / factor;
        e[i].key = sdf_order_key(e[i].c[0], e[i].c[1], e[i].c[2], block ? block : 1);
    }
    qsort(e, (size_t)n, sizeof *e, by_key);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || e[i].key != e[i - 1].key) e[k++] = e[i];
    *out = e;
    return k;
}

static void test_latent_order(void **state) {
    (void)state;
    int n_checked = 0;
    for (int i = 0; i < n_cases; i++) {
        h5_dims  ds;
        int32_t *selected = h5_i32(file, h5_path("%s/out/selected_index", cases[i]), &ds);
        int      n_names;
        char   **name = h5_list(file, h5_path("%s/out", cases[i]), &n_names);
        for (int k = 0; k < n_names; k++) {
            int factor = 0, block = 0;
            if (sscanf(name[k], "sorted_factor%d_block%d", &factor, &block) != 2 &&
                sscanf(name[k], "latent_index_factor%d", &factor) != 1)
                continue;
            h5_dims  d;
            int32_t *want = h5_i32(file, h5_path("%s/out/%s", cases[i], name[k]), &d);
            entry   *e;
            int64_t  n = latent(selected, ds.n[0], factor, block, &e);
            assert_int_equal(n, d.n[0]);
            for (int64_t r = 0; r < n; r++) assert_memory_equal(e[r].c, want + 4 * r + 1, sizeof e[r].c);
            n_checked++;
            free(want), free(e);
        }
        h5_list_free(name, n_names);
        free(selected);
    }
    assert_true(n_checked > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normalise), cmocka_unit_test(test_band),
                                       cmocka_unit_test(test_latent_order)};
    return cmocka_run_group_tests_name("mesh2index", tests, open_file, close_file);
}
