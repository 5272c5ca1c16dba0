/* Signed truncated distance on tiles: analytic shapes, damaged and overlapping ones, sheets, order, halves, sharp bits.
 */
#include "core/half.h"
#include "core/rng.h"
#include "data/shard.h"
#include "data_prep/normalize.h"
#include "data_prep/sdf.h"
#include "harness/harness.h"
#include "unit/prep_shapes.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    sdf_shape   shape;
    surface     s; /* of the shape */
    sdf_options o;
    sdf_field   f;
    sdf_tiles   t;
} built;

/* The shapes here are given in v_norm units; normalising would hide errors of scale, so it is left out. Frees the mesh.
 */
static built build(mesh m, int R, double tau) {
    built  b;
    status st = {0};
    b.o = sdf_default_options(R, tau);
    if (!sdf_shape_build(&m, &b.o, "shape", &b.shape, &st) || !sdf_field_build(&b.shape, &b.o, "shape", &b.f, &st) ||
        !sdf_tiles_build(&b.f, &b.shape.s, &b.o, "shape", &b.t, &st))
        fail_msg("%s", st.text);
    b.s = b.shape.s;
    mesh_free(&m);
    return b;
}

static void drop(built *b) {
    sdf_tiles_free(&b->t);
    sdf_field_free(&b->f);
    sdf_shape_free(&b->shape);
}

/* True distance in unit-cube units at a point of the unit cube. */
typedef double (*distance)(const double p[3], const double *a);

static double box_at(const double p[3], const double *half) { /* half in unit-cube units */
    double q[3], out = 0, in = -INFINITY;
    for (int a = 0; a < 3; a++) {
        q[a] = fabs(p[a]) - half[a];
        out += q[a] > 0 ? q[a] * q[a] : 0;
        in = fmax(in, q[a]);
    }
    return out > 0 ? sqrt(out) : in;
}

static double ball_at(const double p[3], const double *c) {
    return sqrt((p[0] - c[0]) * (p[0] - c[0]) + (p[1] - c[1]) * (p[1] - c[1]) + (p[2] - c[2]) * (p[2] - c[2])) - c[3];
}

static double torus_at(const double p[3], const double *a) {
    return hypot(hypot(p[0], p[1]) - a[0], p[2]) - a[1];
}

static double two_balls_at(const double p[3], const double *c) {
    return fmin(ball_at(p, c), ball_at(p, c + 4));
}

typedef struct {
    double  worst, agree; /* largest error of the clamped distance; share of voxels with the right sign */
    int64_t n;
} verdict;

static float field_at(const sdf_field *f, int x, int y, int z) {
    int     T = f->resolution / 8;
    int32_t t = f->tile_at[((int64_t)(x / 8) * T + y / 8) * T + z / 8];
    if (t < 0) return (float)(t == -1 ? f->band : -f->band);
    return f->s[512 * (int64_t)t + 64 * (x % 8) + 8 * (y % 8) + z % 8];
}

/* Over the whole grid, far tiles included. Voxels closer to the surface than `blur` have no sign to agree on. */
static verdict compare(const sdf_field *f, distance d, const double *arg, double blur) {
    verdict v = {0};
    int64_t right = 0;
    int     R = f->resolution;
    for (int x = 0; x < R; x++)
        for (int y = 0; y < R; y++)
            for (int z = 0; z < R; z++) {
                double p[3] = {x / (R - 1.0) - 0.5, y / (R - 1.0) - 0.5, z / (R - 1.0) - 0.5}, s = field_at(f, x, y, z);
                double want = fmax(-f->band, fmin(f->band, d(p, arg))), e = fabs(s - want);
                if (!(e <= v.worst)) v.worst = e;
                if (fabs(want) <= blur) continue;
                v.n++;
                right += (s > 0) == (want > 0);
            }
    v.agree = (double)right / (double)v.n;
    return v;
}

/* No step across the zero level is longer than the surface allows: values of neighbours differ by at most a voxel (and
 * a little, where inner walls were pushed down). A torn sign shows as a jump. */
