#include "data_prep/import.h"
#include "data_prep/vrml.h"

#include <assimp/cimport.h>
#include <assimp/config.h>
#include <assimp/postprocess.h>
#include <assimp/scene.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The stream is collected in memory first: a failure half way must not look like a whole scene. */
typedef struct {
    const struct aiScene *in;
    int64_t               max_faces, n_vertices, n_faces, n_instances;
    import_head           head;
    float                *position, *normal, *uv;
    uint8_t              *color;
    int32_t              *face, *material;
} merge;

static _Noreturn void leave(int fd, const char *text) {
    import_head h = {.magic = IMPORT_MAGIC, .n_vertices = -(int64_t)strlen(text)};
    if (write(fd, &h, sizeof h) == (ssize_t)sizeof h && write(fd, text, strlen(text)) > 0) _exit(1);
    _exit(2);
}

static void send_all(int fd, const void *p, size_t bytes) {
    const char *c = p;
    while (bytes > 0) {
        ssize_t n = write(fd, c, bytes < 1 << 20 ? bytes : 1 << 20);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(2);
        c += n;
        bytes -= (size_t)n;
    }
}

static void *need(size_t n, size_t size, int fd) {
    void *p = calloc(n ? n : 1, size);
    if (!p) leave(fd, "out of memory");
    return p;
}

enum { MAX_DEPTH = 1000 };

static int64_t count_triangles(const struct aiMesh *m) {
    int64_t n = 0;
    for (unsigned f = 0; f < m->mNumFaces; f++) n += m->mFaces[f].mNumIndices == 3;
    return n;
}

/* Counts what the node tree instances; a tree that refers to one big mesh many times ends here, not in memory. */
static void count_node(merge *g, const struct aiNode *node, int depth, int fd) {
    if (depth > MAX_DEPTH) leave(fd, "its node tree is deeper than 1000");
    for (unsigned i = 0; i < node->mNumMeshes; i++) {
        if (node->mMeshes[i] >= g->in->mNumMeshes) leave(fd, "a node refers to a mesh that does not exist");
        const struct aiMesh *m = g->in->mMeshes[node->mMeshes[i]];
        int64_t              n = count_triangles(m);
        if (n == 0) continue;
        g->n_faces += n;
        g->n_vertices += m->mNumVertices;
        g->head.has_normal |= m->mNormals != NULL;
        g->head.has_uv |= m->mTextureCoords[0] != NULL;
        g->head.has_color |= m->mColors[0] != NULL;
        if (g->n_faces > g->max_faces || g->n_vertices > 3 * g->max_faces) {
            char text[96];
            snprintf(text, sizeof text, "has over %lld triangles", (long long)g->max_faces);
            leave(fd, text);
        }
    }
    for (unsigned i = 0; i < node->mNumChildren; i++) count_node(g, node->mChildren[i], depth + 1, fd);
}

static uint8_t to_byte(float x) {
    return x > 0 ? x < 1 ? (uint8_t)(x * 255.0f + 0.5f) : 255 : 0;
}

