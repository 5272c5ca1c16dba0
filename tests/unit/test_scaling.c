/* What is computed about scaling: the alpha-beta model, overlap, rows and series, the model's fit and prediction, runs
 * with faults, plots. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench_data.h"
#include "app/cluster.h"
#include "app/plot.h"
#include "app/scaling_model.h"
#include "app/traffic.h"
#include "dist/comm_model.h"
#include "harness/harness.h"
#include "io/atomic_file.h"

static options o;

static void fresh(void) {
    options_default(&o);
    o.train.model = opt_train_model_dit;
    o.cluster.steps = 50;
    o.cluster.data_samples = 5000;
}

static void near(double a, double b, double share) {
    if (!(fabs(a - b) <= share * fabs(b))) fail_msg("%.9g is not %.9g (within %g of it)", a, b, share);
}

/* ---- communication ------------------------------------------------------------------------------------------------
 */

/* Figures computed by hand: 3 us and 360 GB/s in a node of 8, 8 us and 45 GB/s a card between. */
static void test_collectives(void **state) {
    (void)state;
    comm_links one = {{3e-6, 360e9}, {8e-6, 45e9}, 8, 1}, all = one;
    all.cards = 8;
    near(comm_ring_seconds(&one, 8, 2e9), 9.76e-3, 0.01);
    near(comm_ring_seconds(&one, 64, 2e9), 88.5e-3, 0.01);
    near(comm_ring_seconds(&one, 1024, 25e6), 17.5e-3, 0.01);
    near(comm_ring_seconds(&one, 16384, 2e9), 351e-3, 0.01);
    near(comm_ring_seconds(&all, 64, 2e9), 2 * 63 * 8e-6 + 2 * 63.0 / 64 * 2e9 / 360e9, 1e-9);
    near(comm_levels_seconds(&all, 8, 2e9), 9.76e-3, 0.01);
    near(comm_levels_seconds(&all, 64, 2e9), 19.6e-3, 0.01);
    near(comm_levels_seconds(&all, 16384, 2e9), 21.2e-3, 0.01);
    near(comm_levels_slices_seconds(&all, 8, 2e9, 1), 8 * 3e-6 + 2 * 7.0 / 8 * 2e9 / 360e9, 1e-9);
    near(comm_levels_slices_seconds(&all, 64, 80e6, 2),
         8 * 3e-6 + 1.5 * 7.0 / 8 * 80e6 / 360e9 + 7 * 8e-6 + 80e6 / 360e9, 1e-9);
    near(comm_levels_slices_seconds(&all, 1024, 80e6, 40),
         8 * 3e-6 + 41.0 / 40 * 7 / 8 * 80e6 / 360e9 + 14 * 8e-6 + 2 * 127.0 / 128 * 80e6 / 360e9, 1e-9);
    near(comm_chain_seconds(&all, 4, 256e6, 1), 9e-6 + 256e6 / 360e9, 1e-9);
    near(comm_chain_seconds(&all, 16, 256e6, 3), 14 * 3e-6 + 8e-6 + 2 * 8e-6 + 256e6 / 360e9, 1e-9);
    assert_true(comm_ring_seconds(&all, 1, 1e9) == 0 && comm_levels_seconds(&all, 1, 1e9) == 0 &&
                comm_levels_slices_seconds(&all, 1, 1e9, 1) == 0 && comm_chain_seconds(&all, 1, 1e9, 1) == 0);
}

static void test_overlap(void **state) {
    (void)state;
    double ready[] = {1, 2, 3, 10}, seconds[] = {0.5, 2, 0.5, 0.25}, busy;
    near(comm_exposed(ready, seconds, 4, 10, &busy), 0.25, 1e-12);
    near(busy, 3.25, 1e-12);
    assert_true(comm_exposed(ready, seconds, 3, 5, NULL) == 0);
    near(comm_exposed(ready, seconds, 3, 4, NULL), 0.5, 1e-12); /* waits for the one of two seconds */
    assert_true(comm_exposed(NULL, NULL, 0, 4, &busy) == 0 && busy == 0);
}

