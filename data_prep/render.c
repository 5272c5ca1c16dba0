#include "data_prep/render.h"
#include "data_prep/embree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 8, ENCODE_STEPS = 4096 };

/* Embree reads the mask of eight rays with aligned loads. */
#define LANES_ALIGNED _Alignas(32)

struct renderer {
    const mesh    *m;
    render_options o;
    RTCDevice      device;
    RTCScene       scene;
    float         *normal;            /* [n_vertices,3] or NULL: flat */
    float         *flat;              /* [n_faces,3] unit */
    float (*diffuse)[3];              /* [n_materials] light */
    float   plain[3];                 /* of clay, or of a face without material */
    float   linear[256];              /* sRGB byte to light */
    uint8_t encode[ENCODE_STEPS + 1]; /* light 0..1 to sRGB byte */
};

render_options render_default_options(void) {
    return (render_options){.samples = 4, .shadows = true, .up_axis = 1, .clay_rgb = {0.72f, 0.72f, 0.74f}};
}

render_options render_clay_options(void) {
    render_options o = render_default_options();
    o.clay = o.smooth = true;
    return o;
}

static float srgb_to_linear(float x) {
    return x <= 0.04045f ? x / 12.92f : powf((x + 0.055f) / 1.055f, 2.4f);
}
static float linear_to_srgb(float x) {
    return x <= 0.0031308f ? 12.92f * x : 1.055f * powf(x, 1 / 2.4f) - 0.055f;
}

