/* 8-bit images and PNG (libpng), JPEG decode for textures (libjpeg). */
#pragma once
#include "core/base.h"

typedef struct {
    int      width, height, channels; /* 1, 3 or 4 */
    uint8_t *pixel;                   /* [height,width,channels] */
} image;

void image_free(image *im);
bool image_read(const char *path, image *im, status *st); /* PNG or JPEG by content */
bool image_decode(const uint8_t *bytes, int64_t n, const char *name, image *im, status *st);
bool image_encode_png(const image *im, uint8_t **bytes, int64_t *n, status *st); /* malloc'ed */
bool image_write_png(const char *path, const image *im, status *st);
