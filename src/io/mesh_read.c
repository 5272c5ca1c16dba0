/* Reads back what mesh_write wrote: every count is checked against the file's length before anything is
 * allocated. */
#include "io/mesh.h"
#include "io/atomic_file.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_FILE (1ll << 36)

#define REFUSE(...)                                                                                                    \
    do {                                                                                                               \
        char why[200];                                                                                                 \
        snprintf(why, sizeof why, __VA_ARGS__);                                                                        \
        return status_set(st, ST_DATA, "%s: %s", path, why);                                                           \
    } while (0)

static void *copy(const void *from, int64_t bytes) {
    void *p = malloc((size_t)(bytes ? bytes : 1));
    CHECK(p, "no memory for %lld bytes of a mesh", (long long)bytes);
    if (from) memcpy(p, from, (size_t)bytes);
    return p;
}

static bool content_ok(const char *path, const mesh *m, status *st) {
    for (int64_t i = 0; i < 3 * m->n_vertices; i++)
        if (!isfinite(m->position[i])) REFUSE("vertex %lld is not finite", (long long)(i / 3));
    for (int64_t i = 0; i < 3 * m->n_faces; i++)
        if (m->face[i] < 0 || m->face[i] >= m->n_vertices)
            REFUSE("face %lld names vertex %d of %lld", (long long)(i / 3), m->face[i], (long long)m->n_vertices);
    return true;
}

/* ---- PLY
 * ----------------------------------------------------------------------------------------------------------
 */

/* Moves *at past `text` if it is there. */
static bool take(const char **at, const char *text) {
    size_t n = strlen(text);
    if (strncmp(*at, text, n)) return false;
    *at += n;
    return true;
}

static bool take_count(const char **at, int64_t *n) {
    char *end;
    if (**at < '0' || **at > '9') return false;
    *n = strtoll(*at, &end, 10);
    *at = end;
    return take(at, "\n");
}

static bool read_ply(const char *path, const uint8_t *bytes, int64_t size, mesh *m, status *st) {
    const char *at = (const char *)bytes; /* a zero byte follows the content, so the text calls end */
    if (!take(&at, "ply\nformat binary_little_endian 1.0\nelement vertex ") || !take_count(&at, &m->n_vertices) ||
        !take(&at, "property float x\nproperty float y\nproperty float z\n"))
        REFUSE("is not a PLY file of this program");
    bool normal = take(&at, "property float nx\nproperty float ny\nproperty float nz\n");
    bool color = take(&at, "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n");
    bool uv = take(&at, "property float s\nproperty float t\n");
    if (!take(&at, "element face ") || !take_count(&at, &m->n_faces) ||
        !take(&at, "property list uchar int vertex_indices\nend_header\n"))
        REFUSE("is not a PLY file of this program");
    int64_t        stride = 12 + 12 * normal + 4 * color + 8 * uv, left = size - (at - (const char *)bytes);
    const uint8_t *p = (const uint8_t *)at;
    if (m->n_vertices > INT32_MAX || m->n_vertices > left / stride || m->n_faces > left / 13 ||
        m->n_vertices * stride + m->n_faces * 13 != left)
        REFUSE("%lld vertices and %lld faces do not fit its %lld bytes", (long long)m->n_vertices,
               (long long)m->n_faces, (long long)left);
    m->position = copy(NULL, m->n_vertices * 12);
    if (normal) m->normal = copy(NULL, m->n_vertices * 12);
    if (color) m->color = copy(NULL, m->n_vertices * 4);
    if (uv) m->uv = copy(NULL, m->n_vertices * 8);
    m->face = copy(NULL, m->n_faces * 12);
    for (int64_t i = 0; i < m->n_vertices; i++) {
        memcpy(m->position + 3 * i, p, 12);
        p += 12;
        if (normal) memcpy(m->normal + 3 * i, p, 12), p += 12;
        if (color) memcpy(m->color + 4 * i, p, 4), p += 4;
        if (uv) memcpy(m->uv + 2 * i, p, 8), p += 8;
    }
    for (int64_t i = 0; i < m->n_faces; i++, p += 13) {
        if (*p != 3) REFUSE("face %lld has %d corners, not 3", (long long)i, *p);
        memcpy(m->face + 3 * i, p + 1, 12);
    }
    return true;
}

/* ---- GLB
 * ----------------------------------------------------------------------------------------------------------
 */

typedef struct {
    json_t        *gltf;
    const uint8_t *bin;
    int64_t        bin_bytes;
} glb;

/* Non-negative integer member, or -1. */
static int64_t member(const json_t *o, const char *key) {
    json_t *v = json_object_get(o, key);
    return json_is_integer(v) && json_integer_value(v) >= 0 ? json_integer_value(v) : -1;
}

/* The bytes of accessor `number`, which must have this component type, shape and element size; NULL
 * otherwise. */
