/* Import of any mesh file that Assimp can read, and of VRML97 (vrml.h), in a child process, so that a file that
 * crashes, hangs or exhausts the importer cannot take the run with it.
 *
 * All meshes of the scene are merged with their node transforms, triangulated (points and lines are dropped), vertices
 * that no triangle uses are removed. Axes and units stay as in the file. The child sends one flat stream through a
 * pipe; the parent trusts nothing in it: counts, index ranges and coordinates are checked before use. Textures are
 * decoded in the parent; a missing or unreadable texture is no error, the diffuse colour takes its place. */
#pragma once
#include "io/image.h"
#include "io/mesh.h"

typedef struct {
    double  seconds;   /* wall clock, and CPU time of the child; > 0 */
    int64_t mbytes;    /* memory the child may add, and the largest stream accepted; > 0 */
    int64_t max_faces; /* > 0 */
} import_limits;

typedef struct {
    float diffuse[4]; /* RGBA in 0..1 */
    image texture;    /* pixel NULL: none; v = 0 is the bottom row */
} scene_material;

typedef struct {
    mesh            m; /* material always given; normal, uv, color when the file has them */
    int             n_materials;
    scene_material *material;
} scene;

import_limits import_default_limits(void); /* 60 s, 4096 MB, 20 million faces */

/* ST_NO_INPUT: no such file. ST_DATA: everything wrong with it, "FILE: crashed with signal 11", "timed out after 60 s",
 * "needs over 4096 MB", "not a mesh file (...)", "no triangles", "7 of 90 coordinates are not finite", ... On failure
 * *s is empty. */
bool import_scene(const char *path, const import_limits *limits, scene *s, status *st);
void scene_free(scene *s);

/* True for .wrl and when Assimp lists the file name's extension. */
bool import_knows(const char *path);

/* Called in the child before the file is read: lets a test play a crashing or hanging importer. NULL: none. */
void import_set_child_hook(void (*hook)(const char *path));

/* The child's half: reads `path`, writes the stream to fd, never returns. */
_Noreturn void import_child(const char *path, const import_limits *limits, int fd);

/* ---- stream: import_head, then position f32 [V,3], face i32 [F,3], material i32 [F], normal f32 [V,3] if has_normal,
 * uv f32 [V,2] if has_uv, color u8 [V,4] if has_color, then per material: diffuse f32 [4], i64 n_path, path bytes,
 * i64 n_blob, embedded image file bytes. n_vertices < 0: failed, -n_vertices bytes of text follow the head. */
enum { IMPORT_MAGIC = 0x64337332, IMPORT_MAX_PATH = 4096, IMPORT_MAX_MATERIALS = 100000 };
typedef struct {
    int64_t magic, n_vertices, n_faces, n_materials, has_normal, has_uv, has_color;
} import_head;
