/* GLB (glTF 2.0 binary), PLY (binary little endian) and OBJ. */
#include "io/mesh.h"
#include "io/atomic_file.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void mesh_free(mesh *m) {
    free(m->position);
    free(m->face);
    free(m->normal);
    free(m->color);
    free(m->uv);
    free(m->material);
    *m = (mesh){0};
}

static bool usable(const char *path, const mesh *m, status *st) {
    if (m->n_vertices < 0 || m->n_faces < 0 || m->n_vertices > INT32_MAX)
        return status_set(st, ST_DATA, "%s: a mesh of %lld vertices and %lld faces cannot be written", path,
                          (long long)m->n_vertices, (long long)m->n_faces);
    for (int64_t i = 0; i < 3 * m->n_vertices; i++)
        if (!isfinite(m->position[i]))
            return status_set(st, ST_DATA, "%s: vertex %lld is not finite: the mesh is not written", path,
                              (long long)(i / 3));
    for (int64_t i = 0; i < 3 * m->n_faces; i++)
        CHECK(m->face[i] >= 0 && m->face[i] < m->n_vertices, "face %lld names vertex %d of %lld", (long long)(i / 3),
              m->face[i], (long long)m->n_vertices);
    return true;
}

/* ---- OBJ
 * ----------------------------------------------------------------------------------------------------------
 */

static void write_obj(const mesh *m, FILE *f) {
    for (int64_t i = 0; i < m->n_vertices; i++) {
        const float *p = m->position + 3 * i;
        fprintf(f, "v %.9g %.9g %.9g", (double)p[0], (double)p[1], (double)p[2]);
        if (m->color) /* the widely read extension: colour after position */
            fprintf(f, " %.4f %.4f %.4f", m->color[4 * i] / 255.0, m->color[4 * i + 1] / 255.0,
                    m->color[4 * i + 2] / 255.0);
        fputc('\n', f);
    }
    for (int64_t i = 0; m->uv && i < m->n_vertices; i++)
        fprintf(f, "vt %.7g %.7g\n", (double)m->uv[2 * i], (double)m->uv[2 * i + 1]);
    for (int64_t i = 0; m->normal && i < m->n_vertices; i++)
        fprintf(f, "vn %.7g %.7g %.7g\n", (double)m->normal[3 * i], (double)m->normal[3 * i + 1],
                (double)m->normal[3 * i + 2]);
    for (int64_t i = 0; i < m->n_faces; i++) {
        fputc('f', f);
        for (int k = 0; k < 3; k++) {
            int v = m->face[3 * i + k] + 1;
            if (m->uv && m->normal)
                fprintf(f, " %d/%d/%d", v, v, v);
            else if (m->normal)
                fprintf(f, " %d//%d", v, v);
            else if (m->uv)
                fprintf(f, " %d/%d", v, v);
            else
                fprintf(f, " %d", v);
        }
        fputc('\n', f);
    }
}

/* ---- PLY
 * ----------------------------------------------------------------------------------------------------------
 */

static void write_ply(const mesh *m, FILE *f) {
    fprintf(f, "ply\nformat binary_little_endian 1.0\nelement vertex %lld\n", (long long)m->n_vertices);
    fputs("property float x\nproperty float y\nproperty float z\n", f);
    if (m->normal) fputs("property float nx\nproperty float ny\nproperty float nz\n", f);
    if (m->color) fputs("property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n", f);
    if (m->uv) fputs("property float s\nproperty float t\n", f);
    fprintf(f, "element face %lld\nproperty list uchar int vertex_indices\nend_header\n", (long long)m->n_faces);
    for (int64_t i = 0; i < m->n_vertices; i++) {
        fwrite(m->position + 3 * i, sizeof(float), 3, f);
        if (m->normal) fwrite(m->normal + 3 * i, sizeof(float), 3, f);
        if (m->color) fwrite(m->color + 4 * i, 1, 4, f);
        if (m->uv) fwrite(m->uv + 2 * i, sizeof(float), 2, f);
    }
    for (int64_t i = 0; i < m->n_faces; i++) {
        fputc(3, f);
        fwrite(m->face + 3 * i, sizeof(int32_t), 3, f);
    }
}

/* ---- GLB
 * ----------------------------------------------------------------------------------------------------------
 */

enum { GL_UBYTE = 5121, GL_UINT = 5125, GL_FLOAT = 5126, GL_ARRAY = 34962, GL_ELEMENTS = 34963 };

/* One array in the binary chunk: a buffer view and the accessor on it. Returns the accessor's number. */
static int add_array(json_t *gltf, int64_t *offset, int64_t count, int64_t bytes, int kind, const char *shape,
                     int target) {
    json_t *views = json_object_get(gltf, "bufferViews"), *accessors = json_object_get(gltf, "accessors");
    json_array_append_new(views, json_pack("{s:i, s:I, s:I, s:i}", "buffer", 0, "byteOffset", (json_int_t)*offset,
                                           "byteLength", (json_int_t)bytes, "target", target));
    json_array_append_new(accessors, json_pack("{s:i, s:i, s:I, s:s}", "bufferView", (int)json_array_size(views) - 1,
                                               "componentType", kind, "count", (json_int_t)count, "type", shape));
    *offset += bytes; /* every element is a multiple of 4 bytes, so the next one is aligned */
    return (int)json_array_size(accessors) - 1;
}

