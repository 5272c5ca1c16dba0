/* Small files: atomic writing, images, meshes, JSON lines, TensorBoard records. */
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/image.h"
#include "io/jsonl.h"
#include "io/mesh.h"
#include "io/tensorboard.h"

#include <jansson.h>
#include <jpeglib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void atomic_files(void **state) {
    (void)state;
    status   st = {0};
    uint8_t *b;
    int64_t  n;
    assert_true(atomic_write(in_folder("t"), "one", 3, &st));
    assert_true(atomic_write(in_folder("t"), "seven", 5, &st));
    assert_true(read_whole_file(in_folder("t"), 100, &b, &n, &st));
    assert_int_equal(n, 5);
    assert_string_equal((char *)b, "seven");
    free(b);
    assert_false(read_whole_file(in_folder("t"), 4, &b, &n, &st));
    assert_int_equal(st.code, ST_DATA);
    atomic_file a;
    st = (status){0};
    assert_true(atomic_begin(&a, in_folder("u"), &st));
    fputs("half", a.file);
    atomic_abandon(&a);
    assert_true(access(in_folder("u"), F_OK) && access(in_folder("u.part"), F_OK));
    assert_false(atomic_write(in_folder("no/such/folder"), "x", 1, &st));
    assert_int_equal(st.code, ST_IO);
    if (access("/dev/full", W_OK) == 0) { /* a device that is always full */
        char path[300];
        st = (status){0};
        assert_int_equal(symlink("/dev/full", in_folder("full.part")), 0);
        snprintf(path, sizeof path, "%s", in_folder("full"));
        assert_false(atomic_write(path, "x", 1, &st));
        assert_non_null(strstr(st.text, "No space"));
        assert_true(access(in_folder("full"), F_OK) != 0);
        struct stat info;
        assert_true(lstat(in_folder("full.part"), &info) != 0);
    }
    st = (status){0};
    assert_true(make_folder(in_folder("p/q/r"), &st) && make_folder(in_folder("p/q"), &st));
    assert_true(atomic_write(in_folder("p/q/r/f"), "x", 1, &st));
    assert_false(make_folder(in_folder("p/q/r/f"), &st));
    st = (status){0};
    assert_true(remove_tree(in_folder("p"), &st) && remove_tree(in_folder("p"), &st));
    assert_true(access(in_folder("p"), F_OK) != 0);
}

static void png_files(void **state) {
    (void)state;
    for (int c = 1; c <= 4; c += c == 1 ? 2 : 1) {
        uint8_t pixel[13 * 7 * 4];
        image   im = {13, 7, c, pixel}, back;
        status  st = {0};
        for (size_t i = 0; i < sizeof pixel; i++) pixel[i] = (uint8_t)(i * 31);
        if (!image_write_png(in_folder("a.png"), &im, &st) || !image_read(in_folder("a.png"), &back, &st))
            fail_msg("%s", st.text);
        assert_int_equal(back.width, 13);
        assert_int_equal(back.height, 7);
        assert_int_equal(back.channels, c);
        assert_memory_equal(back.pixel, pixel, (size_t)(13 * 7 * c));
        image_free(&back);
        uint8_t *bytes;
        int64_t  n;
        assert_true(image_encode_png(&im, &bytes, &n, &st));
        for (int64_t cut = 0; cut < n - 12; cut += 5) { /* cut short */
            st = (status){0};
            if (image_decode(bytes, cut, "cut", &back, &st))
                fail_msg("%lld of %lld bytes decoded", (long long)cut, (long long)n);
            assert_int_equal(st.code, ST_DATA);
            assert_null(back.pixel);
        }
        bytes[18] = 0x7f; /* a width of two thousand million */
        st = (status){0};
        assert_false(image_decode(bytes, n, "huge", &back, &st));
        free(bytes);
    }
    status st = {0};
    image  im;
    assert_true(atomic_write(in_folder("b.png"), "no image at all", 15, &st));
    assert_false(image_read(in_folder("b.png"), &im, &st));
    assert_int_equal(st.code, ST_DATA);
}

