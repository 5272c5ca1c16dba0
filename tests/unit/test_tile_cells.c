/* Cells of a tile against their definition, value by value. */
#include "harness/harness.h"

#include <math.h>
#include <string.h>
#include "core/half.h"
#include "core/rng.h"
#include "data/tile_cells.h"

/* Halves around 1, everything else, and none or all active. */
static void fill(uint16_t *value, uint8_t *sharp, int round) {
    static const uint16_t edge[] = {0x3c00, 0xbc00, 0x3bff, 0xbbff, 0x3c01, 0,      0x8000, 1,
                                    0x8001, 0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xfe00, 0x7bff, 0x03ff};
    for (uint64_t c = 0; c < TILE_CELLS; c++) {
        uint32_t u = rng_u32((rng_key){.seed = 2, .purpose = RNG_TEST, .step = (uint64_t)round}, c);
        value[c] = round == 0 ? 0x3c00 : round == 1 ? 0x3800 : round == 2 ? edge[u % 16] : (uint16_t)u;
        if (c < TILE_SHARP_BYTES) sharp[c] = (uint8_t)(u >> 16);
    }
}

static void test_cells(void **state) {
    enum { GUARD = 16, ROUNDS = 40 };
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        uint16_t value[TILE_CELLS];
        uint8_t  sharp[TILE_SHARP_BYTES];
        uint64_t mask[TILE_WORDS];
        float    all[TILE_CELLS], active[TILE_CELLS + GUARD];
        int      n = 0, n_sharp = 0;
        fill(value, sharp, round);
        poison(active, sizeof active);
        int n_active = cells_mask(value, mask);
        cells_values(value, all);
        cells_active(value, mask, active);
        for (int c = 0; c < TILE_CELLS; c++) {
            float x = f16_to_f32(value[c]);
            bool  in = fabsf(x) < 1.0f;
            assert_int_equal(mask[c / 64] >> c % 64 & 1, in);
            assert_true(isnan(x) ? isnan(all[c]) : memcmp(&all[c], &x, sizeof x) == 0);
            if (!in) continue;
            assert_memory_equal(&active[n], &x, sizeof x);
            n++;
            n_sharp += sharp[c / 8] >> c % 8 & 1;
        }
        assert_int_equal(n_active, n);
        assert_int_equal(cells_sharp(mask, sharp), n_sharp);
        for (int i = n; i < TILE_CELLS + GUARD; i++) assert_true(isnan(active[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cells)};
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
