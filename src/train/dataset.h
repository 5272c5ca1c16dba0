/* The data of a run as one list: all shards of a folder, or of several one after the other, and, for the transformer,
 * their latents. Tables are small and read at the start; tiles, views and latents are read by index. Every rank has
 * the same files in the same order, so an index means the same sample everywhere. Reading is not thread-safe: one
 * thread at a time. */
#pragma once
#include "data/latents.h"
#include "data/shard.h"
#include "data/tokens.h"
#include "dist/comm.h"
#include "train/sample_cache.h"

typedef struct {
    int      shard;
    int64_t  at; /* in the shard */
    uint64_t id;
    int64_t  tiles, n_in, n_sharp;
    int      views;
} data_entry;

/* Samples first .. first+n-1 of the list. Folders may differ in resolution. */
typedef struct {
    int64_t first, n;
    int     resolution;
    double  tau_voxels;
} data_folder;

enum { DATA_FOLDERS = 16 };

typedef struct {
    data_folder   folder[DATA_FOLDERS];
    int           n_folders;
    shard        *shards;
    latents      *lat; /* [n_lat], NULL without */
    token_file   *tok; /* [n_tok], NULL without */
    int           n_shards, n_lat, n_tok;
    int          *folder_of, *lat_of, *tok_of; /* [n_shards] */
    data_entry   *entry;
    int64_t       n, n_left_out, total_tiles, max_tiles;
    int64_t      *tokens;     /* [n] tiles that a step sees of each, for the plan */
    uint64_t     *ids;        /* [n] */
    int           resolution; /* the largest of the folders', and its tau */
    double        tau_voxels;
    uint64_t      vae; /* fingerprint of the latents' VAE; 0 without */
    int           channels;
    uint64_t      encoder; /* fingerprint of the condition tokens' encoder; 0 without */
    sample_cache *cache;   /* NULL without */
} dataset;

typedef struct {
    const char *shards, *latents, *tokens; /* folders; latents, tokens NULL or "": none */
    bool        several;                   /* shards is a list of folders with commas between */
    int         resolution;                /* 0: what the shards say */
    int64_t     min_tiles, max_tiles;      /* samples with fewer or more are left out; 0: no bound */
    double      max_open_share;            /* of edges; 0 or 1: no bound */
    int64_t     max_parts;                 /* of the mesh; 0: no bound */
    int64_t     crop_tiles;                /* training sees no more tiles of a sample; 0: sees all */
    int64_t     cache_mb;                  /* room for samples that were read; 0: none */
    const comm *c; /* of the ranks that open the same shards: one reads the tables for all; NULL: each for itself */
} dataset_request;

/* Collective, with r->c. An id may occur once at each resolution. Latents and condition tokens go with one folder, and
 * must fit: a file for every shard; latents of the same ids and tile counts, the coordinates of each shard's first
 * sample; tokens of the same ids and numbers of views. */
bool dataset_open(dataset *d, const dataset_request *r, status *st);
void dataset_close(dataset *d);

/* Voxel grid of sample i. */
int      dataset_resolution(const dataset *d, int64_t i);
/* The i-th of all samples when the folders take turns, so that any first few are of all of them. */
int64_t  dataset_in_turn(const dataset *d, int64_t i);
/* Hash of the samples' stored hashes, in their order: the same names with other content differ. */
uint64_t dataset_content(const dataset *d);

/* Sample i with its tiles; sample_free. */
bool    dataset_read(const dataset *d, int64_t i, sample *out, status *st);
/* The same into a sample that was read before or is empty: its memory is used again. */
bool    dataset_read_again(const dataset *d, int64_t i, sample *io, status *st);
/* The same of the n tiles nearest to tile `centre` (data/crop.h). */
bool    dataset_read_part(const dataset *d, int64_t i, int64_t n, int64_t centre, sample *io, status *st);
/* Latents of sample i: malloc'ed coord (n,3), mean and logvar (n,channels). */
bool    dataset_read_latents(const dataset *d, int64_t i, uint16_t **coord, float **mean, float **logvar, status *st);
/* Condition tokens of a view (variants count on within it, tokens.h); malloc'ed (n,width) and (n,3). */
bool    dataset_read_tokens(const dataset *d, int64_t i, int64_t view, int64_t *n, float **token, int32_t **coord,
                            status *st);
/* PNG of one view; malloc'ed. */
bool    dataset_read_view(const dataset *d, int64_t i, int view, uint8_t **png, int64_t *png_size, status *st);
/* How many samples of b are in a too. */
int64_t dataset_common(const dataset *a, const dataset *b);
