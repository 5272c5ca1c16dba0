/* Tiles, levels, blocks and windows against brute force over a small dense volume, and the counted facts of R§15.3. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "harness/harness.h"
#include "sparse/blocks.h"
#include "sparse/sort_keys.h"

enum { SIDE = 5, CELLS = SIDE * 8 }; /* tiles and voxels along an edge of the test volume */

static arena mem;

static int set_up(void **state) {
    (void)state;
    mem = arena_new("test", (size_t)512 << 20);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(&mem);
    return 0;
}

static double uniform(uint64_t sample, uint64_t i) {
    return rng_uniform((rng_key){.seed = 7, .purpose = RNG_TEST, .sample = sample}, i);
}

/* ---- sort, Morton --------------------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b) {
    const key_row *p = a, *q = b;
    return p->key != q->key ? (p->key > q->key ? 1 : -1) : (p->row > q->row) - (p->row < q->row);
}

static void test_sort_keys(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 2, 3, 257, 5000};
    for (int s = 0; s < 6; s++)
        for (int width = 0; width < 3; width++) {
            int64_t  n = sizes[s];
            key_row *a = arena_alloc(&mem, (size_t)(n + 1) * sizeof *a),
                    *b = arena_alloc(&mem, (size_t)(n + 1) * sizeof *b);
            key_row *spare = arena_alloc(&mem, (size_t)(n + 1) * sizeof *spare);
            for (int64_t i = 0; i < n; i++) {
                uint64_t r = (uint64_t)rng_u32((rng_key){.purpose = RNG_TEST}, (uint64_t)(2 * i));
                uint64_t q = (uint64_t)rng_u32((rng_key){.purpose = RNG_TEST}, (uint64_t)(2 * i + 1));
                /* few values with many ties; one byte far up; all bytes */
                a[i] = (key_row){width == 0 ? r % 5 : width == 1 ? (r & 255) << 48 : r << 32 | q, (int32_t)i};
            }
            memcpy(b, a, (size_t)n * sizeof *a);
            sort_keys(a, spare, n);
            qsort(b, (size_t)n, sizeof *b, by_key);
            for (int64_t i = 0; i < n; i++) assert_true(a[i].key == b[i].key && a[i].row == b[i].row);
            for (int64_t i = 0; i < n; i++) {
                int64_t at = keys_not_below(a, n, a[i].key);
                assert_true(at <= i && a[at].key == a[i].key && (at == 0 || a[at - 1].key < a[i].key));
            }
            assert_int_equal(keys_not_below(a, n, UINT64_MAX), n);
        }
}

static void test_morton(void **state) {
    (void)state;
    for (int c = 0; c < 512; c++) {
        int x, y, z, px, py, pz;
        morton_decode(c, &x, &y, &z);
        assert_true(x >= 0 && x < 8 && y >= 0 && y < 8 && z >= 0 && z < 8);
        assert_int_equal(morton_encode(x, y, z), c);
        morton_decode(c >> 3, &px, &py, &pz);
        assert_true(px == x >> 1 && py == y >> 1 && pz == z >> 1);
    }
    /* Subdividing (1,2,3), R§15.3. */
    static const int want[8][3] = {{2, 4, 6}, {2, 4, 7}, {2, 5, 6}, {2, 5, 7},
                                   {3, 4, 6}, {3, 4, 7}, {3, 5, 6}, {3, 5, 7}};
    for (int c = 0; c < 8; c++) {
        int x, y, z;
        morton_decode(c, &x, &y, &z);
        assert_true(2 + x == want[c][0] && 4 + y == want[c][1] && 6 + z == want[c][2]);
    }
}

/* ---- tiles and levels ----------------------------------------------------------------------------------------- */

