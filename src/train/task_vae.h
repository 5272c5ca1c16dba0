/* What the two files of the auto-encoder's task share: its options, and what a micro-batch holds. */
#pragma once
#include "data/shard.h"
#include "model/ssvae_chunk.h"
#include "train/task.h"

enum { SUM_IN, SUM_EXT, SUM_SHARP, SUM_KL, SUMS };

/* Where the loader reads to, again and again: one sample for each of a micro-batch, and where each row's cells are. */
typedef struct {
    sample          *s;
    const uint16_t **value; /* [row] (512) */
    const uint8_t  **sharp; /* [row] (64) */
    int64_t          n_samples, n_rows;
} vae_reading;

typedef struct {
    task         base;
    ssvae        m;
    double       weight[SUMS];
    int64_t      crop;                 /* tiles of a sample that a step sees; 0: all */
    int          chunk, padding, grid; /* grid: tiles across the largest resolution */
    int          augment;              /* opt_vae_augment_*: a random symmetry for each sample of a step */
    vae_reading *reading;
} vae_task;

typedef struct {
    ssvae_batch b;
    tensor      target, sharp, eps; /* (512T) f32, (64T) u8 (T: of the part, if there is one), (T,C) f32 */
    bool        mean;               /* decode the mean: held-out data */
    int32_t    *box;                /* (B,2,3), NULL: everything is decoded */
    ssvae_part  part;               /* with box */
} vae_body;

/* task.host_bytes and task.load */
size_t       vae_host_bytes(const task *t, int64_t tiles, int64_t samples);
bool         vae_load(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                      micro_batch *b, status *st);
vae_reading *vae_reading_new(void);
void         vae_reading_free(vae_reading *r);
