/* Collectives, on any number of ranks: integers whose sums are exact, odd lengths, buckets against one sum; the same by
 * levels, with successive ranks as nodes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "dist/buckets.h"
#include "harness/harness.h"

static comm world;

static const int64_t lengths[] = {0, 1, 2, 3, 63, 64, 65, 1000, 100003};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

static int64_t value(int rank, int64_t i) {
    return (i * 7 + rank * 13) % 1001 - 500;
}

static int64_t sum_over_ranks(int64_t i) {
    int64_t s = 0;
    for (int r = 0; r < world.size; r++) s += value(r, i);
    return s;
}

static void test_sums(void **state) {
    (void)state;
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t  n = lengths[k];
        float   *f = malloc((size_t)(n + 1) * sizeof *f);
        double  *d = malloc((size_t)(n + 1) * sizeof *d);
        int64_t *j = malloc((size_t)(n + 1) * sizeof *j);
        for (int64_t i = 0; i <= n; i++) {
            j[i] = value(world.rank, i);
            f[i] = (float)j[i];
            d[i] = (double)j[i];
        }
        comm_sum_f32(&world, f, n);
        comm_sum_f64(&world, d, n);
        comm_sum_i64(&world, j, n);
        for (int64_t i = 0; i < n; i++) {
            assert_true(f[i] == (float)sum_over_ranks(i));
            assert_true(d[i] == (double)sum_over_ranks(i));
            assert_true(j[i] == sum_over_ranks(i));
        }
        assert_true(f[n] == (float)value(world.rank, n)); /* guard */
        free(f);
        free(d);
        free(j);
    }
}

static void test_max_bcast_gather(void **state) {
    (void)state;
    double  d[2] = {world.rank, -world.rank};
    int64_t j = 100 - world.rank, text[3] = {0};
    comm_max_f64(&world, d, 2);
    comm_max_i64(&world, &j, 1);
    assert_true(d[0] == world.size - 1 && d[1] == 0 && j == 100);
    if (world.rank == world.size - 1) text[2] = 42;
    comm_bcast(&world, text, sizeof text, world.size - 1);
    assert_int_equal(text[2], 42);
    int64_t  mine[2] = {world.rank, 10 * world.rank};
    int64_t *all = malloc((size_t)world.size * sizeof mine);
    comm_all_gather(&world, mine, all, sizeof mine);
    for (int r = 0; r < world.size; r++) assert_true(all[2 * r] == r && all[2 * r + 1] == 10 * r);
    free(all);
}

static void test_agree(void **state) {
    (void)state;
    status st = {0};
    assert_true(comm_agree(&world, &st));
    for (int bad = 0; bad < world.size; bad++) {
        st = (status){0};
        if (world.rank >= bad) status_set(&st, ST_DATA, "rank %d", world.rank);
        assert_false(comm_agree(&world, &st));
        char want[32];
        snprintf(want, sizeof want, "rank %d", bad);
        assert_string_equal(st.text, want);
        assert_int_equal(st.code, ST_DATA);
    }
}

enum { ROWS = 40, LAYERS = 6 };

static int64_t slab_rows(bucket_row row[ROWS]) {
    int64_t at = 0;
    for (int i = 0; i < ROWS; i++) {
        int64_t n = 1 + (i * 37) % 301;
        row[i] = (bucket_row){at, n, i < 3 ? -1 : (i - 3) * LAYERS / (ROWS - 3)};
        at += (n + 15) / 16 * 16;
    }
    return at;
}