static int64_t torn_edges(const sdf_field *f) {
    int     R = f->resolution;
    int64_t torn = 0;
    double  voxel = 1.0 / (R - 1);
    for (int x = 0; x < R; x++)
        for (int y = 0; y < R; y++)
            for (int z = 0; z + 1 < R; z++) {
                const double s = field_at(f, x, y, z);
                double       n[3] = {field_at(f, x, y, z + 1), x + 1 < R ? field_at(f, x + 1, y, z) : s,
                               y + 1 < R ? field_at(f, x, y + 1, z) : s};
                for (int a = 0; a < 3; a++) torn += (s > 0) != (n[a] > 0) && fabs(s - n[a]) > 1.8 * voxel;
            }
    return torn;
}

static void test_box(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.5, 0.31}, unit[3] = {0.45, 0.25, 0.155};
    for (int R = 64; R <= 128; R += 64) {
        built   b = build(shape_box(half, 3), R, 2);
        verdict v = compare(&b.f, box_at, unit, 1e-7);
        expect_le(v.worst, 1e-6, "box distance");
        assert_true(v.agree >= 0.9999);
        assert_int_equal(torn_edges(&b.f), 0);
        assert_int_equal(b.s.n_parts, 1);
        assert_int_equal(b.s.n_open_edges, 0);
        drop(&b);
    }
}

static void test_sphere(void **state) {
    (void)state;
    const double c[3] = {0.05, -0.03, 0.02}, unit[4] = {0.025, -0.015, 0.01, 0.4};
    built        b = build(shape_sphere(c, 0.8, 6), 64, 3);
    verdict      v = compare(&b.f, ball_at, unit, 1e-4);
    expect_le(v.worst, 1.6e-4, "sphere distance"); /* sagitta of its edges: 0.4 (1 - cos(pi/128)) */
    assert_true(v.agree >= 0.9999);
    drop(&b);
}

static void test_torus(void **state) {
    (void)state;
    const double unit[2] = {0.3, 0.12};
    built        b = build(shape_torus(0.6, 0.24, 192, 96), 128, 4);
    verdict      v = compare(&b.f, torus_at, unit, 1e-4);
    expect_le(v.worst, 1.4e-4, "torus distance"); /* 0.42 (1 - cos(pi/192)) + 0.12 (1 - cos(pi/96)) */
    assert_true(v.agree >= 0.9999);
    drop(&b);
}

static void test_damaged_box(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.6, 0.7}, unit[3] = {0.45, 0.3, 0.35};
    for (int cells = 4; cells <= 32; cells *= 2) {
        mesh m = shape_box(half, cells);
        shape_damage(&m, 0.01, 0.2, (uint64_t)cells);
        built   b = build(m, 96, 2);
        verdict v = compare(&b.f, box_at, unit, 1e-7);
        assert_true(v.agree >= 0.99);
        assert_int_equal(torn_edges(&b.f), 0);
        drop(&b);
    }
}

static void test_overlap(void **state) {
    (void)state;
    const double a[3] = {-0.3, 0, 0}, c[3] = {0.25, 0.1, 0}, unit[8] = {-0.15, 0, 0, 0.3, 0.125, 0.05, 0, 0.25};
    built        b = build(shape_join(shape_sphere(a, 0.6, 6), shape_sphere(c, 0.5, 6)), 96, 3);
    verdict      v = compare(&b.f, two_balls_at, unit, 1e-4);
    expect_le(v.worst, 2e-4, "distance to two spheres"); /* inside, too: the deeper part counts */
    assert_true(v.agree >= 0.9999);
    assert_int_equal(b.s.n_parts, 2);
    drop(&b);
}

/* A ball inside a box leaves no trace. */
static void test_inner_part(void **state) {
    (void)state;
    const double half[3] = {0.8, 0.8, 0.8}, unit[3] = {0.4, 0.4, 0.4}, c[3] = {0, 0, 0};
    built        b = build(shape_join(shape_box(half, 2), shape_sphere(c, 0.4, 4)), 64, 2);
    verdict      v = compare(&b.f, box_at, unit, 1e-7);
    expect_le(v.worst, 1e-6, "box with an inner ball");
    drop(&b);
}

static double sheet_at(const double p[3], const double *a) { /* a: half side, half thickness */
    const double half[3] = {a[0], a[0], 0};
    return box_at(p, half) - a[1];
}

