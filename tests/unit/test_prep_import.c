/* Import of good and hostile files: every failure is one clear line, and the program lives on. */
#include "data_prep/import.h"
#include "data_prep/normalize.h"
#include "harness/harness.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *write_file(const char *name, const char *text) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", temp_folder(), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static import_limits quick_limits(void) {
    return (import_limits){.seconds = 20, .mbytes = 512, .max_faces = 100000};
}

static void expect_failure(const char *path, const import_limits *l, status_code code, const char *word) {
    scene  s;
    status st = {0};
    assert_false(import_scene(path, l, &s, &st));
    if (st.code != code || !strstr(st.text, word) || !strstr(st.text, path) || strchr(st.text, '\n'))
        fail_msg("code %d, text \"%s\"; wanted %d and \"%s\"", st.code, st.text, code, word);
    assert_null(s.m.position);
    assert_int_equal(s.n_materials, 0);
}

static const char two_triangles[] =
    "mtllib two.mtl\nv 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nv 9 9 9\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    "usemtl red\nf 1/1 2/2 3/3 4/4\n";

static void test_good(void **state) {
    (void)state;
    write_file("two.mtl", "newmtl red\nKd 1 0 0.5\nmap_Kd nowhere\\missing.png\n");
    const char   *path = write_file("two.obj", two_triangles);
    import_limits l = quick_limits();
    scene         s;
    status        st = {0};
    if (!import_scene(path, &l, &s, &st)) fail_msg("%s", st.text);
    assert_int_equal(s.m.n_faces, 2); /* the quad is cut */
    assert_non_null(s.m.uv);
    for (int64_t i = 0; i < 3 * s.m.n_vertices; i++) assert_true(s.m.position[i] <= 2); /* the loose vertex is gone */
    const scene_material *m = &s.material[s.m.material[0]];
    assert_true(fabsf(m->diffuse[0] - 1) < 1e-6f && fabsf(m->diffuse[2] - 0.5f) < 1e-6f);
    assert_null(m->texture.pixel); /* missing: no error */
    double center[3], scale;
    assert_true(normalize_of(&s.m, path, center, &scale, &st));
    normalize_apply(&s.m, center, scale);
    float widest = 0;
    for (int64_t i = 0; i < 3 * s.m.n_vertices; i++) widest = fmaxf(widest, fabsf(s.m.position[i]));
    assert_true(fabsf(widest - 0.95f) < 1e-6f);
    scene_free(&s);
}

static void test_texture_is_found(void **state) {
    (void)state;
    char    path[512];
    uint8_t pixel[12] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7};
    image   im = {2, 2, 3, pixel};
    status  st = {0};
    snprintf(path, sizeof path, "%s/skin.png", temp_folder());
    assert_true(image_write_png(path, &im, &st));
    write_file("two.mtl", "newmtl red\nKd 1 1 1\nmap_Kd C:\\elsewhere\\skin.png\n");
    import_limits l = quick_limits();
    scene         s;
    if (!import_scene(write_file("two.obj", two_triangles), &l, &s, &st)) fail_msg("%s", st.text);
    const image *t = &s.material[s.m.material[0]].texture;
    assert_non_null(t->pixel);
    assert_int_equal(t->width, 2);
    assert_int_equal(t->pixel[9], 9);
    scene_free(&s);
}

static void test_bad_files(void **state) {
    (void)state;
    import_limits l = quick_limits();
    expect_failure("/nonexistent/model.obj", &l, ST_NO_INPUT, "No such file");
    expect_failure("/tmp", &l, ST_DATA, "not a file");
    expect_failure(write_file("empty.obj", ""), &l, ST_DATA, "empty");
    expect_failure(write_file("words.txt", "this is no mesh\n"), &l, ST_DATA, "not a mesh file");
    expect_failure(write_file("words.ply", "this is no mesh\n"), &l, ST_DATA, "not a mesh file");
    expect_failure(write_file("points.ply",
                              "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
                              "property float z\nend_header\n0 0 0\n1 0 0\n0 1 0\n"),
                   &l, ST_DATA, "");
    expect_failure(write_file("nan.ply", "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
                                         "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
                                         "end_header\n0 0 0\n1 nan 0\n0 1 0\n3 0 1 2\n"),
                   &l, ST_DATA, "");
    expect_failure(write_file("index.ply",
                              "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
                              "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
                              "end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7000000\n"),
                   &l, ST_DATA, "");
    l.max_faces = 1;
    expect_failure(write_file("two.obj", two_triangles), &l, ST_DATA, "over 1 triangles");
}

static void test_no_extent(void **state) {
    (void)state;
    float  p[9] = {3, 4, 5, 3, 4, 5, 3, 4, 5}, nan_p[9] = {0, 0, 0, 1, NAN, 0, 0, 1, 0};
    int    face[3] = {0, 1, 2};
    mesh   m = {.n_vertices = 3, .n_faces = 1, .position = p, .face = face};
    double center[3], scale;
    status st = {0};
    assert_false(normalize_of(&m, "point", center, &scale, &st));
    assert_non_null(strstr(st.text, "no extent"));
    st = (status){0};
    m.position = nan_p;
    assert_false(normalize_of(&m, "nan", center, &scale, &st));
    assert_non_null(strstr(st.text, "not finite"));
}

