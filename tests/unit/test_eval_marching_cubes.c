/* Marching cubes: the table of cells, closed surfaces of analytic fields, partial tiles, noise. */
#include "eval/marching_cubes.h"
#include "eval/mc_table.h"
#include "harness/harness.h"
#include "sparse/grid.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields and tiles ------------------------------------------------------------------------------------------ */

typedef double (*field)(const double p[3]); /* signed distance in the [-1,1] frame */

static double sphere(const double p[3]) {
    return sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) - 0.6;
}

static double torus(const double p[3]) {
    double q = hypot(p[0], p[1]) - 0.55;
    return hypot(q, p[2]) - 0.2;
}

static double box(const double p[3]) {
    const double h[3] = {0.503, 0.307, 0.611};
    double       out = 0, in = -1;
    for (int a = 0; a < 3; a++) {
        double d = fabs(p[a]) - h[a];
        out += d > 0 ? d * d : 0;
        in = fmax(in, d);
    }
    return out > 0 ? sqrt(out) : in;
}

typedef struct {
    int32_t *coord;
    float   *value;
    int64_t  n;
} tiles;

/* Tiles with a voxel of |value| < 1, all of them if `every`. tau in voxels. */
static tiles make_tiles(field f, int r, double tau, bool every) {
    int   side = r / 8;
    tiles t = {malloc(sizeof(int32_t) * 3 * (size_t)(side * side * side)),
               malloc(sizeof(float) * 512 * (size_t)(side * side * side)), 0};
    for (int k = 0; k < side * side * side; k++) {
        int    x[3] = {k / side / side, k / side % side, k % side};
        bool   active = every;
        float *v = t.value + 512 * t.n;
        for (int c = 0; c < 512; c++) {
            int o[3];
            morton_decode(c, &o[0], &o[1], &o[2]);
            double p[3];
            for (int a = 0; a < 3; a++) p[a] = 2.0 * (8 * x[a] + o[a]) / (r - 1) - 1;
            v[c] = (float)fmin(fmax(f(p) * (r - 1) / 2 / tau, -1), 1);
            active = active || fabsf(v[c]) < 1;
        }
        if (!active) continue;
        for (int a = 0; a < 3; a++) t.coord[3 * t.n + a] = x[a];
        t.n++;
    }
    return t;
}

static void free_tiles(tiles *t) {
    free(t->coord);
    free(t->value);
}

/* ---- what a mesh is -------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t open, doubled, many; /* edges of one face; directed edges that repeat; edges of three and more faces */
    int64_t euler;
    double  volume;
} shape;

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static shape judge(const mesh *m) {
    shape     s = {0};
    int64_t   n = 3 * m->n_faces, n_edges = 0;
    uint64_t *e = malloc(sizeof *e * (size_t)(n + 1)), *u = malloc(sizeof *u * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) {
        uint64_t a = (uint64_t)m->face[i], b = (uint64_t)m->face[i % 3 == 2 ? i - 2 : i + 1];
        assert_true(a < (uint64_t)m->n_vertices && a != b);
        e[i] = a << 32 | b;
        u[i] = a < b ? a << 32 | b : b << 32 | a;
    }
    qsort(e, (size_t)n, sizeof *e, compare_u64);
    qsort(u, (size_t)n, sizeof *u, compare_u64);
    for (int64_t i = 1; i < n; i++) s.doubled += e[i] == e[i - 1];
    for (int64_t i = 0, j; i < n; i = j) {
        for (j = i; j < n && u[j] == u[i]; j++) {
        }
        n_edges++;
        s.open += j - i == 1;
        s.many += j - i > 2;
    }
    s.euler = m->n_vertices - n_edges + m->n_faces;
    for (int64_t i = 0; i < m->n_faces; i++) {
        const float *a = m->position + 3 * (int64_t)m->face[3 * i], *b = m->position + 3 * (int64_t)m->face[3 * i + 1],
                    *c = m->position + 3 * (int64_t)m->face[3 * i + 2];
        s.volume +=
            (a[0] * ((double)b[1] * c[2] - (double)b[2] * c[1]) + a[1] * ((double)b[2] * c[0] - (double)b[0] * c[2]) +
             a[2] * ((double)b[0] * c[1] - (double)b[1] * c[0])) /
            6;
    }
    free(e);
    free(u);
    return s;
}

static void expect_closed(const mesh *m, int64_t euler) {
    shape s = judge(m);
    assert_int_equal(s.open, 0);
    assert_int_equal(s.doubled, 0);
    assert_int_equal(s.many, 0);
    assert_int_equal(s.euler, euler);
}

