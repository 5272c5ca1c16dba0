#include "eval/nearest.h"

#include <math.h>
#include <rtcore.h>
#include <string.h>

static double dot3(const double a[3], const double b[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* Squared distance of p to segment a, a+e (relative vectors: ap = p - a). */
static double segment_d2(const double ap[3], const double e[3]) {
    double ee = dot3(e, e), t = ee > 0 ? fmin(fmax(dot3(ap, e) / ee, 0), 1) : 0, d2 = 0;
    for (int k = 0; k < 3; k++) d2 += (ap[k] - t * e[k]) * (ap[k] - t * e[k]);
    return d2;
}

static double triangle_d2(const mesh *m, int64_t face, const double p[3]) {
    double v[3][3], e[3][3], r[3][3], n[3];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) v[i][k] = (double)m->position[3 * (int64_t)m->face[3 * face + i] + k];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) e[i][k] = v[(i + 1) % 3][k] - v[i][k], r[i][k] = p[k] - v[i][k];
    for (int k = 0; k < 3; k++) n[k] = e[0][(k + 1) % 3] * e[1][(k + 2) % 3] - e[0][(k + 2) % 3] * e[1][(k + 1) % 3];
    bool over = dot3(n, n) > 0;
    for (int i = 0; i < 3 && over; i++) {
        double side[3];
        for (int k = 0; k < 3; k++) side[k] = n[(k + 1) % 3] * e[i][(k + 2) % 3] - n[(k + 2) % 3] * e[i][(k + 1) % 3];
        over = dot3(side, r[i]) >= 0;
    }
    if (over) return dot3(n, r[0]) * dot3(n, r[0]) / dot3(n, n);
    return fmin(segment_d2(r[0], e[0]), fmin(segment_d2(r[1], e[1]), segment_d2(r[2], e[2])));
}

bool nearest_build(nearest *n, const mesh *m, status *st) {
    *n = (nearest){.m = m};
    RTCDevice device = n->device = rtcNewDevice("threads=1");
    if (!device) return status_set(st, ST_INTERNAL, "Embree does not start");
    RTCScene    scene = n->scene = rtcNewScene(device);
    RTCGeometry g = rtcNewGeometry(device, RTC_GEOMETRY_TYPE_TRIANGLE);
    float      *v = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_VERTEX, 0, RTC_FORMAT_FLOAT3, 12, (size_t)m->n_vertices);
    uint32_t   *t = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_INDEX, 0, RTC_FORMAT_UINT3, 12, (size_t)m->n_faces);
    bool        good = v && t;
    if (good) {
        memcpy(v, m->position, (size_t)m->n_vertices * 12);
        memcpy(t, m->face, (size_t)m->n_faces * 12);
        rtcCommitGeometry(g);
        rtcAttachGeometry(scene, g);
        rtcCommitScene(scene);
        good = rtcGetDeviceError(device) == RTC_ERROR_NONE;
    }
    rtcReleaseGeometry(g);
    if (good) return true;
    nearest_free(n);
    return status_set(st, ST_INTERNAL, "no memory for the tree over %lld triangles", (long long)m->n_faces);
}

void nearest_free(nearest *n) {
    if (n->scene) rtcReleaseScene(n->scene);
    if (n->device) rtcReleaseDevice(n->device);
    *n = (nearest){0};
}

typedef struct {
    const mesh *m;
    double      p[3], best;
    int64_t     face;
} query;

static bool visit(struct RTCPointQueryFunctionArguments *args) {
    query *q = args->userPtr;
    double d = sqrt(triangle_d2(q->m, args->primID, q->p));
    /* The lower face wins a tie, so that the answer does not depend on the tree. */
    if (!(d < q->best || (d == q->best && args->primID < q->face))) return false;
    q->best = d;
    q->face = args->primID;
    args->query->radius = (float)(d * (1 + 1e-6) + 1e-6); /* boxes are float */
    return true;
}

double nearest_find(const nearest *n, const double p[3], int64_t *face) {
    query                       q = {n->m, {p[0], p[1], p[2]}, INFINITY, -1};
    struct RTCPointQueryContext context;
    struct RTCPointQuery        pq = {.x = (float)p[0], .y = (float)p[1], .z = (float)p[2], .radius = INFINITY};
    rtcInitPointQueryContext(&context);
    if (isfinite(p[0]) && isfinite(p[1]) && isfinite(p[2])) rtcPointQuery(n->scene, &pq, &context, visit, &q);
    *face = q.face;
    return q.best;
}
