/* The plan: whole batches on any number of ranks, every sample once an epoch, balance, micro-batches. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/rng.h"
#include "harness/harness.h"
#include "train/plan.h"

enum { N = 37 };

static int64_t  tokens[N];
static uint64_t ids[N];

static plan_config config(int64_t samples, int64_t batch_tokens) {
    for (int i = 0; i < N; i++) {
        tokens[i] = 10 + rng_u32((rng_key){.seed = 3, .purpose = RNG_TEST}, (uint64_t)i) % 90;
        ids[i] = (uint64_t)(1000 + i);
    }
    return (plan_config){.seed = 5,
                         .n_samples = N,
                         .tokens = tokens,
                         .batch_samples = samples,
                         .batch_tokens = batch_tokens,
                         .micro_tokens = 150};
}

/* Content and order do not depend on the ranks; every item is in exactly one micro-batch of one rank. */
static void test_union(void **state) {
    (void)state;
    int worlds[] = {1, 2, 3, 4, 7, 64};
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        plan_config cfg = config(by_tokens ? 0 : 9, 400);
        for (int64_t step = 0; step < 30; step++) {
            plan     *p1 = plan_new(&cfg);
            plan_step one = plan_of_step(p1, step, 1);
            for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++) {
                plan            *p = plan_new(&cfg);
                plan_step        s = plan_of_step(p, step, worlds[w]);
                const plan_item *list[64];
                int64_t          seen = 0, sum = 0;
                assert_int_equal(s.n_items, one.n_items);
                assert_true(plan_fingerprint(&s, ids) == plan_fingerprint(&one, ids));
                for (int r = 0; r < worlds[w]; r++)
                    for (int m = 0; m < s.n_micro[r]; m++) {
                        int64_t n = plan_micro(&s, r, m, list), t = 0;
                        assert_true(n > 0);
                        for (int64_t i = 0; i < n; i++) t += tokens[list[i]->index];
                        assert_true(n == 1 || t <= cfg.micro_tokens);
                        seen += n;
                        sum += t;
                    }
                assert_int_equal(seen, s.n_items);
                assert_int_equal(sum, s.tokens);
                plan_step_free(&s);
                plan_free(p);
            }
            if (by_tokens) assert_true(one.tokens <= 400 || one.n_items == 1);
            plan_step_free(&one);
            plan_free(p1);
        }
    }
}

static void test_epochs(void **state) {
    (void)state;
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        plan_config cfg = config(by_tokens ? 0 : 8, 300);
        plan       *p = plan_new(&cfg);
        int64_t     next = 0, epochs = 4;
        int         count[4][N] = {{0}};
        int64_t     order[4][N];
        for (int64_t step = 0; next < epochs * N; step++) {
            plan_step s = plan_of_step(p, step, 3);
            assert_int_equal(s.first_position, next); /* nothing is left out between steps */
            for (int64_t i = 0; i < s.n_items; i++, next++) {
                assert_int_equal(s.item[i].position, next);
                if (next >= epochs * N) continue;
                count[next / N][s.item[i].index]++;
                order[next / N][next % N] = s.item[i].index;
            }
            plan_step_free(&s);
        }
        for (int e = 0; e < epochs; e++)
            for (int i = 0; i < N; i++) assert_int_equal(count[e][i], 1);
        assert_memory_not_equal(order[0], order[1], sizeof order[0]);
        plan_free(p);
    }
}

/* Resume: a fresh plan asked for step n says what a plan says that was asked for all steps before; also backwards. */
static void test_pure(void **state) {
    (void)state;
    plan_config cfg = config(0, 350);
    plan       *walked = plan_new(&cfg);
    for (int64_t step = 0; step < 40; step++) {
        plan_step a = plan_of_step(walked, step, 2);
        plan     *fresh = plan_new(&cfg);
        plan_step b = plan_of_step(fresh, step, 2);
        assert_int_equal(a.n_items, b.n_items);
        assert_memory_equal(a.item, b.item, (size_t)a.n_items * sizeof *a.item);
        plan_step_free(&a);
        plan_step_free(&b);
        plan_free(fresh);
    }
    plan_step back = plan_of_step(walked, 0, 2);
    assert_int_equal(back.first_position, 0);
    plan_step_free(&back);
    plan_free(walked);
}