/* Largest distance of a vertex from the level set, in voxels; normals against the gradient by differences. */
static double worst_distance(const mesh *m, field f, int r, double tau, double level, double *worst_cos) {
    double worst = 0;
    *worst_cos = 1;
    for (int64_t i = 0; i < m->n_vertices; i++) {
        double p[3], g[3], n = 0, dot = 0;
        for (int a = 0; a < 3; a++) p[a] = (double)m->position[3 * i + a];
        worst = fmax(worst, fabs(f(p) * (r - 1) / 2 - level * tau));
        for (int a = 0; a < 3; a++) {
            double lo[3] = {p[0], p[1], p[2]}, hi[3] = {p[0], p[1], p[2]};
            lo[a] -= 1e-4, hi[a] += 1e-4;
            g[a] = f(hi) - f(lo);
            n += g[a] * g[a];
            dot += g[a] * (double)m->normal[3 * i + a];
        }
        *worst_cos = fmin(*worst_cos, dot / sqrt(n));
    }
    return worst;
}

/* ---- tests ----------------------------------------------------------------------------------------------------- */

static bool on_one_face(int a, int b) {
    for (int f = 0; f < MC_FACES; f++) {
        int hits = 0;
        for (int i = 0; i < 4; i++) {
            int p = mc_face_corner[f][i], q = mc_face_corner[f][(i + 1) % 4];
            for (int k = 0; k < 2; k++) {
                int e = k ? b : a;
                hits += (mc_edge_corner[e][0] == p && mc_edge_corner[e][1] == q) ||
                        (mc_edge_corner[e][0] == q && mc_edge_corner[e][1] == p);
            }
        }
        if (hits == 2) return true;
    }
    return false;
}

/* Every case with every decision: triangles use exactly the crossed edges; inner edges are used once in each direction,
 * outer ones once and lie on a face; no inner edge lies on a face. */
static void test_table(void **unused) {
    (void)unused;
    mc_table_build();
    int n_cases = 0;
    for (int inside = 0; inside < 256; inside++)
        for (int joined = 0; joined < 64; joined++) {
            if (joined & ~mc_ambiguous(inside)) continue;
            n_cases++;
            const mc_case *c = mc_lookup(inside, joined);
            int            uses[13][13] = {{0}}, touched = 0, crossed = 0;
            for (int i = 0; i < c->n_triangles; i++)
                for (int k = 0; k < 3; k++) {
                    uses[c->triangle[i][k]][c->triangle[i][(k + 1) % 3]]++;
                    touched |= 1 << c->triangle[i][k];
                }
            for (int e = 0; e < MC_EDGES; e++)
                crossed |= ((inside >> mc_edge_corner[e][0] ^ inside >> mc_edge_corner[e][1]) & 1) << e;
            assert_int_equal(touched & 0xfff, crossed);
            assert_int_equal(touched >> MC_CENTER, c->n_center > 0);
            int rim[13] = {0};
            for (int a = 0; a < 13; a++)
                for (int b = 0; b < 13; b++) {
                    if (!uses[a][b]) continue;
                    assert_int_equal(uses[a][b], 1);
                    bool flat = a < MC_CENTER && b < MC_CENTER && on_one_face(a, b);
                    assert_int_equal(uses[b][a], !flat);
                    rim[a] += flat;
                }
            for (int e = 0; e < MC_EDGES; e++) assert_int_equal(rim[e], crossed >> e & 1);
        }
    assert_int_equal(n_cases > 256, 1);
}

static void test_single_corner_points_outward(void **unused) {
    (void)unused;
    float         v[512];
    const int32_t at[3] = {0, 0, 0};
    mesh          m;
    for (int i = 0; i < 512; i++) v[i] = 1;
    v[morton_encode(4, 4, 4)] = -1;
    marching_cubes(at, v, 1, &(mc_options){8, 0.0, 0}, &m);
    expect_closed(&m, 2);
    assert_int_equal(m.n_vertices, 6);
    assert_int_equal(m.n_faces, 8);
    expect_le(fabs(judge(&m).volume - pow(2.0 / 7, 3) / 6), 1e-7, "octahedron of half a voxel");
    mesh_free(&m);
}

