/* The driver: shards, rejects, restart, held-out split, categories, views that frame the object. */
#include "data/condition.h"
#include "data/shard.h"
#include "data_prep/import.h"
#include "data_prep/prep.h"
#include "data_prep/queue.h"
#include "data_prep/views.h"
#include "harness/harness.h"
#include "unit/prep_shapes.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char in[256], out[256];

static void put(const char *name, mesh m) {
    status st = {0};
    if (!mesh_write(path_in(in, name), &m, &st)) fail_msg("%s", st.text);
    mesh_free(&m);
}

static void put_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Five good meshes in two folders, one bad, a catalogue; a fresh output folder. */
static int fresh(void **state) {
    (void)state;
    static int n;
    snprintf(in, sizeof in, "%s/in%d", temp_folder(), n);
    snprintf(out, sizeof out, "%s/out%d", temp_folder(), n++);
    mkdir(in, 0777);
    mkdir(path_in(in, "a"), 0777);
    mkdir(path_in(in, "solids"), 0777);
    const double half[3] = {3, 1, 2}, zero[3] = {0, 0, 0};
    put("a/box.ply", shape_box(half, 2));
    put("a/ball.obj", shape_sphere(zero, 2, 3));
    put("solids/torus.glb", shape_torus(2, 0.5, 24, 12));
    put("solids/sheet.ply", shape_sheet(4, 2));
    put("solids/ball.ply", shape_sphere(half, 0.5, 3));
    put_text(path_in(in, "a/bad.ply"), "ply of words\n");
    put_text(path_in(in, "PluginFurnitureCatalog.properties"),
             "id=x\nname#1=Gr\\u00fcner "
             "Kasten\ncategory#1=Boxes\nmodel#1=/a/box.ply\n\nname#2=Ball\ncategory#2=Round\nmodel#2=/a/ball.obj\n");
    return 0;
}

static prep_options options(void) {
    prep_options o = prep_default_options();
    o.input = in;
    o.output = out;
    o.resolution = 32;
    o.views = 2;
    o.view_size = 56;
    o.view_samples = 2;
    o.shapes_per_shard = 2;
    return o;
}

static prep_result go(const prep_options *o) {
    prep_result r;
    status      st = {0};
    if (!prep_run(o, 0, 1, &r, &st)) fail_msg("%s", st.text);
    return r;
}

static void test_whole_run(void **state) {
    (void)state;
    prep_options o = options();
    prep_result  r = go(&o);
    assert_int_equal(r.found, 6);
    assert_int_equal(r.done, 5);
    assert_int_equal(r.rejected, 1);
    shard *s;
    int    n, seen = 0;
    status st = {0};
    if (!shard_open_all(out, &s, &n, &st)) fail_msg("%s", st.text);
    assert_int_equal(n, 3); /* 2 + 2 + 1 */
    for (int i = 0; i < n; i++) {
        int64_t n_bad = 0;
        if (!shard_check(s[i].path, &n_bad, &st)) fail_msg("%s", st.text);
        for (int64_t k = 0; k < s[i].n_samples; k++, seen++) {
            sample p;
            assert_true(shard_read_sample(&s[i], k, true, &p, &st));
            assert_int_equal(p.n_views, 2);
            if (strcmp(p.source, "a/box.ply") == 0) {
                assert_string_equal(p.category, "Boxes");
                assert_non_null(strstr(p.report, "Gr\xc3\xbcner Kasten"));
            }
            if (strcmp(p.source, "solids/torus.glb") == 0) assert_string_equal(p.category, "solids");
            if (strcmp(p.source, "solids/ball.ply") == 0) {
                const double c[3] = {3, 1, 2};
                for (int a = 0; a < 3; a++) assert_true(fabs(p.center[a] - c[a]) < 1e-5);
                assert_true(fabs(p.scale - 1.9) < 1e-5);
            }
            sample_free(&p);
        }
    }
    assert_int_equal(seen, 5);
    shard_close_all(s, n);
}