static void test_sheet(void **state) {
    (void)state;
    int          R = 64;
    const double unit[2] = {0.4, 1.0 / (R - 1)};
    built        b = build(shape_sheet(0.8, 5), R, 2);
    verdict      v = compare(&b.f, sheet_at, unit, 1e-7);
    expect_le(v.worst, 1e-6, "sheet distance"); /* the shell of one voxel each side */
    assert_true(v.agree >= 0.9999);
    assert_int_equal(b.s.solid[0], 0);
    drop(&b);
}

/* Six loose panels with gaps of less than two voxels hold an inside; a lampshade does not. */
static void test_sealed(void **state) {
    (void)state;
    const double half[3] = {0.7, 0.7, 0.7};
    mesh         m = shape_box(half, 1);
    for (int64_t i = 0; i < m.n_vertices; i++) { /* each side shrinks a little in its own plane */
        int side = (int)(i / 4) / 2;
        for (int a = 0; a < 3; a++)
            if (a != side) m.position[3 * i + a] *= 0.99f;
    }
    built b = build(m, 64, 2);
    assert_int_equal(b.s.n_parts, 6);
    assert_true(field_at(&b.f, 32, 32, 32) < 0);
    assert_true(field_at(&b.f, 1, 1, 1) > 0);
    assert_int_equal(torn_edges(&b.f), 0);
    drop(&b);
    mesh    shade = shape_torus(0.6, 0.5, 64, 32); /* the outer half of a torus: a tube open above and below */
    int64_t n = 0;
    for (int64_t f = 0; f < shade.n_faces; f++) {
        double z = 0;
        for (int j = 0; j < 3; j++) z = fmax(z, fabs((double)shade.position[3 * shade.face[3 * f + j] + 2]));
        double r = hypot(shade.position[3 * shade.face[3 * f]], shade.position[3 * shade.face[3 * f] + 1]);
        if (z < 0.25 && r > 0.6) memcpy(shade.face + 3 * n++, shade.face + 3 * f, 12);
    }
    shade.n_faces = n;
    b = build(shade, 64, 2);
    assert_true(field_at(&b.f, 32, 32, 32) > 0);
    assert_int_equal(torn_edges(&b.f), 0);
    drop(&b);
}

/* A plate thinner than the grid still has an inside everywhere. */
static void test_thin_plate(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.6, 0.002};
    built        b = build(shape_box(half, 2), 64, 2);
    assert_int_equal(b.f.n_thick_parts, 1);
    for (int x = 8; x < 56; x++)
        for (int y = 16; y < 48; y++) {
            float least = 1;
            for (int z = 0; z < 64; z++) least = fminf(least, field_at(&b.f, x, y, z));
            assert_true(least < 0);
        }
    drop(&b);
}

/* Nor does a thin board vanish that grows out of a fat block; the block is left as it is. */
static void test_board_of_block(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.6, 0.5};
    mesh         m = shape_box(half, 18);
    for (int64_t i = 0; i < m.n_vertices; i++)
        if (m.position[3 * i] > 0.05f) m.position[3 * i + 2] *= 0.006f;
    built b = build(m, 64, 2);
    assert_int_equal(b.s.n_parts, 1);
    assert_int_equal(b.f.n_thick_parts, 0);
    assert_true(b.f.n_thin_faces > 0 && b.f.n_thin_faces < b.s.n_faces / 2);
    for (int x = 36; x < 59; x++)
        for (int y = 16; y < 48; y++) {
            float least = 1;
            for (int z = 0; z < 64; z++) least = fminf(least, field_at(&b.f, x, y, z));
            assert_true(least < 0);
        }
    const double block[3] = {0.45, 0.3, 0.25};
    for (int x = 0; x < 24; x++)
        for (int y = 0; y < 64; y++)
            for (int z = 0; z < 64; z++) {
                const double p[3] = {x / 63.0 - 0.5, y / 63.0 - 0.5, z / 63.0 - 0.5};
                double       want = fmax(-b.f.band, fmin(b.f.band, box_at(p, block)));
                assert_true(fabs(field_at(&b.f, x, y, z) - want) <= 1e-6);
            }
    drop(&b);
}

