/* Selections read like a shard that holds only the chosen samples, and are refused when the shard is another one; which
 * names are set aside. */
#include "core/half.h"
#include "core/rng.h"
#include "data/selection.h"
#include "data/shard_internal.h"
#include "data/split.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 5 };
static const int n_tiles_of[N] = {3, 1, 700, 9, 40}, n_views_of[N] = {1, 0, 2, 3, 1};

static sample make(int k) {
    char   name[32];
    int    n = n_tiles_of[k], v = n_views_of[k];
    sample s = {.source_hash = 7u + (uint64_t)k, .center = {k, 0.5, -k}, .scale = 1 + k, .n_tiles = n, .n_views = v};
    snprintf(name, sizeof name, "chairs/%d.obj", k);
    s.id = hash_text(name);
    s.source = strdup(name);
    s.category = strdup(k % 2 ? "odd" : "");
    s.report = strdup("{}");
    s.coord = calloc((size_t)n * 3, sizeof *s.coord);
    s.value = calloc((size_t)n * TILE_CELLS, sizeof *s.value);
    s.sharp = calloc((size_t)n, TILE_SHARP_BYTES);
    s.camera = calloc((size_t)v * VIEW_CAMERA_FLOATS + 1, sizeof *s.camera);
    s.png = calloc((size_t)v + 1, sizeof *s.png);
    s.png_size = calloc((size_t)v + 1, sizeof *s.png_size);
    for (int t = 0; t < n; t++) {
        s.coord[3 * t] = (uint16_t)(t / 512 * 8 + (t >> 6) % 8);
        s.coord[3 * t + 1] = (uint16_t)(t >> 3 & 7);
        s.coord[3 * t + 2] = (uint16_t)(t & 7);
        for (int c = 0; c < TILE_CELLS; c++) s.value[t * TILE_CELLS + c] = f32_to_f16((float)((c + t + k) % 5 - 2) / 2);
    }
    for (int i = 0; i < v; i++) {
        uint8_t pixel[4 * 3 * 4];
        memset(pixel, 16 * k + i, sizeof pixel);
        status st = {0};
        assert_true(image_encode_png(&(image){4, 3, 4, pixel}, &s.png[i], &s.png_size[i], &st));
        s.camera[i * VIEW_CAMERA_FLOATS + 20] = 4;
        s.camera[i * VIEW_CAMERA_FLOATS + 21] = 3;
    }
    sample_count(&s);
    return s;
}

static char folder[PATH_CAP], shard_file[PATH_CAP];

static const char *in_set(const char *name) {
    return path_in(folder, name);
}

/* A shard of samples first .. N-1. */
static void write_shard(const char *path, int first) {
    status        st = {0};
    shard_writer *w = shard_create(path, &(shard_meta){128, 2}, &st);
    if (!w) fail_msg("%s", st.text);
    for (int k = first; k < N; k++) {
        sample s = make(k);
        assert_true(shard_append(w, &s, &st));
        sample_free(&s);
    }
    assert_true(shard_finish(w, &st));
}

static int set_up(void **state) {
    static int turn;
    status     st = {0};
    (void)state;
    snprintf(folder, sizeof folder, "%.400s/%d", temp_folder(), turn++);
    snprintf(shard_file, sizeof shard_file, "%.450s/shard-a.h5", folder);
    assert_true(make_folder(in_set("split/train"), &st));
    write_shard(shard_file, 0);
    return 0;
}

static void select_rows(const char *path, const char *name, const int64_t *row, int64_t n) {
    shard  s;
    status st = {0};
    assert_true(shard_open(&s, shard_file, &st));
    if (!selection_write(path, name, &s, row, n, &st)) fail_msg("%s", st.text);
    shard_close(&s);
}

static void expect_sample(const shard *s, int64_t i, int k) {
    sample got, want = make(k);
    status st = {0};
    if (!shard_read_sample(s, i, true, &got, &st)) fail_msg("%s", st.text);
    assert_true(got.id == want.id && got.source_hash == want.source_hash && got.scale == want.scale);
    assert_memory_equal(got.center, want.center, sizeof want.center);
    assert_string_equal(got.source, want.source);
    assert_string_equal(got.category, want.category);
    assert_int_equal(got.n_tiles, want.n_tiles);
    assert_int_equal(got.n_in, want.n_in);
    assert_memory_equal(got.coord, want.coord, (size_t)want.n_tiles * 6);
    assert_memory_equal(got.value, want.value, (size_t)want.n_tiles * TILE_CELLS * 2);
    assert_int_equal(got.n_views, want.n_views);
    for (int v = 0; v < want.n_views; v++) {
        assert_int_equal(got.png_size[v], want.png_size[v]);
        assert_memory_equal(got.png[v], want.png[v], (size_t)want.png_size[v]);
    }
    sample_free(&got), sample_free(&want);
}