static void normalise3(float *v) {
    float l = sqrtf(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    for (int a = 0; a < 3 && l > 0; a++) v[a] /= l;
}

static float dot3(const float *a, const float *b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void face_cross(const mesh *m, int64_t f, float *n) {
    const float *a = m->position + 3 * (int64_t)m->face[3 * f], *b = m->position + 3 * (int64_t)m->face[3 * f + 1],
                *c = m->position + 3 * (int64_t)m->face[3 * f + 2];
    float u[3], v[3];
    for (int i = 0; i < 3; i++) u[i] = b[i] - a[i], v[i] = c[i] - a[i];
    n[0] = u[1] * v[2] - u[2] * v[1];
    n[1] = u[2] * v[0] - u[0] * v[2];
    n[2] = u[0] * v[1] - u[1] * v[0];
}

/* Area-weighted sums of the face normals. */
static float *averaged_normals(const mesh *m) {
    float *n = calloc((size_t)m->n_vertices * 3 + 1, sizeof *n);
    for (int64_t f = 0; n && f < m->n_faces; f++) {
        float k[3];
        face_cross(m, f, k);
        for (int j = 0; j < 3; j++)
            for (int a = 0; a < 3; a++) n[3 * (int64_t)m->face[3 * f + j] + a] += k[a];
    }
    for (int64_t i = 0; n && i < m->n_vertices; i++) normalise3(n + 3 * i);
    return n;
}

void renderer_free(renderer *r) {
    if (!r) return;
    if (r->scene) rtcReleaseScene(r->scene);
    if (r->device) rtcReleaseDevice(r->device);
    free(r->normal);
    free(r->flat);
    free(r->diffuse);
    free(r);
}

/* What every hit asks for, once. */
static bool prepare_shading(renderer *r) {
    const render_options *o = &r->o;
    int                   n = o->material && !o->clay ? o->n_materials : 0;
    r->flat = malloc((size_t)r->m->n_faces * 3 * sizeof *r->flat);
    r->diffuse = malloc(((size_t)n + 1) * sizeof *r->diffuse);
    if (!r->flat || !r->diffuse) return false;
    for (int64_t f = 0; f < r->m->n_faces; f++) {
        face_cross(r->m, f, r->flat + 3 * f);
        normalise3(r->flat + 3 * f);
    }
    for (int c = 0; c < 3; c++) {
        r->plain[c] = srgb_to_linear(o->clay ? o->clay_rgb[c] : 0.8f);
        for (int i = 0; i < n; i++) r->diffuse[i][c] = srgb_to_linear(o->material[i].diffuse[c]);
    }
    return true;
}

renderer *renderer_new(const mesh *m, const render_options *o, status *st) {
    CHECK(o->samples >= 1 && o->samples <= 16, "%d samples per axis", o->samples);
    if (m->n_faces < 1) {
        status_set(st, ST_DATA, "a mesh without triangles has no picture");
        return NULL;
    }
    renderer *r = calloc(1, sizeof *r);
    bool      good = r != NULL;
    if (good) {
        r->m = m;
        r->o = *o;
        for (int i = 0; i < 256; i++) r->linear[i] = srgb_to_linear((float)i / 255);
        for (int i = 0; i <= ENCODE_STEPS; i++)
            r->encode[i] = (uint8_t)(255 * linear_to_srgb((float)i / ENCODE_STEPS) + 0.5f);
        r->device = rtcNewDevice("threads=1");
        r->scene = r->device ? rtcNewScene(r->device) : NULL;
        good = r->scene != NULL;
    }
    if (good) {
        RTCGeometry g = rtcNewGeometry(r->device, RTC_GEOMETRY_TYPE_TRIANGLE);
        float *v = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_VERTEX, 0, RTC_FORMAT_FLOAT3, 12, (size_t)m->n_vertices);
        void  *t = rtcSetNewGeometryBuffer(g, RTC_BUFFER_TYPE_INDEX, 0, RTC_FORMAT_UINT3, 12, (size_t)m->n_faces);
        good = v && t;
        if (good) {
            memcpy(v, m->position, (size_t)m->n_vertices * 12);
            memcpy(t, m->face, (size_t)m->n_faces * 12);
            rtcCommitGeometry(g);
            rtcAttachGeometry(r->scene, g);
            rtcCommitScene(r->scene);
            good = rtcGetDeviceError(r->device) == RTC_ERROR_NONE;
        }
        rtcReleaseGeometry(g);
    }
    good = good && prepare_shading(r);
    if (good && o->smooth && !m->normal) good = (r->normal = averaged_normals(m)) != NULL;
    if (good) return r;
    renderer_free(r);
    status_set(st, ST_DATA, "out of memory for a picture of %lld triangles", (long long)m->n_faces);
    return NULL;
}

/* ---- rays ----------------------------------------------------------------------------------------------------- */

typedef struct {
    float axis[3][3], eye[3]; /* camera axes in the world */
    float fx, fy, cx, cy;     /* scaled to the picture */
    float key[3], key_u[3], key_v[3], up[3];
} view;

static view view_of(const camera *cam, int width, int height, int up_axis) {
    view         v = {.fx = cam->fx * (float)width / (float)cam->width,
                      .fy = cam->fy * (float)height / (float)cam->height,
                      .cx = cam->cx * (float)width / (float)cam->width,
                      .cy = cam->cy * (float)height / (float)cam->height};
    const float *w = cam->world_to_camera;
    for (int r = 0; r < 3; r++)
        for (int a = 0; a < 3; a++) {
            v.axis[r][a] = w[4 * r + a];
            v.eye[a] -= w[4 * r + a] * w[4 * r + 3];
        }
    v.up[up_axis == 2 ? 2 : 1] = 1;
    for (int a = 0; a < 3; a++) v.key[a] = -0.55f * v.axis[0][a] - 0.85f * v.axis[1][a] - 0.75f * v.axis[2][a];
    normalise3(v.key);
    for (int a = 0; a < 3; a++) v.key_u[a] = v.axis[0][a] - dot3(v.axis[0], v.key) * v.key[a];
    normalise3(v.key_u);
    for (int a = 0; a < 3; a++)
        v.key_v[a] = v.key[(a + 1) % 3] * v.key_u[(a + 2) % 3] - v.key[(a + 2) % 3] * v.key_u[(a + 1) % 3];
    return v;
}

static void ray_direction(const view *v, float px, float py, float *d) {
    float x = (px - v->cx) / v->fx, y = (py - v->cy) / v->fy;
    for (int a = 0; a < 3; a++) d[a] = v->axis[0][a] * x + v->axis[1][a] * y + v->axis[2][a];
}

static void shoot(const renderer *r, const view *v, const float (*d)[3], int n, int *valid, struct RTCRayHit8 *h) {
    for (int i = 0; i < LANES; i++) {
        int k = i < n ? i : 0;
        valid[i] = i < n ? -1 : 0;
        h->ray.org_x[i] = v->eye[0], h->ray.org_y[i] = v->eye[1], h->ray.org_z[i] = v->eye[2];
        h->ray.dir_x[i] = d[k][0], h->ray.dir_y[i] = d[k][1], h->ray.dir_z[i] = d[k][2];
        h->ray.tnear[i] = 0, h->ray.tfar[i] = INFINITY, h->ray.time[i] = 0;
        h->ray.mask[i] = ~0u, h->ray.id[i] = (unsigned)i, h->ray.flags[i] = 0;
        h->hit.geomID[i] = h->hit.primID[i] = h->hit.instID[0][i] = RTC_INVALID_GEOMETRY_ID;
    }
    embree_intersect8(valid, r->scene, h);
}

/* ---- surface -------------------------------------------------------------------------------------------------- */

typedef struct {
    float p[3], n[3], flat[3], albedo[3]; /* normals face the eye */
} spot;

static void texel(const renderer *r, const image *im, float u, float v, float *out) {
    float x = (u - floorf(u)) * (float)im->width - 0.5f, y = (1 - (v - floorf(v))) * (float)im->height - 0.5f;
    int   x0 = (int)floorf(x), y0 = (int)floorf(y);
    float fx = x - (float)x0, fy = y - (float)y0;
    out[0] = out[1] = out[2] = 0;
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            int            cx = (x0 + i + im->width) % im->width, cy = (y0 + j + im->height) % im->height;
            float          w = (i ? fx : 1 - fx) * (j ? fy : 1 - fy);
            const uint8_t *t = im->pixel + ((int64_t)cy * im->width + cx) * im->channels;
            for (int c = 0; c < 3; c++) out[c] += w * r->linear[t[im->channels >= 3 ? c : 0]];
        }
}