static void test_tiles(void **state) {
    (void)state;
    const double half[3] = {0.9, 0.5, 0.31};
    built        b = build(shape_box(half, 2), 128, 2);
    sample       s = {.n_tiles = b.t.n_tiles, .coord = b.t.coord, .value = b.t.value, .sharp = b.t.sharp};
    sample_count(&s);
    assert_int_equal(s.n_in, b.f.n_near); /* no value of the band was rounded onto its end */
    int64_t  sharp = 0, far_from_edge = 0;
    uint64_t last = 0;
    for (int64_t t = 0; t < b.t.n_tiles; t++) {
        const uint16_t *c = b.t.coord + 3 * t;
        uint64_t        key = sdf_order_key(c[0], c[1], c[2], 8);
        assert_true(t == 0 || key > last);
        last = key;
        bool active = false;
        for (int m = 0; m < 512; m++) {
            int   x = 0, y = 0, z = 0;
            float v = f16_to_f32(b.t.value[512 * t + m]);
            for (int k = 2; k >= 0; k--)
                x = 2 * x | (m >> (3 * k + 2) & 1), y = 2 * y | (m >> (3 * k + 1) & 1), z = 2 * z | (m >> 3 * k & 1);
            double want = field_at(&b.f, 8 * c[0] + x, 8 * c[1] + y, 8 * c[2] + z) / b.f.tau;
            assert_true(fabs(v - fmax(-1, fmin(1, want))) <= 5e-4);
            active |= fabsf(v) < 1;
            double p[3] = {(8 * c[0] + x) / 127.0 - 0.5, (8 * c[1] + y) / 127.0 - 0.5, (8 * c[2] + z) / 127.0 - 0.5},
                   d = 1, q[3];
            for (int a = 0; a < 3; a++) q[a] = fabs(fabs(p[a]) - 0.5 * half[a]) * 127;
            for (int a = 0; a < 3; a++) { /* distance to the edges along axis a */
                double beyond = fmax(0, (fabs(p[a]) - 0.5 * half[a]) * 127);
                double e = sqrt(q[(a + 1) % 3] * q[(a + 1) % 3] + q[(a + 2) % 3] * q[(a + 2) % 3] + beyond * beyond);
                d = a == 0 ? e : fmin(d, e);
            }
            bool bit = b.t.sharp[64 * t + m / 8] >> m % 8 & 1;
            if (fabs(d - 2) > 1e-4) assert_int_equal(bit, d < 2 && fabsf(v) < 1);
            sharp += bit, far_from_edge += !bit;
        }
        assert_true(active);
    }
    assert_int_equal(sharp, s.n_sharp);
    assert_true(sharp > 1000 && far_from_edge > 1000);
    drop(&b);
}

/* Squared distance to a triangle, by halving the search over its two parameters: shares no formula with the code. */
static double brute_d2(const double *a, const double *b, const double *c, const double p[3]) {
    double best = INFINITY, lo_u = 0, hi_u = 1;
    for (int i = 0; i < 90; i++) { /* golden section over u, the best v is exact: the distance is convex */
        double at[2] = {hi_u - 0.6180339887498949 * (hi_u - lo_u), lo_u + 0.6180339887498949 * (hi_u - lo_u)}, d[2];
        for (int k = 0; k < 2; k++) {
            double u = at[k], w[3], e[3], ew = 0, ee = 0, v;
            for (int x = 0; x < 3; x++) {
                w[x] = p[x] - a[x] - u * (b[x] - a[x]);
                e[x] = c[x] - a[x] - u * (c[x] - b[x] + b[x] - a[x]); /* towards c, shortened as u grows */
                ew += e[x] * w[x], ee += e[x] * e[x];
            }
            v = ee > 0 ? fmin(1, fmax(0, ew / ee)) : 0;
            d[k] = 0;
            for (int x = 0; x < 3; x++) d[k] += (w[x] - v * e[x]) * (w[x] - v * e[x]);
            best = fmin(best, d[k]);
        }
        if (d[0] < d[1])
            hi_u = at[1];
        else
            lo_u = at[0];
    }
    return best;
}