static void test_reads_like_a_shard(void **state) {
    static const int64_t row[] = {0, 2, 3}, again[] = {1, 2};
    shard                s, *all;
    status               st = {0};
    int64_t              n_bad;
    int                  n;
    (void)state;
    select_rows(in_set("split/train/shard-a.h5"), "../../shard-a.h5", row, 3);
    if (!shard_open(&s, in_set("split/train/shard-a.h5"), &st)) fail_msg("%s", st.text);
    assert_int_equal(s.n_samples, 3);
    assert_int_equal(s.n_tiles, n_tiles_of[0] + n_tiles_of[2] + n_tiles_of[3]);
    assert_int_equal(s.n_views, n_views_of[0] + n_views_of[2] + n_views_of[3]);
    assert_int_equal(s.first[2], n_tiles_of[0] + n_tiles_of[2]);
    assert_int_equal(s.view_first[3], s.n_views);
    for (int i = 0; i < 3; i++) expect_sample(&s, i, (int)row[i]);
    /* a selection of the selection: samples 2 and 3 */
    if (!selection_write(in_set("shard-b.h5"), "split/train/shard-a.h5", &s, again, 2, &st)) fail_msg("%s", st.text);
    shard_close(&s);
    if (!shard_check(in_set("shard-b.h5"), &n_bad, &st)) fail_msg("%s", st.text);
    assert_true(shard_open(&s, in_set("shard-b.h5"), &st));
    assert_int_equal(s.n_samples, 2);
    expect_sample(&s, 0, 2), expect_sample(&s, 1, 3);
    shard_close(&s);
    /* moved together with the shard it still finds it */
    char moved[PATH_CAP];
    snprintf(moved, sizeof moved, "%.400s-moved", folder);
    assert_int_equal(rename(folder, moved), 0);
    snprintf(folder, sizeof folder, "%s", moved);
    if (!shard_open_all(in_set("split/train"), &all, &n, &st)) fail_msg("%s", st.text);
    expect_sample(&all[0], 1, 2);
    shard_close_all(all, n);
}

static void expect_refused(const char *path, status_code code, const char *text) {
    shard  s;
    status st = {0};
    if (shard_open(&s, path, &st)) fail_msg("%s: opened", path);
    assert_int_equal(st.code, code);
    if (!strstr(st.text, text) || !strstr(st.text, path)) fail_msg("%s", st.text);
    assert_null(s.file);
}

static void test_refusals(void **state) {
    static const int64_t row[] = {1, 4}, twice[] = {2, 2}, back[] = {3, 2};
    (void)state;
    select_rows(in_set("good.h5"), "shard-a.h5", row, 2);
    select_rows(in_set("twice.h5"), "shard-a.h5", twice, 2);
    select_rows(in_set("back.h5"), "shard-a.h5", back, 2);
    select_rows(in_set("self.h5"), "self.h5", row, 2);
    select_rows(in_set("gone.h5"), "nowhere/shard-a.h5", row, 2);
    expect_refused(in_set("twice.h5"), ST_DATA, "run `d3s2 split` again");
    expect_refused(in_set("back.h5"), ST_DATA, "run `d3s2 split` again");
    expect_refused(in_set("self.h5"), ST_DATA, "selects from another file");
    expect_refused(in_set("gone.h5"), ST_NO_INPUT, "nowhere/shard-a.h5");
    /* the shard is prepared anew and has other samples in these places, or fewer */
    assert_int_equal(unlink(shard_file), 0);
    write_shard(shard_file, 1);
    expect_refused(in_set("good.h5"), ST_DATA, "run `d3s2 split` again");
    assert_int_equal(unlink(shard_file), 0);
    write_shard(shard_file, 4);
    expect_refused(in_set("good.h5"), ST_DATA, "run `d3s2 split` again");
}

/* Whoever is set aside stays so when names are added, and the share is kept. */
static void test_names(void **state) {
    enum { MANY = 20000 };
    static char  text[MANY][24];
    static char *name[MANY];
    static bool  few[MANY], many[MANY];
    int          held = 0, lost = 0;
    (void)state;
    for (int i = 0; i < MANY; i++) snprintf(name[i] = text[i], sizeof text[i], "shape-%d.obj", i);
    for (int i = 0; i < MANY; i++) held += split_in_share(name[i], 0.1);
    assert_in_range(held, 1830, 2170); /* four deviations */
    for (int i = 0; i < MANY; i++)
        assert_true(!split_in_share(name[i], 0) && (!split_in_share(name[i], 0.1) || split_in_share(name[i], 0.2)));
    split_lowest(name, MANY / 2, 100, few);
    split_lowest(name, MANY, 100, many);
    held = 0;
    for (int i = 0; i < MANY / 2; i++) held += few[i], lost += few[i] && !many[i];
    assert_int_equal(held, 100);
    assert_in_range(lost, 20, 80);
    for (int i = 0; i < MANY / 2; i++) assert_true(few[i] || !many[i]); /* the added ones only push out */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_reads_like_a_shard, set_up),
                                       cmocka_unit_test_setup(test_refusals, set_up), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests_name("selection", tests, NULL, NULL);
}
