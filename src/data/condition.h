/* From a condition view to what the image encoder sees (R§2.8, R§5.4): preprocessing, the foreground patch mask, token
 * extraction, and the `patches` encoder, which is no network: a token is a patch's normalised pixels. */
#pragma once
#include "io/image.h"

enum { PATCH_SIDE = 14, PATCH_WIDTH = 3 * PATCH_SIDE * PATCH_SIDE };

/* Crop to the bounding box of alpha > 0 (the full frame when under 0.1 % of the pixels are foreground), composite on
 * white, pad to a square (white, mask 0; an odd remainder goes right and below), resize to size (image bilinear with
 * antialias in 8 bits, mask nearest), pad every side by pad pixels, resize to size again.
 * rgba has 4 channels; *rgb [size,size,3] is allocated, mask [size,size] is the caller's (alpha, 0..255). */
bool preprocess(const image *rgba, int size, int pad, image *rgb, uint8_t *mask, status *st);

/* The steps, for tests and other sources. composite: one alpha-weighted pixel is truncated, as numpy's cast does. */
void preprocess_box(const image *rgba, int *x0, int *y0, int *x1, int *y1); /* half open */
void preprocess_composite(const image *rgba, int x0, int y0, int x1, int y1, uint8_t *rgb, uint8_t *mask);

/* patch[r,c] = 1 where the 14x14 patch (row r, column c) of mask [height,width] has a pixel > 0; both multiples of 14.
 */
void patch_mask(const uint8_t *mask, int width, int height, uint8_t *patch);

/* Tokens of an encoder: rows 0..n_special-1 of tokens [n_special+rows*columns, width] are special, then patches row by
 * row. Writes the special tokens at (0,0,1) and the patches whose patch[] is set at (column,row,0); returns their
 * number. out [.,width] and coord [.,3] may be NULL (count only). */
int64_t tokens_extract(const float *tokens, int n_special, int rows, int columns, int width, const uint8_t *patch,
                       float *out, int32_t *coord);

/* The `patches` encoder on a preprocessed image [size,size,3], size a multiple of 14. Sparse: one zero token at
 * (0,0,1), then the foreground patches at (column,row,0); dense: all patches. A token is ((pixel/255) - mean)/std with
 * ImageNet's figures, channel by channel, row by row (588 numbers). coord may be NULL. */
int64_t patches_count(const uint8_t *mask, int size, bool sparse);
void    patches_fill(const image *rgb, const uint8_t *mask, bool sparse, float *tokens /* [n,588] */,
                     int32_t *coord /* [n,3] */);