/* Three samples of random tiles in random order; the middle one is empty. */
static void random_tiles(double share, tensor *coord, tensor *first) {
    *coord = arena_tensor(&mem, DT_I32, DIMS(2 * SIDE * SIDE * SIDE, 3));
    *first = arena_tensor(&mem, DT_I32, DIMS(4));
    int32_t n = 0, *xyz = I32(coord);
    for (int s = 0; s < 3; s++) {
        I32(first)[s] = n;
        int64_t order[SIDE * SIDE * SIDE];
        rng_permutation((rng_key){.purpose = RNG_TEST, .sample = (uint64_t)s}, SIDE * SIDE * SIDE, order);
        for (int i = 0; i < SIDE * SIDE * SIDE && s != 1; i++) {
            int t = (int)order[i];
            if (uniform((uint64_t)s, (uint64_t)t) >= share) continue;
            xyz[3 * n] = t / SIDE / SIDE;
            xyz[3 * n + 1] = t / SIDE % SIDE;
            xyz[3 * n++ + 2] = t % SIDE;
        }
    }
    I32(first)[3] = n;
    *coord = tensor_rows(coord, 0, n);
}

/* Coordinates of every row of a level, and which row a site of the volume is (-1: none). */
typedef struct {
    int32_t *xyz, *sample, *row_at; /* (rows,3), (rows), (3 samples, edge^3) */
    int      edge;
} volume;

static volume rows_of(const grid *g, const tensor *coord) {
    int     edge = SIDE * g->side, cells = g->side * g->side * g->side;
    volume  v = {.edge = edge};
    int64_t n_sites = 3L * edge * edge * edge, r = 0;
    v.xyz = arena_alloc(&mem, (size_t)g->n_rows * 3 * sizeof(int32_t));
    v.sample = arena_alloc(&mem, (size_t)g->n_rows * sizeof(int32_t));
    v.row_at = arena_alloc(&mem, (size_t)n_sites * sizeof(int32_t));
    memset(v.row_at, 0xFF, (size_t)n_sites * sizeof(int32_t));
    for (int64_t t = 0; t < g->n_tiles; t++) {
        assert_int_equal(I32(&g->first)[t], r);
        for (int c = 0; c < cells; c++) {
            if (g->mask.data && !(U64(&g->mask)[t * g->mask.dim[1] + c / 64] >> c % 64 & 1)) continue;
            int p[3], sample = 0;
            while (I32(&g->sample_first)[sample + 1] <= r) sample++;
            morton_decode(c, &p[0], &p[1], &p[2]);
            for (int d = 0; d < 3; d++) v.xyz[3 * r + d] = I32(coord)[3 * t + d] * g->side + p[d];
            const int32_t *q = v.xyz + 3 * r;
            v.sample[r] = sample;
            v.row_at[((sample * edge + q[0]) * edge + q[1]) * edge + q[2]] = (int32_t)r;
            r++;
        }
    }
    assert_int_equal(r, g->n_rows);
    return v;
}

static void check_level(const grid *g, const tensor *coord) {
    volume   v = rows_of(g, coord);
    int32_t *nb = arena_alloc(&mem, (size_t)g->n_rows * 27 * sizeof *nb),
            *part = arena_alloc(&mem, 100 * 27 * sizeof *part);
    grid_neighbors(g, 0, g->n_rows, nb);
    for (int64_t r = 0; r < g->n_rows; r++)
        for (int k = 0; k < 27; k++) {
            int x = v.xyz[3 * r] + k % 3 - 1, y = v.xyz[3 * r + 1] + k / 3 % 3 - 1, z = v.xyz[3 * r + 2] + k / 9 - 1,
                e = v.edge;
            int inside = x >= 0 && y >= 0 && z >= 0 && x < e && y < e && z < e;
            assert_int_equal(nb[27 * r + k], inside ? v.row_at[((v.sample[r] * e + x) * e + y) * e + z] : -1);
        }
    for (int i = 0; i < 50; i++) {
        int64_t row0 = (int64_t)(uniform(9, (uint64_t)i) * (double)g->n_rows), n = i * 2;
        if (row0 + n > g->n_rows) n = g->n_rows - row0;
        grid_neighbors(g, row0, n, part);
        assert_memory_equal(part, nb + 27 * row0, (size_t)n * 27 * sizeof *nb);
    }
}

