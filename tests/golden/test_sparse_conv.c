/* Submanifold convolution, pooling and subdivision against sparse_conv.h5, every group of the file, on two back ends.
 * Sites come in any order. The convolution runs twice: each site a tile of its own (side 1), and sites as cells of
 * masked 8^3 tiles, so that both ways to find neighbours meet the published values. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/hosted.h"
#include "harness/h5.h"
#include "harness/harness.h"
#include "kernels/backend.h"
#include "sparse/blocks.h"

/* Relative L2: the file's stated float32 error; in bf16 three roundings to 8 bits meet (two factors, the result), each
 * of 2^-8/sqrt(3) in the mean if all values lay at the low end of a power of two. */
static const double BOUND = 1e-6, BOUND_16 = 1.0 / 256;
enum { MAX_TESTS = 256 };

typedef struct {
    h5_file     f;
    const char *name;
    ctx         c;
    arena       mem;
    double      bound;
} conv_case;

static const char *at(const conv_case *t, const char *path) {
    return h5_path("%s/%s", t->name, path);
}

static tensor read_f32(conv_case *t, const char *full) {
    h5_dims d;
    float  *x = h5_f32(t->f, full, &d);
    tensor  out = arena_tensor(&t->mem, DT_F32, d.n, d.rank);
    memcpy(out.data, x, tensor_bytes(&out));
    free(x);
    return out;
}

static void compare(const conv_case *t, const char *path, const tensor *got) {
    h5_dims d;
    char    what[256];
    float  *want = h5_f32(t->f, at(t, path), &d);
    assert_int_equal(d.count, tensor_count(got));
    snprintf(what, sizeof what, "%s on %s", at(t, path), t->c.be->name);
    expect_le(rel_l2(F32(got), want, d.count), t->bound, what);
    free(want);
}

/* Sites of a file: (sample,x,y,z) rows in any order; `row[i]` is the file's row of our row i, samples together. */
typedef struct {
    int64_t  n;
    tensor   coord, first; /* (n,3), (B+1) */
    int32_t *row, *file;   /* file: (n,4) as stored */
} sites;

static sites read_sites(conv_case *t, const char *full) {
    h5_dims  d;
    int32_t *file = h5_i32(t->f, full, &d), n_samples = 0;
    sites    s = {.n = d.n[0]};
    for (int64_t i = 0; i < s.n; i++)
        if (file[4 * i] >= n_samples) n_samples = file[4 * i] + 1;
    s.coord = arena_tensor(&t->mem, DT_I32, DIMS(s.n, 3));
    s.first = arena_tensor(&t->mem, DT_I32, DIMS(n_samples + 1));
    s.row = arena_alloc(&t->mem, (size_t)s.n * sizeof(int32_t));
    s.file = arena_alloc(&t->mem, (size_t)s.n * 4 * sizeof(int32_t));
    memcpy(s.file, file, (size_t)s.n * 4 * sizeof(int32_t));
    free(file);
    int64_t at_row = 0;
    for (int b = 0; b < n_samples; b++) {
        I32(&s.first)[b] = (int32_t)at_row;
        for (int64_t i = 0; i < s.n; i++)
            if (s.file[4 * i] == b) {
                memcpy(I32(&s.coord) + 3 * at_row, s.file + 4 * i + 1, 12);
                s.row[at_row++] = (int32_t)i;
            }
    }
    I32(&s.first)[n_samples] = (int32_t)at_row;
    return s;
}

/* Row i of the result is row[i] of x; back: row row[i] of the result is row i of x. */
static tensor permuted(conv_case *t, const tensor *x, const int32_t *row, bool back) {
    tensor  out = arena_tensor(&t->mem, DT_F32, x->dim, x->n_dims);
    int64_t C = x->dim[1];
    for (int64_t i = 0; i < x->dim[0]; i++)
        memcpy(F32(&out) + (back ? row[i] : i) * C, F32(x) + (back ? i : row[i]) * C, (size_t)C * sizeof(float));
    return out;
}

