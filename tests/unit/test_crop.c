/* Parts of a sample: the nearest tiles, in their order, with their own values. */
#include "harness/harness.h"

#include <stdlib.h>
#include <string.h>
#include "data/crop.h"
#include "sparse/grid.h"

enum { TILES = 6 };
static const uint16_t at[TILES][3] = {{0, 0, 0}, {0, 0, 1}, {0, 3, 0}, {1, 0, 0}, {4, 4, 4}, {4, 4, 5}};

static sample make(void) {
    sample s = {.n_tiles = TILES,
                .coord = malloc(sizeof at),
                .value = malloc(TILES * TILE_CELLS * sizeof(uint16_t)),
                .sharp = malloc(TILES * TILE_SHARP_BYTES)};
    memcpy(s.coord, at, sizeof at);
    for (int i = 0; i < TILES; i++) {
        for (int c = 0; c < TILE_CELLS; c++) s.value[i * TILE_CELLS + c] = (uint16_t)(1000 * i + c);
        memset(s.sharp + i * TILE_SHARP_BYTES, i + 1, TILE_SHARP_BYTES);
    }
    return s;
}

static void drop(sample *s) {
    free(s->coord);
    free(s->value);
    free(s->sharp);
}

static void same_tiles(const sample *s, const int *want, int n_want) {
    assert_int_equal(s->n_tiles, n_want);
    for (int i = 0; i < n_want; i++) {
        int k = want[i];
        assert_memory_equal(s->coord + 3 * i, at[k], sizeof at[k]);
        for (int c = 0; c < TILE_CELLS; c++) assert_int_equal(s->value[i * TILE_CELLS + c], 1000 * k + c);
        for (int c = 0; c < TILE_SHARP_BYTES; c++) assert_int_equal(s->sharp[i * TILE_SHARP_BYTES + c], k + 1);
    }
}

/* In place, and as a copy into memory that held another part, which leaves the sample as it is. */
static void expect_tiles(int64_t n, int64_t centre, const int *want, int n_want) {
    static const int all[TILES] = {0, 1, 2, 3, 4, 5};
    sample           s = make(), copy = {0};
    s.source = s.category = s.report = "";
    sample_assign_crop(&copy, &s, 1, 0);
    sample_assign_crop(&copy, &s, n, centre);
    same_tiles(&copy, want, n_want);
    same_tiles(&s, all, TILES);
    sample_free(&copy);
    sample_crop(&s, n, centre);
    same_tiles(&s, want, n_want);
    drop(&s);
}

static void test_nearest(void **state) {
    (void)state;
    expect_tiles(1, 3, (const int[]){3}, 1);
    expect_tiles(2, 0, (const int[]){0, 1}, 2); /* tiles 1 and 3 are equally far: the earlier one */
    expect_tiles(3, 0, (const int[]){0, 1, 3}, 3);
    expect_tiles(2, 5, (const int[]){4, 5}, 2);
    expect_tiles(4, 2, (const int[]){0, 1, 2, 3}, 4);
}

static void test_whole(void **state) {
    (void)state;
    expect_tiles(TILES, 2, (const int[]){0, 1, 2, 3, 4, 5}, TILES);
    expect_tiles(1000, 5, (const int[]){0, 1, 2, 3, 4, 5}, TILES);
}

static void far_centre(void *p) {
    sample_crop(p, 2, TILES);
}

static void test_wrong(void **state) {
    (void)state;
    sample      s = make();
    const char *text = expect_fatal(far_centre, &s);
    assert_non_null(text);
    assert_non_null(strstr(text, "tile 6 of 6"));
    drop(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nearest), cmocka_unit_test(test_whole),
                                       cmocka_unit_test(test_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
