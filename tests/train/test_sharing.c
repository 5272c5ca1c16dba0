/* Who owns what of the optimiser's slabs, which shards are whose, and samples that stay in memory. */
#include <string.h>

#include "harness/harness.h"
#include "train/optimizer.h"
#include "train/sample_cache.h"
#include "train/share.h"

/* ---- slices --------------------------------------------------------------------------------------------------- */

/* Kernels, matrices and vectors of very different size. */
static void fill_params(params *p) {
    params_init(p);
    for (int i = 0; i < 9; i++) {
        int64_t c = 8 + 24 * (i % 4);
        params_add(p, i, INIT_UNIFORM, 1, DIMS(27, c, 64), "conv%d.kernel", i);
        params_add(p, i, INIT_ZERO, 0, DIMS(64), "conv%d.bias", i);
        params_add(p, i, INIT_XAVIER, 0, DIMS(4 * c, c), "mlp%d.weight", i);
    }
}

static bool starts_a_row(const params *p, int64_t at) {
    bool yes = at == p->total;
    for (int i = 0; i < p->n; i++) yes |= p->row[i]->offset == at;
    return yes;
}

static void test_slices(void **state) {
    static const int worlds[] = {1, 2, 3, 4, 7, 64};
    (void)state;
    params  p;
    options o;
    options_default(&o);
    fill_params(&p);
    for (int muon = 0; muon < 2; muon++) {
        o.train.optimizer = muon ? opt_train_optimizer_muon : opt_train_optimizer_adamw;
        for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
            int64_t first[65], most = 0;
            int     n = worlds[w];
            optimizer_slices(&p, &o, n, first);
            assert_int_equal(first[0], 0);
            assert_int_equal(first[n], p.total);
            for (int r = 0; r < n; r++) {
                assert_true(first[r] <= first[r + 1]);
                if (muon) assert_true(starts_a_row(&p, first[r]));
                if (first[r + 1] - first[r] > most) most = first[r + 1] - first[r];
            }
            if (!muon) assert_true(most <= p.total / n + 16 * n); /* even but for the last */
            for (int r = 1; r < n - 1 && !muon; r++) assert_int_equal(first[r + 1] - first[r], first[1]);
            if (muon && n <= 4) assert_true(most < 2 * p.total / n);
        }
    }
    params_free(&p);
}

/* ---- samples in memory ---------------------------------------------------------------------------------------- */

enum { TILES = 5 };

static sample make(uint16_t seed) {
    static uint16_t coord[TILES * 3], value[TILES * TILE_CELLS];
    static uint8_t  sharp[TILES * TILE_SHARP_BYTES];
    for (int i = 0; i < TILES * 3; i++) coord[i] = (uint16_t)(seed + i);
    for (int i = 0; i < TILES * TILE_CELLS; i++) value[i] = (uint16_t)(seed * 31 + i);
    memset(sharp, seed, sizeof sharp);
    return (sample){.id = seed,
                    .source = "a/b.obj",
                    .category = "chair",
                    .report = "{}",
                    .n_tiles = TILES,
                    .n_in = 7,
                    .coord = coord,
                    .value = value,
                    .sharp = sharp};
}

static void same(const sample *a, const sample *b) {
    assert_int_equal(a->id, b->id);
    assert_int_equal(a->n_tiles, b->n_tiles);
    assert_int_equal(a->n_in, b->n_in);
    assert_string_equal(a->source, b->source);
    assert_memory_equal(a->coord, b->coord, TILES * 3 * sizeof *a->coord);
    assert_memory_equal(a->value, b->value, TILES * TILE_CELLS * sizeof *a->value);
    assert_memory_equal(a->sharp, b->sharp, TILES * TILE_SHARP_BYTES);
}

static void test_cache(void **state) {
    (void)state;
    size_t        one = TILES * (3 * 2 + TILE_CELLS * 2 + TILE_SHARP_BYTES);
    sample_cache *c = sample_cache_new(4, 2 * one);
    sample        s = make(1);
    assert_null(sample_cache_find(c, 1));
    sample_cache_keep(c, 1, &s);
    s = make(2);
    sample_cache_keep(c, 3, &s);
    s = make(3);
    sample_cache_keep(c, 0, &s); /* no room */
    assert_null(sample_cache_find(c, 0));
    s = make(2);
    same(sample_cache_find(c, 3), &s);
    s = make(1);
    same(sample_cache_find(c, 1), &s);
    assert_int_equal(sample_cache_find(c, 3)->value[0], 2 * 31); /* copies are kept */
    sample_cache_free(c);
    assert_null(sample_cache_new(4, 0));
    assert_null(sample_cache_find(NULL, 0));
    sample_cache_keep(NULL, 0, &s);
    sample_cache_free(NULL);
}

/* ---- shards --------------------------------------------------------------------------------------------------- */

static int64_t size_of(const void *user, const shard *s, const char *path) {
    return strcmp(path, user) == 0 ? -1 : s->n_tiles;
}

static void test_shards(void **state) {
    (void)state;
    shard   s[3] = {{.path = "in/a.h5", .n_tiles = 5}, {.path = "in/b.h5", .n_tiles = 9}, {.path = "c.h5"}};
    dataset d = {.shards = s, .n_shards = 3};
    comm    one = {.size = 1};
    int     owner[3];
    share_shards(&d, "out", &one, size_of, "out/b.h5", owner); /* which is there */
    assert_memory_equal(owner, ((int[]){0, -1, 0}), sizeof owner);
    share_shards(&d, "out", &one, size_of, "", owner);
    assert_memory_equal(owner, ((int[]){0, 0, 0}), sizeof owner);
}

/* Parts without anything are nobody's. */
static void test_parts(void **state) {
    (void)state;
    static const int64_t first[] = {0, 0, 3, 3, 3, 4, 6, 6}, want[] = {1, 1, 1, 4, 5, 5};
    for (int64_t x = 0; x < 6; x++) assert_int_equal(part_of(first, 7, x), want[x]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_slices), cmocka_unit_test(test_shards),
                                       cmocka_unit_test(test_parts), cmocka_unit_test(test_cache)};
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