static void test_dense_levels(void **state) {
    (void)state;
    for (int density = 1; density <= 3; density++) {
        tensor coord, first;
        random_tiles(density == 3 ? 1 : 0.3 * density, &coord, &first);
        tensor nb = tiles_neighbors(&mem, &coord, &first);
        for (int side = 1; side <= 8; side *= 2) {
            grid g = grid_dense(&mem, side, &nb, &first);
            assert_int_equal(g.n_rows, coord.dim[0] * side * side * side);
            check_level(&g, &coord);
        }
        arena_reset(&mem, 0);
    }
}

static void test_masked_levels(void **state) {
    (void)state;
    for (int density = 0; density < 3; density++) {
        tensor coord, first;
        random_tiles(0.5, &coord, &first);
        int64_t n_tiles = coord.dim[0];
        tensor  nb = tiles_neighbors(&mem, &coord, &first), mask = arena_tensor(&mem, DT_U64, DIMS(n_tiles, 8)),
               pool_first[3];
        memset(mask.data, 0, tensor_bytes(&mask));
        for (int64_t i = 0; i < n_tiles * 512; i++)
            if (uniform(20, (uint64_t)i) < (density == 0 ? 0.01 : density == 1 ? 0.4 : 1) || i % 512 == 511)
                U64(&mask)[i / 64] |= UINT64_C(1) << i % 64;
        grid level[4];
        grid_pyramid(&mem, &mask, &nb, &first, level, pool_first);
        assert_int_equal(level[3].n_rows, n_tiles);
        for (int l = 0; l < 4; l++) {
            assert_int_equal(level[l].side, 8 >> l);
            check_level(&level[l], &coord);
        }
        for (int l = 0; l < 3; l++) {
            volume         fine = rows_of(&level[l], &coord), coarse = rows_of(&level[l + 1], &coord);
            const int32_t *child = I32(&pool_first[l]);
            assert_int_equal(pool_first[l].dim[0], level[l + 1].n_rows + 1);
            assert_true(child[0] == 0 && child[level[l + 1].n_rows] == level[l].n_rows);
            for (int64_t p = 0; p < level[l + 1].n_rows; p++) {
                assert_true(child[p] < child[p + 1]);
                for (int32_t i = child[p]; i < child[p + 1]; i++)
                    for (int d = 0; d < 3; d++) assert_int_equal(fine.xyz[3 * i + d] >> 1, coarse.xyz[3 * p + d]);
            }
        }
        arena_reset(&mem, 0);
    }
}

/* ---- blocks and windows --------------------------------------------------------------------------------------- */

static void random_tokens(double share, int m_slc, tensor *coord, tensor *first) {
    tensor any;
    random_tiles(share, &any, first);
    int32_t *order = arena_alloc(&mem, (size_t)any.dim[0] * sizeof *order);
    blocks_sort(I32(&any), I32(first), 3, m_slc, order);
    *coord = arena_tensor(&mem, DT_I32, any.dim, 2);
    for (int64_t i = 0; i < any.dim[0]; i++) memcpy(I32(coord) + 3 * i, I32(&any) + 3 * (int64_t)order[i], 12);
    /* A permutation inside each sample. */
    char *seen = arena_zeros(&mem, (size_t)any.dim[0]);
    for (int s = 0; s < 3; s++)
        for (int32_t i = I32(first)[s]; i < I32(first)[s + 1]; i++) {
            assert_true(order[i] >= I32(first)[s] && order[i] < I32(first)[s + 1] && !seen[order[i]]);
            seen[order[i]] = 1;
        }
}

/* Order of R§4.2 as six numbers, compared one after the other. */
static int compare_tokens(const int32_t *p, const int32_t *q, int m) {
    for (int i = 0; i < 6; i++) {
        int a = i < 3 ? p[i] / m : p[i - 3] % m, b = i < 3 ? q[i] / m : q[i - 3] % m;
        if (a != b) return a < b ? -1 : 1;
    }
    return 0;
}

