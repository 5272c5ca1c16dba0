/* VRML97 (.wrl) geometry, which Assimp 5.2 does not read: IndexedFaceSet, Box, Cone, Cylinder and Sphere under groups
 * and Transforms, DEF and USE, material and vertex colours. What is not geometry (lights, sensors, scripts, prototypes,
 * textures, Inline files) is passed over. The text may be anything: nesting, reuse and sizes are bounded, and nothing
 * is read outside of it. */
#pragma once
#include "core/base.h"

typedef struct {
    int64_t  n_vertices, n_faces;
    float   *position; /* [V,3] */
    int32_t *face;     /* [F,3] */
    int32_t *material; /* [F] */
    uint8_t *color;    /* [V,4] RGBA, or NULL when no shape has colours of its own */
    int64_t  n_materials;
    float   *diffuse; /* [n_materials,4] RGBA */
} vrml_scene;

/* `text` has n bytes and a zero after them. False: `why` says what is wrong (in one line, "" never), and *s is empty.
 * Running out of memory is the reason "out of memory". */
bool vrml_read(const char *text, int64_t n, int64_t max_faces, vrml_scene *s, char why[160]);
void vrml_free(vrml_scene *s);

/* "#VRML V2.0": the first bytes of every such file. */
bool vrml_is(const char *text, int64_t n);
