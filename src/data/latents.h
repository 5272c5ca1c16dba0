/* Encoded samples: the posterior of every tile, one file per shard, written by `d3s2 encode`.
 *   / attributes: format "d3s2-latents", version, vae (u64: params_fingerprint of the VAE weights), channels,
 * resolution, tau_voxels, shard (name), complete /sample/ id u64 [S], first i64 [S+1], hash u64 [S];  /tile/coord u16
 * [T,3];  /latent/mean f32 [T,C], logvar f32 [T,C] Same writing rule as shards (NAME.part, fsync, rename). */
#pragma once
#include "core/base.h"

typedef struct {
    char      path[512];
    uint64_t  vae;
    int       channels, resolution;
    double    tau_voxels;
    char      shard[256]; /* file name of the shard, without folder */
    int64_t   n_samples, n_tiles;
    uint64_t *id;    /* [n_samples] */
    int64_t  *first; /* [n_samples+1] */
    uint64_t *hash;
    void     *file;
} latents;

typedef struct latents_writer latents_writer;

/* Before latents_create: removes latents of these samples, refuses to touch another file (data/sample_file.h). */
bool            latents_make_room(const char *path, const uint64_t *id, int64_t n, status *st);
latents_writer *latents_create(const char *path, const latents *meta /* vae, channels, resolution, tau, shard */,
                               status *st);
/* mean, logvar: [n_tiles, channels]; coord: [n_tiles,3]. */
bool latents_append(latents_writer *w, uint64_t id, int64_t n_tiles, const uint16_t *coord, const float *mean,
                    const float *logvar, status *st);
bool latents_finish(latents_writer *w, status *st);
void latents_abandon(latents_writer *w);

bool     latents_open(latents *l, const char *path, status *st);
void     latents_close(latents *l);
/* Malloc'ed arrays, verified against the hash. */
bool     latents_read(const latents *l, int64_t i, uint16_t **coord, float **mean, float **logvar, status *st);
/* All *.h5 latent files of a folder; channels, resolution and VAE fingerprint must agree. Not all stay open. */
bool     latents_open_all(const char *folder, latents **out, int *n_out, status *st);
void     latents_close_all(latents *l, int n);
/* As shard_pack_all. */
char    *latents_pack_all(const latents *l, int n, int64_t *bytes);
latents *latents_unpack_all(const char *packed, int64_t bytes, int *n);
