/* The cube's symmetries against a dense grid. */
#include "harness/harness.h"

#include <stdlib.h>
#include <string.h>
#include "core/rng.h"
#include "data/symmetry.h"
#include "sparse/grid.h"

enum { R = 24, L = R / 8, TILES = 5, DENSE = R * R * R };

static sample make(void) {
    static const uint16_t at[TILES][3] = {{0, 0, 0}, {0, 2, 1}, {1, 1, 1}, {2, 0, 1}, {2, 2, 0}};
    sample                s = {.n_tiles = TILES,
                               .coord = malloc(sizeof at),
                               .value = malloc(TILES * TILE_CELLS * sizeof(uint16_t)),
                               .sharp = malloc(TILES * TILE_SHARP_BYTES)};
    memcpy(s.coord, at, sizeof at);
    for (int i = 0; i < TILES * TILE_CELLS; i++) s.value[i] = (uint16_t)(i + 1);
    for (int i = 0; i < TILES * TILE_SHARP_BYTES; i++)
        s.sharp[i] = (uint8_t)rng_u32((rng_key){.seed = 3, .purpose = RNG_TEST}, (uint64_t)i);
    return s;
}

/* value + 65536 * sharp at every voxel, 0 where nothing is. */
static void spread(const sample *s, uint32_t *dense) {
    memset(dense, 0, DENSE * sizeof *dense);
    for (int t = 0; t < TILES; t++)
        for (int c = 0; c < TILE_CELLS; c++) {
            int p[3];
            morton_decode(c, &p[0], &p[1], &p[2]);
            for (int a = 0; a < 3; a++) p[a] += 8 * s->coord[3 * t + a];
            dense[(p[0] * R + p[1]) * R + p[2]] =
                s->value[t * TILE_CELLS + c] + 65536u * (s->sharp[t * TILE_SHARP_BYTES + c / 8] >> (c % 8) & 1);
        }
}

static void test_turns(void **state) {
    static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static uint32_t  before[DENSE], after[DENSE];
    (void)state;
    for (int g = 0; g < CUBE_SYMMETRIES; g++) {
        sample s = make();
        spread(&s, before);
        sample_turn(&s, R, g);
        spread(&s, after);
        int n_moved = 0;
        for (int i = 0; i < DENSE; i++) {
            int p[3] = {i / R / R, i / R % R, i % R}, q[3];
            for (int a = 0; a < 3; a++) q[a] = g >> a & 1 ? R - 1 - p[order[g / 8][a]] : p[order[g / 8][a]];
            int to = (q[0] * R + q[1]) * R + q[2];
            assert_int_equal(after[to], before[i]);
            n_moved += to != i;
        }
        assert_true(g == 0 ? n_moved == 0 : n_moved > 0);
        sample_free(&s);
    }
}

/* Eight different ones, none of which moves anything along the second axis. */
static void test_upright(void **state) {
    uint64_t seen = 0;
    (void)state;
    for (int i = 0; i < UPRIGHT_SYMMETRIES; i++) {
        int    g = upright_symmetry(i);
        sample s = make(), turned = make();
        assert_in_range(g, 0, CUBE_SYMMETRIES - 1);
        assert_false(seen >> g & 1);
        seen |= UINT64_C(1) << g;
        sample_turn(&turned, R, g);
        for (int64_t t = 0; t < s.n_tiles; t++) assert_int_equal(turned.coord[3 * t + 1], s.coord[3 * t + 1]);
        sample_free(&s);
        sample_free(&turned);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns), cmocka_unit_test(test_upright)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