static void jpeg_files(void **state) {
    (void)state;
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       err;
    unsigned char              *bytes = NULL;
    unsigned long               n = 0;
    uint8_t                     row[16 * 3];
    c.err = jpeg_std_error(&err);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &bytes, &n);
    c.image_width = c.image_height = 16;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 95, TRUE);
    jpeg_start_compress(&c, TRUE);
    for (int i = 0; i < 48; i++) row[i] = (uint8_t)(i % 3 == 0 ? 200 : i % 3 == 1 ? 100 : 50);
    for (int y = 0; y < 16; y++) jpeg_write_scanlines(&c, &(JSAMPROW){row}, 1);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    image  im;
    status st = {0};
    if (!image_decode(bytes, (int64_t)n, "j", &im, &st)) fail_msg("%s", st.text);
    assert_true(im.width == 16 && im.height == 16 && im.channels == 3);
    for (int i = 0; i < 16 * 16 * 3; i++) assert_true(abs((int)im.pixel[i] - (int)row[i % 48]) <= 3);
    image_free(&im);
    assert_false(image_decode(bytes, 20, "j", &im, &st));
    assert_int_equal(st.code, ST_DATA);
    free(bytes);
}

static mesh make_mesh(bool normal, bool color, bool uv) {
    enum { V = 37, F = 23 };
    mesh m = {.n_vertices = V, .n_faces = F};
    m.position = malloc(V * 3 * sizeof(float));
    m.face = malloc(F * 3 * sizeof(int32_t));
    fill_rule(m.position, V * 3, 1, 3);
    for (int i = 0; i < F * 3; i++) m.face[i] = i * 7 % V;
    if (normal) fill_rule(m.normal = malloc(V * 3 * sizeof(float)), V * 3, 2, 2);
    if (uv) fill_rule(m.uv = malloc(V * 2 * sizeof(float)), V * 2, 3, 2);
    if (color) {
        m.color = malloc(V * 4);
        for (int i = 0; i < V * 4; i++) m.color[i] = (uint8_t)(i * 5);
    }
    return m;
}

static void same(const void *a, const void *b, size_t n) {
    assert_true(!a == !b);
    if (a) assert_memory_equal(a, b, n);
}