/* The real network's buckets hold all of its gradients; more latency is never faster. */
static void test_traffic(void **state) {
    (void)state;
    fresh();
    for (int reduce = 0; reduce < 4; reduce++)
        for (int sharded = 0; sharded < 2; sharded++) {
            traffic t, slow;
            o.cluster.reduce = (int)reduce;
            o.train.sharded_optimizer = sharded;
            o.cluster.inside_us = o.cluster.between_us = 0;
            traffic_of_network(&t, &o, 64, 2);
            o.cluster.inside_us = o.cluster.between_us = 20;
            traffic_of_network(&slow, &o, 64, 2);
            double sum = 0, more = 0;
            for (int i = 0; i < t.n; i++) {
                sum += t.seconds[i];
                more += slow.seconds[i];
                assert_true(t.at[i] > 0 && t.at[i] <= 1 && (i == 0 || t.at[i] >= t.at[i - 1]));
            }
            near(sum, t.transfer_s, 1e-9);
            near(slow.transfer_s, t.transfer_s, 1e-9);
            assert_true(t.beside_s == t.transfer_s);
            assert_true(more > sum && slow.share_s >= t.share_s && (t.share_s > 0) == sharded);
            if (reduce == 0 && sharded) near(sum, 4 * t.numbers / 340e9, 1e-9);
            traffic_free(&t);
            traffic_free(&slow);
        }
    traffic alone;
    traffic_of_network(&alone, &o, 1, 2);
    double busy;
    assert_true(traffic_exposed(&alone, 1, &busy) == 0 && busy == 0 && alone.bytes == 0 && alone.share_s == 0);
    traffic_free(&alone);
    /* Inside one node one sum behind backward; with overlap the same bytes in pieces beside it. */
    traffic node, pieces;
    traffic_of_network(&node, &o, 8, 2);
    o.train.overlap = opt_train_overlap_on;
    traffic_of_network(&pieces, &o, 8, 2);
    assert_true(node.n == 1 && node.at[0] == 1 && node.beside_s == 0 && pieces.n > 1);
    near(node.transfer_s, pieces.transfer_s, 1e-9);
    near(pieces.beside_s, pieces.transfer_s, 1e-12);
    assert_true(traffic_exposed(&node, 1, &busy) > traffic_exposed(&pieces, 1, &busy));
    traffic_free(&node);
    traffic_free(&pieces);
}

/* ---- steps on a computed cluster ------------------------------------------------------------------------------------
 */

static void test_steps(void **state) {
    (void)state;
    double step_s[50], mean = 0;
    fresh();
    o.bench.tokens = 10000;
    o.bench.samples = 2;
    o.train.cost_token = 10;
    o.cluster.jitter = 0;
    o.cluster.step_ms = 5;
    cluster_steps one = cluster_simulate(&o, 1, step_s);
    near(one.step_s, 0.205, 1e-9); /* 2 x 10,000 x 10 us, and 5 ms */
    near(one.efficiency, 1, 1e-9);
    near(one.tokens_s, 20000 / 0.205, 1e-9);
    assert_true(one.exposed_s == 0);
    near(one.balance, 1, 1e-9);
    o.bench.spread = 0.5;
    cluster_steps off = cluster_simulate(&o, 64, step_s);
    for (int i = 0; i < 50; i++) mean += step_s[i] / 50;
    near(off.step_s, mean, 1e-9);
    o.train.balance = opt_train_balance_steps;
    cluster_steps on = cluster_simulate(&o, 64, NULL);
    assert_true(on.balance > off.balance + 0.1 && on.efficiency > off.efficiency + 0.1);
    assert_true(on.balance <= 1 && on.n_buckets > 1 && on.bytes > 0 && on.checkpoint_bytes > 0);
    o.cluster.between_us = 5000; /* latency that no backward hides */
    cluster_steps slow = cluster_simulate(&o, 64, NULL);
    assert_true(slow.exposed_s > on.exposed_s && slow.efficiency < on.efficiency);
    int64_t *size = cluster_sizes(0.5, 10000, 5000, 1);
    double   sum = 0;
    for (int i = 0; i < 5000; i++) sum += (double)size[i];
    near(sum, 5000 * 10000.0, 1e-3);
    free(size);
}

