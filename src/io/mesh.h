/* A triangle mesh in memory, and its files. Coordinates are metres or whatever the source says; y or z up is kept. */
#pragma once
#include "core/base.h"

typedef struct {
    int64_t  n_vertices, n_faces;
    float   *position; /* [n_vertices,3] */
    int32_t *face;     /* [n_faces,3] */
    float   *normal;   /* [n_vertices,3] or NULL */
    uint8_t *color;    /* [n_vertices,4] RGBA or NULL */
    float   *uv;       /* [n_vertices,2] or NULL */
    int32_t *material; /* [n_faces] index or NULL */
} mesh;

void mesh_free(mesh *m);

/* Writers: by the extension .glb, .ply (binary little endian) or .obj. Vertex normals and colours where given.
 * Written to a temporary name and renamed. */
bool mesh_write(const char *path, const mesh *m, status *st);
/* Reads back what mesh_write wrote as .ply or .glb (own files only, for eval); strict. */
bool mesh_read(const char *path, mesh *m, status *st);
