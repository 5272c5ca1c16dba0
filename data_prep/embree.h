/* Rays against an Embree scene, alike for its versions 3 and 4. valid: -1 for a ray that counts, else 0; eight rays,
 * which go much the same way, lie on 32 bytes. */
#pragma once
#include <rtcore.h>

#if RTC_VERSION_MAJOR >= 4

static inline void embree_intersect1(RTCScene in, struct RTCRayHit *ray) {
    rtcIntersect1(in, ray, NULL);
}

static inline void embree_intersect8(const int *valid, RTCScene in, struct RTCRayHit8 *rays) {
    struct RTCIntersectArguments how;
    rtcInitIntersectArguments(&how);
    how.flags = RTC_RAY_QUERY_FLAG_COHERENT;
    rtcIntersect8(valid, in, rays, &how);
}

static inline void embree_occluded8(const int *valid, RTCScene in, struct RTCRay8 *rays) {
    struct RTCOccludedArguments how;
    rtcInitOccludedArguments(&how);
    how.flags = RTC_RAY_QUERY_FLAG_COHERENT;
    rtcOccluded8(valid, in, rays, &how);
}

#else

static inline void embree_intersect1(RTCScene in, struct RTCRayHit *ray) {
    struct RTCIntersectContext how;
    rtcInitIntersectContext(&how);
    rtcIntersect1(in, &how, ray);
}

static inline void embree_intersect8(const int *valid, RTCScene in, struct RTCRayHit8 *rays) {
    struct RTCIntersectContext how;
    rtcInitIntersectContext(&how);
    how.flags = RTC_INTERSECT_CONTEXT_FLAG_COHERENT;
    rtcIntersect8(valid, in, &how, rays);
}

static inline void embree_occluded8(const int *valid, RTCScene in, struct RTCRay8 *rays) {
    struct RTCIntersectContext how;
    rtcInitIntersectContext(&how);
    how.flags = RTC_INTERSECT_CONTEXT_FLAG_COHERENT;
    rtcOccluded8(valid, in, &how, rays);
}

#endif