static const uint8_t *array_of(const glb *g, int64_t number, int kind, const char *shape, int64_t element,
                               int64_t *count) {
    if (number < 0) return NULL;
    json_t *a = json_array_get(json_object_get(g->gltf, "accessors"), (size_t)number);
    int64_t view = member(a, "bufferView"), n = member(a, "count");
    json_t *type = json_object_get(a, "type");
    if (view < 0 || n < 0 || member(a, "componentType") != kind || !json_is_string(type) ||
        strcmp(json_string_value(type), shape))
        return NULL;
    json_t *v = json_array_get(json_object_get(g->gltf, "bufferViews"), (size_t)view);
    int64_t offset = member(v, "byteOffset"), bytes = member(v, "byteLength");
    if (offset < 0 || offset > g->bin_bytes || bytes < 0 || bytes > g->bin_bytes - offset || n > bytes / element ||
        n * element != bytes)
        return NULL;
    *count = n;
    return g->bin + offset;
}

static bool read_attribute(const glb *g, const json_t *attributes, const char *key, int kind, const char *shape,
                           int64_t element, int64_t want, void **out) {
    int64_t n;
    *out = NULL;
    if (!json_object_get(attributes, key)) return true;
    const uint8_t *p = array_of(g, member(attributes, key), kind, shape, element, &n);
    if (!p || n != want) return false;
    *out = copy(p, n * element);
    return true;
}

static bool read_primitive(const char *path, const glb *g, mesh *m, status *st) {
    enum { GL_UBYTE = 5121, GL_UINT = 5125, GL_FLOAT = 5126 };
    json_t *meshes = json_object_get(g->gltf, "meshes");
    if (json_array_size(meshes) == 0) { /* an empty scene is an empty mesh */
        m->position = copy(NULL, 0);
        m->face = copy(NULL, 0);
        return true;
    }
    json_t *primitives = json_object_get(json_array_get(meshes, 0), "primitives");
    json_t *p = json_array_get(primitives, 0), *attributes = json_object_get(p, "attributes");
    if (json_array_size(meshes) != 1 || json_array_size(primitives) != 1)
        REFUSE("has %zu meshes: only files of this program are read here", json_array_size(meshes));
    int64_t        n, corners;
    const uint8_t *at = array_of(g, member(attributes, "POSITION"), GL_FLOAT, "VEC3", 12, &n);
    const uint8_t *idx = array_of(g, member(p, "indices"), GL_UINT, "SCALAR", 4, &corners);
    if (!at || !idx || n > INT32_MAX || corners % 3) REFUSE("its vertices or faces are damaged");
    m->n_vertices = n;
    m->n_faces = corners / 3;
    m->position = copy(at, n * 12);
    m->face = copy(idx, corners * 4);
    if (!read_attribute(g, attributes, "NORMAL", GL_FLOAT, "VEC3", 12, n, (void **)&m->normal) ||
        !read_attribute(g, attributes, "COLOR_0", GL_UBYTE, "VEC4", 4, n, (void **)&m->color) ||
        !read_attribute(g, attributes, "TEXCOORD_0", GL_FLOAT, "VEC2", 8, n, (void **)&m->uv))
        REFUSE("its normals, colours or texture coordinates are damaged");
    return true;
}

static bool read_glb(const char *path, const uint8_t *bytes, int64_t size, mesh *m, status *st) {
    uint32_t head[5], chunk[2] = {0, 0};
    if (size < 20) REFUSE("is too short for GLB");
    memcpy(head, bytes, 20);
    if (head[0] != 0x46546C67 || head[1] != 2 || head[4] != 0x4E4F534A) REFUSE("is not GLB version 2");
    if (head[2] != size || head[3] > size - 20) REFUSE("its length does not match its header: it is cut short");
    int64_t at = 20 + (int64_t)head[3];
    if (size - at >= 8) memcpy(chunk, bytes + at, 8);
    if (size != at && (size - at < 8 || chunk[1] != 0x004E4942 || chunk[0] != size - at - 8))
        REFUSE("its binary chunk does not match its length");
    json_error_t err;
    glb          g = {.bin = bytes + at + 8, .bin_bytes = size == at ? 0 : chunk[0]};
    g.gltf = json_loadb((const char *)bytes + 20, head[3], JSON_REJECT_DUPLICATES, &err);
    if (!g.gltf) REFUSE("its JSON cannot be read: %.120s", err.text);
    bool ok = read_primitive(path, &g, m, st);
    json_decref(g.gltf);
    return ok;
}

bool mesh_read(const char *path, mesh *m, status *st) {
    const char *dot = strrchr(path, '.');
    bool        is_glb = dot && !strcasecmp(dot, ".glb"), is_ply = dot && !strcasecmp(dot, ".ply");
    uint8_t    *bytes;
    int64_t     size;
    *m = (mesh){0};
    if (!is_glb && !is_ply) return status_set(st, ST_USAGE, "%s: only .glb and .ply are read here", path);
    if (!read_whole_file(path, MAX_FILE, &bytes, &size, st)) return false;
    bool ok = is_glb ? read_glb(path, bytes, size, m, st) : read_ply(path, bytes, size, m, st);
    free(bytes);
    if (ok && content_ok(path, m, st)) return true;
    mesh_free(m);
    return false;
}
