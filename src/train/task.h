/* What a trainer trains: a network, how a micro-batch is made from samples, and its loss as sums over the GLOBAL batch.
 *
 * Each sum s has a global count c; its mean is s/c (0 when c is 0). Gradients are scaled by 1/c in forward, so the sum
 * of the gradients over micro-batches and ranks is the gradient of the global batch, however it was split. */
#pragma once
#include "core/device.h"
#include "io/options.h"
#include "nn/tape.h"
#include "train/dataset.h"
#include "train/plan.h"

enum { TASK_SUMS = 16, TASK_TENSORS = 2, NO_SUM = 255 };

/* Made by the loader's thread in host memory of its own; everything reached through it lives as long as that arena. For
 * a GPU the arena is copied as it is, and the tensors of the body are moved over to the copy (upload.h). */
typedef struct {
    int64_t n_samples, n_tiles;
    double  count[TASK_SUMS]; /* of this micro-batch */
    double  seconds;          /* that it took to prepare */
    void   *body;             /* the task's */
    arena  *host;
    char   *base; /* what the body's tensors point into: host->base, or its copy */
    /* The losses of forward are this many f64 values in all; value k is added to sums into[k][0] and [1] (or NO_SUM).
     */
    int64_t n_values;
    uint8_t (*into)[2];
    device_event *uploaded; /* the owner's; NULL without a GPU */
    /* Samples that could not be read, left out of it: places in the data set, and what is wrong with the first. A batch
     * without any sample has no body. */
    int64_t       n_bad, *bad;
    char         *bad_text;
} micro_batch;

/* An empty one in an arena that is empty. */
static inline micro_batch micro_batch_in(arena *host, device_event *uploaded) {
    return (micro_batch){.host = host, .base = host->base, .uploaded = uploaded};
}

typedef struct {
    int64_t step;
    bool    eval; /* held-out data: no augmentation, no dropped condition, noise that does not change with the step */
    /* For dry passes: where a step sees parts (count_batches), the shapes of the largest batch that such tokens can
     * give, in this many samples. 0: as it is. */
    int64_t largest;
} batch_purpose;

typedef struct task task;

struct task {
    const char *name;
    params     *p;
    int         n_layers, n_sums;
    const char *sum_name[TASK_SUMS];
    size_t (*scratch_per_tile)(const task *t); /* on a GPU, by p->act (setup.h) */
    bool     count_batches; /* counts are known only from the batches themselves (a step decodes parts) */
    uint64_t seed;

    /* Upper bound of host memory for a micro-batch. */
    size_t (*host_bytes)(const task *t, int64_t tiles, int64_t samples);
    /* Reads and prepares items; a bad sample is a status naming file and sample. Called from the loader's thread. */
    bool (*load)(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                 micro_batch *b, status *st);
    /* Counts of a whole step from the index alone; not called with count_batches. */
    void (*counts)(const task *t, const dataset *d, const plan_step *s, double count[TASK_SUMS]);
    /* Every tensor of the body that forward hands to ops, each once. */
    void (*tensors)(const task *t, micro_batch *b, tensor_visit f, void *user);
    /* Forward and loss on the tape. value[] gets the losses, f64 in step memory, b->n_values in all; returns how many
     * tensors these are. What it reads on the host is not among `tensors`. */
    int (*forward)(task *t, tape *tp, const micro_batch *b, const double count[TASK_SUMS], tensor value[TASK_TENSORS]);
    double (*loss)(const task *t, const double mean[TASK_SUMS]);
    void (*free)(task *t);
};

/* The network and its options; the slabs are not there yet (params_alloc). NULL with a status when options and data do
 * not go together. `d` is looked at, not kept. */
task *task_vae_new(const options *o, const dataset *d, status *st);
task *task_dit_new(const options *o, const dataset *d, status *st);
