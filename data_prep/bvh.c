#include "data_prep/bvh.h"
#include "data_prep/embree.h"
#include "data_prep/sdf_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_ROUNDING 1e-7 /* of coordinates up to 0.5, three axes */

bool bvh_build(bvh *b, const surface *s) {
    *b = (bvh){.v = s->v, .face = s->face};
    RTCDevice device = rtcNewDevice("threads=1");
    if (!device) return false;
    b->device = device;
    RTCScene scene = rtcNewScene(device);
    b->scene = scene;
    RTCGeometry g = rtcNewGeometry(device, RTC_GEOMETRY_TYPE_TRIANGLE);
    float      *v = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_VERTEX, 0, RTC_FORMAT_FLOAT3, 12, (size_t)s->n_vertices);
    uint32_t   *t = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_INDEX, 0, RTC_FORMAT_UINT3, 12, (size_t)s->n_faces);
    bool        good = v && t;
    if (good) {
        for (int64_t i = 0; i < 3 * s->n_vertices; i++) v[i] = (float)s->v[i];
        memcpy(t, s->face, (size_t)s->n_faces * 12);
        rtcCommitGeometry(g);
        rtcAttachGeometry(scene, g);
        rtcCommitScene(scene);
        good = rtcGetDeviceError(device) == RTC_ERROR_NONE;
    }
    rtcReleaseGeometry(g);
    if (!good) bvh_free(b);
    return good;
}

void bvh_free(bvh *b) {
    if (b->scene) rtcReleaseScene(b->scene);
    if (b->device) rtcReleaseDevice(b->device);
    *b = (bvh){0};
}

typedef struct {
    const bvh *b;
    double     p[3], best;
    bvh_list  *list;
} query;

static double face_distance(const query *q, int64_t face) {
    const double  *v = q->b->v;
    const int32_t *t = q->b->face + 3 * face;
    near_triangle  k;
    near_triangle_set(&k, v + 3 * (int64_t)t[0], v + 3 * (int64_t)t[1], v + 3 * (int64_t)t[2], q->p, 1);
    return sqrt(near_triangle_d2(&k, 0, 0, 0));
}

static bool on_nearest(struct RTCPointQueryFunctionArguments *args) {
    query *q = args->userPtr;
    double d = face_distance(q, args->primID);
    if (!(d < q->best)) return false;
    q->best = d;
    args->query->radius = (float)(d + FLOAT_ROUNDING);
    return true;
}

static bool on_gather(struct RTCPointQueryFunctionArguments *args) {
    query    *q = args->userPtr;
    bvh_list *l = q->list;
    if (face_distance(q, args->primID) > q->best) return false;
    if (l->n == l->cap) {
        l->cap = 2 * l->cap + 64;
        int32_t *id = realloc(l->id, (size_t)l->cap * sizeof *id);
        if (!id) {
            l->failed = true;
            l->cap = l->n;
            return false;
        }
        l->id = id;
    }
    l->id[l->n++] = (int32_t)args->primID;
    return false;
}

static void run(query *q, RTCPointQueryFunction on_face) {
    struct RTCPointQuery p = {
        .x = (float)q->p[0], .y = (float)q->p[1], .z = (float)q->p[2], .radius = (float)(q->best + FLOAT_ROUNDING)};
    struct RTCPointQueryContext context;
    rtcInitPointQueryContext(&context);
    rtcPointQuery(q->b->scene, &p, &context, on_face, q);
}

double bvh_distance(const bvh *b, const double p[3], double limit) {
    query q = {.b = b, .p = {p[0], p[1], p[2]}, .best = limit};
    run(&q, on_nearest);
    return q.best < limit ? q.best : INFINITY;
}

double bvh_ray(const bvh *b, const double from[3], const double dir[3], double limit, int64_t *face) {
    struct RTCRayHit r = {.ray = {.org_x = (float)from[0],
                                  .org_y = (float)from[1],
                                  .org_z = (float)from[2],
                                  .dir_x = (float)dir[0],
                                  .dir_y = (float)dir[1],
                                  .dir_z = (float)dir[2],
                                  .tfar = (float)limit,
                                  .mask = ~0u}};
    r.hit.geomID = RTC_INVALID_GEOMETRY_ID;
    embree_intersect1(b->scene, &r);
    if (r.hit.geomID == RTC_INVALID_GEOMETRY_ID) return INFINITY;
    if (face) *face = r.hit.primID;
    return (double)r.ray.tfar;
}

bool bvh_gather(const bvh *b, const double p[3], double radius, bvh_list *out) {
    query q = {.b = b, .p = {p[0], p[1], p[2]}, .best = radius, .list = out};
    out->n = 0;
    out->failed = false;
    run(&q, on_gather);
    return !out->failed;
}

void bvh_list_free(bvh_list *l) {
    free(l->id);
    *l = (bvh_list){0};
}
