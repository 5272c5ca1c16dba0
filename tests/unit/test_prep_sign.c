/* Signs of damaged shapes against the analytic sign, in the band where they are stored: faces missing, flipped and
 * repeated, sides cut apart, sides that meet in T-junctions, layers of two sheets. */
#include "data_prep/sdf.h"
#include "harness/harness.h"
#include "unit/prep_shapes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double BOX[3] = {0.45, 0.3, 0.35}, BALL = 0.42, TORUS[2] = {0.3, 0.12}; /* unit cube */
static const double OTHER[3] = {0.18, 0.1, 0.2}, CENTER[3] = {0.3, 0.22, 0.1};       /* a ball stuck in the box */

static double box_at(const double p[3]) {
    double out = 0, in = -INFINITY;
    for (int a = 0; a < 3; a++) {
        double q = fabs(p[a]) - BOX[a];
        out += q > 0 ? q * q : 0;
        in = fmax(in, q);
    }
    return out > 0 ? sqrt(out) : in;
}

static double ball_at(const double p[3]) {
    return sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) - BALL;
}

static double torus_at(const double p[3]) {
    return hypot(hypot(p[0], p[1]) - TORUS[0], p[2]) - TORUS[1];
}

static double union_at(const double p[3]) {
    double q[3] = {p[0] - CENTER[0], p[1] - CENTER[1], p[2] - CENTER[2]};
    return fmin(box_at(p), sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2]) - OTHER[0]);
}

static mesh make_box(int cells) {
    const double half[3] = {2 * BOX[0], 2 * BOX[1], 2 * BOX[2]};
    return shape_box(half, cells);
}

static mesh make_shape(int kind) {
    const double zero[3] = {0, 0, 0}, c[3] = {2 * CENTER[0], 2 * CENTER[1], 2 * CENTER[2]};
    if (kind == 0) return make_box(12);
    if (kind == 1) return shape_sphere(zero, 2 * BALL, 5);
    if (kind == 2) return shape_torus(2 * TORUS[0], 2 * TORUS[1], 96, 48);
    return shape_join(make_box(12), shape_sphere(c, 2 * OTHER[0], 5));
}

typedef double (*distance)(const double p[3]);
static const distance    TRUE_DISTANCE[4] = {box_at, ball_at, torus_at, union_at};
static const char *const SHAPE[4] = {"box", "ball", "torus", "box and ball"};
static const double      BLUR[4] = {1e-6, 3e-4, 5e-4, 3e-4}; /* of the facets, unit cube */

/* Share of the voxels with blur < |d| < band whose sign is right. */
static double agreement(mesh m, int R, distance d, double blur) {
    sdf_options o = sdf_default_options(R, 2);
    sdf_shape   s;
    sdf_field   f;
    status      st = {0};
    if (!sdf_shape_build(&m, &o, "shape", &s, &st) || !sdf_field_build(&s, &o, "shape", &f, &st))
        fail_msg("%s", st.text);
    int64_t n = 0, right = 0;
    for (int x = 0; x < R; x++)
        for (int y = 0; y < R; y++)
            for (int z = 0; z < R; z++) {
                const double p[3] = {x / (R - 1.0) - 0.5, y / (R - 1.0) - 0.5, z / (R - 1.0) - 0.5};
                double       want = d(p);
                if (fabs(want) <= blur || fabs(want) > f.band) continue;
                int     T = R / 8;
                int32_t t = f.tile_at[((int64_t)(x / 8) * T + y / 8) * T + z / 8];
                float got = t < 0 ? (t == -1 ? 1.f : -1.f) : f.s[512 * (int64_t)t + 64 * (x % 8) + 8 * (y % 8) + z % 8];
                n++;
                right += (got > 0) == (want > 0);
            }
    sdf_field_free(&f);
    mesh_free(&m);
    sdf_shape_free(&s);
    return (double)right / (double)n;
}

static void expect(const char *what, const char *shape, double got, double least) {
    printf("%-24s %-14s %.5f\n", what, shape, got);
    if (!(got >= least)) fail_msg("%s, %s: %.5f of the signs are right, not %.4f", shape, what, got, least);
}

static void test_whole(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++)
        expect("whole", SHAPE[k], agreement(make_shape(k), 64, TRUE_DISTANCE[k], BLUR[k]), 0.9999);
}

static void test_missing_and_flipped(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        mesh m = make_shape(k);
        shape_damage(&m, 0.01, 0.2, 11 + (uint64_t)k);
        expect("missing, flipped", SHAPE[k], agreement(m, 64, TRUE_DISTANCE[k], 2 * BLUR[k] + 1e-6), 0.99);
    }
}

/* Pieces of their own, drawn together by 1 % so that gaps open between them. */
static void test_split(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        mesh m = make_shape(k);
        shape_split(&m, 3, 0.99);
        expect("split", SHAPE[k], agreement(m, 64, TRUE_DISTANCE[k], BLUR[k] + 2e-3), 0.99);
    }
}

/* Every third face again the other way round, and all of it again a little larger. */
static void test_repeated(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        mesh m = make_shape(k);
        shape_repeat(&m, 3);
        expect("faces repeated", SHAPE[k], agreement(m, 64, TRUE_DISTANCE[k], BLUR[k]), 0.9999);
        m = make_shape(k);
        mesh twin = make_shape(k);
        for (int64_t i = 0; i < 3 * twin.n_vertices; i++) twin.position[i] *= 1.0005f;
        expect("shape repeated", SHAPE[k], agreement(shape_join(m, twin), 64, TRUE_DISTANCE[k], BLUR[k] + 5e-4),
               0.9999);
    }
}

