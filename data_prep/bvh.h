/* Embree scene of a surface: nearest distance and lists of near triangles (exact in double on the surface's vertices;
 * the tree's boxes are float, its search radius is widened by their rounding). Thread safe after building. */
#pragma once
#include "data_prep/surface.h"

typedef struct {
    const double  *v; /* the surface's, which must outlive the tree */
    const int32_t *face;
    void          *device, *scene;
} bvh;

typedef struct {
    int32_t *id;
    int64_t  n, cap;
    bool     failed;
} bvh_list;

bool   bvh_build(bvh *b, const surface *s); /* false: out of memory */
void   bvh_free(bvh *b);
double bvh_distance(const bvh *b, const double p[3], double limit); /* +inf when nothing is within limit */
/* Way along the ray to the first face nearer than limit, in lengths of dir; +inf when there is none. Its number goes to
 * *face, unless NULL. */
double bvh_ray(const bvh *b, const double from[3], const double dir[3], double limit, int64_t *face);
bool   bvh_gather(const bvh *b, const double p[3], double radius, bvh_list *out); /* list is replaced; false: memory */
void   bvh_list_free(bvh_list *l);