static int sample_of(const tensor *first, int64_t i) {
    int s = 0;
    while (I32(first)[s + 1] <= i) s++;
    return s;
}

static int same_cell(const int32_t *p, const int32_t *q, int m, int shift) {
    for (int d = 0; d < 3; d++)
        if ((p[d] + shift) / m != (q[d] + shift) / m) return 0;
    return 1;
}

/* Groups of rows (order NULL: ranges) are exactly the cells of (coord + shift) div m in each sample. */
static void check_groups(const tensor *coord, const tensor *sample_first, const tensor *group_first,
                         const tensor *order, int m, int shift) {
    int64_t  n = coord->dim[0], n_groups = group_first->dim[0] - 1;
    int32_t *group = arena_alloc(&mem, (size_t)n * sizeof *group);
    memset(group, 0xFF, (size_t)n * sizeof *group);
    for (int64_t j = 0; j < n_groups; j++) {
        assert_true(I32(group_first)[j] < I32(group_first)[j + 1]);
        for (int32_t i = I32(group_first)[j]; i < I32(group_first)[j + 1]; i++) {
            int32_t row = order && order->data ? I32(order)[i] : i;
            assert_int_equal(group[row], -1);
            group[row] = (int32_t)j;
        }
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            int same = sample_of(sample_first, i) == sample_of(sample_first, j) &&
                       same_cell(I32(coord) + 3 * i, I32(coord) + 3 * j, m, shift);
            assert_true(group[i] >= 0 && same == (group[i] == group[j]));
        }
}