static void play_crash(const char *path) {
    (void)path, raise(SIGSEGV);
}
static void play_abort(const char *path) {
    (void)path, abort();
}
static void play_exit(const char *path) {
    (void)path, _exit(3);
}
static void play_sleep(const char *path) {
    (void)path, sleep(60);
}
static void play_spin(const char *path) {
    (void)path;
    for (volatile int64_t i = 0;; i++) {
    }
}
#if !defined(__SANITIZE_ADDRESS__) /* its allocator reserves address space in its own way */
static void play_hunger(const char *path) {
    (void)path;
    for (;;) {
        char *p = malloc(16 << 20);
        if (!p) abort();
        memset(p, 1, 16 << 20);
    }
}
#endif

static void test_child(void **state) {
    (void)state;
    char          path[512];
    import_limits l = quick_limits();
    snprintf(path, sizeof path, "%s", write_file("two.obj", two_triangles));
    import_set_child_hook(play_crash);
    expect_failure(path, &l, ST_DATA, "crashed with signal 11");
    import_set_child_hook(play_abort);
    expect_failure(path, &l, ST_DATA, "crashed with signal 6");
    import_set_child_hook(play_exit);
    expect_failure(path, &l, ST_DATA, "exit code 3");
    l.seconds = 0.5;
    double t0 = now_seconds();
    import_set_child_hook(play_sleep);
    expect_failure(path, &l, ST_DATA, "timed out after 0.5 s");
    import_set_child_hook(play_spin);
    expect_failure(path, &l, ST_DATA, "timed out after 0.5 s");
    assert_true(now_seconds() - t0 < 10);
    l.seconds = 20;
    l.mbytes = 128;
#if !defined(__SANITIZE_ADDRESS__)
    import_set_child_hook(play_hunger);
    expect_failure(path, &l, ST_DATA, "over 128 MB");
#endif
    import_set_child_hook(NULL);
    scene  s;
    status st = {0};
    assert_true(import_scene(path, &l, &s, &st)); /* none of it left a mark */
    scene_free(&s);
}

/* A child that sends nonsense: counts that do not fit, indices out of range, a stream that ends early. */
static import_head forged;
static int         forged_index;
static void        play_forger(const char *path) {
           (void)path;
           for (int fd = 3; fd < 256; fd++) { /* the importer's pipe: a write end that an exec would close */
        struct stat info;
        if (fstat(fd, &info) != 0 || !S_ISFIFO(info.st_mode) || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY ||
            !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
            continue;
        if (write(fd, &forged, sizeof forged) != (ssize_t)sizeof forged) continue;
        float   p[9] = {0, 0, 0, 1, 0, 0, 0, 1, 0};
        int32_t f[3] = {0, 1, forged_index}, mat = 7;
        int64_t none[2] = {0, 0};
        float   grey[4] = {1, 1, 1, 1};
        bool    sent = write(fd, p, sizeof p) > 0 && write(fd, f, sizeof f) > 0 && write(fd, &mat, 4) > 0 &&
                    write(fd, grey, 16) > 0 && write(fd, none, 16) > 0;
        _exit(sent ? 0 : 1);
    }
           _exit(9);
}

static void test_forged_stream(void **state) {
    (void)state;
    char          path[512];
    import_limits l = quick_limits();
    snprintf(path, sizeof path, "%s", write_file("two.obj", two_triangles));
    import_set_child_hook(play_forger);
    forged = (import_head){.magic = IMPORT_MAGIC, .n_vertices = 3, .n_faces = 1, .n_materials = 1};
    forged_index = 2;
    scene  s;
    status st = {0};
    if (!import_scene(path, &l, &s, &st)) fail_msg("%s", st.text);
    assert_int_equal(s.m.material[0], 0); /* a material that does not exist becomes the first */
    scene_free(&s);
    forged_index = 3;
    expect_failure(path, &l, ST_DATA, "refers to vertex 3 of 3");
    forged_index = -1;
    expect_failure(path, &l, ST_DATA, "refers to vertex -1 of 3");
    forged_index = 2;
    forged.n_faces = INT64_MAX;
    expect_failure(path, &l, ST_DATA, "impossible counts");
    forged.n_faces = 99999;
    expect_failure(path, &l, ST_DATA, "ended early");
    forged.magic = 1;
    expect_failure(path, &l, ST_DATA, "impossible counts");
    import_set_child_hook(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good),      cmocka_unit_test(test_texture_is_found),
                                       cmocka_unit_test(test_bad_files), cmocka_unit_test(test_no_extent),
                                       cmocka_unit_test(test_child),     cmocka_unit_test(test_forged_stream)};
    return cmocka_run_group_tests_name("prep_import", tests, NULL, NULL);
}
