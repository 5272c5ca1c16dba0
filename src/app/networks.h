/* Trained networks for one sample at a time: loaded from a checkpoint with the configuration stored in it. Tiles come
 * and go in the order of the shard; each network's own order stays inside. */
#pragma once
#include "io/atomic_file.h"
#include "io/options.h"
#include "model/sampler.h"
#include "model/ssvae.h"
#include "train/grid_range.h"
#include "train/image_encoder.h"
#include "train/pass_need.h"

typedef enum { PASS_ENCODE, PASS_DECODE, PASS_SAMPLE, PASS_FLOW, PASS_KINDS } pass_kind;

typedef struct {
    char          path[PATH_CAP]; /* of the checkpoint */
    options      *o;              /* the configuration it was trained with */
    ssvae         vae;
    ssdit         dit;
    bool          is_vae;
    int64_t       step;
    uint64_t      fingerprint; /* of the weights in use */
    uint64_t      trained_on;  /* of a transformer: fingerprint of the VAE its latents came from */
    uint64_t      seen;        /* the same of the image encoder its conditions came from, 0: of none with weights */
    grid_range    grid;        /* it was trained on */
    image_encoder encoder;     /* of a transformer, after network_encoder, where its conditions need one */
    arena         weights, work, book;
    size_t        gpu_per_tile;     /* of scratch memory */
    arena         host, copy;       /* tables and inputs of one pass; on a GPU their copy there */
    size_t        told[PASS_KINDS]; /* bytes of activations that were told of */
    ctx           c;
    tape          t;
} network;

/* path: a step-N folder or a run folder. ST_CONFIG when it is the other kind of network. where: place_open of the
 * caller's options. */
bool network_load(network *n, const char *path, bool want_vae, bool ema, const place *where, status *st);
void network_free(network *n);
/* The image encoder that the transformer was trained with, from o's cond.weights; nothing for one that has no weights.
 */
bool network_encoder(network *dit, const options *o, const place *where, status *st);

/* One sample's tiles. */
typedef struct {
    const char     *name; /* for messages */
    uint64_t        id;
    int             resolution; /* of the shard */
    int64_t         n;
    const uint16_t *coord; /* [n,3] */
} tile_set;

/* Moments' mean (n, latent_channels) of value (n,512). */
bool vae_encode(network *v, const tile_set *t, const float *value, float *mean, status *st);
/* value (n,512) of latents z (n, latent_channels). */
bool vae_decode(network *v, const tile_set *t, const float *z, float *value, status *st);

/* What a pass takes where the network is, from a dry pass. */
bool   vae_encode_need(network *v, const tile_set *t, const float *value, pass_need *need, status *st);
bool   vae_decode_need(network *v, const tile_set *t, pass_need *need, status *st);
/* Bytes of the GPU that are in use without the network's passes, and *all of them; both 0 on the CPU. */
size_t network_gpu_base(const network *n, size_t *all);

/* z (n, channels): sampled under the condition. */
bool dit_sample(network *d, const tile_set *t, const view_input *view, const sampler_config *cfg, float *z, status *st);
/* Mean squared error of the velocity at x_t = (1-t) z + (s + (1-s) t) eps, for each of n_times times (R§6). */
bool dit_flow_loss(network *d, const tile_set *t, const view_input *view, const float *z, const float *eps, int n_times,
                   const double *time, double *loss, status *st);