static void test_blocks(void **state) {
    (void)state;
    static const int size[][2] = {{1, 2}, {1, 1}, {2, 2}, {2, 4}, {1, 4}, {3, 3}, {8, 8}, {4, 8}};
    for (int i = 0; i < 8; i++) {
        int    m_cmp = size[i][0], m_slc = size[i][1];
        tensor coord, first;
        random_tokens(0.6, m_slc, &coord, &first);
        for (int s = 0; s < 3; s++)
            for (int32_t r = I32(&first)[s] + 1; r < I32(&first)[s + 1]; r++)
                assert_int_equal(compare_tokens(I32(&coord) + 3 * (r - 1), I32(&coord) + 3 * r, m_slc), -1);
        block_tables b = blocks_build(&mem, &coord, &first, m_cmp, m_slc, true);
        assert_int_equal(b.n_slc, b.slc_first.dim[0] - 1);
        assert_int_equal(b.n_cmp, b.cmp_first.dim[0] - 1);
        check_groups(&coord, &first, &b.slc_first, NULL, m_slc, 0);
        check_groups(&coord, &first, &b.cmp_first, &b.cmp_order, m_cmp, 0);
        int64_t widest = 0;
        for (int s = 0; s < 3; s++) {
            int32_t b0 = I32(&b.slc_sample_first)[s], b1 = I32(&b.slc_sample_first)[s + 1];
            if (b1 - b0 > widest) widest = b1 - b0;
            assert_int_equal(I32(&b.slc_first)[b0], I32(&first)[s]);
            assert_int_equal(I32(&b.slc_first)[b1], I32(&first)[s + 1]);
            assert_int_equal(I32(&b.slc_cmp_first)[b0], I32(&b.cmp_sample_first)[s]);
            assert_int_equal(I32(&b.slc_cmp_first)[b1], I32(&b.cmp_sample_first)[s + 1]);
        }
        assert_int_equal(b.max_slc_per_sample, widest);
        for (int64_t j = 0; j < b.n_slc; j++)
            for (int32_t c = I32(&b.slc_cmp_first)[j]; c < I32(&b.slc_cmp_first)[j + 1]; c++)
                for (int32_t r = I32(&b.cmp_first)[c]; r < I32(&b.cmp_first)[c + 1]; r++) {
                    int32_t        row = b.cmp_order.data ? I32(&b.cmp_order)[r] : r;
                    const int32_t *p = I32(&coord) + 3 * (int64_t)row, *q = I32(&b.cmp_coord) + 3 * (int64_t)c;
                    assert_true(row >= I32(&b.slc_first)[j] && row < I32(&b.slc_first)[j + 1]);
                    for (int d = 0; d < 3; d++) assert_int_equal(p[d] / m_cmp, q[d]);
                    assert_int_equal(I32(&b.pe_index)[row],
                                     (p[0] % m_cmp * m_cmp + p[1] % m_cmp) * m_cmp + p[2] % m_cmp);
                }
        for (int64_t k = 0, at = 0; k < m_cmp * m_cmp * m_cmp; k++) {
            assert_int_equal(I32(&b.pe_first)[k], at);
            for (int32_t row = -1; at < I32(&b.pe_first)[k + 1]; row = I32(&b.pe_order)[at++])
                assert_true(I32(&b.pe_order)[at] > row && I32(&b.pe_index)[I32(&b.pe_order)[at]] == k);
            if (k + 1 == m_cmp * m_cmp * m_cmp) assert_int_equal(at, coord.dim[0]);
        }
        assert_true(b.cmp_grid.side == 1 && b.cmp_grid.n_rows == b.n_cmp);
        for (int64_t c = 0; c < b.n_cmp; c++) assert_int_equal(I32(&b.cmp_grid.nb)[27 * c + 13], c);
        for (int shift = 0; shift < 4; shift += 1) {
            window_tables w = windows_build(&mem, &coord, &first, m_slc, shift, true, m_slc);
            assert_true((w.order.data == NULL) == (shift == 0));
            check_groups(&coord, &first, &w.first, &w.order, m_slc, shift);
            window_tables any = windows_build(&mem, &coord, &first, m_slc, shift, false, m_slc);
            assert_true(any.order.data != NULL && any.n_windows == w.n_windows);
            assert_memory_equal(any.first.data, w.first.data, tensor_bytes(&w.first));
            /* Windows ascend by (sample, wx, wy, wz). */
            for (int64_t j = 1; j < any.n_windows; j++) {
                int64_t p = I32(&any.order)[I32(&any.first)[j - 1]], q = I32(&any.order)[I32(&any.first)[j]];
                int     order = sample_of(&first, q) - sample_of(&first, p);
                for (int d = 0; d < 3 && order == 0; d++)
                    order = (I32(&coord)[3 * q + d] + shift) / m_slc - (I32(&coord)[3 * p + d] + shift) / m_slc;
                assert_true(order > 0);
            }
        }
        arena_reset(&mem, 0);
    }
}

/* ---- what is wrong -------------------------------------------------------------------------------------------- */

static int32_t bad_coord[6], bad_first[2];

static void run_neighbors(void *unused) {
    (void)unused;
    tensor coord = tensor_wrap(bad_coord, DT_I32, DIMS(2, 3)), first = tensor_wrap(bad_first, DT_I32, DIMS(2));
    tiles_neighbors(&mem, &coord, &first);
}

static void run_blocks(void *unused) {
    (void)unused;
    tensor coord = tensor_wrap(bad_coord, DT_I32, DIMS(2, 3)), first = tensor_wrap(bad_first, DT_I32, DIMS(2));
    blocks_build(&mem, &coord, &first, 4, 8, false);
}

static void expect_message(void (*fn)(void *), const char *part) {
    const char *text = expect_fatal(fn, NULL);
    if (!text || !strstr(text, part)) fail_msg("message \"%s\" does not contain \"%s\"", text ? text : "(none)", part);
}

