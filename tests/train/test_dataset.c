/* Which samples of a folder are trained on: by tiles and by open edges. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "train/dataset.h"

enum { SAMPLES = 7 };

static char shards[PATH_CAP];

static int set_up(void **state) {
    fixture_spec spec = {.n_samples = SAMPLES, .per_shard = 3, .resolution = 32, .vae = 7};
    (void)state;
    fixture_write(temp_folder(), &spec);
    snprintf(shards, sizeof shards, "%.400s/shards", temp_folder());
    return 0;
}

static void test_tiles(void **state) {
    dataset         all, some;
    status          st = {0};
    dataset_request r = {.shards = shards};
    (void)state;
    assert_true(dataset_open(&all, &r, &st));
    assert_int_equal(all.n, SAMPLES);
    int64_t least = INT64_MAX, most = 0;
    for (int64_t i = 0; i < all.n; i++) {
        least = all.entry[i].tiles < least ? all.entry[i].tiles : least;
        most = all.entry[i].tiles > most ? all.entry[i].tiles : most;
    }
    assert_true(least < most);
    r.min_tiles = least + 1;
    r.max_tiles = most - 1;
    assert_true(dataset_open(&some, &r, &st));
    int64_t inside = 0;
    for (int64_t i = 0; i < all.n; i++) inside += all.entry[i].tiles > least && all.entry[i].tiles < most;
    assert_int_equal(some.n, inside);
    assert_int_equal(some.n + some.n_left_out, SAMPLES);
    for (int64_t i = 0; i < some.n; i++) assert_in_range(some.entry[i].tiles, least + 1, most - 1);
    dataset_close(&some);
    r.min_tiles = most + 1;
    r.max_tiles = 0;
    assert_false(dataset_open(&some, &r, &st));
    assert_non_null(strstr(st.text, "data.min_tiles"));
    dataset_close(&all);
}

/* A shard of samples with the given reports. */
static void write_reports(const char *path, const char *const *report, int n) {
    status        st = {0};
    shard_meta    meta = {.resolution = 16, .tau_voxels = 2};
    shard_writer *w = shard_create(path, &meta, &st);
    uint16_t      coord[3] = {0}, value[TILE_CELLS] = {0};
    uint8_t       sharp[TILE_SHARP_BYTES] = {0};
    assert_non_null(w);
    for (int i = 0; i < n; i++) {
        sample s = {.id = (uint64_t)i + 1,
                    .source = (char *)(uintptr_t) "a",
                    .category = (char *)(uintptr_t) "",
                    .report = (char *)(uintptr_t)report[i],
                    .scale = 1,
                    .n_tiles = 1,
                    .coord = coord,
                    .value = value,
                    .sharp = sharp};
        sample_count(&s);
        assert_true(shard_append(w, &s, &st));
    }
    assert_true(shard_finish(w, &st));
}

static void test_figures(void **state) {
    static const char *const report[] = {"{\"open_edge_share\": 0}", "{\"open_edge_share\": 0.04, \"parts\": 3}",
                                         "{\"open_edge_share\": 0.5}", "{}", "no JSON"};
    char                     folder[PATH_CAP], path[PATH_CAP];
    dataset                  d;
    status                   st = {0};
    (void)state;
    snprintf(folder, sizeof folder, "%.400s/open", temp_folder());
    assert_true(make_folder(folder, &st) && join_path(folder, "shard-a.h5", path, &st));
    write_reports(path, report, 5);
    dataset_request r = {.shards = folder, .max_open_share = 0.05};
    if (!dataset_open(&d, &r, &st)) fail_msg("%s", st.text);
    assert_int_equal(d.n, 4); /* what says nothing is kept */
    for (int64_t i = 0; i < d.n; i++) assert_true(d.ids[i] != 3);
    assert_true(shard_figure(&d.shards[0], 1, "parts", -1) == 3 && shard_figure(&d.shards[0], 4, "parts", -1) == -1);
    dataset_close(&d);
    r.max_open_share = 1;
    r.max_parts = 2;
    assert_true(dataset_open(&d, &r, &st));
    assert_int_equal(d.n, 4);
    for (int64_t i = 0; i < d.n; i++) assert_true(d.ids[i] != 2);
    dataset_close(&d);
    r.max_parts = 3;
    assert_true(dataset_open(&d, &r, &st));
    assert_int_equal(d.n, 5);
    dataset_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiles), cmocka_unit_test(test_figures)};
    return cmocka_run_group_tests_name("dataset", tests, set_up, NULL);
}