static void albedo_of(const renderer *r, int64_t f, const float *bary, float *out) {
    const mesh           *m = r->m;
    const scene_material *mat = NULL;
    memcpy(out, r->plain, sizeof r->plain);
    if (r->o.clay) return;
    if (r->o.material && m->material && m->material[f] >= 0 && m->material[f] < r->o.n_materials) {
        mat = &r->o.material[m->material[f]];
        memcpy(out, r->diffuse[m->material[f]], sizeof r->diffuse[0]);
    }
    if (mat && mat->texture.pixel && m->uv) {
        float uv[2] = {0, 0};
        for (int j = 0; j < 3; j++)
            for (int a = 0; a < 2; a++) uv[a] += bary[j] * m->uv[2 * (int64_t)m->face[3 * f + j] + a];
        texel(r, &mat->texture, uv[0], uv[1], out);
    }
    for (int c = 0; m->color && c < 3; c++) {
        float k = 0;
        for (int j = 0; j < 3; j++) k += bary[j] * r->linear[m->color[4 * (int64_t)m->face[3 * f + j] + c]];
        out[c] *= k;
    }
}

/* A hit as shading wants it. A vertex normal nearly at right angles to its own face is wrong and makes way for the
 * face's. */
static void spot_of(const renderer *r, int64_t f, float u, float v, const float *d, float t, const float *eye,
                    spot *s) {
    const mesh  *m = r->m;
    const float *vn = r->normal ? r->normal : m->normal;
    float        bary[3] = {1 - u - v, u, v};
    memcpy(s->flat, r->flat + 3 * f, sizeof s->flat);
    if (dot3(s->flat, d) > 0)
        for (int a = 0; a < 3; a++) s->flat[a] = -s->flat[a];
    memcpy(s->n, s->flat, sizeof s->n);
    for (int a = 0; a < 3; a++) s->p[a] = eye[a] + t * d[a];
    if (vn) {
        float n[3] = {0, 0, 0};
        for (int j = 0; j < 3; j++)
            for (int a = 0; a < 3; a++) n[a] += bary[j] * vn[3 * (int64_t)m->face[3 * f + j] + a];
        normalise3(n);
        float side = dot3(n, s->flat);
        if (fabsf(side) > 0.1f)
            for (int a = 0; a < 3; a++) s->n[a] = side > 0 ? n[a] : -n[a];
    }
    albedo_of(r, f, bary, s->albedo);
}

/* Light on each spot: sky, head light, key light with its shadow. */
static void shade(const renderer *r, const view *v, const spot *s, const float (*d)[3], const float (*jitter)[2], int n,
                  float (*rgb)[3]) {
    float             key[LANES][3];
    LANES_ALIGNED int valid[LANES] = {0};
    struct RTCRay8    ray;
    memset(&ray, 0, sizeof ray);
    for (int i = 0; i < n; i++) {
        /* a disc of about 10 degrees: soft shadows */
        for (int a = 0; a < 3; a++)
            key[i][a] = v->key[a] + 0.18f * (jitter[i][0] * v->key_u[a] + jitter[i][1] * v->key_v[a]);
        normalise3(key[i]);
        bool lit = dot3(s[i].n, key[i]) > 0 && dot3(s[i].flat, key[i]) > 0;
        valid[i] = lit ? -1 : 0;
        float off = 2e-4f;
        ray.org_x[i] = s[i].p[0] + off * s[i].flat[0];
        ray.org_y[i] = s[i].p[1] + off * s[i].flat[1];
        ray.org_z[i] = s[i].p[2] + off * s[i].flat[2];
        ray.dir_x[i] = key[i][0], ray.dir_y[i] = key[i][1], ray.dir_z[i] = key[i][2];
        ray.tfar[i] = INFINITY, ray.mask[i] = ~0u;
    }
    if (r->o.shadows) embree_occluded8(valid, r->scene, &ray);
    for (int i = 0; i < n; i++) {
        float len = sqrtf(dot3(d[i], d[i])), facing = fmaxf(0, -dot3(s[i].n, d[i]) / len);
        float light = 0.30f + 0.14f * dot3(s[i].n, v->up) + 0.16f * facing;
        if (valid[i] && ray.tfar[i] > 0) light += 0.72f * dot3(s[i].n, key[i]);
        for (int c = 0; c < 3; c++) rgb[i][c] = s[i].albedo[c] * light;
    }
}