/* ---- faults ---------------------------------------------------------------------------------------------------------
 */

static void test_accounts(void **state) {
    (void)state;
    double         step_s[] = {1, 2, 3};
    cluster_faults f = {.every = 50,
                        .keep_last = 3,
                        .keep_every = 200,
                        .retries = 1000,
                        .stall_s = 0.8,
                        .restart_s = 60,
                        .mttf_s = 1000,
                        .horizon_s = 1e6,
                        .seed = 3};
    cluster_run    r = cluster_live(&f, step_s, 3);
    assert_true(r.wall >= f.horizon_s && !r.given_up);
    near(r.productive + r.stalled + r.lost + r.starting, r.wall, 1e-9);
    near((double)r.n_faults, 1000, 0.1); /* five standard deviations would be 0.16 */
    near(r.productive, 2.0 * (double)r.steps, 0.001);
    assert_true(r.most_kept > 3 && r.most_kept <= 3 + r.steps / 200 + 1);
    f.keep_every = 0;
    r = cluster_live(&f, step_s, 3);
    assert_int_equal(r.most_kept, 3);
    f.mttf_s = 0;
    r = cluster_live(&f, step_s, 3);
    assert_true(r.n_faults == 0 && r.lost == 0 && r.starting == 0);
    f.every = 0; /* never a checkpoint: every fault starts over, and so many are given up */
    f.mttf_s = 1000;
    f.retries = 3;
    r = cluster_live(&f, step_s, 3);
    assert_true(r.given_up && r.n_faults == 4 && r.n_checkpoints == 0 && r.productive == 0);
    near(r.lost + r.starting, r.wall, 1e-9);
}

/* Loss at the best interval, computed by Young's and Daly's formula for two clusters. */
static void test_interval(void **state) {
    (void)state;
    struct {
        double mttf_h, stall, restart, lost, minutes;
    } list[] = {
        {7.9, 0.8, 60, 0.010, 3.6}, {7.9, 6, 600, 0.042, 9.7}, {1.8, 0.8, 60, 0.025, 1.7}, {1.8, 6, 600, 0.136, 4.6}};
    for (int i = 0; i < 4; i++) {
        double         step = 0.5;
        cluster_faults f = {.keep_last = 1,
                            .retries = 1000000,
                            .stall_s = list[i].stall,
                            .restart_s = list[i].restart,
                            .mttf_s = 3600 * list[i].mttf_h,
                            .horizon_s = 3e7,
                            .seed = 1};
        f.every = cluster_interval(&f, step);
        near((double)f.every * step / 60, list[i].minutes, 0.03);
        cluster_run r = cluster_live(&f, &step, 1);
        near(1 - r.productive / r.wall, list[i].lost, 0.12);
        double best = r.productive / r.wall;
        for (int k = 0; k < 2; k++) {
            f.every = cluster_interval(&f, step) * (k ? 5 : 1) / (k ? 1 : 5);
            r = cluster_live(&f, &step, 1);
            assert_true(r.productive / r.wall < best);
        }
    }
}

/* ---- rows and series ------------------------------------------------------------------------------------------------
 */

static const char *write_text(const char *name, const char *text) {
    static char path[PATH_CAP];
    status      st = {0};
    assert_true(join_path(temp_folder(), name, path, &st) && atomic_write(path, text, (int64_t)strlen(text), &st));
    return path;
}

#define OLD "git,host,device,model,ranks,samples,tokens,step_ms,tokens_s,exposed_ms,update_ms\n"

