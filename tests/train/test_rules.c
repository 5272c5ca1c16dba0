/* What a run decides by itself: who is slow, what is a spike, which replica is wrong, which time was lost. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/rng.h"
#include "harness/harness.h"
#include "train/arithmetic.h"
#include "train/goodput.h"
#include "train/replicas.h"
#include "train/spike.h"
#include "train/straggler.h"

/* ---- stragglers ------------------------------------------------------------------------------------------------ */

/* Windows of steps of n ranks with 5 % noise in each step and uneven shares; rank `slow` takes `times` as long. */
static int named(int n, int64_t steps, int slow, double times, int *wrong) {
    pace   p[64];
    int    who[64], right = 0;
    double factor[64];
    for (int64_t at = 0; at < steps; at += STRAGGLER_STEPS) {
        memset(p, 0, sizeof p);
        for (int64_t s = at; s < at + STRAGGLER_STEPS; s++)
            for (int r = 0; r < n; r++) {
                rng_key k = {.seed = 7, .step = (uint64_t)s, .sample = (uint64_t)r};
                double  tokens = 1000 + 500 * rng_uniform(k, 0);
                double  pace_s = (1e-4 + 5e-6 * rng_normal(k, 1)) * (r == slow ? times : 1);
                p[r].tokens += tokens;
                p[r].compute += tokens * pace_s;
            }
        int found = straggler_find(p, n, who, factor);
        for (int i = 0; i < found; i++) {
            if (who[i] != slow) ++*wrong;
            if (who[i] == slow && fabs(factor[i] - times) < 0.1) right++;
        }
    }
    return right;
}

static void test_stragglers(void **state) {
    const int n[] = {2, 3, 8, 64};
    (void)state;
    for (int i = 0; i < 4; i++) {
        int wrong = 0;
        assert_int_equal(named(n[i], 10000, -1, 1, &wrong), 0);
        assert_int_equal(wrong, 0); /* no false alarm */
        assert_int_equal(named(n[i], 1000, n[i] - 1, 2, &wrong), 1000 / STRAGGLER_STEPS);
        assert_int_equal(wrong, 0);
    }
}

static void test_straggler_edges(void **state) {
    int    who[3];
    double factor[3];
    (void)state;
    assert_int_equal(straggler_find((pace[]){{1, 100}}, 1, who, factor), 0);
    assert_int_equal(straggler_find((pace[]){{0, 0}, {0, 0}}, 2, who, factor), 0);
    assert_int_equal(straggler_find((pace[]){{9, 0}, {1, 100}, {1.4, 100}}, 3, who, factor), 0);
    assert_int_equal(straggler_find((pace[]){{1, 100}, {1.5, 100}, {1, 100}}, 3, who, factor), 1);
    assert_int_equal(who[0], 1);
    assert_true(factor[0] == 1.5);
    /* Twice the work in twice the time is not slow. */
    assert_int_equal(straggler_find((pace[]){{1, 100}, {2, 200}, {1, 100}}, 3, who, factor), 0);
}

/* ---- spikes ---------------------------------------------------------------------------------------------------- */

static void test_spikes(void **state) {
    spike_window s = {0};
    int          told = 0;
    (void)state;
    for (int i = 0; i < 10000; i++) {
        double x = 3 * exp(-i / 3000.0) + 0.05 * rng_normal((rng_key){.seed = 3, .sample = (uint64_t)i}, 0);
        double z = spike_z(&s, 128, x);
        if (i < 128) assert_true(z == 0);
        told += z > 6;
        if (i > 200 && i % 1000 == 0) assert_true(spike_z(&s, 128, x + 1) > 6);
        spike_observe(&s, 128, x);
    }
    assert_int_equal(told, 0);
    spike_window before = s;
    spike_observe(&s, 128, NAN);
    spike_observe(&s, 128, INFINITY);
    assert_memory_equal(&s, &before, sizeof s);
    assert_true(spike_z(&s, 128, NAN) == 0);
}

/* Up to a window the moments are exact. */
static void test_spike_moments(void **state) {
    const double x[] = {1, 4, 4, 7};
    spike_window s = {0};
    (void)state;
    for (int i = 0; i < 4; i++) spike_observe(&s, 100, x[i]);
    expect_le(fabs(s.mean - 4), 1e-14, "mean");
    expect_le(fabs(s.var - 4.5), 1e-14, "variance");
}

/* ---- replicas -------------------------------------------------------------------------------------------------- */

static void test_majority(void **state) {
    (void)state;
    assert_int_equal(replicas_majority((uint64_t[]){5}, 1), 0);
    assert_int_equal(replicas_majority((uint64_t[]){5, 6}, 2), -1);
    assert_int_equal(replicas_majority((uint64_t[]){6, 5, 5}, 3), 1);
    assert_int_equal(replicas_majority((uint64_t[]){5, 6, 7}, 3), -1);
    assert_int_equal(replicas_majority((uint64_t[]){5, 6, 5, 6}, 4), -1);
    assert_int_equal(replicas_majority((uint64_t[]){1, 2, 9, 9, 9}, 5), 2);
}

/* ---- goodput --------------------------------------------------------------------------------------------------- */

static void write_metrics(const char *run, const goodput *g, int64_t step) {
    char   path[PATH_CAP];
    status st = {0};
    assert_true(join_path(run, "metrics.jsonl", path, &st));
    jsonl *j = jsonl_open(path, INT64_MAX, &st);
    jsonl_begin(j);
    jsonl_int(j, "step", step);
    goodput_put(g, j);
    assert_true(jsonl_end(j, &st));
    jsonl_close(j);
}

