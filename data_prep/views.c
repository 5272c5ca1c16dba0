#include "data_prep/views.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bits of i behind the point, turned round. */
static double radical_inverse(uint32_t i) {
    double v = 0, digit = 0.5;
    for (; i; i >>= 1, digit /= 2) v += i & 1 ? digit : 0;
    return v;
}

static camera orbit_camera(const view_options *o, uint64_t id, int view) {
    rng_key all = {o->seed, RNG_VIEW, UINT32_MAX, id}, key = {o->seed, RNG_VIEW, (uint64_t)view, id};
    double  u = (view + rng_uniform(all, 0)) / o->n_views, v = radical_inverse((uint32_t)view) + rng_uniform(all, 1);
    u = u < 0.25 ? 2 * u : 2 * u / 3 + 1.0 / 3; /* fewer from right above */
    double elevation = (acos(1 - 2 * u) - M_PI / 2) * 180 / M_PI, azimuth = 360 * (v - floor(v));
    double near = sqrt(3) / 2 / sin(35 * M_PI / 180), far = sqrt(3) / 2 / sin(5 * M_PI / 180);
    double k = 1 / (far * far) + (1 / (near * near) - 1 / (far * far)) * rng_uniform(key, 0), r = 1 / sqrt(k);
    double fov = 2 * asin(sqrt(3) / 2 / r) * 180 / M_PI;
    return camera_orbit(azimuth, elevation, fov, 2 * r, o->up_axis, o->size,
                        o->size); /* the unit cube is [-1,1]^3 here */
}

camera view_camera(const mesh *m, const view_options *o, uint64_t id, int view) {
    if (o->orbit) return orbit_camera(o, id, view);
    rng_key key = {o->seed, RNG_VIEW, (uint64_t)view, id};
    double  elevation = 10 + 30 * rng_uniform(key, 0), azimuth = 180 * rng_uniform(key, 1),
           focal = 30 + 70 * rng_uniform(key, 2);
    return camera_framing(m, azimuth, elevation, focal, VIEW_FILL, o->up_axis, o->size, o->size);
}

void camera_pack(const camera *c, float out[VIEW_CAMERA_FLOATS]) {
    const float rest[8] = {c->fx, c->fy, c->cx, c->cy, (float)c->width, (float)c->height, c->near, c->far};
    memcpy(out, c->world_to_camera, 16 * sizeof(float));
    memcpy(out + 16, rest, sizeof rest);
}

camera camera_unpack(const float in[VIEW_CAMERA_FLOATS]) {
    camera c = {.fx = in[16],
                .fy = in[17],
                .cx = in[18],
                .cy = in[19],
                .width = (int)in[20],
                .height = (int)in[21],
                .near = in[22],
                .far = in[23]};
    memcpy(c.world_to_camera, in, 16 * sizeof(float));
    return c;
}

static void drop_views(sample *out) {
    for (int i = 0; i < out->n_views; i++) free(out->png[i]);
    free(out->camera), free(out->png), free(out->png_size);
    out->n_views = 0;
    out->camera = NULL;
    out->png = NULL;
    out->png_size = NULL;
}

bool views_render(const scene *s, const view_options *o, uint64_t id, sample *out, status *st) {
    if (o->n_views == 0) return true;
    render_options ro = render_default_options();
    ro.samples = o->samples;
    ro.up_axis = o->up_axis;
    ro.material = s->material;
    ro.n_materials = s->n_materials;
    renderer *r = renderer_new(&s->m, &ro, st);
    if (!r) return false;
    out->camera = calloc((size_t)o->n_views * VIEW_CAMERA_FLOATS, sizeof(float));
    out->png = calloc((size_t)o->n_views, sizeof *out->png);
    out->png_size = calloc((size_t)o->n_views, sizeof *out->png_size);
    bool good = out->camera && out->png && out->png_size;
    if (!good) status_set(st, ST_DATA, "out of memory for %d views", o->n_views);
    for (int i = 0; i < o->n_views && good; i++) {
        camera cam = view_camera(&s->m, o, id, i);
        image  im;
        camera_pack(&cam, out->camera + (int64_t)i * VIEW_CAMERA_FLOATS);
        good = renderer_view(r, &cam, o->size, o->size, &im, st);
        if (!good) break;
        good = image_encode_png(&im, &out->png[i], &out->png_size[i], st);
        out->n_views = i + (good ? 1 : 0);
        image_free(&im);
    }
    renderer_free(r);
    if (!good) drop_views(out);
    return good;
}