static void test_rows(void **state) {
    (void)state;
    step_row *rows = NULL;
    int       n = 0;
    status    st = {0};
    assert_true(
        step_rows_read(write_text("a.csv", OLD "x,h,\"cuda, bf16: H200 (GPU 0 of 4)\",dit,2,1,100,10,2e4,1.5,2\r\n"
                                               "x,h,cpu,vae,1,3,50,20,7500,0,1\n"),
                       &rows, &n, &st));
    assert_int_equal(n, 2);
    assert_string_equal(rows[0].device, "cuda, bf16: H200");
    assert_true(rows[0].ranks == 2 && rows[0].tokens == 100 && rows[0].exposed_ms == 1.5 && rows[0].spread == 0);
    assert_true(isnan(rows[0].balance) && isnan(rows[1].reduced_mb) && rows[1].samples == 3);
    const char *wrong[] = {"",
                           OLD,
                           OLD "x,h,cpu,vae,1,3,50,20,7500,0\n",
                           OLD "x,h,cpu,vae,0,3,50,20,7500,0,1\n",
                           OLD "x,h,cpu,vae,one,3,50,20,7500,0,1\n",
                           OLD "x,h,cpu,vae,1,3,50,nan,7500,0,1\n",
                           "a,b\n1,2\n",
                           OLD "\"x,h,cpu\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        st = (status){0};
        assert_false(step_rows_read(write_text("b.csv", wrong[i]), &rows, &n, &st));
        assert_int_equal(st.code, ST_DATA);
    }
    st = (status){0};
    assert_false(step_rows_read("/nowhere/c.csv", &rows, &n, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    free(rows);
}

static step_row row_of(int64_t ranks, int64_t samples, int64_t tokens, double step_ms) {
    step_row r = {.model = "dit",
                  .device = "cuda, bf16: X",
                  .ranks = ranks,
                  .samples = samples,
                  .tokens = tokens,
                  .step_ms = step_ms,
                  .exposed_ms = 0.1,
                  .tokens_s = 1e3 * (double)(ranks * samples * tokens) / step_ms};
    r.balance = r.busy_balance = r.forward_ms = r.backward_ms = r.exposed_min_ms = r.reduced_mb = NAN;
    return r;
}

static void test_series(void **state) {
    (void)state;
    step_row        rows[] = {row_of(4, 1, 100, 11), row_of(1, 1, 100, 10), row_of(1, 4, 100, 40),
                              row_of(2, 2, 100, 20), row_of(1, 1, 777, 9),  row_of(4, 1, 100, 12)};
    scaling_series *s;
    char            name[160];
    assert_int_equal(scaling_series_of(rows, 6, &s), 3);
    assert_true(!s[0].strong && s[0].n == 2 && s[0].row[0].ranks == 1 && s[0].row[1].step_ms == 12); /* the newest */
    assert_true(s[1].strong && s[1].n == 3 && s[1].row[1].samples == 2);
    assert_true(!s[2].strong && s[2].n == 1 && s[2].row[0].tokens == 777);
    scaling_name(&s[1], name);
    assert_string_equal(name, "dit, 4 x 100 tokens in all (strong)");
    free(s);
}

/* Rows made by the model are recovered; a number of ranks that was not measured is predicted. */
static void test_fit(void **state) {
    (void)state;
    fresh();
    o.train.overlap = opt_train_overlap_on;
    scaling_series s = {.n = 1, .row = {row_of(1, 1, 45904, 448.4)}};
    scaling_model  want = {.computing_s = 0.4484, .interference = 1.5};
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        s.row[s.n] = row_of(ranks, 1, 45904, 0);
        s.row[s.n].step_ms = 1e3 * scaling_at(&s, &want, &o, ranks).step_s;
        s.n++;
    }
    double        at8 = s.row[3].step_ms;
    scaling_model got = scaling_fit(&s, &o);
    near(got.computing_s, 0.4484, 1e-6);
    near(got.interference, 1.5, 1e-6);
    assert_true(got.error < 1e-6);
    s.n = 3; /* held out: 8 */
    got = scaling_fit(&s, &o);
    near(1e3 * scaling_at(&s, &got, &o, 8).step_s, at8, 1e-6);
    /* The measured rows of docs/perf/steps.md: 4 ranks predicted from 1 and 2. */
    s.n = 2;
    s.row[1].step_ms = 460.1;
    got = scaling_fit(&s, &o);
    near(1e3 * scaling_at(&s, &got, &o, 4).step_s, 460.6, 0.01);
    s.n = 1;
    got = scaling_fit(&s, &o);
    near(got.computing_s, 0.4484, 1e-9);
    assert_true(got.interference == o.cluster.interference);
}

/* Sums behind backward: nothing interferes inside a node, so one rank tells what four take (docs/scaling.md). */
static void test_fit_without_overlap(void **state) {
    (void)state;
    fresh();
    scaling_series s = {.n = 1, .row = {row_of(1, 8, 10655, 631.0)}};
    scaling_model  got = scaling_fit(&s, &o);
    scaling_point  four = scaling_at(&s, &got, &o, 4);
    assert_true(four.beside_s == 0 && four.exposed_s > 0);
    near(1e3 * four.step_s, 637.2, 0.005);
    s.row[s.n++] = row_of(4, 8, 10655, 637.2);
    got = scaling_fit(&s, &o);
    assert_true(got.interference == o.cluster.interference && got.error < 0.005);
    assert_true(scaling_at(&s, &got, &o, 16).beside_s > 0); /* two nodes */
}

/* ---- sizes and plots ------------------------------------------------------------------------------------------------
 */

static void test_sizes(void **state) {
    (void)state;
    double spreads[] = {0, 0.3, 0.7, 2};
    for (int k = 0; k < 4; k++)
        for (int64_t n = 1; n < 400; n += 7)
            for (int64_t mean = 8; mean < 50000; mean *= 11) {
                int64_t size[400], sum = 0;
                bench_sizes(spreads[k], mean, n, size);
                for (int64_t i = 0; i < n; i++) {
                    sum += size[i];
                    assert_true(size[i] >= 8 && (k > 0 || size[i] == mean));
                }
                assert_int_equal(sum, n * mean);
            }
    int64_t size[999];
    double  spread = 0;
    bench_sizes(0.5, 100000, 999, size);
    for (int i = 0; i < 999; i++) spread += pow(log((double)size[i] / (double)size[499]), 2) / 999;
    near(sqrt(spread), 0.5, 0.01);
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static void test_plot(void **state) {
    (void)state;
    char       path[PATH_CAP];
    double     x[] = {1, 2, 4, 8}, y[] = {10, NAN, 40, -1};
    plot_line  lines[] = {{"a<b", x, y, 4, 0, false, true}, {NULL, x, y, 4, 1, true, false}};
    plot_frame f = {"title", "x & y", "%", true, 0, 0};
    status     st = {0};
    uint8_t   *text;
    int64_t    n;
    assert_true(join_path(temp_folder(), "p.svg", path, &st) && plot_write(path, &f, lines, 2, &st));
    assert_true(read_whole_file(path, 1 << 20, &text, &n, &st));
    char *svg = malloc((size_t)n + 1);
    memcpy(svg, text, (size_t)n);
    svg[n] = 0;
    assert_int_equal(count(svg, "<circle"), 2); /* what can not be drawn is left out */
    assert_int_equal(count(svg, "stroke-dasharray"), 1);
    assert_int_equal(count(svg, "a&lt;b"), 1);
    assert_int_equal(count(svg, "x &amp; y"), 1);
    assert_int_equal(count(svg, "nan") + count(svg, "inf"), 0);
    assert_int_equal(count(svg, "<svg"), count(svg, "</svg>"));
    free(svg);
    free(text);
    lines[0].n = 0;
    assert_false(plot_write(path, &f, lines, 1, &st));
    assert_int_equal(st.code, ST_DATA);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_collectives), cmocka_unit_test(test_overlap),
                                       cmocka_unit_test(test_traffic),     cmocka_unit_test(test_steps),
                                       cmocka_unit_test(test_accounts),    cmocka_unit_test(test_interval),
                                       cmocka_unit_test(test_rows),        cmocka_unit_test(test_series),
                                       cmocka_unit_test(test_fit),         cmocka_unit_test(test_fit_without_overlap),
                                       cmocka_unit_test(test_sizes),       cmocka_unit_test(test_plot)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