/* A start of 30 steps with a checkpoint after 20 is killed; the next goes on from there. */
static void test_goodput(void **state) {
    char    run[PATH_CAP];
    status  st = {0};
    goodput g;
    double  t0 = now_seconds();
    (void)state;
    snprintf(run, sizeof run, "%s/goodput", temp_folder());
    assert_true(make_folder(run, &st));
    assert_true(goodput_open(&g, run, 0, 2, 3, &st));
    usleep(30000);
    goodput_book(&g, GOOD_START);
    for (int step = 1; step <= 30; step++) {
        usleep(5000);
        goodput_book(&g, step == 7 ? GOOD_LOST : GOOD_USEFUL);
        if (step % 10 == 0) write_metrics(run, &g, step);
    }
    goodput_move(&g, GOOD_USEFUL, GOOD_STALLED, 0.01);
    goodput_book(&g, GOOD_OTHER);
    expect_le(fabs(goodput_total(&g) - (2 + now_seconds() - t0)) / goodput_total(&g), 1e-3, "sum and wall time");
    expect_le(fabs(g.account[GOOD_STALLED] - 0.01), 1e-12, "stalled");
    double useful = g.account[GOOD_USEFUL] + 0.01, lost = g.account[GOOD_LOST];
    double total = goodput_total(&g) - g.account[GOOD_OTHER]; /* which no line has told of */

    assert_true(goodput_open(&g, run, 20, 0, 3, &st));
    assert_int_equal(g.starts, 2);
    assert_int_equal(g.idle_starts, 0); /* 30 steps were reached */
    expect_le(fabs(goodput_total(&g) - g.account[GOOD_DOWN] - total), 1e-3, "nothing is lost from the sum");
    double redone = g.account[GOOD_LOST] - lost;
    assert_true(redone > 0.049 && redone < 0.6 * useful); /* steps 21 to 30 */
    expect_le(fabs(g.account[GOOD_USEFUL] + redone - useful), 1e-6, "useful and lost");

    g.n_useful = 0; /* a rollback inside a start */
    goodput_mark(&g, 20);
    double before = g.account[GOOD_USEFUL];
    usleep(10000);
    goodput_book(&g, GOOD_USEFUL);
    goodput_rolled_back(&g, 20);
    expect_le(fabs(g.account[GOOD_USEFUL] - before), 1e-12, "useful after a rollback");
}

static void test_idle_starts(void **state) {
    char    run[PATH_CAP];
    status  st = {0};
    goodput g;
    (void)state;
    snprintf(run, sizeof run, "%s/idle", temp_folder());
    assert_true(make_folder(run, &st));
    for (int start = 0; start < 3; start++) {
        assert_true(goodput_open(&g, run, 0, 0, 3, &st));
        assert_int_equal(g.idle_starts, start);
        goodput_write(&g, g.first_best, true);
    }
    assert_false(goodput_open(&g, run, 0, 0, 3, &st));
    assert_int_equal(st.code, ST_CONFIG);
    assert_non_null(strstr(st.text, "3 starts in a row"));
    st = (status){0};
    assert_true(goodput_open(&g, run, 0, 0, 0, &st)); /* the user has mended it */
    goodput_write(&g, g.first_best, true);
    write_metrics(run, &g, 1); /* one step: the next start may be as unlucky as it likes */
    assert_true(goodput_open(&g, run, 0, 0, 3, &st));
    assert_int_equal(g.idle_starts, 0);
    goodput_write(&g, g.first_best, true);
    assert_true(goodput_open(&g, run, 0, 0, 3, &st));
    assert_int_equal(g.idle_starts, 1);
}

/* Expected: a text of 0 and 1, one for each rank. */
static void expect_suspects(const uint64_t (*hash)[2], int n, const char *expected) {
    bool suspect[8];
    int  found = arithmetic_judge(hash, n, suspect), wanted = 0;
    for (int i = 0; i < n; i++) {
        assert_int_equal(suspect[i], expected[i] == '1');
        wanted += suspect[i];
    }
    assert_int_equal(found, wanted);
}

static void test_arithmetic(void **state) {
    (void)state;
    expect_suspects((const uint64_t[][2]){{5, 5}}, 1, "0");
    expect_suspects((const uint64_t[][2]){{5, 6}}, 1, "1");
    expect_suspects((const uint64_t[][2]){{5, 5}, {5, 5}, {5, 5}}, 3, "000");
    expect_suspects((const uint64_t[][2]){{5, 5}, {7, 7}, {5, 5}}, 3, "010");
    expect_suspects((const uint64_t[][2]){{5, 5}, {5, 7}}, 2, "01");
    expect_suspects((const uint64_t[][2]){{5, 5}, {7, 7}}, 2, "11"); /* one of them, nobody knows which */
    expect_suspects((const uint64_t[][2]){{5, 5}, {7, 7}, {1, 2}, {5, 5}}, 4, "0110"); /* two at once */
    expect_suspects((const uint64_t[][2]){{1, 2}, {3, 4}}, 2, "11");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stragglers),  cmocka_unit_test(test_straggler_edges),
                                       cmocka_unit_test(test_spikes),      cmocka_unit_test(test_spike_moments),
                                       cmocka_unit_test(test_majority),    cmocka_unit_test(test_goodput),
                                       cmocka_unit_test(test_idle_starts), cmocka_unit_test(test_arithmetic)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
