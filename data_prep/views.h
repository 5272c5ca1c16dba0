/* Condition views of a sample (R§2.8): random elevation 10..40 degrees, azimuth 0..180 degrees, focal length 30..100 mm
 * on a 36 mm sensor, the object centred and wholly in the frame. Or `orbit`, as TRELLIS renders: directions from the
 * Hammersley sequence of the whole sphere, shifted for each sample, 10..70 degrees of field of view, so near that the
 * sphere around the unit cube fills it (uniform in 1/distance^2). Keyed by (seed, sample id, view) only. */
#pragma once
#include "data/shard.h"
#include "data_prep/render.h"

typedef struct {
    int      n_views, size; /* size: pixels of a side */
    int      samples;       /* per pixel and axis */
    int      up_axis;       /* 1: y, 2: z */
    bool     orbit;
    uint64_t seed;
} view_options;

#define VIEW_FILL 0.92 /* share of the frame's half width the object may reach */

camera view_camera(const mesh *m, const view_options *o, uint64_t id, int view);

/* Fills n_views, camera, png, png_size of *out (which has none yet) from a normalised scene; the renderer works in
 * v_norm coordinates. On failure *out keeps none. */
bool views_render(const scene *s, const view_options *o, uint64_t id, sample *out, status *st);

/* The 24 floats of src/data/shard.h. */
void               camera_pack(const camera *c, float out[VIEW_CAMERA_FLOATS]);
camera             camera_unpack(const float in[VIEW_CAMERA_FLOATS]);
/* Whether there is a camera: of a user's picture there is none, all its numbers are 0. */
static inline bool camera_known(const camera *c) {
    return c->width > 0 && c->height > 0 && c->fx > 0;
}
