/* The image encoder with weights: preprocessed views to condition tokens (R§5.4), on the CPU or this rank's GPU. */
#pragma once
#include "train/dinov2_load.h"
#include "train/engine.h"
#include "train/view_input.h"

typedef struct {
    place    where;
    engine   e;
    dinov2   m;
    arena    weights, host, copy; /* host, copy: of one batch, and on the GPU */
    uint64_t fingerprint;         /* of the weights and the image size */
    int      size;                /* of images, in pixels */
} image_encoder;

/* weights: a safetensors file. size: of the preprocessed images, a multiple of 14. */
bool image_encoder_open(image_encoder *e, const char *weights, int size, const place *where, status *st);
void image_encoder_close(image_encoder *e); /* also of one that is all zero */

/* Fills token, coord and n_tokens of n views of that size; sparse: the class and register tokens and the foreground
 * patches only, else all. */
void image_encoder_run(image_encoder *e, view_input *const *v, int n, bool sparse);