/* Loose triangles of all sizes, slivers among them: the distance of every voxel of the band to the nearest of all. */
static void test_soup(void **state) {
    (void)state;
    enum { N = 40, R = 24 };
    for (uint64_t seed = 1; seed <= 2; seed++) {
        mesh m = {N * 3, N, .position = malloc(N * 36), .face = malloc(N * 12)};
        for (int64_t f = 0; f < N; f++) {
            rng_key key = {seed, RNG_TEST, 0, (uint64_t)f};
            double  size = pow(10, -2.5 + 2.3 * rng_uniform(key, 0));
            for (int j = 0; j < 3; j++)
                for (int a = 0; a < 3; a++) {
                    double center = 1.5 * (rng_uniform(key, (uint32_t)(1 + a)) - 0.5);
                    double off = rng_uniform(key, (uint32_t)(4 + 3 * j + a)) - 0.5;
                    if (f % 5 == 0 && a > 0) off *= 1e-3;
                    m.position[9 * f + 3 * j + a] = (float)fmin(0.95, fmax(-0.95, center + size * off));
                    m.face[3 * f + j] = (int32_t)(3 * f + j);
                }
        }
        static double d[R * R * R];
        for (int v = 0; v < R * R * R; v++) {
            const double p[3] = {v / R / R / (R - 1.0) - 0.5, v / R % R / (R - 1.0) - 0.5, v % R / (R - 1.0) - 0.5};
            double       d2 = INFINITY;
            for (int64_t k = 0; k < N; k++) {
                double q[9];
                for (int i = 0; i < 9; i++) q[i] = 0.5 * m.position[9 * k + i];
                d2 = fmin(d2, brute_d2(q, q + 3, q + 6, p));
            }
            d[v] = sqrt(d2);
        }
        for (int shell = 0; shell < 2; shell++) {
            status      st = {0};
            sdf_options o = sdf_default_options(R, 2);
            sdf_shape   shape;
            sdf_field   f;
            int64_t     n = 0;
            double      worst = 0;
            o.unsigned_only = !shell;
            if (!sdf_shape_build(&m, &o, "soup", &shape, &st) || !sdf_field_build(&shape, &o, "soup", &f, &st))
                fail_msg("%s", st.text);
            for (int v = 0; v < R * R * R; v++) {
                double got = field_at(&f, v / R / R, v / R % R, v % R);
                if (shell && got <= 0) continue; /* inside a shell, or filled where shells seal a pocket */
                worst = fmax(worst, fabs(got - fmin(f.band, d[v] - (shell ? 1.0 / (R - 1) : 0))));
                n++;
            }
            assert_true(n > R * R * R / 4);
            expect_le(worst, 1e-6, "distance to a soup");
            sdf_field_free(&f), sdf_shape_free(&shape);
        }
        mesh_free(&m);
    }
}

static void test_threads_same_bits(void **state) {
    (void)state;
    mesh m = shape_torus(0.6, 0.24, 60, 30);
    shape_damage(&m, 0.01, 0.2, 3);
    mesh   copy = m;
    size_t nv = (size_t)m.n_vertices * 12, nf = (size_t)m.n_faces * 12;
    copy.position = memcpy(malloc(nv), m.position, nv);
    copy.face = memcpy(malloc(nf), m.face, nf);
    shape_split(&m, 3, 0.99), shape_split(&copy, 3, 0.99);
    omp_set_num_threads(1);
    built a = build(m, 64, 2);
    omp_set_num_threads(3);
    built b = build(copy, 64, 2);
    omp_set_num_threads(2);
    assert_true(a.shape.c.area > 0);
    assert_int_equal(a.t.n_tiles, b.t.n_tiles);
    assert_memory_equal(a.t.value, b.t.value, (size_t)a.t.n_tiles * 1024);
    assert_memory_equal(a.t.sharp, b.t.sharp, (size_t)a.t.n_tiles * 64);
    drop(&a), drop(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_box),
                                       cmocka_unit_test(test_sphere),
                                       cmocka_unit_test(test_torus),
                                       cmocka_unit_test(test_overlap),
                                       cmocka_unit_test(test_inner_part),
                                       cmocka_unit_test(test_damaged_box),
                                       cmocka_unit_test(test_sheet),
                                       cmocka_unit_test(test_sealed),
                                       cmocka_unit_test(test_thin_plate),
                                       cmocka_unit_test(test_tiles),
                                       cmocka_unit_test(test_board_of_block),
                                       cmocka_unit_test(test_soup),
                                       cmocka_unit_test(test_threads_same_bits)};
    return cmocka_run_group_tests_name("prep_sdf", tests, NULL, NULL);
}
