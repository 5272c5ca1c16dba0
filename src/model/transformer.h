/* Rows of the parameter table by role, and the transformer block with windowed attention that the SS-VAE's encoder and
 * decoder share (R§3.2). */
#pragma once
#include "nn/layers.h"

/* Weight and bias of one layer, or scale and shift of one norm. Both NULL: the layer is not there. */
typedef struct {
    param *w, *b;
} affine;

/* <name>.weight (out,in) Xavier uniform, <name>.bias zero. */
affine affine_linear(params *p, int layer, int64_t out, int64_t in, const char *name);
/* <name>.weight one, <name>.bias zero, (width). */
affine affine_norm(params *p, int layer, int64_t width, const char *name);
/* <name>.conv.kernel (27,in,out), or (in,out) for volume 1, and <name>.conv.bias (out): uniform within
 * 1/sqrt(in*volume). */
affine affine_conv(params *p, int layer, int volume, int64_t in, int64_t out, const char *name);

typedef struct {
    affine qkv, out, mlp_in, mlp_out;
} window_block_rows;

window_block_rows window_block_add(params *p, int layer, int64_t width, int64_t mlp_width, const char *prefix);

typedef struct {
    const window_block_rows *r;
    const window_tables     *window;
    int                      heads;
} window_block_args;

/* A segment_fn over in[0] (N,C):  x += Out(Attn(LN(x))), x += MLP(LN(x)); LN without affine, eps 1e-6; softmax
 * attention inside each window; tanh-approximated GELU. */
var *window_block(tape *t, const void *args, var *const *in);