static void test_wrong_input(void **state) {
    (void)state;
    bad_first[1] = 2;
    memcpy(bad_coord, (int32_t[]){1, 2, 3, 1, 2, 3}, sizeof bad_coord);
    expect_message(run_neighbors, "(1,2,3) twice");
    expect_message(run_blocks, "the same");
    memcpy(bad_coord, (int32_t[]){9, 2, 3, 1, 2, 3}, sizeof bad_coord);
    expect_message(run_blocks, "out of order");
    memcpy(bad_coord, (int32_t[]){0, 2, 3, 0, -1, 3}, sizeof bad_coord);
    expect_message(run_neighbors, "(0,-1,3)");
    memcpy(bad_coord, (int32_t[]){0, 2, 3, 0, COORD_LIMIT, 3}, sizeof bad_coord);
    expect_message(run_blocks, "allowed are");
    bad_first[1] = 3;
    expect_message(run_neighbors, "cover rows 0..3 of 2");
}

/* The largest coordinates keep their neighbours apart from each other's. */
static void test_far_corner(void **state) {
    (void)state;
    int32_t c = COORD_LIMIT - 1, xyz[] = {c, c, c, c, c, c - 1, 0, 0, 0, c, 0, 0, 0, c, c}, rows[] = {0, 5};
    tensor  coord = tensor_wrap(xyz, DT_I32, DIMS(5, 3)), first = tensor_wrap(rows, DT_I32, DIMS(2));
    tensor  nb = tiles_neighbors(&mem, &coord, &first);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 27; k++) {
            int want = k == 13 ? i : i == 0 && k == 4 ? 1 : i == 1 && k == 22 ? 0 : -1;
            assert_int_equal(I32(&nb)[27 * i + k], want);
        }
    assert_int_equal(
        blocks_build(&mem, &(tensor){.data = xyz, .dim = {2, 3, 1, 1}, .n_dims = 2, .dt = DT_I32},
                     &(tensor){.data = (int32_t[]){0, 1, 2}, .dim = {3, 1, 1, 1}, .n_dims = 1, .dt = DT_I32}, 1,
                     COORD_LIMIT, true)
            .n_cmp,
        2);
}

/* R§15.3: sphere of radius 0.475 at R = 1024, |distance| < 1/256 at cell centres. */
static void test_sphere_counts(void **state) {
    (void)state;
    enum { R = 1024, L = R / 8 };
    const double radius = 0.475, tau = 1.0 / 256, half = 4.0 * sqrt(3.0) / R;
    int64_t      n = 0, room = 120000;
    tensor       coord = arena_tensor(&mem, DT_I32, DIMS(room, 3)), mask = arena_tensor(&mem, DT_U64, DIMS(room, 8));
    for (int t = 0; t < L * L * L; t++) {
        int    p[3] = {t / L / L, t / L % L, t % L};
        double m[3];
        for (int d = 0; d < 3; d++) m[d] = (8 * p[d] + 4.0) / R - 0.5;
        if (fabs(sqrt(m[0] * m[0] + m[1] * m[1] + m[2] * m[2]) - radius) > tau + half) continue;
        uint64_t *word = U64(&mask) + 8 * n, any = 0;
        memset(word, 0, 64);
        for (int c = 0; c < 512; c++) {
            int    q[3];
            double s = 0;
            morton_decode(c, &q[0], &q[1], &q[2]);
            for (int d = 0; d < 3; d++) s += pow((8 * p[d] + q[d] + 0.5) / R - 0.5, 2);
            uint64_t bit = fabs(sqrt(s) - radius) < tau;
            word[c / 64] |= bit << c % 64;
            any |= bit;
        }
        if (!any) continue;
        assert_true(n < room);
        memcpy(I32(&coord) + 3 * n++, p, sizeof p);
    }
    assert_int_equal(n, 107536);
    tensor first = tensor_wrap((int32_t[]){0, (int32_t)n}, DT_I32, DIMS(2)), xyz = tensor_rows(&coord, 0, n),
           pool_first[3];
    tensor nb = tiles_neighbors(&mem, &xyz, &first), all = tensor_rows(&mask, 0, n);
    grid   level[4];
    grid_pyramid(&mem, &all, &nb, &first, level, pool_first);
    assert_int_equal(level[0].n_rows, 23783576);
    int32_t *order = arena_alloc(&mem, (size_t)n * sizeof *order);
    tensor   sorted = arena_tensor(&mem, DT_I32, DIMS(n, 3));
    blocks_sort(I32(&xyz), I32(&first), 1, 8, order);
    for (int64_t i = 0; i < n; i++) memcpy(I32(&sorted) + 3 * i, I32(&xyz) + 3 * (int64_t)order[i], 12);
    block_tables b = blocks_build(&mem, &sorted, &first, 4, 8, false);
    assert_int_equal(b.n_slc, 1136);
    assert_int_equal(b.n_cmp, 5168);
    arena_reset(&mem, 0);
}

