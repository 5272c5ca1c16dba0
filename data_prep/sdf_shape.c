/* What all grids of a mesh share: parts, tree, closure, plates. */
#include "data_prep/plates.h"
#include "data_prep/sdf.h"

#include <stdlib.h>

static bool judge(sdf_shape *shape, const sdf_options *o) {
    if (!closure_build(&shape->s, &shape->tree, &shape->c)) return false;
    shape->plate = malloc((size_t)(shape->s.n_faces + 1) * sizeof *shape->plate);
    double limit = 2 * o->min_half_thickness / (o->resolution - 1);
    if (shape->plate) plates_measure(&shape->s, &shape->tree, limit, shape->plate);
    return shape->plate != NULL;
}

bool sdf_shape_build(const mesh *m, const sdf_options *o, const char *name, sdf_shape *shape, status *st) {
    *shape = (sdf_shape){0};
    if (!surface_build(m, o->cap_share, o->sharp_degrees, name, &shape->s, st)) return false;
    if (bvh_build(&shape->tree, &shape->s) && (o->unsigned_only || judge(shape, o))) return true;
    sdf_shape_free(shape);
    return status_set(st, ST_DATA, "%s: out of memory for %lld triangles", name, (long long)m->n_faces);
}

void sdf_shape_free(sdf_shape *shape) {
    free(shape->plate);
    closure_free(&shape->c);
    bvh_free(&shape->tree);
    surface_free(&shape->s);
}