static void mesh_files(void **state) {
    (void)state;
    const char *names[] = {"m.glb", "m.ply"};
    for (int k = 0; k < 2; k++)
        for (int bits = 0; bits < 8; bits++) {
            mesh   m = make_mesh(bits & 1, bits & 2, bits & 4), back;
            status st = {0};
            if (!mesh_write(in_folder(names[k]), &m, &st) || !mesh_read(in_folder(names[k]), &back, &st))
                fail_msg("%s", st.text);
            assert_int_equal(back.n_vertices, m.n_vertices);
            assert_int_equal(back.n_faces, m.n_faces);
            same(m.position, back.position, (size_t)m.n_vertices * 12);
            same(m.face, back.face, (size_t)m.n_faces * 12);
            same(m.normal, back.normal, (size_t)m.n_vertices * 12);
            same(m.color, back.color, (size_t)m.n_vertices * 4);
            same(m.uv, back.uv, (size_t)m.n_vertices * 8);
            mesh_free(&back);
            uint8_t *bytes;
            int64_t  n;
            assert_true(read_whole_file(in_folder(names[k]), 1 << 20, &bytes, &n, &st));
            for (int64_t cut = 0; cut < n; cut += 17) {
                status bad = {0};
                assert_true(atomic_write(in_folder(k ? "cut.ply" : "cut.glb"), bytes, cut, &bad));
                if (mesh_read(in_folder(k ? "cut.ply" : "cut.glb"), &back, &bad))
                    fail_msg("%lld of %lld bytes were read", (long long)cut, (long long)n);
                assert_int_equal(bad.code, ST_DATA);
            }
            free(bytes);
            mesh_free(&m);
        }
    for (int k = 0; k < 2; k++) { /* an empty mesh is a valid file */
        float   p[3];
        int32_t f[3];
        mesh    none = {.position = p, .face = f}, back;
        status  st = {0};
        if (!mesh_write(in_folder(names[k]), &none, &st) || !mesh_read(in_folder(names[k]), &back, &st))
            fail_msg("%s", st.text);
        assert_int_equal(back.n_vertices, 0);
        mesh_free(&back);
    }
    mesh   m = make_mesh(true, true, true);
    status st = {0};
    assert_true(mesh_write(in_folder("m.obj"), &m, &st));
    FILE *f = fopen(in_folder("m.obj"), "r");
    char  line[256];
    int   count[4] = {0};
    float first[3];
    while (fgets(line, sizeof line, f)) {
        if (!strncmp(line, "v ", 2) && count[0]++ == 0)
            assert_int_equal(sscanf(line, "v %f %f %f", first, first + 1, first + 2), 3);
        count[1] += !strncmp(line, "vn ", 3);
        count[2] += !strncmp(line, "vt ", 3);
        count[3] += !strncmp(line, "f ", 2);
    }
    fclose(f);
    assert_memory_equal(first, m.position, sizeof first);
    assert_true(count[0] == 37 && count[1] == 37 && count[2] == 37 && count[3] == 23);
    assert_false(mesh_write(in_folder("m.stl"), &m, &st));
    assert_int_equal(st.code, ST_USAGE);
    st = (status){0};
    m.position[4] = NAN;
    assert_false(mesh_write(in_folder("nan.glb"), &m, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_true(access(in_folder("nan.glb"), F_OK) != 0);
    mesh_free(&m);
}

static void json_lines(void **state) {
    (void)state;
    status      st = {0};
    const char *path = in_folder("metrics.jsonl");
    jsonl      *j = jsonl_open(path, INT64_MAX, &st);
    double      bins[3] = {1, NAN, INFINITY};
    for (int i = 1; i <= 5; i++) {
        jsonl_begin(j);
        jsonl_int(j, "step", i);
        jsonl_number(j, "loss", i == 3 ? NAN : 0.1 * i);
        jsonl_numbers(j, "bins", bins, 3);
        jsonl_text(j, "note", i == 2 ? "bad \xff utf8" : "a \"b\"\n");
        jsonl_bool(j, "skipped", i == 3);
        if (!jsonl_end(j, &st)) fail_msg("%s", st.text);
    }
    jsonl_close(j);
    uint8_t *text;
    int64_t  n;
    assert_true(read_whole_file(path, 1 << 20, &text, &n, &st));
    int lines = 0;
    for (char *p = (char *)text, *end; (end = strchr(p, '\n')); p = end + 1, lines++) {
        json_t *r = json_loadb(p, (size_t)(end - p), 0, NULL); /* strict JSON: a bare NaN would fail */
        if (!r) fail_msg("line %d is not JSON: %.*s", lines + 1, (int)(end - p), p);
        assert_int_equal(json_integer_value(json_object_get(r, "step")), lines + 1);
        assert_true(json_is_null(json_array_get(json_object_get(r, "bins"), 1)));
        assert_true(json_is_null(json_array_get(json_object_get(r, "bins"), 2)));
        assert_true(json_is_null(json_object_get(r, "loss")) == (lines == 2));
        json_decref(r);
    }
    assert_int_equal(lines, 5);
    free(text);
    FILE *f = fopen(path, "a"); /* a crash in the middle of a line */
    fputs("{\"step\": 6, \"lo", f);
    fclose(f);
    j = jsonl_open(path, 4, &st); /* resume from step 4 */
    assert_non_null(j);
    jsonl_begin(j);
    jsonl_int(j, "step", 5);
    jsonl_number(j, "loss", 7);
    assert_true(jsonl_end(j, &st));
    jsonl_close(j);
    int64_t *step;
    double  *value;
    assert_true(jsonl_series(path, "loss", &step, &value, &n, &st));
    assert_int_equal(n, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(step[i], i + 1);
        assert_true(i == 2 ? isnan(value[i]) : fabs(value[i] - (i == 4 ? 7 : 0.1 * (i + 1))) < 1e-8);
    }
    free(step);
    free(value);
}

static void checksums(void **state) {
    (void)state;
    /* RFC 3720, B.4 */
    uint8_t b[32];
    memset(b, 0, 32);
    assert_true(crc32c(b, 32) == 0x8a9136aau);
    memset(b, 0xff, 32);
    assert_true(crc32c(b, 32) == 0x62a8ab43u);
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)i;
    assert_true(crc32c(b, 32) == 0x46dd794eu);
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)(31 - i);
    assert_true(crc32c(b, 32) == 0x113fdb5cu);
    assert_true(crc32c("123456789", 9) == 0xe3069283u);
    assert_true(crc32c("", 0) == 0);
    uint32_t c = crc32c("foo", 3), masked = crc32c_masked("foo", 3) - 0xa282ead8u;
    assert_true((masked >> 17 | masked << 15) == c);
}