/* Ranks report layers at their own pace, one of them none at all; the result is the plain sum, bit for bit. */
static void test_buckets(void **state) {
    (void)state;
    bucket_row row[ROWS];
    int64_t    total = slab_rows(row);
    float     *slab = malloc((size_t)total * sizeof *slab), *plain = malloc((size_t)total * sizeof *plain),
          *first = malloc((size_t)total * sizeof *first);
    int64_t sizes[] = {1, 2000, 1 << 20};
    for (int k = 0; k < 3; k++) {
        buckets b, parts;
        int64_t slice[64] = {0}; /* one of them empty */
        buckets_init(&b, &world, row, ROWS, total, sizes[k]);
        buckets_init(&parts, &world, row, ROWS, total, sizes[k]);
        for (int r = 1; r < world.size; r++) slice[r] = r == 2 ? slice[1] : total * r / world.size - 5;
        slice[world.size] = total;
        buckets_slice(&parts, slice);
        int64_t covered = 0;
        for (int i = 0; i < b.n; i++) covered += b.item[i].count;
        assert_int_equal(covered, total);
        assert_true(k != 2 || b.n == 1);
        assert_true(k != 0 || b.n > LAYERS);
        for (int round = 0; round < 5; round++) {
            rng_key key = {.seed = (uint64_t)round, .purpose = RNG_TEST, .sample = (uint64_t)world.rank};
            rng_fill_normal(key, 0, total, slab);
            memcpy(plain, slab, (size_t)total * sizeof *slab);
            tensor whole = tensor_wrap(slab, DT_F32, DIMS(total));
            buckets_begin(&b, &whole);
            for (int l = LAYERS - 1; l >= 0; l--)
                if ((world.rank + round) % 3 != 2 || world.size == 1) buckets_layer_done(&b, l);
            assert_true(buckets_finish(&b) >= 0);
            tensor at_once = tensor_wrap(plain, DT_F32, DIMS(total));
            comm_wait(comm_sum_start(&world, &at_once));
            assert_memory_equal(slab, plain, (size_t)total * sizeof *slab);
            rng_fill_normal(key, 0, total, slab); /* again, and each rank gets its slice alone */
            buckets_begin(&parts, &whole);
            for (int l = LAYERS - 1; l >= 0; l--)
                if ((world.rank + round) % 3 != 1 || world.size == 1) buckets_layer_done(&parts, l);
            assert_true(buckets_finish(&parts) >= 0);
            int64_t own = slice[comm_own_slice(&world)], n_own = slice[comm_own_slice(&world) + 1] - own;
            assert_memory_equal(slab + own, plain + own, (size_t)n_own * sizeof *slab);
            memcpy(slab, plain, (size_t)total * sizeof *slab);
            memcpy(first, slab, (size_t)total * sizeof *slab); /* the same bits on every rank */
            comm_bcast(&world, first, total * (int64_t)sizeof *first, 0);
            assert_memory_equal(first, slab, (size_t)total * sizeof *slab);
        }
        buckets_free(&b);
        buckets_free(&parts);
    }
    free(slab);
    free(plain);
    free(first);
}

/* Slices of any length, empty ones too; and who shares this host. */
static void test_slices_and_host(void **state) {
    (void)state;
    int64_t first[64] = {0};
    int     rank, size;
    for (int r = 0; r < world.size; r++) first[r + 1] = first[r] + (r % 2 ? 0 : 5 + r);
    int64_t n = first[world.size];
    float  *x = calloc((size_t)n, sizeof *x);
    for (int64_t i = first[world.rank]; i < first[world.rank + 1]; i++) x[i] = (float)(i + 1);
    tensor     t = tensor_wrap(x, DT_F32, DIMS(n));
    comm_piece piece[64];
    for (int r = 0; r < world.size; r++) piece[r] = (comm_piece){tensor_rows(&t, first[r], first[r + 1] - first[r]), r};
    comm_share(&world, piece, world.size);
    for (int64_t i = 0; i < n; i++) assert_true(x[i] == (float)(i + 1));
    free(x);
    comm_local(&world, &rank, &size); /* the test's ranks are all here */
    assert_int_equal(rank, world.rank);
    assert_int_equal(size, world.size);
}

static void normal_of(int rank, int64_t n, float *x) {
    rng_fill_normal((rng_key){.seed = 3, .purpose = RNG_TEST, .sample = (uint64_t)rank}, 0, n, x);
}