static void add_mesh(merge *g, const struct aiMesh *m, struct aiMatrix4x4 t) {
    int64_t v0 = g->n_vertices;
    /* normals go with the cofactor matrix, which needs no inverse */
    double  a[3][3] = {{t.a1, t.a2, t.a3}, {t.b1, t.b2, t.b3}, {t.c1, t.c2, t.c3}}, cof[3][3];
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 3; c++) {
            int r1 = (r + 1) % 3, r2 = (r + 2) % 3, c1 = (c + 1) % 3, c2 = (c + 2) % 3;
            cof[r][c] = a[r1][c1] * a[r2][c2] - a[r1][c2] * a[r2][c1];
        }
    for (unsigned i = 0; i < m->mNumVertices; i++) {
        int64_t           k = v0 + i;
        struct aiVector3D p = m->mVertices[i];
        g->position[3 * k + 0] = t.a1 * p.x + t.a2 * p.y + t.a3 * p.z + t.a4;
        g->position[3 * k + 1] = t.b1 * p.x + t.b2 * p.y + t.b3 * p.z + t.b4;
        g->position[3 * k + 2] = t.c1 * p.x + t.c2 * p.y + t.c3 * p.z + t.c4;
        if (g->normal && m->mNormals) {
            struct aiVector3D n = m->mNormals[i];
            double            q[3], len = 0;
            for (int r = 0; r < 3; r++) {
                q[r] = cof[r][0] * n.x + cof[r][1] * n.y + cof[r][2] * n.z;
                len += q[r] * q[r];
            }
            len = len > 0 && isfinite(len) ? 1 / sqrt(len) : 0; /* zero: the reader falls back to the face's normal */
            for (int r = 0; r < 3; r++) g->normal[3 * k + r] = len > 0 ? (float)(q[r] * len) : 0.0f;
        }
        if (g->uv && m->mTextureCoords[0]) {
            g->uv[2 * k + 0] = m->mTextureCoords[0][i].x;
            g->uv[2 * k + 1] = m->mTextureCoords[0][i].y;
        }
        if (g->color) {
            struct aiColor4D c = m->mColors[0] ? m->mColors[0][i] : (struct aiColor4D){1, 1, 1, 1};
            g->color[4 * k + 0] = to_byte(c.r);
            g->color[4 * k + 1] = to_byte(c.g);
            g->color[4 * k + 2] = to_byte(c.b);
            g->color[4 * k + 3] = to_byte(c.a);
        }
    }
    g->n_vertices += m->mNumVertices;
    for (unsigned f = 0; f < m->mNumFaces; f++) {
        const struct aiFace *face = &m->mFaces[f];
        if (face->mNumIndices != 3) continue;
        for (int j = 0; j < 3; j++) g->face[3 * g->n_faces + j] = (int32_t)(v0 + face->mIndices[j]);
        g->material[g->n_faces++] = (int32_t)m->mMaterialIndex;
    }
}

static void add_node(merge *g, const struct aiNode *node, struct aiMatrix4x4 parent) {
    struct aiMatrix4x4 t = parent;
    aiMultiplyMatrix4(&t, &node->mTransformation);
    for (unsigned i = 0; i < node->mNumMeshes; i++) {
        const struct aiMesh *m = g->in->mMeshes[node->mMeshes[i]];
        if (count_triangles(m) > 0) add_mesh(g, m, t);
    }
    for (unsigned i = 0; i < node->mNumChildren; i++) add_node(g, node->mChildren[i], t);
}

/* Embedded textures are named "*3", or by the file name they had. */
static const struct aiTexture *embedded(const struct aiScene *in, const struct aiString *path) {
    if (path->data[0] == '*') {
        long i = strtol(path->data + 1, NULL, 10);
        return i >= 0 && i < (long)in->mNumTextures ? in->mTextures[i] : NULL;
    }
    for (unsigned i = 0; i < in->mNumTextures; i++)
        if (path->data[0] && strcmp(in->mTextures[i]->mFilename.data, path->data) == 0) return in->mTextures[i];
    return NULL;
}

static void send_material(const struct aiScene *in, const struct aiMaterial *mat, int fd) {
    struct aiColor4D c = {0.8f, 0.8f, 0.8f, 1};
    if (mat && aiGetMaterialColor(mat, "$mat.gltf.pbrMetallicRoughness.baseColorFactor", 0, 0, &c) != AI_SUCCESS)
        aiGetMaterialColor(mat, AI_MATKEY_COLOR_DIFFUSE, &c);
    float           diffuse[4] = {c.r, c.g, c.b, 1}, opacity = 1;
    struct aiString path = {0};
    bool            found = false;
    if (mat) {
        aiGetMaterialFloatArray(mat, AI_MATKEY_OPACITY, &opacity, NULL);
        found = aiGetMaterialTexture(mat, aiTextureType_DIFFUSE, 0, &path, NULL, NULL, NULL, NULL, NULL, NULL) ==
                    AI_SUCCESS ||
                aiGetMaterialTexture(mat, aiTextureType_BASE_COLOR, 0, &path, NULL, NULL, NULL, NULL, NULL, NULL) ==
                    AI_SUCCESS;
    }
    diffuse[3] = opacity;
    send_all(fd, diffuse, sizeof diffuse);
    const struct aiTexture *blob = found ? embedded(in, &path) : NULL;
    int64_t                 n_path = found && !blob && path.length < IMPORT_MAX_PATH ? path.length : 0;
    int64_t n_blob = blob && blob->mHeight == 0 ? blob->mWidth : 0; /* height 0: a PNG or JPEG file of mWidth bytes */
    send_all(fd, &n_path, sizeof n_path);
    send_all(fd, path.data, (size_t)n_path);
    send_all(fd, &n_blob, sizeof n_blob);
    if (n_blob) send_all(fd, blob->pcData, (size_t)n_blob);
}

