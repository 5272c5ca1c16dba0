/* The adaptive gradient limit by hand-computed cases. */
#include "harness/harness.h"
#include "nn/clip.h"

#include <math.h>

static void test_percentile(void **state) {
    const float x[] = {1, 2, 4, 8};
    (void)state;
    assert_true(clip_percentile(x, 4, 0) == 1);
    assert_true(clip_percentile(x, 4, 100) == 8);
    assert_true(clip_percentile(x, 4, 50) == 3);
    expect_le(fabs(clip_percentile(x, 4, 90) - 6.8), 1e-12, "90 of 1 2 4 8"); /* place 2.7: 4 + 0.7*4 */
    assert_true(clip_percentile(x, 1, 37) == 1);
}

static void test_limit(void **state) {
    arena      a = arena_new("clip", 4096);
    clip_state s = clip_new(&a, 5, 50, 3);
    (void)state;
    clip_observe(&s, 1);
    clip_observe(&s, NAN); /* left out */
    clip_observe(&s, INFINITY);
    clip_observe(&s, 2);
    assert_true(clip_limit(&s) == 5);
    clip_observe(&s, 3);
    assert_true(clip_limit(&s) == 2);
    clip_observe(&s, 9); /* 2 3 9 */
    assert_true(clip_limit(&s) == 3);
    clip_observe(&s, 9); /* 3 9 9: never over max_norm */
    assert_true(clip_limit(&s) == 5);
    /* From a checkpoint: the limit follows from ring and count. */
    clip_state r = clip_new(&a, 5, 50, 3);
    for (int i = 0; i < 3; i++) r.ring[i] = s.ring[i];
    r.seen = s.seen;
    clip_refresh(&r);
    clip_observe(&r, 1), clip_observe(&s, 1);
    clip_observe(&r, 1), clip_observe(&s, 1);
    assert_true(clip_limit(&r) == 1 && clip_limit(&s) == 1);
    arena_free(&a);
}

static void test_factor(void **state) {
    (void)state;
    assert_true(clip_factor(0.5, 1) == 1);
    assert_true(clip_factor(0, 1) == 1);
    expect_le(fabs(clip_factor(4, 1) - 0.25), 1e-6, "factor");
    assert_true(isnan(clip_factor(NAN, 1)));
    arena      a = arena_new("clip", 4096);
    clip_state fixed = clip_new(&a, 2, 95, 0);
    for (int i = 0; i < 10; i++) clip_observe(&fixed, 0.1);
    assert_true(clip_limit(&fixed) == 2);
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_percentile), cmocka_unit_test(test_limit),
                                       cmocka_unit_test(test_factor)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