/* Greedy, largest first: no rank has more than the mean plus the largest sample. */
static void test_balance(void **state) {
    (void)state;
    plan_config cfg = config(24, 0);
    plan       *p = plan_new(&cfg);
    for (int64_t step = 0; step < 20; step++) {
        plan_step s = plan_of_step(p, step, 4);
        int64_t   load[4] = {0}, big = 0;
        for (int64_t i = 0; i < s.n_items; i++) {
            load[s.item[i].rank] += tokens[s.item[i].index];
            if (tokens[s.item[i].index] > big) big = tokens[s.item[i].index];
        }
        for (int r = 0; r < 4; r++) assert_true(load[r] <= s.tokens / 4 + big);
        assert_true(s.balance <= 1 && s.balance > 1 / 1.3);
        plan_step_free(&s);
    }
    plan_free(p);
}

/* A batch larger than the data set holds samples several times; their keys differ. */
static void test_copies(void **state) {
    (void)state;
    int64_t     one[1] = {5};
    plan_config cfg = {.seed = 1, .n_samples = 1, .tokens = one, .batch_samples = 3, .micro_tokens = 100};
    plan       *p = plan_new(&cfg);
    plan_step   s = plan_of_step(p, 4, 2);
    assert_int_equal(s.n_items, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(s.item[i].copy, i);
    assert_true(plan_key(9, 0) == 9 && plan_key(9, 1) != plan_key(9, 2));
    plan_step_free(&s);
    plan_free(p);
}

/* The definition of who gets what: the least loaded rank, found by looking at all of them. */
static void test_deal(void **state) {
    (void)state;
    cost_model models[] = {{0}, {.token = 2.5, .token2 = 0.03, .sample = 40}, {.sample = 1}};
    for (int world = 1; world <= 70; world += 23)
        for (int k = 0; k < 3; k++) {
            plan_config cfg = config(61, 0); /* more than an epoch */
            cfg.cost = models[k];
            plan     *p = plan_new(&cfg);
            plan_step s = plan_of_step(p, 2, world);
            int64_t   load[70] = {0}, got[70], all = 0, most = 0;
            bool      dealt[61] = {false};
            for (int64_t i = 0; i < s.n_items; i++) {
                int64_t next = -1, best = 0;
                for (int64_t j = 0; j < s.n_items; j++)
                    if (!dealt[j] && (next < 0 || cost_of(&cfg.cost, tokens[s.item[j].index]) >
                                                      cost_of(&cfg.cost, tokens[s.item[next].index])))
                        next = j;
                dealt[next] = true;
                for (int r = 1; r < world; r++)
                    if (load[r] < load[best]) best = r;
                assert_int_equal(s.item[next].rank, best);
                load[best] += cost_of(&cfg.cost, tokens[s.item[next].index]);
            }
            plan_loads(p, &s, world, got);
            assert_memory_equal(got, load, (size_t)world * sizeof *load);
            for (int r = 0; r < world; r++) {
                all += load[r];
                if (load[r] > most) most = load[r];
            }
            assert_int_equal(s.cost, all);
            assert_int_equal(s.slowest, most);
            assert_true(fabs(s.balance - (double)all / world / (double)most) < 1e-12);
            plan_step_free(&s);
            plan_free(p);
        }
}

/* Grouped steps: for all sizes of data set, batch and window every sample once an epoch, the same global batches on any
 * number of ranks and by any costs, and a fresh plan says what a walked one says. */
static void test_grouped(void **state) {
    (void)state;
    int64_t sizes[] = {1, 2, 7, 24, 37}, batches[] = {1, 2, 5, 8, 24, 40}, windows[] = {1, 2, 3, 1000};
    for (size_t a = 0; a < sizeof sizes / sizeof *sizes; a++)
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
            for (size_t c = 0; c < sizeof windows / sizeof *windows; c++) {
                plan_config cfg = config(batches[b], 0);
                cfg.n_samples = sizes[a];
                cfg.alike_steps = windows[c];
                plan   *p = plan_new(&cfg);
                int64_t seen[5 * N] = {0}, epochs = 5;
                cfg.cost = (cost_model){.token = 1, .token2 = 3};
                for (int64_t step = 0; step * batches[b] < epochs * sizes[a]; step++) {
                    plan     *fresh = plan_new(&cfg);
                    plan_step s = plan_of_step(p, step, 3), again = plan_of_step(fresh, step, 64);
                    assert_int_equal(s.n_items, batches[b]);
                    assert_true(plan_fingerprint(&s, ids) == plan_fingerprint(&again, ids));
                    for (int64_t i = 0; i < s.n_items; i++) {
                        int64_t at = step * batches[b] + i;
                        assert_int_equal(s.item[i].position, at);
                        assert_in_range(s.item[i].index, 0, sizes[a] - 1);
                        if (at < epochs * sizes[a]) seen[at / sizes[a] * N + s.item[i].index]++;
                    }
                    plan_step_free(&s);
                    plan_step_free(&again);
                    plan_free(fresh);
                }
                for (int64_t e = 0; e < epochs; e++)
                    for (int64_t i = 0; i < sizes[a]; i++) assert_int_equal(seen[e * N + i], 1);
                plan_free(p);
            }
}

/* Micro-batches of one rank are even where they can be, and never more than first fit makes. */
static void test_micro(void **state) {
    (void)state;
    int64_t          eight[8] = {10, 10, 10, 10, 10, 10, 10, 10}, uneven[5] = {60, 50, 40, 30, 20};
    plan_config      cfg = {.seed = 1, .n_samples = 8, .tokens = eight, .batch_samples = 8, .micro_tokens = 50};
    const plan_item *list[8];
    plan            *p = plan_new(&cfg);
    plan_step        s = plan_of_step(p, 0, 1);
    assert_int_equal(s.n_micro[0], 2); /* 5 and 3 by first fit */
    for (int m = 0; m < 2; m++) assert_int_equal(plan_micro(&s, 0, m, list), 4);
    plan_step_free(&s);
    plan_free(p);
    cfg = (plan_config){.seed = 1, .n_samples = 5, .tokens = uneven, .batch_samples = 5, .micro_tokens = 100};
    p = plan_new(&cfg);
    s = plan_of_step(p, 0, 1);
    assert_int_equal(s.n_micro[0], 2); /* only 60 + 40 and 50 + 30 + 20 fit */
    for (int m = 0; m < 2; m++) {
        int64_t n = plan_micro(&s, 0, m, list), sum = 0;
        for (int64_t i = 0; i < n; i++) sum += uneven[list[i]->index];
        assert_int_equal(sum, 100);
    }
    plan_step_free(&s);
    plan_free(p);
}

enum { MANY = 40000 };

/* Log-normal sizes, sigma 0.7, cut at 12 times the median: rows 39 of docs/faults.md. */
static double efficiency(int64_t alike_steps, int world, int64_t samples, int64_t steps) {
    static int64_t size[MANY];
    for (int64_t i = 0; i < MANY; i++) {
        double x = exp(0.7 * rng_normal((rng_key){.seed = 8, .purpose = RNG_TEST}, (uint64_t)i));
        size[i] = (int64_t)(10000 * (x < 12 ? x : 12));
    }
    plan_config cfg = {.seed = 2,
                       .n_samples = MANY,
                       .tokens = size,
                       .batch_samples = world * samples,
                       .micro_tokens = 1 << 20,
                       .alike_steps = alike_steps};
    return plan_balance(&cfg, steps, world);
}

static void test_grouping_pays(void **state) {
    (void)state;
    double plain = efficiency(0, 8, 2, 200), grouped = efficiency(64, 8, 2, 200);
    assert_true(plain < 0.80);
    assert_true(grouped > 0.95);
    assert_true(efficiency(64, 1024, 2, 19) > 0.90); /* an epoch of 19 steps, and one that lies in two */
}

/* Fewer samples than ranks, and around their number: everything is somewhere once, the other ranks have nothing to do.
 */
static void test_few_samples(void **state) {
    (void)state;
    static int64_t size[20001];
    int            worlds[] = {1, 2, 63, 1000, 20000};
    int64_t        batches[] = {1, 2, 62, 63, 64, 999, 19999, 20001};
    for (int64_t i = 0; i < 20001; i++) size[i] = 1 + i % 50;
    for (int w = 0; w < 5; w++)
        for (int b = 0; b < 8; b++)
            for (int64_t group = 0; group < 6; group += 5) {
                plan_config cfg = {.seed = 3,
                                   .n_samples = 20001,
                                   .tokens = size,
                                   .batch_samples = batches[b],
                                   .micro_tokens = 100,
                                   .alike_steps = group};
                plan       *p = plan_new(&cfg);
                plan_step   s = plan_of_step(p, 1, worlds[w]);
                int64_t     busy = 0, highest = 0;
                for (int r = 0; r < worlds[w]; r++) busy += s.n_micro[r] > 0;
                assert_int_equal(busy, batches[b] < worlds[w] ? batches[b] : worlds[w]);
                for (int64_t i = 0; i < s.n_items; i++) {
                    assert_in_range(s.item[i].rank, 0, worlds[w] - 1);
                    assert_in_range(s.item[i].micro, 0, s.n_micro[s.item[i].rank] - 1);
                    if (s.item[i].micro > highest) highest = s.item[i].micro;
                }
                assert_true(worlds[w] > 1 || highest == s.n_micro[0] - 1);
                plan_step_free(&s);
                plan_free(p);
            }
}

/* As many ranks as the largest clusters have, in time that a step does not notice. */
static void test_many_ranks(void **state) {
    (void)state;
    static int64_t size[4 * 16384];
    for (int64_t i = 0; i < 4 * 16384; i++) size[i] = 1000 + i % 977;
    plan_config cfg = {
        .seed = 2, .n_samples = 4 * 16384, .tokens = size, .batch_samples = 2 * 16384, .micro_tokens = 1 << 20};
    plan  *p = plan_new(&cfg);
    double t = (double)clock(); /* of this process: others do not count */
    for (int64_t step = 0; step < 10; step++) {
        plan_step s = plan_of_step(p, step, 16384);
        plan_step_free(&s);
    }
    t = ((double)clock() - t) / CLOCKS_PER_SEC / 10;
    print_message("a step of 32,768 samples on 16,384 ranks: %.1f ms\n", 1e3 * t);
    assert_true(t < 1); /* 10 ms here; by looking at all ranks for each sample it is above one second */
    plan_free(p);
}

/* Three groups in shares 1:0:2: each step takes one of them, by the step number alone; within a group nothing is left
 * out or seen twice in an epoch. */
static void test_groups(void **state) {
    (void)state;
    enum { STEPS = 600 };
    static const plan_group group[3] = {{0, 12, 1}, {12, 5, 0}, {17, 20, 2}};
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        plan_config cfg = config(by_tokens ? 0 : 5, 300);
        cfg.n_groups = 3;
        memcpy(cfg.group, group, sizeof group);
        plan   *p = plan_new(&cfg);
        int64_t next[3] = {0}, steps[3] = {0}, seen[N] = {0}, most[3] = {0}, least[3] = {INT64_MAX, 0, INT64_MAX};
        for (int64_t step = 0; step < STEPS; step++) {
            plan_step s = plan_of_step(p, step, 2);
            assert_in_range(s.group, 0, 2);
            const plan_group *g = &group[s.group];
            assert_int_equal(s.first_position, next[s.group]);
            assert_int_equal(s.epoch, next[s.group] / g->n);
            for (int64_t i = 0; i < s.n_items; i++) {
                assert_in_range(s.item[i].index, g->first, g->first + g->n - 1);
                seen[s.item[i].index]++;
            }
            next[s.group] += s.n_items;
            steps[s.group]++;
            if (step % 97 == 0) { /* resume */
                plan     *fresh = plan_new(&cfg);
                plan_step again = plan_of_step(fresh, step, 2);
                assert_true(again.group == s.group && again.n_items == s.n_items);
                assert_memory_equal(again.item, s.item, (size_t)s.n_items * sizeof *s.item);
                plan_step_free(&again);
                plan_free(fresh);
            }
            plan_step_free(&s);
        }
        assert_int_equal(steps[1], 0);
        /* Binomial: 600 draws of 1/3 have a standard deviation of 11.5. */
        assert_in_range(steps[0], 200 - 58, 200 + 58);
        for (int k = 0; k < 3; k += 2) {
            for (int64_t i = group[k].first; i < group[k].first + group[k].n; i++) {
                if (seen[i] > most[k]) most[k] = seen[i];
                if (seen[i] < least[k]) least[k] = seen[i];
            }
            assert_true(most[k] - least[k] <= 1);
        }
        plan_step back = plan_of_step(p, 0, 2);
        assert_int_equal(back.first_position, 0);
        plan_step_free(&back);
        plan_free(p);
    }
}

/* With one group a plan is what it was without groups. */
static void test_one_group(void **state) {
    (void)state;
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        plan_config cfg = config(by_tokens ? 0 : 7, 350);
        plan       *without = plan_new(&cfg);
        cfg.n_groups = 1;
        cfg.group[0] = (plan_group){0, N, 0.25};
        plan *with = plan_new(&cfg);
        for (int64_t step = 0; step < 20; step++) {
            plan_step a = plan_of_step(without, step, 3), b = plan_of_step(with, step, 3);
            assert_int_equal(a.n_items, b.n_items);
            assert_memory_equal(a.item, b.item, (size_t)a.n_items * sizeof *a.item);
            plan_step_free(&a);
            plan_step_free(&b);
        }
        plan_free(without);
        plan_free(with);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_union),       cmocka_unit_test(test_epochs),     cmocka_unit_test(test_pure),
        cmocka_unit_test(test_balance),     cmocka_unit_test(test_copies),     cmocka_unit_test(test_deal),
        cmocka_unit_test(test_grouped),     cmocka_unit_test(test_micro),      cmocka_unit_test(test_grouping_pays),
        cmocka_unit_test(test_few_samples), cmocka_unit_test(test_many_ranks), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_one_group)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
