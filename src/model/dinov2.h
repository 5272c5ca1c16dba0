/* DINOv2 with registers, ViT-S/B/L/g of 14x14 patches: the encoder of condition images (R§5.4). Forward only.
 *
 * One image of S x S patches is 1 + R + S^2 rows: class token, R registers, patches row by row.
 *   x = patches W^T + e          e: bias and position of a patch; class token and its position; a register alone
 *   x += Out(Attn(LN(x))), x += MLP(LN(x))   per block; LN affine, eps 1e-6; erf GELU, or SiLU(a) * b (ViT-g)
 *   result: LayerNorm(x) without affine, eps 1e-5: the tokens before the network's own last norm, as R§5.4 takes them
 * Layer scales are part of the Out and second MLP weights, so the table has fewer rows than the published file. */
#pragma once
#include "model/transformer.h"

typedef struct {
    int  width, blocks, heads, registers;
    int  mlp_width; /* of what goes into the second matrix */
    bool gated;     /* SiLU(a) * b, a and b from one matrix */
    int  side;      /* S, of the images that are encoded */
} dinov2_config;

typedef struct {
    affine norm1, qkv, out, norm2, mlp_in, mlp_out;
} dinov2_block;

typedef struct {
    dinov2_config cfg;
    params        p;
    param        *patch, *rows; /* (C,588); (1+R+S^2,C): e, the special rows first */
    dinov2_block *block;        /* [blocks] */
} dinov2;

void                  dinov2_init(dinov2 *m, const dinov2_config *cfg);
void                  dinov2_free(dinov2 *m);
static inline int64_t dinov2_tokens(const dinov2_config *c) {
    return 1 + c->registers + (int64_t)c->side * c->side;
}

/* What a pass over n images reads; made in host memory, then moved (dinov2_batch_tensors). */
typedef struct {
    int64_t images;
    tensor  pixels;             /* (T,588) f32, normalised; special rows 0 */
    tensor  index, first, each; /* (T) place in an image; (images+1); (T+1) 0..T */
} dinov2_batch;

dinov2_batch dinov2_batch_build(arena *host, const dinov2_config *cfg, int64_t images);
/* Where the S^2 rows of image i go. */
float       *dinov2_pixels(const dinov2_batch *b, const dinov2_config *cfg, int64_t i);
void         dinov2_batch_tensors(dinov2_batch *b, tensor_visit f, void *user);

/* (T,C) f32. `prenorm`, when given, gets the rows before the last norm. */
var *dinov2_forward(tape *t, const dinov2 *m, const dinov2_batch *b, var **prenorm);

/* Position rows for another grid: in (from*from,C) to out (to*to,C), bicubic with antialias (a = -0.5, as wide as the
 * reduction, edges renormalised), aligned at corners of cells. Equal sides copy. */
void dinov2_resize_positions(const float *in, int from, int64_t width, float *out, int to);
