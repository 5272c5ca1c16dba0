/* The watchdog's rules; whole jobs that hang are in app/hang.sh. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness.h"
#include "train/watchdog.h"

static beat_view view(beat_section s, bool warm, double longest) {
    beat_view v = {.section = s, .warm = warm};
    v.longest[s] = longest;
    return v;
}

static double limit(beat_view v) {
    return watchdog_limit(&v, 10);
}

static void test_limits(void **state) {
    (void)state;
    assert_true(limit(view(BEAT_FORWARD, true, 0.1)) == 10); /* never below what was asked for */
    assert_true(limit(view(BEAT_FORWARD, true, 4)) == 20);   /* five times what was seen */
    assert_true(limit(view(BEAT_FORWARD, true, 1000)) == 60);
    assert_true(limit(view(BEAT_FORWARD, false, 0)) == 60); /* the first step may compile, fill caches, ... */
    assert_true(limit(view(BEAT_START, false, 0)) == 60);
    assert_true(limit(view(BEAT_CHECKPOINT, true, 0)) == 60);
    assert_true(limit(view(BEAT_EVAL, true, 0)) == 60);
}

/* What one thread writes, another reads; a thread without a record writes nowhere. */
static void test_record(void **state) {
    (void)state;
    beat     *b = calloc(1, beat_size());
    beat_view v;
    beat_init(b);
    beat_enter(BEAT_FORWARD);
    beat_read(b, &v);
    assert_int_equal(v.section, BEAT_START);
    beat_bind(b);
    assert_int_equal(beat_enter(BEAT_REDUCE), BEAT_START);
    beat_step(7);
    beat_op("an operation with a name that is far too long to be kept", 3);
    beat_collective("sum", 1 << 20, true);
    usleep(20000);
    beat_back();
    beat_bind(NULL);
    beat_read(b, &v);
    assert_int_equal(v.section, BEAT_REDUCE);
    assert_int_equal(v.step, 7);
    assert_int_equal(v.collectives, 1);
    assert_int_equal(v.bytes, 1 << 20);
    assert_false(v.waiting);
    assert_string_equal(v.collective, "sum");
    assert_int_equal(strlen(v.op), BEAT_TEXT - 1);
    assert_true(v.longest[BEAT_REDUCE] >= 0.02 && v.longest[BEAT_START] < 0.02);
    assert_true(now_seconds() - v.at < 1);
    free(b);
}

/* Start and end leave nothing: twice in a process, and no thread writes to a record that is gone. */
static void test_start_stop(void **state) {
    (void)state;
    comm one = {.size = 1};
    assert_null(watchdog_start(&one, 0));
    for (int i = 0; i < 2; i++) {
        watchdog *d = watchdog_start(&one, 0.5);
        assert_non_null(d);
        for (int k = 0; k < 15; k++) {
            beat_step(k); /* works longer than the limit, but gives signs of life */
            usleep(50000);
        }
        watchdog_stop(d);
        beat_step(1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limits), cmocka_unit_test(test_record),
                                       cmocka_unit_test(test_start_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
