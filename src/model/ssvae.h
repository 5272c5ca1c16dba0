/* SS-VAE: the sparse SDF auto-encoder (R§3). Encoder: active voxels -> posterior of every tile; decoder: latent tokens
 * -> all 512 voxels of every tile. Parameter names and shapes as R§10.2. */
#pragma once
#include "nn/layers.h"

enum { SSVAE_LEVELS = 3 };

typedef struct {
    int    width, blocks_enc, blocks_dec, heads, mlp_ratio, latent_channels;
    int    width_dec, heads_dec;    /* of the decoder; 0: as the encoder */
    int    enc_width[SSVAE_LEVELS]; /* 32, 64, 128: input of the down blocks; the last one ends at `width` */
    int    dec_width[SSVAE_LEVELS]; /* 128, 64, 32: output of the up blocks */
    int    groups;                  /* GroupNorm groups of the down blocks */
    int    window;                  /* shift is window/2 in odd blocks */
    bool   pool_add_one;            /* R§3.1: sum/(n+1) */
    double up_gain;           /* initial kernels of the up blocks over the published bound; 0 is 1. Those blocks have
                                 no norm: sqrt(6) keeps the signal's variance through SiLU, 1 shrinks it 3-fold a layer */
    double centre_gain;       /* initial centre taps of all 3^3 kernels: standard deviation centre_gain/sqrt(in), so
                                 that a cell passes on what it knows before it looks around; 0: as the other taps */
    bool   blocks_start_zero; /* output projections of the transformer blocks start at 0 (published: Xavier) */
    double logvar_init;       /* initial bias of the posterior's log-variance; published 0 */
    double factor;            /* positional-embedding multiplier, R§3.7, times frame/R where there is a frame: */
    int    frame;             /* the grid in whose coordinates the embedding counts; 0: each resolution in its own */
} ssvae_config;

typedef struct ssvae_layers ssvae_layers; /* the rows of the table by role; ssvae.c */

typedef struct {
    ssvae_config  cfg;
    params        p;
    ssvae_layers *l;
} ssvae;

/* Adds all rows; slabs come from params_alloc(&m->p, ...). Layer ids: 0 .. ssvae_n_layers-1 in forward order. */
void ssvae_init(ssvae *m, const ssvae_config *cfg);
void ssvae_free(ssvae *m);
int  ssvae_n_layers(const ssvae_config *cfg);

/* Ragged batch of tiles: everything the network needs besides weights. Host tables in the arena given to the builder.
 */
typedef struct {
    int           n_samples;
    int64_t       n_tiles, n_active;
    double        factor;       /* of this batch's coordinates in the positional embedding */
    tensor        coord;        /* (T,3) i32 */
    tensor        sample_first; /* (B+1) i32 */
    tensor        nb;           /* (T,27) */
    window_tables window[2];    /* shift 0 and window/2 */
    grid          enc[4];       /* masked, side 8, 4, 2, 1; only with voxels */
    tensor        pool_first[3];
    tensor        sdf;    /* (V,1) f32 values of the active voxels, row order of enc[0]; only with voxels */
    grid          dec[4]; /* dense, side 1, 2, 4, 8 */
} ssvae_batch;

/* The multiplier for data of this resolution (0: unknown, no frame). */
double ssvae_factor(const ssvae_config *cfg, int resolution);

/* coord (T,3) i32 in R§4.2 order with block edge cfg->window, sample_first (B+1); all samples of one resolution. value
 * (T,512) f32 normalised truncated SDF in Morton order, or NULL for a batch that is only decoded; |value| < 1 marks the
 * active voxels. */
ssvae_batch ssvae_batch_build(arena *host, const ssvae_config *cfg, int resolution, const tensor *coord,
                              const tensor *sample_first, const float *value);
/* The same from the mask of the active voxels, (T,8) u64 (grid.h), or NULL; their values, b.sdf, are left to the
 * caller.
 */
ssvae_batch ssvae_batch_of_mask(arena *host, const ssvae_config *cfg, int resolution, const tensor *coord,
                                const tensor *sample_first, const tensor *mask);

/* Visits every tensor of the batch that the forward passes hand to ops, each once; some are views of one memory. */
void ssvae_batch_tensors(ssvae_batch *b, tensor_visit f, void *user);

/* Moments (T, 2*latent) f32: mean, logvar (not clamped). */
var *ssvae_encode(tape *t, ssvae *m, const ssvae_batch *b);
/* z (T,latent) f32 -> prediction (512 T, 1) f32 after tanh; row 512*tile + Morton cell. */
var *ssvae_decode(tape *t, ssvae *m, const ssvae_batch *b, var *z);

/* Chunked decoding (R§3.8): the transformer on the whole sample, the up blocks on sub-cubes of `chunk_edge` tiles per
 * axis with `padding` tiles around (4 is exact, but for the rounding of products by a BLAS or a GPU), each voxel once.
 * Forward only; out (512 T) f32 host memory. */
void ssvae_decode_chunked(tape *t, ssvae *m, const ssvae_batch *b, var *z, int chunk_edge, int padding, float *out);

/* Training on a part: the transformer on everything, the up blocks on the tiles of one box per sample, lo <= tile coord
 * < hi (B,2,3) int32, plus `padding` tiles of context whose prediction is dropped. kept (returned through *kept, host,
 * i32) lists the tile rows whose 512 predictions the result holds, in order. */
var *ssvae_decode_part(tape *t, ssvae *m, const ssvae_batch *b, var *z, const int32_t *box, int padding, arena *host,
                       tensor *kept);