/* Sides of a box cut into different numbers of cells share no edge. */
static mesh box_of_sides(const int cells[6]) {
    mesh all = {0};
    for (int side = 0; side < 6; side++) {
        mesh    m = make_box(cells[side]);
        int64_t n = m.n_faces / 6;
        memmove(m.face, m.face + 3 * side * n, (size_t)n * 12);
        m.n_faces = n;
        all = side ? shape_join(all, m) : m;
    }
    return all;
}

static void test_t_junctions(void **state) {
    (void)state;
    const int cells[6] = {2, 3, 5, 7, 4, 9}, same[6] = {4, 4, 4, 4, 4, 4};
    expect("T-junctions", "box", agreement(box_of_sides(cells), 64, box_at, 1e-6), 0.9999);
    mesh m = box_of_sides(cells);
    shape_damage(&m, 0, 0.2, 4);
    expect("T-junctions, flipped", "box", agreement(m, 64, box_at, 1e-6), 0.99);
    /* two sides twice, in other triangles */
    m = shape_join(box_of_sides(same), box_of_sides(cells));
    m.n_faces = 6 * 32 + 2 * (4 + 9);
    expect("sides twice", "box", agreement(m, 64, box_at, 1e-6), 0.9999);
}

/* A box of loose sides without n x n of the 8 x 8 cells of its first side. */
static mesh box_with_hole(int n) {
    const int cells[6] = {8, 7, 9, 6, 8, 10};
    mesh      m = box_of_sides(cells);
    int64_t   kept = 0;
    for (int64_t k = 0; k < m.n_faces; k++) {
        int64_t cell = k / 2, row = cell / 8 - 3, column = cell % 8 - 3;
        if (cell < 64 && row >= 0 && row < n && column >= 0 && column < n) continue;
        memmove(m.face + 3 * kept++, m.face + 3 * k, 12);
    }
    m.n_faces = kept;
    return m;
}

/* A narrow hole is closed by the winding number, and the values lead across it. One that the grid sees through leaves
 * the box without an inside: shells. No tear in the values in either case. */
static void test_hole(void **state) {
    (void)state;
    enum { R = 96, T = R / 8 };
    for (int n = 1; n <= 3; n += 2) {
        mesh        m = box_with_hole(n);
        sdf_options o = sdf_default_options(R, 2);
        sdf_shape   s;
        sdf_field   f;
        status      st = {0};
        int64_t     torn = 0;
        if (!sdf_shape_build(&m, &o, "box", &s, &st) || !sdf_field_build(&s, &o, "box", &f, &st))
            fail_msg("%s", st.text);
        assert_true(s.c.area > 0);
        assert_int_equal(f.leaks, n == 3);
        assert_int_equal(f.tile_at[(T / 2 * T + T / 2) * T + T / 2], n == 3 ? -1 : -2);
        for (int64_t t = 0; t < f.n_tiles; t++)
            for (int v = 0; v < 512; v++)
                for (int step = 1; step <= 64; step *= 8) {
                    if (v / step % 8 == 7) continue;
                    double a = f.s[512 * t + v], b = f.s[512 * t + v + step];
                    torn += (a > 0) != (b > 0) && fabs(a - b) * (R - 1) > 1.8;
                }
        assert_int_equal(torn, 0);
        sdf_field_free(&f), sdf_shape_free(&s), mesh_free(&m);
    }
}

/* A board of six loose sides, thinner than a voxel, holds a grid point everywhere. */
static void test_loose_board(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.6, 0.004};
    mesh         m = shape_box(half, 4);
    shape_split(&m, 1, 1);
    for (int64_t i = 0; i < m.n_vertices; i++) /* no vertex of a side is one of another side */
        for (int a = 0; a < 2; a++) m.position[3 * i + a] *= fabsf(m.position[3 * i + 2]) < 0.0039f ? 1 : 0.9995f;
    sdf_options o = sdf_default_options(64, 2);
    sdf_shape   s;
    sdf_field   f;
    status      st = {0};
    if (!sdf_shape_build(&m, &o, "shape", &s, &st) || !sdf_field_build(&s, &o, "shape", &f, &st))
        fail_msg("%s", st.text);
    for (int x = 8; x < 56; x++)
        for (int y = 16; y < 48; y++) {
            float least = 1;
            for (int z = 0; z < 64; z++) {
                int32_t t = f.tile_at[((int64_t)(x / 8) * 8 + y / 8) * 8 + z / 8];
                if (t >= 0) least = fminf(least, f.s[512 * (int64_t)t + 64 * (x % 8) + 8 * (y % 8) + z % 8]);
            }
            assert_true(least < 0);
        }
    sdf_field_free(&f), sdf_shape_free(&s), mesh_free(&m);
}

static void test_everything(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        mesh m = make_shape(k);
        shape_split(&m, 2, 0.995);
        shape_repeat(&m, 7);
        shape_damage(&m, 0.01, 0.2, 21 + (uint64_t)k);
        expect("all of it", SHAPE[k], agreement(m, 64, TRUE_DISTANCE[k], BLUR[k] * 2 + 1e-3), 0.99);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole),       cmocka_unit_test(test_missing_and_flipped),
                                       cmocka_unit_test(test_split),       cmocka_unit_test(test_repeated),
                                       cmocka_unit_test(test_t_junctions), cmocka_unit_test(test_everything),
                                       cmocka_unit_test(test_hole),        cmocka_unit_test(test_loose_board)};
    return cmocka_run_group_tests_name("prep_sign", tests, NULL, NULL);
}
