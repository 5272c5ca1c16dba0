/* The pieces of the SS-VAE, for the two ways of decoding (ssvae.c, ssvae_chunk.c) and for tests of single blocks. */
#pragma once
#include "model/ssvae.h"
#include "model/transformer.h"

/* DownBlock (R§3.2): a = pool(SiLU(GN(x)));  a = conv3(SiLU(GN(conv3(a))));  out = a + skip(pool(x)). skip: NULL rows
 * when the width does not change. */
typedef struct {
    affine norm_in, conv_in, norm_out, conv_out, skip;
} down_rows;

/* UpBlock (R§3.4): out = SiLU(conv3(subdivide(SiLU(conv3(x))))). */
typedef struct {
    affine conv_in, conv_out;
} up_rows;

down_rows down_rows_add(params *p, int layer, int64_t in, int64_t out, double centre, const char *prefix);
up_rows   up_rows_add(params *p, int layer, int64_t in, int64_t out, double gain, double centre, const char *prefix);

typedef struct {
    const down_rows *r;
    const affine    *lift; /* Linear in front (input_layer1) of (V,1), or NULL */
    const grid      *fine, *coarse;
    const tensor    *pool_first;
    int              groups;
    bool             pool_add_one;
} down_args;

typedef struct {
    const up_rows *r;
    const affine  *head; /* Linear and tanh behind (out_layer), or NULL: the activations behind SiLU are nowhere */
    const grid    *coarse, *fine;
} up_args;

/* segment_fn's over in[0]. */
var *down_block(tape *t, const void *args, var *const *in);
var *up_block(tape *t, const void *args, var *const *in);

struct ssvae_layers {
    affine             lift, enc_in, enc_out, dec_in, dec_out;
    down_rows          down[SSVAE_LEVELS];
    up_rows            up[SSVAE_LEVELS];
    window_block_rows *enc_block, *dec_block;
};

/* Width and heads of the decoder: its own, or the encoder's where the configuration leaves them 0. */
int ssvae_dec_width(const ssvae_config *cfg);
int ssvae_dec_heads(const ssvae_config *cfg);

/* Each is one segment. */
var *ssvae_down(tape *t, ssvae *m, const ssvae_batch *b, int level, var *x);
var *ssvae_enc_stem(tape *t, ssvae *m, const ssvae_batch *b, var *x);
var *ssvae_enc_block(tape *t, ssvae *m, const ssvae_batch *b, int i, var *x);
var *ssvae_enc_head(tape *t, ssvae *m, var *x);
var *ssvae_dec_stem(tape *t, ssvae *m, const ssvae_batch *b, var *z);
var *ssvae_dec_block(tape *t, ssvae *m, const ssvae_batch *b, int i, var *x);
/* level 0..2 between dec[level] and dec[level + 1]; the last one ends in the prediction. */
var *ssvae_up(tape *t, ssvae *m, const grid dec[4], int level, var *x);

/* ssvae_encode with the voxels' values as a var, (V,1) in row order of enc[0]. */
var *ssvae_encode_values(tape *t, ssvae *m, const ssvae_batch *b, var *x);
/* The part of the decoder over latent tokens: z (T,latent) -> (T,width). */
var *ssvae_decode_tokens(tape *t, ssvae *m, const ssvae_batch *b, var *z);
/* The part over voxels, on any set of tiles: x (T,width) -> (512 T,1). */
var *ssvae_decode_voxels(tape *t, ssvae *m, const grid dec[4], var *x);
/* The four dense levels of a set of tiles. */
void ssvae_dense_levels(arena *host, const tensor *nb, const tensor *sample_first, grid dec[4]);
