/* Small files that would become large: archives of blanks, counts nobody sent, nodes that double, a picture that many
 * materials share. Each costs one line, within the limits of memory and time. */
#include "data_prep/import.h"
#include "harness/harness.h"

#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { LIMIT_MB = 192 };
static const import_limits limits = {.seconds = 20, .mbytes = LIMIT_MB, .max_faces = 1000000};

static const char *write_file(const char *name, const void *bytes, size_t n) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", temp_folder(), name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return path;
}

/* `either`: which limit is met first is the machine's speed. */
static void expect_refused(const char *path, const char *word, const char *either) {
    scene  s;
    status st = {0};
    double t0 = now_seconds();
    if (import_scene(path, &limits, &s, &st)) fail_msg("%s: taken", path);
    bool known = strstr(st.text, word) || strstr(st.text, either);
#if defined(__SANITIZE_ADDRESS__)
    known |= strstr(st.text, "ended early") != NULL; /* its allocator ends the process that gets no memory */
#endif
    if (st.code != ST_DATA || !strstr(st.text, path) || !known)
        fail_msg("code %d, text \"%s\"; wanted \"%s\"", st.code, st.text, word);
    assert_true(now_seconds() - t0 < 3 * limits.seconds);
    assert_null(s.material);
}

/* ---- archives ------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *p;
    size_t   n;
} bytes;

static void put(bytes *b, const void *data, size_t n) {
    b->p = realloc(b->p, b->n + n);
    assert_non_null(b->p);
    memcpy(b->p + b->n, data, n);
    b->n += n;
}

static void put_number(bytes *b, uint64_t v, size_t n) {
    put(b, &v, n); /* little endian */
}

/* Adds a file to the archive and its entry to the directory; `claim` is the size that both tell. */
static void zip_file(bytes *zip, bytes *directory, const char *name, const void *data, size_t n, uint32_t claim) {
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(6);
    size_t                        room = libdeflate_deflate_compress_bound(c, n), at = zip->n;
    uint8_t                      *packed = malloc(room);
    assert_non_null(packed);
    size_t n_packed = libdeflate_deflate_compress(c, data, n, packed, room);
    assert_true(n_packed > 0);
    libdeflate_free_compressor(c);
    for (int k = 0; k < 2; k++) {
        bytes *b = k ? directory : zip;
        put(b, k ? "PK\1\2" : "PK\3\4", 4);
        if (k) put_number(b, 20, 2);
        put_number(b, 20, 2), put_number(b, 0, 2), put_number(b, 8, 2), put_number(b, 0x21u << 16, 4);
        put_number(b, libdeflate_crc32(0, data, n), 4), put_number(b, n_packed, 4), put_number(b, claim, 4);
        put_number(b, strlen(name), 2), put_number(b, 0, 2);
        if (k) put_number(b, 0, 8), put_number(b, 0, 2), put_number(b, at, 4);
        put(b, name, strlen(name));
        if (!k) put(b, packed, n_packed);
    }
    free(packed);
}

/* A box in the 3MF format with so many blanks between its tables. */
static const char *write_3mf(const char *name, size_t blanks, uint32_t claim) {
    static const char links[] =
        "<?xml version=\"1.0\"?><Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\">"
        "<Relationship Type=\"http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel\" "
        "Target=\"/3D/3dmodel.model\" Id=\"rel0\"/></Relationships>";
    static const char head[] =
        "<?xml version=\"1.0\"?><model unit=\"millimeter\" "
        "xmlns=\"http://schemas.microsoft.com/3dmanufacturing/core/2015/02\"><resources><object id=\"1\" "
        "type=\"model\"><mesh><vertices><vertex x=\"0\" y=\"0\" z=\"0\"/><vertex x=\"1\" y=\"0\" z=\"0\"/>"
        "<vertex x=\"0\" y=\"1\" z=\"0\"/><vertex x=\"0\" y=\"0\" z=\"1\"/></vertices>";
    static const char tail[] =
        "<triangles><triangle v1=\"0\" v2=\"2\" v3=\"1\"/><triangle v1=\"0\" v2=\"1\" v3=\"3\"/><triangle v1=\"0\" "
        "v2=\"3\" v3=\"2\"/><triangle v1=\"1\" v2=\"2\" v3=\"3\"/></triangles></mesh></object></resources><build>"
        "<item objectid=\"1\"/></build></model>";
    size_t n_head = strlen(head), n = n_head + blanks + strlen(tail);
    char  *model = malloc(n);
    assert_non_null(model);
    memset(model, ' ', n);
    memcpy(model, head, n_head);
    memcpy(model + n_head + blanks, tail, strlen(tail));
    bytes zip = {0}, directory = {0};
    zip_file(&zip, &directory, "_rels/.rels", links, strlen(links), (uint32_t)strlen(links));
    zip_file(&zip, &directory, "3D/3dmodel.model", model, n, claim ? claim : (uint32_t)n);
    size_t at = zip.n;
    put(&zip, directory.p, directory.n);
    put(&zip, "PK\5\6\0\0\0\0\2\0\2\0", 12);
    put_number(&zip, directory.n, 4), put_number(&zip, at, 4), put_number(&zip, 0, 2);
    const char *path = write_file(name, zip.p, zip.n);
    free(zip.p), free(directory.p), free(model);
    return path;
}

