/* Pictures of meshes by ray casting (Embree): condition views of the data preparation, and neutral clay pictures for
 * reports.
 *
 * Camera: OpenCV axes (x right, y down, z forward); pixel (u,v) = (fx X/Z + cx, fy Y/Z + cy), pixel (0,0) covers
 * [0,1)x[0,1). Everything is opaque, so that the alpha mask is the silhouette of the geometry. Light: a key light of
 * some width above the camera's left shoulder with shadows, a sky, and a weak head light; both sides of a face are lit.
 */
#pragma once
#include "data_prep/import.h"

typedef struct {
    float world_to_camera[16]; /* row-major 4x4 */
    float fx, fy, cx, cy;      /* pixels of a width x height picture */
    int   width, height;
    float near, far; /* camera z range that holds the object */
} camera;

typedef struct {
    int                   samples; /* per pixel and axis, 1..16: samples^2 rays; 4 */
    bool                  shadows;
    bool                  smooth;      /* vertex normals are averaged when the mesh has none; else faces stay flat */
    bool                  clay;        /* one neutral colour, whatever the mesh says */
    float                 clay_rgb[3]; /* sRGB 0..1 */
    int                   up_axis;     /* 1: y, 2: z */
    const scene_material *material;    /* NULL: none */
    int                   n_materials;
} render_options;

render_options render_default_options(void); /* 4x4 samples, shadows, flat, materials of nobody, y up */
render_options render_clay_options(void);    /* smooth, clay */

typedef struct renderer renderer;

/* Keeps pointers to the mesh and the materials. NULL: *st says why (memory, empty mesh). */
renderer *renderer_new(const mesh *m, const render_options *o, status *st);
void      renderer_free(renderer *r);
/* RGBA of the camera's size scaled to width x height; *out is allocated. Same bits for any number of threads. */
bool      renderer_view(const renderer *r, const camera *cam, int width, int height, image *rgba, status *st);
/* One ray through each pixel's centre: depth [h,w] camera z (+inf: nothing), normal [h,w,3] world, facing the camera
 * (0 where nothing), face [h,w] (-1: nothing). NULL: not wanted. */
void      renderer_buffers(const renderer *r, const camera *cam, int width, int height, float *depth, float *normal,
                           int32_t *face);

/* One picture: renderer_new, renderer_view, renderer_free. False (and an empty image) when memory is short or the mesh
 * is empty. */
bool render_mesh(const mesh *m, const camera *cam, int width, int height, const render_options *o, image *rgba);

/* Camera that looks at the origin from (azimuth, elevation) in degrees - azimuth 0 looks along -z of a y-up object -
 * with a focal length in mm on a 36 mm wide sensor, as near as all vertices stay inside `fill` of the frame. */
camera camera_framing(const mesh *m, double azimuth, double elevation, double focal_mm, double fill, int up_axis,
                      int width, int height);
/* The same direction, from a distance, with a horizontal field of view in degrees. */
camera camera_orbit(double azimuth, double elevation, double fov, double distance, int up_axis, int width, int height);
