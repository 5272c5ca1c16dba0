/* What a trainer trains: a network, how a micro-batch is made from samples, and its loss as sums over the GLOBAL batch.
 *
 * Each sum s has a global count c; its mean is s/c (0 when c is 0). Gradients are scaled by 1/c in forward, so the sum
 * of the gradients over micro-batches and ranks is the gradient of the global batch, however it was split. */
#pragma once
#include "io/options.h"
#include "nn/tape.h"
#include "train/dataset.h"
#include "train/plan.h"

enum { TASK_SUMS = 16 };

/* Made by the loader's thread in host memory of its own; everything reached through it lives as long as that arena. */
typedef struct {
    int64_t n_samples, n_tiles;
    double  count[TASK_SUMS]; /* of this micro-batch */
    void   *body;             /* the task's */
    arena  *host;
} micro_batch;

typedef struct {
    int64_t step;
    bool    eval; /* held-out data: no augmentation, no dropped condition, noise that does not change with the step */
} batch_purpose;

typedef struct task task;

struct task {
    const char *name;
    params     *p;
    int         n_layers, n_sums;
    const char *sum_name[TASK_SUMS];
    bool        count_batches; /* counts are known only from the batches themselves (a step decodes parts) */
    uint64_t    seed;

    /* Upper bound of host memory for a micro-batch. */
    size_t (*host_bytes)(const task *t, int64_t tiles, int64_t samples);
    /* Reads and prepares items; a bad sample is a status naming file and sample. Called from the loader's thread. */
    bool (*load)(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                 micro_batch *b, status *st);
    /* Counts of a whole step from the index alone; not called with count_batches. */
    void (*counts)(const task *t, const dataset *d, const plan_step *s, double count[TASK_SUMS]);
    /* Forward and loss on the tape; *sum gets tensors to read after it (f64 in step memory). With ctx.dry nothing is.
     */
    void (*forward)(task *t, tape *tp, const micro_batch *b, const double count[TASK_SUMS], double sum[TASK_SUMS]);
    double (*loss)(const task *t, const double mean[TASK_SUMS]);
    void (*free)(task *t);
};

/* The network and its options; the slabs are not there yet (params_alloc). NULL with a status when options and data do
 * not go together. `d` is looked at, not kept. */
task *task_vae_new(const options *o, const dataset *d, status *st);
task *task_dit_new(const options *o, const dataset *d, status *st);
