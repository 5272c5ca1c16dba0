/* The user's own pictures as views: found by the mesh's name, stored with their alpha, refused with the file's name. */
#include "data_prep/pictures.h"
#include "data_prep/prep.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/image.h"
#include "unit/prep_shapes.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char in[256], pics[256], out[256];

/* A picture whose left half is foreground of one colour. */
static void put_picture(const char *name, int width, int height, int channels, uint8_t colour) {
    status st = {0};
    image  im = {width, height, channels, calloc((size_t)width * (size_t)height, (size_t)channels)};
    for (int i = 0; i < width * height; i++)
        for (int c = 0; c < channels && i % width < width / 2; c++) im.pixel[channels * i + c] = c == 3 ? 255 : colour;
    if (!image_write_png(path_in(pics, name), &im, &st)) fail_msg("%s", st.text);
    image_free(&im);
}

static int fresh(void **state) {
    static int   n;
    status       st = {0};
    const double zero[3] = {0, 0, 0}, half[3] = {3, 1, 2};
    (void)state;
    snprintf(in, sizeof in, "%s/in%d", temp_folder(), n);
    snprintf(pics, sizeof pics, "%s/pics%d", temp_folder(), n);
    snprintf(out, sizeof out, "%s/out%d", temp_folder(), n++);
    assert_true(make_folder(path_in(in, "a"), &st) && make_folder(path_in(pics, "a/box"), &st));
    mesh box = shape_box(half, 2), ball = shape_sphere(zero, 1, 3);
    assert_true(mesh_write(path_in(in, "a/box.v2.ply"), &box, &st) && mesh_write(path_in(in, "a/box.ply"), &box, &st) &&
                mesh_write(path_in(in, "ball.ply"), &ball, &st));
    mesh_free(&box), mesh_free(&ball);
    return 0;
}

static prep_options options(void) {
    prep_options o = prep_default_options();
    o.input = in;
    o.output = out;
    o.images = pics;
    o.resolution = 32;
    return o;
}

static prep_result go(const prep_options *o) {
    prep_result r;
    status      st = {0};
    if (!prep_run(o, 0, 1, &r, &st)) fail_msg("%s", st.text);
    return r;
}

static void expect_view(const sample *s, int view, int width, int height, uint8_t colour) {
    image        im;
    status       st = {0};
    const float *camera = s->camera + view * VIEW_CAMERA_FLOATS;
    if (!image_decode(s->png[view], s->png_size[view], "view", &im, &st)) fail_msg("%s", st.text);
    assert_true(im.width == width && im.height == height && im.channels == 4);
    assert_true(camera[20] == (float)width && camera[21] == (float)height && camera[16] == 0 && camera[0] == 0);
    for (int i = 0; i < width * height; i++) {
        bool front = i % width < width / 2;
        assert_int_equal(im.pixel[4 * i + 3], front ? 255 : 0);
        if (front) assert_int_equal(im.pixel[4 * i + 1], colour);
    }
    image_free(&im);
}

static void test_taken(void **state) {
    prep_options o = options();
    status       st = {0};
    shard       *s;
    int          n;
    int64_t      n_bad;
    (void)state;
    put_picture("a/box/1.png", 20, 10, 4, 11);
    put_picture("a/box/0.png", 8, 30, 4, 12);
    put_picture("a/box.png", 8, 8, 4, 13); /* the folder comes first */
    put_picture("a/box.v2.png", 6, 6, 4, 14);
    put_picture("ball.png", 40, 40, 4, 15);
    o.n_resolutions = 2; /* both grids have the views */
    o.resolutions[0] = 32, o.resolutions[1] = 64;
    assert_int_equal(go(&o).done, 3);
    for (int g = 0; g < 2; g++) {
        if (!shard_open_all(path_in(out, g ? "r64" : "r32"), &s, &n, &st)) fail_msg("%s", st.text);
        assert_int_equal(n, 1);
        for (int64_t i = 0; i < 3; i++) {
            sample x;
            assert_true(shard_read_sample(&s[0], i, true, &x, &st));
            json_t *report = json_loads(x.report, 0, NULL);
            assert_int_equal(json_integer_value(json_object_get(report, "pictures")), x.n_views);
            json_decref(report);
            if (strcmp(x.source, "a/box.ply") == 0) {
                assert_int_equal(x.n_views, 2);
                expect_view(&x, 0, 8, 30, 12);
                expect_view(&x, 1, 20, 10, 11);
            } else {
                bool ball = strcmp(x.source, "ball.ply") == 0;
                assert_int_equal(x.n_views, 1);
                expect_view(&x, 0, ball ? 40 : 6, ball ? 40 : 6, ball ? 15 : 14);
            }
            sample_free(&x);
        }
        if (!shard_check(s[0].path, &n_bad, &st)) fail_msg("%s", st.text);
        shard_close_all(s, n);
    }
}

/* The reason that rejects.jsonl gives last for this mesh. */
static void expect_reason(const char *source, const char *file, const char *text) {
    char  line[4000], want[100], last[4000] = "";
    FILE *f = fopen(path_in(out, "rejects.jsonl"), "r");
    assert_non_null(f);
    snprintf(want, sizeof want, "\"source\":\"%s\"", source);
    while (fgets(line, sizeof line, f))
        if (strstr(line, want)) strcpy(last, line);
    fclose(f);
    if (!strstr(last, file) || !strstr(last, text)) fail_msg("%s: %s", source, last);
}

static void test_refused(void **state) {
    prep_options o = options();
    status       st = {0};
    (void)state;
    put_picture("ball.png", 10, 10, 3, 9);
    put_picture("a/box.v2.png", 1, 1, 4, 9); /* no left half */
    prep_result r = go(&o);
    assert_int_equal(r.rejected, 3);
    expect_reason("ball.ply", "ball.png", "has no alpha");
    expect_reason("a/box.v2.ply", "a/box.v2.png", "no foreground");
    expect_reason("a/box.ply", "a/box.ply", "no picture of it"); /* an empty folder */
    assert_int_equal(go(&o).skipped, 3);
    put_picture("ball.png", PICTURE_SIDE + 1, 1, 4, 9); /* the mesh is tried again with another picture */
    FILE *f = fopen(path_in(pics, "a/box.v2.png"), "w");
    assert_true(f && fputs("no picture", f) >= 0 && fclose(f) == 0);
    put_picture("a/box/0.png", 16, 16, 4, 9);
    r = go(&o);
    assert_int_equal(r.rejected, 2);
    assert_int_equal(r.done, 1);
    expect_reason("ball.ply", "ball.png", "scale it down");
    expect_reason("a/box.v2.ply", "a/box.v2.png", "neither PNG nor JPEG");
    assert_int_equal(go(&o).skipped, 3);
    o.images = path_in(pics, "ball.png");
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    assert_non_null(strstr(st.text, "prep.images"));
}

int main(void) {
    log_init(0, 1, LOG_QUIET);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_taken, fresh),
                                       cmocka_unit_test_setup(test_refused, fresh)};
    return cmocka_run_group_tests_name("prep_pictures", tests, NULL, NULL);
}