static int64_t lines_of(const char *path) {
    FILE   *f = fopen(path, "r");
    int64_t n = 0;
    for (int c; f && (c = fgetc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}

/* Two jobs with a folder each do all meshes, each once. */
static void test_parts(void **state) {
    (void)state;
    prep_options o = options();
    char         folder[2][512];
    int64_t      found = 0, done = 0, rejected = 0;
    prep_result  all = go(&o);
    o.parts = 2;
    for (o.part = 0; o.part < 2; o.part++) {
        snprintf(folder[o.part], sizeof folder[0], "%s", path_in(out, o.part ? "part-1" : "part-0"));
        o.output = folder[o.part];
        prep_result r = go(&o);
        assert_int_equal(r.found, 3);
        assert_int_equal(r.skipped, 0);
        assert_int_equal(go(&o).skipped, 3); /* a restart has nothing to do */
        found += r.found, done += r.done, rejected += r.rejected;
    }
    assert_int_equal(found, all.found);
    assert_int_equal(done, all.done);
    assert_int_equal(rejected, all.rejected);
    status st = {0};
    assert_false(prep_run(&o, 0, 1, NULL, &st)); /* part 2 of 2 */
    assert_int_equal(st.code, ST_USAGE);
    assert_non_null(strstr(st.text, "it is 0 to 1"));
}

/* Several grids in one pass hold what each gives alone; a grid that lost its shard is prepared again, the other is not.
 */
static void test_grids(void **state) {
    (void)state;
    prep_options o = options();
    char         whole[256], shard_path[600];
    status       st = {0};
    snprintf(whole, sizeof whole, "%s", out);
    o.n_resolutions = 2;
    o.resolutions[0] = 64, o.resolutions[1] = 32;
    prep_grid grid[PREP_MAX_GRIDS];
    o.tau_voxels = 0;
    assert_int_equal(prep_grids(&o, grid), 2);
    assert_true(grid[0].tau_voxels == 0.25 && grid[1].tau_voxels == 0.125);
    assert_string_equal(grid[1].folder, "r32");
    o.tau_voxels = 2;
    assert_int_equal(go(&o).done, 5);
    for (int k = 0; k < 2; k++) {
        prep_options one = options();
        one.resolution = o.resolutions[k];
        snprintf(out, sizeof out, "%.200s-alone-%d", whole, one.resolution);
        go(&one);
        shard *a, *b;
        int    n_a, n_b;
        if (!shard_open_all(out, &b, &n_b, &st) || !shard_open_all(path_in(whole, k ? "r32" : "r64"), &a, &n_a, &st))
            fail_msg("%s", st.text);
        assert_int_equal(n_a, n_b);
        assert_int_equal(a[0].meta.resolution, one.resolution);
        assert_true(a[0].meta.tau_voxels == one.tau_voxels);
        assert_int_equal(a[0].n_samples, b[0].n_samples);
        assert_memory_equal(a[0].hash, b[0].hash, (size_t)a[0].n_samples * 8);
        sample s, t;
        assert_true(shard_read_sample(&a[0], 0, true, &s, &st) && shard_read_sample(&b[0], 0, true, &t, &st));
        assert_int_equal(s.n_views, t.n_views);
        assert_int_equal(s.png_size[0], t.png_size[0]);
        assert_memory_equal(s.png[0], t.png[0], (size_t)t.png_size[0]);
        assert_string_equal(s.report, t.report);
        sample_free(&s), sample_free(&t);
        shard_close_all(a, n_a), shard_close_all(b, n_b);
    }
    snprintf(out, sizeof out, "%s", whole);
    assert_int_equal(go(&o).skipped, 6);
    snprintf(shard_path, sizeof shard_path, "%s/r32/shard-0000-00000.h5", out);
    assert_int_equal(unlink(shard_path), 0);
    prep_result r = go(&o);
    assert_int_equal(r.done, 2);
    assert_int_equal(r.skipped, 4);
    shard *back;
    int    n_back;
    for (int k = 0; k < 2; k++) {
        int64_t n = 0;
        if (!shard_open_all(path_in(whole, k ? "r32" : "r64"), &back, &n_back, &st)) fail_msg("%s", st.text);
        for (int i = 0; i < n_back; i++) n += back[i].n_samples;
        assert_int_equal(n, 5);
        shard_close_all(back, n_back);
    }
    o.resolutions[1] = 64;
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_non_null(strstr(st.text, "asked for twice"));
}

static void test_restart(void **state) {
    (void)state;
    prep_options o = options();
    o.max_shapes = 3; /* a/bad, a/ball, a/box */
    prep_result r = go(&o);
    assert_int_equal(r.done, 2);
    o.max_shapes = 0;
    put_text(path_in(out, "shard-0000-00009.h5.part"), "left by a dead run");
    r = go(&o);
    assert_int_equal(r.skipped, 3);
    assert_int_equal(r.done, 3);
    assert_int_equal(r.rejected, 0);
    assert_int_not_equal(access(path_in(out, "shard-0000-00009.h5.part"), F_OK), 0);
    r = go(&o);
    assert_int_equal(r.skipped, 6);
    assert_int_equal(lines_of(path_in(out, "rejects.jsonl")), 1);
    put_text(path_in(in, "a/bad.ply"), "ply of other words\n"); /* a changed file gets another chance */
    r = go(&o);
    assert_int_equal(r.rejected, 1);
    status st = {0};
    o.resolution = 40;
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_int_equal(st.code, ST_CONFIG);
    assert_non_null(strstr(st.text, "use another output folder"));
}

static void test_split(void **state) {
    (void)state;
    prep_options o = options();
    o.heldout_names = "# comment\nsolids/torus.glb\n";
    go(&o);
    shard *s;
    int    n;
    status st = {0};
    assert_true(shard_open_all(path_in(out, "heldout"), &s, &n, &st));
    assert_int_equal(n, 1);
    assert_int_equal(s[0].n_samples, 1);
    assert_string_equal(s[0].source[0], "solids/torus.glb");
    shard_close_all(s, n);
}

static void crash_on_torus(const char *path) {
    if (strstr(path, "torus")) raise(SIGSEGV);
}

/* An importer that crashes costs its mesh and nothing else. */
static void test_crash(void **state) {
    (void)state;
    prep_options o = options();
    shard       *s;
    int          n;
    status       st = {0};
    import_set_child_hook(crash_on_torus);
    prep_result r = go(&o);
    import_set_child_hook(NULL);
    assert_int_equal(r.done, 4);
    assert_int_equal(r.rejected, 2);
    FILE *f = fopen(path_in(out, "rejects.jsonl"), "r");
    char  line[2000];
    bool  told = false;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        told |= strstr(line, "solids/torus.glb") && strstr(line, "crashed with signal 11");
    fclose(f);
    assert_true(told);
    if (!shard_open_all(out, &s, &n, &st)) fail_msg("%s", st.text);
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < s[i].n_samples; k++) assert_null(strstr(s[i].source[k], "torus"));
    shard_close_all(s, n);
}

static void test_refusals(void **state) {
    (void)state;
    prep_options o = options();
    status       st = {0};
    o.resolution = 100;
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_int_equal(st.code, ST_USAGE);
    o = options(), st = (status){0};
    o.input = "/nonexistent/folder";
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    o = options(), st = (status){0};
    o.output = "/proc/no/such/place";
    assert_false(prep_run(&o, 0, 1, NULL, &st));
    assert_int_equal(st.code, ST_IO);
    o = options(), st = (status){0};
    o.max_tiles = 5;
    prep_result r = go(&o);
    assert_int_equal(r.done, 0);
    assert_int_equal(r.rejected, 6);
    o = options();
    snprintf(out, sizeof out, "%s/never", temp_folder());
    o.dry_run = true;
    go(&o);
    assert_int_not_equal(access(out, F_OK), 0);
}

static void test_same_bits(void **state) {
    (void)state;
    prep_options o = options();
    sample       a, b;
    status       st = {0};
    assert_true(prep_sample(&o, path_in(in, "a/ball.obj"), "a/ball.obj", "", "", 1, &a, &st));
    assert_true(prep_sample(&o, path_in(in, "a/ball.obj"), "a/ball.obj", "", "", 1, &b, &st));
    assert_int_equal(a.n_tiles, b.n_tiles);
    assert_memory_equal(a.value, b.value, (size_t)a.n_tiles * 1024);
    for (int v = 0; v < a.n_views; v++) {
        assert_int_equal(a.png_size[v], b.png_size[v]);
        assert_memory_equal(a.png[v], b.png[v], (size_t)a.png_size[v]);
    }
    sample_free(&a), sample_free(&b);
}

/* The frame holds the whole object whatever the camera; mask, depth and normals agree with a ball. */
static void test_views(void **state) {
    (void)state;
    const double zero[3] = {0, 0, 0};
    mesh         m = shape_sphere(zero, 0.95, 5);
    status       st = {0};
    for (int view = 0; view < 8; view++) {
        view_options o = {.n_views = 1, .size = 64, .samples = 2, .up_axis = 1 + view % 2, .seed = 5};
        camera       c = view_camera(&m, &o, 99, view), back;
        float        packed[VIEW_CAMERA_FLOATS], depth[64 * 64], normal[64 * 64 * 3], eye = c.world_to_camera[11];
        camera_pack(&c, packed);
        back = camera_unpack(packed);
        assert_memory_equal(&c, &back, sizeof c);
        assert_true(c.fx >= 64 * 30 / 36.f - 1e-3f && c.fx <= 64 * 100 / 36.f + 1e-3f);
        render_options ro = render_clay_options();
        ro.up_axis = o.up_axis;
        renderer *r = renderer_new(&m, &ro, &st);
        image     im;
        assert_non_null(r);
        assert_true(renderer_view(r, &c, 64, 64, &im, &st));
        renderer_buffers(r, &c, 64, 64, depth, normal, NULL);
        int covered = 0;
        for (int i = 0; i < 64 * 64; i++) {
            int x = i % 64, y = i / 64;
            covered += im.pixel[4 * i + 3] == 255;
            if (x == 0 || y == 0 || x == 63 || y == 63) assert_int_equal(im.pixel[4 * i + 3], 0);
            if (!isfinite(depth[i])) continue;
            assert_true(depth[i] > c.near && depth[i] < c.far);
            double p[3] = {(x + 0.5 - c.cx) / c.fx * depth[i], (y + 0.5 - c.cy) / c.fy * depth[i], depth[i] - eye};
            assert_true(fabs(sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) - 0.95) <
                        2e-3); /* the ball, in camera axes */
            double n[3] = {0, 0, 0};
            for (int a = 0; a < 3; a++)
                for (int k = 0; k < 3; k++) n[a] += (double)c.world_to_camera[4 * a + k] * normal[3 * i + k];
            if (n[2] < -0.3) assert_true((n[0] * p[0] + n[1] * p[1] + n[2] * p[2]) / 0.95 > 0.995);
        }
        assert_true(covered > 64 * 64 / 3);
        image_free(&im);
        renderer_free(r);
    }
    mesh_free(&m);
}