static void closed_surface(field f, int r, double tau, double level, int64_t euler, double volume, double sharp) {
    tiles  t = make_tiles(f, r, tau, false);
    mesh   m;
    double cosine;
    assert_true(t.n > 0 && t.n < (int64_t)(r / 8) * (r / 8) * (r / 8));
    marching_cubes(t.coord, t.value, t.n, &(mc_options){r, level, tau}, &m);
    expect_closed(&m, euler);
    expect_le(worst_distance(&m, f, r, tau, level, &cosine), sharp, "distance to the surface, voxels");
    if (volume > 0) {
        expect_le(fabs(judge(&m).volume / volume - 1), 0.02, "volume");
        expect_le(1 - cosine, 0.01, "normal");
    }
    mesh_free(&m);
    free_tiles(&t);
}

static void test_sphere(void **unused) {
    (void)unused;
    closed_surface(sphere, 64, 4, 0.0, 2, 4.0 / 3 * M_PI * 0.216, 0.03);
    double shift = 0.2 * 4 * 2 / 63;
    closed_surface(sphere, 64, 4, 0.2, 2, 4.0 / 3 * M_PI * pow(0.6 + shift, 3), 0.03);
}

static void test_torus(void **unused) {
    (void)unused;
    closed_surface(torus, 64, 4, 0.0, 0, 2 * M_PI * M_PI * 0.55 * 0.04, 0.05);
}

/* Linear interpolation cuts the edges of a box by at most the value's bend inside one cell. */
static void test_box(void **unused) {
    (void)unused;
    closed_surface(box, 64, 4, 0.0, 2, 0, 0.75);
    closed_surface(box, 64, 4, 0.2, 2, 0, 0.75);
}

/* tau = 1.5 voxels: the surface at 0.2 comes within a cell of tiles that are not active. */
static void test_narrow_band(void **unused) {
    (void)unused;
    tiles  t = make_tiles(sphere, 64, 1.5, false);
    mesh   m;
    double cosine;
    marching_cubes(t.coord, t.value, t.n, &(mc_options){64, 0.2, 0}, &m);
    assert_true(judge(&m).open > 0);
    mesh_free(&m);
    marching_cubes(t.coord, t.value, t.n, &(mc_options){64, 0.2, 1.5}, &m);
    expect_closed(&m, 2);
    expect_le(worst_distance(&m, sphere, 64, 1.5, 0.2, &cosine), 0.25, "distance to the surface, voxels");
    mesh_free(&m);
    free_tiles(&t);
}

/* A part of the tiles gives a part of the surface: open, without a wall, every vertex still on the sphere. */
static void test_part(void **unused) {
    (void)unused;
    for (double tau = 0; tau < 5; tau += 4) {
        tiles   t = make_tiles(sphere, 64, 4, false);
        int64_t n = 0;
        mesh    m;
        double  cosine;
        for (int64_t i = 0; i < t.n; i++)
            if ((t.coord[3 * i] + t.coord[3 * i + 1]) % 4 < 3) {
                memmove(t.coord + 3 * n, t.coord + 3 * i, 3 * sizeof *t.coord);
                memmove(t.value + 512 * n++, t.value + 512 * i, 512 * sizeof *t.value);
            }
        assert_true(n > 0 && n < t.n);
        marching_cubes(t.coord, t.value, n, &(mc_options){64, 0.0, tau}, &m);
        shape s = judge(&m);
        assert_true(s.open > 0);
        assert_int_equal(s.doubled + s.many, 0);
        expect_le(worst_distance(&m, sphere, 64, 4, 0, &cosine), 0.03, "no wall");
        mesh_free(&m);
        free_tiles(&t);
    }
}