/* By hand: nodes of k successive ranks, rounded to f32 after each level. */
static void sum_by_hand(int k, int64_t n, float *out) {
    double *inside = calloc((size_t)n + 1, sizeof *inside), *all = calloc((size_t)n + 1, sizeof *all);
    for (int r = 0; r < world.size; r++) {
        normal_of(r, n, out);
        for (int64_t i = 0; i < n; i++) inside[i] += (double)out[i];
        if ((r + 1) % k != 0) continue;
        for (int64_t i = 0; i < n; i++) all[i] += (double)(float)inside[i];
        memset(inside, 0, (size_t)n * sizeof *inside);
    }
    for (int64_t i = 0; i < n; i++) out[i] = (float)all[i];
    free(inside);
    free(all);
}

/* Several sums under way, whole ones and such of slices. */
static void sums_by_levels(int k) {
    enum { LONGEST = 100003, SUMS = 2 * N_LENGTHS };
    float        *want = malloc((LONGEST + 1) * sizeof *want), *x[SUMS];
    comm_request *r[SUMS];
    int64_t       slice[64] = {0};
    for (int i = 0; i < SUMS; i++) {
        int64_t n = lengths[i / 2];
        x[i] = malloc((size_t)(n + 1) * sizeof *x[i]);
        normal_of(world.rank, n, x[i]);
        x[i][n] = 42;
        for (int s = 0; s <= world.size; s++) slice[s] = s == 1 ? 0 : n * s / world.size; /* the first one is empty */
        slice[world.size] = n;
        tensor t = tensor_wrap(x[i], DT_F32, DIMS(n));
        r[i] = i % 2 ? comm_sum_slices_start(&world, &t, slice) : comm_sum_start(&world, &t);
        if (i % 3 == world.rank % 3) comm_progress(&world);
    }
    for (int i = 0; i < SUMS; i++) {
        int64_t n = lengths[i / 2], own = comm_own_slice(&world);
        int64_t from = i % 2 == 0 || own <= 1 ? 0 : n * own / world.size;
        int64_t end = i % 2 == 0 ? n : own == 0 && world.size > 1 ? 0 : n * (own + 1) / world.size;
        comm_wait(r[i]);
        sum_by_hand(k, n, want);
        assert_memory_equal(x[i] + from, want + from, (size_t)(end - from) * sizeof *want);
        assert_true(x[i][n] == 42);
        free(x[i]);
    }
    free(want);
}

/* Each slice has one owner, and rank and slice find each other. */
static void owners(void) {
    bool seen[64] = {0};
    for (int s = 0; s < world.size; s++) {
        int r = comm_owner(&world, s);
        assert_true(r >= 0 && r < world.size && !seen[r]);
        assert_true((r == world.rank) == (s == comm_own_slice(&world)));
        seen[r] = true;
    }
}

static void test_levels(void **state) {
    (void)state;
    owners();
    for (int k = 1; k <= world.size; k++) {
        comm_nodes n = comm_nodes_of(&world, k);
        assert_int_equal(n.n, (world.size + k - 1) / k);
        assert_int_equal(n.most, k);
        assert_int_equal(n.least, world.size % k ? world.size % k : k);
        if (world.size % k != 0) continue;
        comm_levels_open(&world, k);
        owners();
        sums_by_levels(k);
        test_sums(NULL);
        test_buckets(NULL);
        test_slices_and_host(NULL);
        comm_levels_close(&world);
    }
    comm_nodes host = comm_nodes_of(&world, 0);
    assert_true(host.n == 1 && host.least == world.size && host.most == world.size);
    comm_levels_open(&world, 0);
    owners();
    comm_levels_close(&world);
}

static void test_dup(void **state) {
    (void)state;
    comm    c = comm_dup(&world);
    int64_t one = 1;
    assert_int_equal(c.rank, world.rank);
    comm_sum_i64(&c, &one, 1);
    assert_int_equal(one, world.size);
    comm_free(&c);
    comm_barrier(&world);
}

int main(int argc, char **argv) {
    comm_start(&world, &argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),    cmocka_unit_test(test_max_bcast_gather), cmocka_unit_test(test_agree),
        cmocka_unit_test(test_buckets), cmocka_unit_test(test_slices_and_host),  cmocka_unit_test(test_levels),
        cmocka_unit_test(test_dup)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&world);
    return failed;
}