static void set_bounds(json_t *gltf, int accessor, const mesh *m) {
    json_t *lo = json_array(), *hi = json_array(),
           *a = json_array_get(json_object_get(gltf, "accessors"), (size_t)accessor);
    for (int k = 0; k < 3; k++) {
        float least = m->position[k], most = least;
        for (int64_t i = 1; i < m->n_vertices; i++) {
            least = fminf(least, m->position[3 * i + k]);
            most = fmaxf(most, m->position[3 * i + k]);
        }
        json_array_append_new(lo, json_real((double)least));
        json_array_append_new(hi, json_real((double)most));
    }
    json_object_set_new(a, "min", lo);
    json_object_set_new(a, "max", hi);
}

/* The JSON chunk; *bin_bytes is the length of the binary one. */
static char *glb_json(const mesh *m, int64_t *bin_bytes) {
    int64_t at = 0, n = m->n_vertices;
    json_t *g =
        json_pack("{s:{s:s,s:s}, s:i, s:[{s:[i]}], s:[{s:i}], s:[], s:[]}", "asset", "version", "2.0", "generator",
                  "d3s2", "scene", 0, "scenes", "nodes", 0, "nodes", "mesh", 0, "bufferViews", "accessors");
    CHECK(g, "no memory for a glTF header");
    json_t *attributes = json_object();
    int     position = add_array(g, &at, n, n * 12, GL_FLOAT, "VEC3", GL_ARRAY);
    set_bounds(g, position, m);
    json_object_set_new(attributes, "POSITION", json_integer(position));
    if (m->normal)
        json_object_set_new(attributes, "NORMAL",
                            json_integer(add_array(g, &at, n, n * 12, GL_FLOAT, "VEC3", GL_ARRAY)));
    if (m->color) {
        int color = add_array(g, &at, n, n * 4, GL_UBYTE, "VEC4", GL_ARRAY);
        json_object_set_new(json_array_get(json_object_get(g, "accessors"), (size_t)color), "normalized", json_true());
        json_object_set_new(attributes, "COLOR_0", json_integer(color));
    }
    if (m->uv)
        json_object_set_new(attributes, "TEXCOORD_0",
                            json_integer(add_array(g, &at, n, n * 8, GL_FLOAT, "VEC2", GL_ARRAY)));
    int faces = add_array(g, &at, 3 * m->n_faces, m->n_faces * 12, GL_UINT, "SCALAR", GL_ELEMENTS);
    json_object_set_new(
        g, "meshes",
        json_pack("[{s:[{s:o, s:i, s:i}]}]", "primitives", "attributes", attributes, "indices", faces, "material", 0));
    json_object_set_new(g, "materials",
                        json_pack("[{s:{s:f, s:f}, s:b}]", "pbrMetallicRoughness", "metallicFactor", 0.0,
                                  "roughnessFactor", 0.8, "doubleSided", 1));
    json_object_set_new(g, "buffers", json_pack("[{s:I}]", "byteLength", (json_int_t)at));
    char *text = json_dumps(g, JSON_COMPACT);
    CHECK(text, "no memory for a glTF header");
    json_decref(g);
    *bin_bytes = at;
    return text;
}

static bool write_glb(const char *path, const mesh *m, FILE *f, status *st) {
    if (m->n_vertices == 0 || m->n_faces == 0) { /* glTF forbids empty accessors, an empty scene is valid */
        const char *empty = "{\"asset\":{\"version\":\"2.0\",\"generator\":\"d3s2\"},\"scene\":0,\"scenes\":[{}]}   ";
        uint32_t    len = (uint32_t)strlen(empty) & ~3u; /* a multiple of 4, cut within the trailing spaces */
        uint32_t    head[5] = {0x46546C67, 2, 20 + len, len, 0x4E4F534A};
        fwrite(head, 4, 5, f);
        fwrite(empty, 1, len, f);
        return true;
    }
    int64_t bin, pad, total;
    char   *text = glb_json(m, &bin);
    int64_t len = (int64_t)strlen(text);
    pad = -len & 3;
    total = 12 + 8 + len + pad + 8 + bin;
    if (total > UINT32_MAX) {
        free(text);
        return status_set(st, ST_DATA, "%s: the mesh needs %lld bytes, GLB ends at 4 GiB: write .ply", path,
                          (long long)total);
    }
    uint32_t head[5] = {0x46546C67, 2, (uint32_t)total, (uint32_t)(len + pad), 0x4E4F534A};
    uint32_t chunk[2] = {(uint32_t)bin, 0x004E4942};
    fwrite(head, 4, 5, f);
    fwrite(text, 1, (size_t)len, f);
    fwrite("   ", 1, (size_t)pad, f);
    fwrite(chunk, 4, 2, f);
    fwrite(m->position, 12, (size_t)m->n_vertices, f);
    if (m->normal) fwrite(m->normal, 12, (size_t)m->n_vertices, f);
    if (m->color) fwrite(m->color, 4, (size_t)m->n_vertices, f);
    if (m->uv) fwrite(m->uv, 8, (size_t)m->n_vertices, f);
    fwrite(m->face, 12, (size_t)m->n_faces, f);
    free(text);
    return true;
}

bool mesh_write(const char *path, const mesh *m, status *st) {
    const char *dot = strrchr(path, '.');
    bool        glb = dot && !strcasecmp(dot, ".glb"), ply = dot && !strcasecmp(dot, ".ply");
    bool        obj = dot && !strcasecmp(dot, ".obj");
    atomic_file a;
    if (!glb && !ply && !obj) return status_set(st, ST_USAGE, "%s: mesh files end in .glb, .ply or .obj", path);
    if (!usable(path, m, st) || !atomic_begin(&a, path, st)) return false;
    /* Short writes set the stream's error flag, which commit looks at. */
    if (obj)
        write_obj(m, a.file);
    else if (ply)
        write_ply(m, a.file);
    else if (!write_glb(path, m, a.file, st)) {
        atomic_abandon(&a);
        return false;
    }
    return atomic_commit(&a, st);
}