/* White noise visits all cases and all decisions: no edge of three faces, no wrong turn, open only at the border. */
static void test_noise(void **unused) {
    (void)unused;
    const int r = 24;
    tiles     t = make_tiles(sphere, r, 4, true);
    mesh      m;
    rng_fill_uniform((rng_key){7, RNG_TEST, 0, 0}, 0, 512 * t.n, -1, 1, t.value);
    for (int i = 0; i < 3; i++) {
        const double level[3] = {0, 0.2, -0.7};
        marching_cubes(t.coord, t.value, t.n, &(mc_options){r, level[i], 0}, &m);
        shape s = judge(&m);
        assert_true(m.n_faces > 1000);
        assert_int_equal(s.doubled, 0);
        assert_int_equal(s.many, 0);
        mesh_free(&m);
    }
    /* A shell of outside values closes everything. */
    for (int64_t k = 0; k < t.n; k++)
        for (int c = 0; c < 512; c++) {
            int o[3], lo = r, hi = 0;
            morton_decode(c, &o[0], &o[1], &o[2]);
            for (int a = 0; a < 3; a++) {
                int x = 8 * t.coord[3 * k + a] + o[a];
                lo = x < lo ? x : lo, hi = x > hi ? x : hi;
            }
            if (lo == 0 || hi == r - 1) t.value[512 * k + c] = 1;
        }
    marching_cubes(t.coord, t.value, t.n, &(mc_options){r, 0, 0}, &m);
    assert_int_equal(judge(&m).open, 0);
    mesh_free(&m);
    /* The same tiles in another order give the same mesh, up to nothing. */
    mesh  again;
    tiles u = {malloc(sizeof(int32_t) * 3 * (size_t)t.n), malloc(sizeof(float) * 512 * (size_t)t.n), t.n};
    for (int64_t i = 0; i < t.n; i++) {
        memcpy(u.coord + 3 * i, t.coord + 3 * (t.n - 1 - i), 12);
        memcpy(u.value + 512 * i, t.value + 512 * (t.n - 1 - i), 2048);
    }
    marching_cubes(t.coord, t.value, t.n, &(mc_options){r, 0, 0}, &m);
    marching_cubes(u.coord, u.value, u.n, &(mc_options){r, 0, 0}, &again);
    assert_int_equal(m.n_faces, again.n_faces);
    assert_memory_equal(m.face, again.face, sizeof(int32_t) * 3 * (size_t)m.n_faces);
    assert_memory_equal(m.position, again.position, sizeof(float) * 3 * (size_t)m.n_vertices);
    mesh_free(&m);
    mesh_free(&again);
    free_tiles(&t);
    free_tiles(&u);
}

/* Exact zeros and values at the level keep the mesh closed and its triangles apart. */
static void test_values_at_the_level(void **unused) {
    (void)unused;
    tiles t = make_tiles(sphere, 16, 4, true);
    mesh  m;
    for (int64_t i = 0; i < 512 * t.n; i++) t.value[i] = roundf(2 * t.value[i]) / 2;
    marching_cubes(t.coord, t.value, t.n, &(mc_options){16, 0, 0}, &m);
    expect_closed(&m, 2);
    for (int64_t i = 0; i < 3 * m.n_vertices; i++) assert_true(isfinite(m.position[i]) && isfinite(m.normal[i]));
    mesh_free(&m);
    free_tiles(&t);
}

static void test_empty_and_nan(void **unused) {
    (void)unused;
    mesh m;
    marching_cubes(NULL, NULL, 0, &(mc_options){64, 0.2, 2}, &m);
    assert_int_equal(m.n_faces + m.n_vertices, 0);
    mesh_free(&m);
    tiles t = make_tiles(sphere, 32, 4, true);
    for (int64_t i = 0; i < 512 * t.n; i++) t.value[i] = NAN;
    marching_cubes(t.coord, t.value, t.n, &(mc_options){32, 0.2, 0}, &m);
    assert_int_equal(m.n_faces + m.n_vertices, 0);
    mesh_free(&m);
    for (int64_t i = 0; i < 512 * t.n; i++) t.value[i] = 1;
    marching_cubes(t.coord, t.value, t.n, &(mc_options){32, 0.2, 4}, &m);
    assert_int_equal(m.n_faces, 0);
    mesh_free(&m);
    free_tiles(&t);
}

static void bad_level(void *arg) {
    mesh m;
    marching_cubes(NULL, NULL, 0, &(mc_options){64, *(double *)arg, 2}, &m);
}

static void bad_tile(void *arg) {
    float v[1024] = {0};
    mesh  m;
    marching_cubes(arg, v, 2, &(mc_options){16, 0, 0}, &m);
}

static void test_bugs_are_fatal(void **unused) {
    (void)unused;
    double  level = 1;
    int32_t outside[6] = {0, 0, 0, 0, 2, 0}, twice[6] = {0, 1, 0, 0, 1, 0};
    assert_non_null(strstr(expect_fatal(bad_level, &level), "level 1"));
    level = NAN;
    assert_non_null(expect_fatal(bad_level, &level));
    assert_non_null(strstr(expect_fatal(bad_tile, outside), "(0,2,0)"));
    assert_non_null(strstr(expect_fatal(bad_tile, twice), "one place"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_single_corner_points_outward),
        cmocka_unit_test(test_sphere),
        cmocka_unit_test(test_torus),
        cmocka_unit_test(test_box),
        cmocka_unit_test(test_narrow_band),
        cmocka_unit_test(test_part),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_values_at_the_level),
        cmocka_unit_test(test_empty_and_nan),
        cmocka_unit_test(test_bugs_are_fatal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