/* ---- VRML ----------------------------------------------------------------------------------------------------- */

/* The file's text, when it is one this program reads itself; else NULL. */
static char *read_vrml(const char *path, int64_t *n, int fd) {
    char  head[16];
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    if (f && fread(head, 1, sizeof head, f) == sizeof head && vrml_is(head, sizeof head) && !fseeko(f, 0, SEEK_END)) {
        *n = ftello(f);
        text = *n > 0 ? malloc((size_t)*n + 1) : NULL;
        if (!text) leave(fd, "out of memory");
        rewind(f);
        if (fread(text, 1, (size_t)*n, f) != (size_t)*n) leave(fd, "the file cannot be read");
        text[*n] = 0;
    }
    if (f) fclose(f);
    return text;
}

static _Noreturn void send_vrml(const char *text, int64_t n, const import_limits *limits, int fd) {
    vrml_scene s;
    char       why[160];
    if (!vrml_read(text, n, limits->max_faces, &s, why)) leave(fd, why);
    import_head head = {.magic = IMPORT_MAGIC,
                        .n_vertices = s.n_vertices,
                        .n_faces = s.n_faces,
                        .n_materials = s.n_materials,
                        .has_color = s.color != NULL};
    send_all(fd, &head, sizeof head);
    send_all(fd, s.position, (size_t)s.n_vertices * 12);
    send_all(fd, s.face, (size_t)s.n_faces * 12);
    send_all(fd, s.material, (size_t)s.n_faces * 4);
    if (s.color) send_all(fd, s.color, (size_t)s.n_vertices * 4);
    for (int64_t i = 0; i < s.n_materials; i++) {
        int64_t none[2] = {0, 0}; /* neither texture file nor embedded texture */
        send_all(fd, s.diffuse + 4 * i, 4 * sizeof(float));
        send_all(fd, none, sizeof none);
    }
    _exit(0);
}

_Noreturn void import_child(const char *path, const import_limits *limits, int fd) {
    int64_t n_text;
    char   *vrml = read_vrml(path, &n_text, fd);
    if (vrml) send_vrml(vrml, n_text, limits, fd);
    struct aiPropertyStore *store = aiCreatePropertyStore();
    aiSetImportPropertyInteger(store, AI_CONFIG_PP_SBP_REMOVE, aiPrimitiveType_POINT | aiPrimitiveType_LINE);
    const struct aiScene *in =
        aiImportFileExWithProperties(path, aiProcess_Triangulate | aiProcess_SortByPType, NULL, store);
    if (!in || !in->mRootNode) {
        const char *why = aiGetErrorString();
        char        text[320];
        if (strstr(why, "alloc")) leave(fd, "out of memory");
        snprintf(text, sizeof text, "not a mesh file (%.240s)", *why ? why : "nothing in it");
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < 32) *c = ' ';
        leave(fd, text);
    }
    merge g = {.in = in, .max_faces = limits->max_faces, .head = {.magic = IMPORT_MAGIC}};
    count_node(&g, in->mRootNode, 0, fd);
    if (g.n_faces == 0) leave(fd, "no triangles");
    size_t nv = (size_t)g.n_vertices, nf = (size_t)g.n_faces;
    g.position = need(nv, 12, fd);
    g.face = need(nf, 12, fd);
    g.material = need(nf, 4, fd);
    if (g.head.has_normal) g.normal = need(nv, 12, fd);
    if (g.head.has_uv) g.uv = need(nv, 8, fd);
    if (g.head.has_color) g.color = need(nv, 4, fd);
    g.n_vertices = g.n_faces = 0;
    struct aiMatrix4x4 one;
    aiIdentityMatrix4(&one);
    add_node(&g, in->mRootNode, one);
    g.head.n_vertices = g.n_vertices;
    g.head.n_faces = g.n_faces;
    g.head.n_materials = in->mNumMaterials ? in->mNumMaterials : 1;
    send_all(fd, &g.head, sizeof g.head);
    send_all(fd, g.position, nv * 12);
    send_all(fd, g.face, nf * 12);
    send_all(fd, g.material, nf * 4);
    if (g.normal) send_all(fd, g.normal, nv * 12);
    if (g.uv) send_all(fd, g.uv, nv * 8);
    if (g.color) send_all(fd, g.color, nv * 4);
    for (int64_t i = 0; i < g.head.n_materials; i++)
        send_material(in, in->mNumMaterials ? in->mMaterials[i] : NULL, fd);
    _exit(0);
}