/* ---- picture -------------------------------------------------------------------------------------------------- */

/* Low-discrepancy point k of a pixel; the pixel's hash turns the set, so that neighbours do not share their noise. */
static void light_point(int x, int y, int k, float *out) {
    uint32_t h = (uint32_t)x * 0x9E3779B1u ^ (uint32_t)y * 0x85EBCA77u;
    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    h ^= h >> 12;
    float a = (float)(h & 0xffff) / 65536 + 0.7548776662f * (float)k,
          b = (float)(h >> 16) / 65536 + 0.5698402910f * (float)k;
    float radius = sqrtf(a - floorf(a)), angle = 6.2831853f * (b - floorf(b));
    out[0] = radius * cosf(angle);
    out[1] = radius * sinf(angle);
}

/* What a pixel has gathered. */
typedef struct {
    float   rgb[3];    /* sum of the light of its hits */
    float   low, high; /* of their brightness */
    int16_t hits, rays;
} gathered;

/* The first n of the n x n rays, for even n, are one in each row and each column; then the others, row by row. */
static void ray_place(int n, int k, int *column, int *row) {
    if (n % 2) {
        *column = k % n, *row = k / n;
    } else if (k < n) {
        *row = k, *column = (2 * k + 1) % (n + 1);
    } else {
        *row = (k - n) / (n - 1);
        *column = (k - n) % (n - 1);
        *column += *column >= (2 * *row + 1) % (n + 1);
    }
}

typedef struct {
    int x, y, k; /* ray k of pixel (x,y) */
} ray_name;

/* Up to LANES rays, of one pixel or of neighbours; each goes to its own place. */
static void trace(const renderer *r, const view *v, const ray_name *name, int m, gathered *const *to) {
    LANES_ALIGNED int valid[LANES];
    int               n_spots = 0, n = r->o.samples, at[LANES];
    float             d[LANES][3], lit_d[LANES][3], jitter[LANES][2], light[LANES][3];
    spot              spots[LANES];
    struct RTCRayHit8 h;
    for (int i = 0; i < m; i++) {
        int column, row;
        ray_place(n, name[i].k, &column, &row);
        ray_direction(v, (float)name[i].x + ((float)column + 0.5f) / (float)n,
                      (float)name[i].y + ((float)row + 0.5f) / (float)n, d[i]);
    }
    shoot(r, v, (const float(*)[3])d, m, valid, &h);
    for (int i = 0; i < m; i++) {
        to[i]->rays++;
        if (h.hit.geomID[i] == RTC_INVALID_GEOMETRY_ID) continue;
        spot_of(r, h.hit.primID[i], h.hit.u[i], h.hit.v[i], d[i], h.ray.tfar[i], v->eye, &spots[n_spots]);
        memcpy(lit_d[n_spots], d[i], sizeof d[i]);
        light_point(name[i].x, name[i].y, name[i].k, jitter[n_spots]);
        at[n_spots++] = i;
    }
    if (n_spots) shade(r, v, spots, (const float(*)[3])lit_d, (const float(*)[2])jitter, n_spots, light);
    for (int i = 0; i < n_spots; i++) {
        gathered *g = to[at[i]];
        float     bright = light[i][0] + light[i][1] + light[i][2];
        g->low = g->hits ? fminf(g->low, bright) : bright;
        g->high = g->hits ? fmaxf(g->high, bright) : bright;
        g->hits++;
        for (int c = 0; c < 3; c++) g->rgb[c] += light[i][c];
    }
}

/* Rays first .. last-1 of each of `count` pixels from (x,y) on. */
static void trace_pixels(const renderer *r, const view *v, int x, int y, int count, int first, int last, gathered *g) {
    ray_name  name[LANES];
    gathered *to[LANES];
    int       m = 0;
    for (int i = 0; i < count; i++)
        for (int k = first; k < last; k++) {
            name[m] = (ray_name){x + i, y, k};
            to[m++] = g + i;
            if (m == LANES) trace(r, v, name, m, to), m = 0;
        }
    if (m) trace(r, v, name, m, to);
}