/* The sites as cells of 8^3 tiles: the level, and the file's row of each of its rows. */
static grid masked_level(conv_case *t, const sites *s, int32_t *row) {
    int64_t n_tiles = 0;
    int32_t n_samples = (int32_t)s->first.dim[0] - 1;
    tensor  xyz = arena_tensor(&t->mem, DT_I32, DIMS(s->n, 3)),
           first = arena_tensor(&t->mem, DT_I32, DIMS(n_samples + 1));
    tensor   mask = arena_tensor(&t->mem, DT_U64, DIMS(s->n, 8));
    int32_t *cell_row = arena_alloc(&t->mem, (size_t)s->n * 512 * sizeof(int32_t));
    memset(mask.data, 0, tensor_bytes(&mask));
    for (int b = 0; b < n_samples; b++) {
        int64_t tile0 = I32(&first)[b] = (int32_t)n_tiles;
        for (int64_t i = I32(&s->first)[b]; i < I32(&s->first)[b + 1]; i++) {
            const int32_t *p = I32(&s->coord) + 3 * i;
            int32_t        tile[3] = {p[0] / 8, p[1] / 8, p[2] / 8};
            int64_t        k = tile0;
            while (k < n_tiles && memcmp(I32(&xyz) + 3 * k, tile, sizeof tile) != 0) k++;
            if (k == n_tiles) memcpy(I32(&xyz) + 3 * n_tiles++, tile, sizeof tile);
            int cell = morton_encode(p[0] % 8, p[1] % 8, p[2] % 8);
            U64(&mask)[8 * k + cell / 64] |= UINT64_C(1) << cell % 64;
            cell_row[512 * k + cell] = s->row[i];
        }
    }
    I32(&first)[n_samples] = (int32_t)n_tiles;
    xyz = tensor_rows(&xyz, 0, n_tiles);
    mask = tensor_rows(&mask, 0, n_tiles);
    grid   level[4];
    tensor pool_first[3], nb = tiles_neighbors(&t->mem, &xyz, &first);
    grid_pyramid(&t->mem, &mask, &nb, &first, level, pool_first);
    for (int64_t k = 0, r = 0; k < n_tiles; k++)
        for (int cell = 0; cell < 512; cell++)
            if (U64(&mask)[8 * k + cell / 64] >> cell % 64 & 1) row[r++] = cell_row[512 * k + cell];
    return level[0];
}

/* Convolution and its gradients on level g whose row i is row[i] of the file. */
static void conv_on(conv_case *t, const grid *g, const int32_t *row) {
    tensor file_x = read_f32(t, at(t, "in/x")), file_dy = read_f32(t, at(t, "in/grad_out"));
    tensor w = read_f32(t, at(t, "weights/conv.kernel")), b = read_f32(t, at(t, "weights/conv.bias"));
    tensor x = permuted(t, &file_x, row, false), dy = permuted(t, &file_dy, row, false);
    tensor y = arena_tensor(&t->mem, DT_F32, dy.dim, 2), dx = arena_tensor(&t->mem, DT_F32, x.dim, 2);
    tensor dw = arena_tensor(&t->mem, DT_F32, w.dim, 3), db = arena_tensor(&t->mem, DT_F32, b.dim, 1);
    memset(dw.data, 0, tensor_bytes(&dw));
    memset(db.data, 0, tensor_bytes(&db));
    assert_int_equal(g->n_rows, x.dim[0]);
    conv3_args a = {
        .g = g, .x = &x, .w = &w, .b = &b, .act = ACT_NONE, .y = &y, .dy = &dy, .dx = &dx, .dw = &dw, .db = &db};
    conv3_fwd(&t->c, &a);
    conv3_bwd(&t->c, &a);
    y = permuted(t, &y, row, true);
    dx = permuted(t, &dx, row, true);
    compare(t, "out/y", &y);
    compare(t, "grads_in/x", &dx);
    compare(t, "grads/conv.kernel", &dw);
    compare(t, "grads/conv.bias", &db);
}

/* The kernel's other layouts, and the order of offsets, agree with ours. */
static void conv_layouts(conv_case *t) {
    tensor   w = read_f32(t, at(t, "weights/conv.kernel"));
    int64_t  I = w.dim[1], O = w.dim[2];
    h5_dims  d;
    int32_t *offset = h5_i32(t->f, at(t, "weights/offsets"), &d);
    float   *dense = h5_f32(t->f, at(t, "weights/as_dense_conv3d"), &d);
    float   *spconv = h5_f32(t->f, at(t, "weights/as_spconv_submanifold"), &d);
    for (int64_t k = 0; k < 27; k++) {
        int64_t a = k % 3, b = k / 3 % 3, c = k / 9;
        assert_true(offset[3 * k] == a - 1 && offset[3 * k + 1] == b - 1 && offset[3 * k + 2] == c - 1);
        for (int64_t i = 0; i < I; i++)
            for (int64_t o = 0; o < O; o++) {
                float ours = F32(&w)[(k * I + i) * O + o];
                assert_true(dense[(((o * I + i) * 3 + a) * 3 + b) * 3 + c] == ours);
                assert_true(spconv[(((o * 3 + a) * 3 + b) * 3 + c) * I + i] == ours);
            }
    }
    free(offset);
    free(dense);
    free(spconv);
}

static void test_conv(conv_case *t) {
    sites    s = read_sites(t, at(t, "in/coords"));
    tensor   nb = tiles_neighbors(&t->mem, &s.coord, &s.first);
    grid     g = grid_dense(&t->mem, 1, &nb, &s.first);
    int32_t *row = arena_alloc(&t->mem, (size_t)s.n * sizeof(int32_t));
    conv_on(t, &g, s.row);
    g = masked_level(t, &s, row);
    conv_on(t, &g, row);
    conv_layouts(t);
}