static void test_archives(void **state) {
    scene  s;
    status st = {0};
    (void)state;
    if (!import_scene(write_3mf("good.3mf", 0, 0), &limits, &s, &st)) fail_msg("%s", st.text);
    assert_int_equal(s.m.n_faces, 4);
    scene_free(&s);
    expect_refused(write_3mf("blanks.3mf", (size_t)2 * LIMIT_MB << 20, 0), "over 192 MB", "timed out");
    expect_refused(write_3mf("lies.3mf", 0, 0x7fffffff), "not a mesh file", "over 192 MB");
}

/* ---- counts --------------------------------------------------------------------------------------------------- */

static void test_counts(void **state) {
    static const char index_obj[] = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 100000000\nf -1 -2 -100000000\n",
                      off[] = "OFF\n100000000 100000000 0\n0 0 0\n",
                      ply[] =
                          "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float "
                          "y\nproperty float z\nelement face 1\nproperty list uint int vertex_indices\nend_header\n",
                      gltf[] =
                          "{\"asset\":{\"version\":\"2.0\"},\"buffers\":[{\"byteLength\":3600000000,\"uri\":\"data:"
                          "application/octet-stream;base64,AAAA\"}],\"bufferViews\":[{\"buffer\":0,"
                          "\"byteLength\":3600000000}],\"accessors\":[{\"bufferView\":0,\"componentType\":5126,"
                          "\"count\":300000000,\"type\":\"VEC3\"}],\"meshes\":[{\"primitives\":[{\"attributes\":{"
                          "\"POSITION\":0}}]}],\"nodes\":[{\"mesh\":0}],\"scenes\":[{\"nodes\":[0]}],\"scene\":0}";
    bytes list = {0}, stl = {0}, wrl = {0};
    (void)state;
    expect_refused(write_file("index.obj", index_obj, strlen(index_obj)), "not a mesh file", "refers to");
    expect_refused(write_file("claims.off", off, strlen(off)), "over 192 MB", "not a mesh file");
    expect_refused(write_file("claims.gltf", gltf, strlen(gltf)), "not a mesh file", "over 192 MB");
    put(&list, ply, strlen(ply));
    put_number(&list, 0, 4), put_number(&list, 0x3f800000, 4);
    for (int i = 0; i < 7; i++) put_number(&list, 0, 4);
    put_number(&list, 0x7fffffff, 4); /* corners of the only face */
    put_number(&list, 0, 8), put_number(&list, 0, 8);
    expect_refused(write_file("list.ply", list.p, list.n), "over 192 MB", "not a mesh file");
    for (int i = 0; i < 10; i++) put_number(&stl, 0, 8);
    put_number(&stl, 100000000, 4); /* triangles */
    for (int i = 0; i < 50; i++) put_number(&stl, 0, 8);
    expect_refused(write_file("claims.stl", stl.p, stl.n), "not a mesh file", "over 192 MB");
    put(&wrl, "#VRML V2.0 utf8\nDEF n0 Shape { geometry Box { } }\n", 50);
    for (int i = 0; i < 40; i++) { /* 2^40 boxes */
        char line[80];
        int  n = snprintf(line, sizeof line, "DEF n%d Group { children [ USE n%d USE n%d ] }\n", i + 1, i, i);
        put(&wrl, line, (size_t)n);
    }
    expect_refused(write_file("doubling.wrl", wrl.p, wrl.n), "has over", "over 192 MB");
    free(list.p), free(stl.p), free(wrl.p);
}

/* ---- pictures ------------------------------------------------------------------------------------------------- */

static int64_t most_memory(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (int64_t)use.ru_maxrss >> 10;
}

/* 24 materials share a picture of 64 MB: within a limit above that they are had, else they are one line. */
static void test_pictures(void **state) {
    enum { SIDE = 4096, N_MATERIALS = 24 };
    image  im = {SIDE, SIDE, 4, calloc(SIDE, (size_t)SIDE * 4)};
    bytes  mtl = {0}, obj = {0};
    char   path[512], line[80];
    status st = {0};
    scene  s;
    (void)state;
    snprintf(path, sizeof path, "%s/skin.png", temp_folder());
    assert_true(image_write_png(path, &im, &st));
    image_free(&im);
    put(&obj, "mtllib skins.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n", 62);
    for (int i = 0; i < N_MATERIALS; i++) {
        put(&mtl, line, (size_t)snprintf(line, sizeof line, "newmtl m%d\nmap_Kd skin.png\n", i));
        put(&obj, line, (size_t)snprintf(line, sizeof line, "usemtl m%d\nf 1/1 2/2 3/3\n", i));
        if (i == 0) {
            write_file("skins.mtl", mtl.p, mtl.n);
            if (!import_scene(write_file("skin.obj", obj.p, obj.n), &limits, &s, &st)) fail_msg("%s", st.text);
            assert_int_equal(s.material[s.n_materials - 1].texture.width, SIDE);
            scene_free(&s);
        }
    }
    write_file("skins.mtl", mtl.p, mtl.n);
    int64_t before = most_memory();
    expect_refused(write_file("skins.obj", obj.p, obj.n), "over 192 MB", "timed out");
    assert_true(most_memory() - before < 2 * LIMIT_MB);
    free(mtl.p), free(obj.p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_archives), cmocka_unit_test(test_counts),
                                       cmocka_unit_test(test_pictures)};
    return cmocka_run_group_tests_name("import_bombs", tests, NULL, NULL);
}
