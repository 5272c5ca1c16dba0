/* Shapes of a data set with what sample and eval need of them. */
#pragma once
#include "app/networks.h"
#include "app/results.h"
#include "dist/comm.h"
#include "train/dataset.h"

typedef struct {
    sample   s;
    char     name[96];   /* for files */
    char     where[400]; /* for messages */
    tile_set t;
    float   *value; /* [n,512] */
    int32_t *coord; /* [n,3] */
    int      resolution;
    double   tau_voxels;
} shape;

#define RESULT_LATENTS "-latents.h5" /* NAME-latents.h5: what was generated */

bool    shape_read(const dataset *d, int64_t i, shape *out, status *st);
void    shape_free(shape *s);
/* The surface of values in the shape's tiles. */
void    shape_surface(const shape *s, const float *value, double level, mesh *out);
/* {"id", "name", "source", "category", "tokens", "key"} */
json_t *shape_json(const shape *s, const char *key);

/* A data set from one positional argument; ST_USAGE when there is none or more, or when the folder for the results
 * holds shards, latents or tokens. */
bool shapes_open(const options *o, const char *verb, const char *output, dataset *d, status *st);

/* The view's file and camera, and what the network sees of it. `image` "" takes the view of the sample. */
typedef struct {
    uint8_t   *png;
    int64_t    png_size;
    float      camera[VIEW_CAMERA_FLOATS];
    bool       has_camera;
    view_input input;
} shape_view;
bool shape_view_read(const dataset *d, int64_t i, int view, const char *image, network *dit, shape_view *out,
                     status *st);
void shape_view_free(shape_view *v);

surface_options shape_surface_options(const options *o, uint64_t id);
sampler_config  shape_sampler(const options *o);
/* What the auto-encoder takes for the largest of the first n shapes, in words: for dry runs. */
bool            shapes_print_need(network *vae, const dataset *d, int64_t n, status *st);
/* ST_CONFIG unless the transformer learnt latents of this auto-encoder and both fit the data. */
bool            networks_fit(const network *vae, const network *dit, const dataset *d, status *st);