/* Do the first rays of a pixel say all there is? They and those of the pixels around it all miss, or all hit with
 * little difference in brightness: 2 % of what a pixel can have. */
static bool is_settled(const gathered *all, int width, int height, int x, int y) {
    const gathered *g = all + (int64_t)y * width + x;
    float           spread = 0.02f * 3;
    if (g->hits != 0 && (g->hits != g->rays || g->high - g->low > spread)) return false;
    float mean = g->hits ? (g->rgb[0] + g->rgb[1] + g->rgb[2]) / g->hits : 0;
    for (int j = y > 0 ? y - 1 : 0; j <= y + 1 && j < height; j++)
        for (int i = x > 0 ? x - 1 : 0; i <= x + 1 && i < width; i++) {
            const gathered *o = all + (int64_t)j * width + i;
            if ((o->hits == 0) != (g->hits == 0) || (o->hits != 0 && o->hits != o->rays)) return false;
            if (g->hits && fabsf((o->rgb[0] + o->rgb[1] + o->rgb[2]) / o->hits - mean) > 2 * spread) return false;
        }
    return true;
}

static void finish_pixel(const renderer *r, const gathered *g, uint8_t *out) {
    int rays = g->rays, hits = g->hits;
    for (int c = 0; c < 3; c++) {
        float light = hits ? g->rgb[c] / (float)hits : 0;
        out[c] = r->encode[(int)(fminf(1, light) * ENCODE_STEPS + 0.5f)];
    }
    out[3] = (uint8_t)((255 * hits + rays / 2) / rays);
}

bool renderer_view(const renderer *r, const camera *cam, int width, int height, image *rgba, status *st) {
    gathered *all = calloc((size_t)width * (size_t)height, 2 * sizeof *all), *more = all + (int64_t)width * height;
    *rgba = (image){width, height, 4, malloc((size_t)width * (size_t)height * 4)};
    if (!rgba->pixel || !all) {
        free(all);
        image_free(rgba);
        return status_set(st, ST_DATA, "out of memory for a picture of %d x %d", width, height);
    }
    view v = view_of(cam, width, height, r->o.up_axis);
    int  n = r->o.samples, few = n % 2 || n < 4 ? n * n : n;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 4)
        for (int y = 0; y < height; y++) trace_pixels(r, &v, 0, y, width, 0, few, all + (int64_t)y * width);
#pragma omp for schedule(dynamic, 4)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++) {
                int64_t i = (int64_t)y * width + x;
                more[i] = all[i];
                if (few < n * n && !is_settled(all, width, height, x, y))
                    trace_pixels(r, &v, x, y, 1, few, n * n, &more[i]);
                finish_pixel(r, &more[i], rgba->pixel + 4 * i);
            }
    }
    free(all);
    return true;
}

void renderer_buffers(const renderer *r, const camera *cam, int width, int height, float *depth, float *normal,
                      int32_t *face) {
    view v = view_of(cam, width, height, r->o.up_axis);
#pragma omp parallel for schedule(dynamic, 4)
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int64_t           i = (int64_t)y * width + x;
            float             d[1][3];
            LANES_ALIGNED int valid[LANES];
            struct RTCRayHit8 h;
            ray_direction(&v, (float)x + 0.5f, (float)y + 0.5f, d[0]);
            shoot(r, &v, (const float(*)[3])d, 1, valid, &h);
            bool hit = h.hit.geomID[0] != RTC_INVALID_GEOMETRY_ID;
            spot s;
            memset(&s, 0, sizeof s);
            if (hit) spot_of(r, h.hit.primID[0], h.hit.u[0], h.hit.v[0], d[0], h.ray.tfar[0], v.eye, &s);
            if (depth) depth[i] = hit ? h.ray.tfar[0] : INFINITY; /* the direction's camera z is 1, so t is z */
            if (normal) memcpy(normal + 3 * i, s.n, sizeof s.n);
            if (face) face[i] = hit ? (int32_t)h.hit.primID[0] : -1;
        }
}

bool render_mesh(const mesh *m, const camera *cam, int width, int height, const render_options *o, image *rgba) {
    status    st = {0};
    renderer *r = renderer_new(m, o, &st);
    *rgba = (image){0};
    bool good = r && renderer_view(r, cam, width, height, rgba, &st);
    renderer_free(r);
    return good;
}