/* Records are walked by their lengths and both checksums, the payload by its fields. */
static void event_file(void **state) {
    (void)state;
    status       st = {0};
    char       **names;
    int          n_names;
    uint8_t     *b;
    int64_t      n;
    char         path[PATH_CAP];
    tensorboard *t = tensorboard_open(in_folder("tb"), &st);
    if (!t) fail_msg("%s", st.text);
    assert_true(tensorboard_scalar(t, 300, "train/loss", 0.25, &st));
    assert_true(tensorboard_image(t, 7, "preview", 13, 200, 4, (const uint8_t *)"not really a png", 16, &st));
    tensorboard_close(t);
    assert_true(list_folder(in_folder("tb"), "", &names, &n_names, &st));
    assert_int_equal(n_names, 1);
    assert_int_equal(strncmp(names[0], "events.out.tfevents.", 20), 0);
    assert_true(join_path(in_folder("tb"), names[0], path, &st) && read_whole_file(path, 1 << 20, &b, &n, &st));
    free_names(names, n_names);
    int records = 0;
    for (int64_t at = 0; at < n; records++) {
        uint64_t len;
        uint32_t head, tail;
        memcpy(&len, b + at, 8);
        memcpy(&head, b + at + 8, 4);
        assert_true(crc32c_masked(b + at, 8) == head && at + 16 + (int64_t)len <= n);
        memcpy(&tail, b + at + 12 + len, 4);
        const uint8_t *p = b + at + 12;
        assert_true(crc32c_masked(p, (int64_t)len) == tail);
        assert_int_equal(p[0], 0x09); /* wall_time, 8 bytes */
        if (records == 0)
            assert_memory_equal(p + 9,
                                "\x1a\x0d"
                                "brain.Event:2",
                                15);
        /* step 300 = ac 02; summary { value { tag, simple_value 0.25 = 0x3e800000 } } */
        if (records == 1)
            assert_memory_equal(p + 9, "\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x80\x3e", 24);
        /* image { height 200 = c8 01, width 13, colorspace 4, bytes } */
        if (records == 2)
            assert_memory_equal(p + 9,
                                "\x10\x07\x2a\x26\x0a\x24\x0a\x07preview\x22\x19\x08\xc8\x01\x10\x0d\x18\x04\x22\x10"
                                "not really a png",
                                42);
        at += 16 + (int64_t)len;
    }
    assert_int_equal(records, 3);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(atomic_files), cmocka_unit_test(png_files),  cmocka_unit_test(jpeg_files),
        cmocka_unit_test(mesh_files),   cmocka_unit_test(json_lines), cmocka_unit_test(checksums),
        cmocka_unit_test(event_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