static void test_patches(void **state) {
    (void)state;
    uint8_t pixel[28 * 28 * 3], mask[28 * 28] = {0};
    image   im = {28, 28, 3, pixel};
    float   tokens[5 * PATCH_WIDTH];
    int32_t coord[15];
    for (int i = 0; i < 28 * 28 * 3; i++) pixel[i] = (uint8_t)(i * 7);
    assert_int_equal(patches_count(mask, 28, true), 1); /* an empty mask keeps the special token */
    mask[15 * 28 + 3] = 1;                              /* row 1, column 0 */
    assert_int_equal(patches_count(mask, 28, true), 2);
    assert_int_equal(patches_count(mask, 28, false), 4);
    patches_fill(&im, mask, true, tokens, coord);
    const int32_t want[6] = {0, 0, 1, 0, 1, 0};
    assert_memory_equal(coord, want, sizeof want);
    for (int i = 0; i < PATCH_WIDTH; i++) assert_true(tokens[i] == 0);
    /* channel 1 (green), row 2, column 3 of that patch */
    double v = (pixel[3 * ((14 + 2) * 28 + 3) + 1] / 255.0 - 0.456) / 0.224;
    assert_true(fabs(tokens[PATCH_WIDTH + 196 + 2 * 14 + 3] - v) < 1e-6);
    patches_fill(&im, mask, false, tokens, coord);
    assert_int_equal(coord[3], 1);
    assert_int_equal(coord[4], 0);
}

static void test_queue(void **state) {
    (void)state;
    work_queue *q = queue_open(3, 0, 1);
    for (int i = 0; i < 3; i++) assert_int_equal(queue_next(q), i);
    assert_int_equal(queue_next(q), -1);
    queue_close(q);
    q = queue_open(3, 0, 1);
    queue_stop(q);
    assert_int_equal(queue_next(q), -1);
    queue_close(q);
}

int main(void) {
    log_init(0, 1, LOG_QUIET);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_whole_run, fresh),
                                       cmocka_unit_test_setup(test_parts, fresh),
                                       cmocka_unit_test_setup(test_grids, fresh),
                                       cmocka_unit_test_setup(test_restart, fresh),
                                       cmocka_unit_test_setup(test_split, fresh),
                                       cmocka_unit_test_setup(test_crash, fresh),
                                       cmocka_unit_test_setup(test_refusals, fresh),
                                       cmocka_unit_test_setup(test_same_bits, fresh),
                                       cmocka_unit_test(test_views),
                                       cmocka_unit_test(test_patches),
                                       cmocka_unit_test(test_queue)};
    return cmocka_run_group_tests_name("prep_run", tests, NULL, NULL);
}