/* Large batches are shared out over threads: the tables do not depend on how many. */
static void test_threads(void **state) {
    enum { EDGE = 40 };
    int64_t n = 0;
    int     threads = omp_get_max_threads();
    tensor  coord = arena_tensor(&mem, DT_I32, DIMS(EDGE * EDGE * EDGE, 3)),
           mask = arena_tensor(&mem, DT_U64, DIMS(EDGE * EDGE * EDGE, 8));
    (void)state;
    for (int b = 0; b < EDGE * EDGE * EDGE; b++) { /* sorted by blocks of 8 */
        int block = b / 512, in = b % 512, p[3] = {block / 25, block / 5 % 5, block % 5},
            c[3] = {in / 64, in / 8 % 8, in % 8};
        if (uniform(11, (uint64_t)b) > 0.5) continue;
        for (int d = 0; d < 3; d++) I32(&coord)[3 * n + d] = 8 * p[d] + c[d];
        for (int w = 0; w < 8; w++)
            U64(&mask)
            [8 * n + w] = (uint64_t)(uniform(12, (uint64_t)(8 * b + w)) * 1e18) & (w == 5 ? ~UINT64_C(0) : 0xff00f0);
        U64(&mask)[8 * n++] |= 1;
    }
    tensor first = tensor_wrap((int32_t[]){0, 9001, (int32_t)n}, DT_I32, DIMS(3)), xyz = tensor_rows(&coord, 0, n),
           all = tensor_rows(&mask, 0, n), nb[2], pool_first[2][3];
    grid          level[2][4];
    window_tables w[2][2];
    assert_true(n > 30000);
    for (int k = 0; k < 2; k++) {
        omp_set_num_threads(k ? 3 : 1);
        nb[k] = tiles_neighbors(&mem, &xyz, &first);
        grid_pyramid(&mem, &all, &nb[k], &first, level[k], pool_first[k]);
        for (int i = 0; i < 2; i++) w[k][i] = windows_build(&mem, &xyz, &first, 8, 4 * i, false, 8);
    }
    omp_set_num_threads(threads);
#define SAME(a, b)                                                                                                     \
    (assert_int_equal(tensor_bytes(&a), tensor_bytes(&b)), assert_memory_equal(a.data, b.data, tensor_bytes(&a)))
    SAME(nb[0], nb[1]);
    for (int l = 0; l < 4; l++) {
        SAME(level[0][l].first, level[1][l].first);
        SAME(level[0][l].mask, level[1][l].mask);
        if (l > 0) SAME(pool_first[0][l - 1], pool_first[1][l - 1]);
    }
    for (int i = 0; i < 2; i++) {
        SAME(w[0][i].first, w[1][i].first);
        SAME(w[0][i].order, w[1][i].order);
    }
#undef SAME
    arena_reset(&mem, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sort_keys),     cmocka_unit_test(test_morton),        cmocka_unit_test(test_dense_levels),
        cmocka_unit_test(test_masked_levels), cmocka_unit_test(test_blocks),        cmocka_unit_test(test_wrong_input),
        cmocka_unit_test(test_far_corner),    cmocka_unit_test(test_sphere_counts), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