/* The pooling factor is the number at the end of the group's name. */
static void test_pool(conv_case *t) {
    int factor = atoi(t->name + strcspn(t->name, "0123456789"));
    assert_true(factor > 0);
    sites         s = read_sites(t, at(t, "in/coords"));
    window_tables w = windows_build(&t->mem, &s.coord, &s.first, factor, 0, false, factor);
    tensor        file_x = read_f32(t, at(t, "in/x")), x = permuted(t, &file_x, s.row, false);
    tensor        y = arena_tensor(&t->mem, DT_F32, DIMS(w.n_windows, x.dim[1]));
    pool_args     a = {.x = &x, .first = &w.first, .order = &w.order, .add_one = true, .y = &y};
    pool_fwd(&t->c, &a);
    compare(t, "out/y", &y);
    h5_dims  d;
    int32_t *parent = h5_i32(t->f, at(t, "out/coords"), &d);
    assert_int_equal(d.n[0], w.n_windows);
    for (int64_t p = 0; p < w.n_windows; p++) {
        int32_t        i = I32(&w.order)[I32(&w.first)[p]];
        const int32_t *site = s.file + 4 * s.row[i];
        assert_true(parent[4 * p] == site[0]);
        for (int k = 1; k < 4; k++) assert_true(parent[4 * p + k] == site[k] / factor);
    }
    free(parent);
}

/* Children of the sites that the group's rule names: coordinates of a child are twice its parent's plus its bits. */
static void test_subdivide(conv_case *t) {
    char *rule = h5_attr_string(t->f, t->name, "rule"), source[128] = "";
    assert_int_equal(sscanf(rule, "input %127[^;]", source), 1);
    free(rule);
    sites  parent = read_sites(t, h5_path("%s/coords", source));
    tensor x = arena_tensor(&t->mem, DT_F32, DIMS(parent.n, 4)),
           y = arena_tensor(&t->mem, DT_F32, DIMS(8 * parent.n, 4));
    for (int64_t i = 0; i < 4 * parent.n; i++) F32(&x)[i] = (float)parent.file[i];
    subdivide_args a = {.x = &x, .y = &y};
    subdivide_fwd(&t->c, &a);
    h5_dims  d;
    int32_t *want = h5_i32(t->f, at(t, "out/coords"), &d);
    assert_int_equal(d.n[0], 8 * parent.n);
    for (int64_t i = 0; i < 8 * parent.n; i++) {
        int bit[3];
        morton_decode((int)(i % 8), &bit[0], &bit[1], &bit[2]);
        assert_true(want[4 * i] == (int)F32(&y)[4 * i]);
        for (int k = 0; k < 3; k++) assert_true(want[4 * i + 1 + k] == 2 * (int)F32(&y)[4 * i + 1 + k] + bit[k]);
    }
    free(want);
}

static void group_matches(void **state) {
    conv_case t = *(conv_case *)*state;
    t.mem = arena_new("case", (size_t)512 << 20);
    t.c.scratch = arena_new("scratch", (size_t)128 << 20);
    if (h5_exists(t.f, at(&t, "weights")))
        test_conv(&t);
    else if (h5_exists(t.f, at(&t, "in")))
        test_pool(&t);
    else
        test_subdivide(&t);
    arena_free(&t.mem);
    arena_free(&t.c.scratch);
}

int main(int argc, char **argv) {
    static conv_case         cases[MAX_TESTS];
    static char              title[MAX_TESTS][128];
    static struct CMUnitTest tests[MAX_TESTS];
    const char *const       *backends = hosted_names(argc, argv);
    if (!backends) return test_exit(0);
    h5_file f = h5_open(golden_path("sparse_conv"));
    int     n, n_tests = 0;
    char  **names = h5_list(f, "/", &n);
    for (int i = 0; i < n; i++)
        for (int b = 0; b < 2 && n_tests < MAX_TESTS; b++) {
            cases[n_tests] = (conv_case){.f = f,
                                         .name = names[i],
                                         .c = {.be = hosted_find(backends[b])},
                                         .bound = hosted_act(backends[b]) == DT_BF16 ? BOUND_16 : BOUND};
            snprintf(title[n_tests], sizeof title[0], "%s on %s", names[i], backends[b]);
            tests[n_tests] = (struct CMUnitTest){
                .name = title[n_tests], .test_func = group_matches, .initial_state = &cases[n_tests]};
            n_tests++;
        }
    CHECK(n_tests > 0, "sparse_conv.h5 has no group");
    int failed = _cmocka_run_group_tests("sparse_conv", tests, (size_t)n_tests, NULL, NULL);
    h5_list_free(names, n);
    h5_close(f);
    return test_exit(failed);
}
