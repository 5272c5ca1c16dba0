/* Nearest point of a triangle mesh (Embree point queries). Thread safe after building. */
#pragma once
#include "io/mesh.h"

typedef struct {
    const mesh *m; /* kept by the caller */
    void       *device, *scene;
} nearest;

bool   nearest_build(nearest *n, const mesh *m, status *st); /* the mesh has faces */
void   nearest_free(nearest *n);
/* Distance, and the face. Infinite for a point that is not finite. */
double nearest_find(const nearest *n, const double p[3], int64_t *face);
