/* Where networks are computed: the one place that turns train.device and train.precision into a back end, this rank's
 * GPU and the dtype of activations; for training, encoding, sampling and evaluation. */
#pragma once
#include "core/ctx.h"
#include "dist/comm.h"
#include "io/options.h"

typedef struct {
    const struct backend *be;
    device_kind           dev;
    dtype                 act;
    int                   gpu;       /* of those this process sees; -1 on the CPU */
    char                  text[200]; /* "cuda, bf16: NVIDIA H100 80GB HBM3 (GPU 0 of 2)" */
} place;

/* Collective. Opens this rank's GPU, the one of its number on the host. `alone`: no two ranks may share one, as NCCL
 * wants it. ST_CONFIG with the mend when a rank cannot have what the options say. */
bool place_open(place *p, const options *o, const comm *c, bool alone, status *st);

/* "rank 3 on HOST", for messages about memory; static per thread. */
const char *place_who(void);

/* Collective. Threads that prepare data beside the one that drives the GPU: this rank's share of the host's cores, what
 * OMP_NUM_THREADS allows, at most 8. Where the CPU trains it has no cores to spare: 1. */
int    place_spare_threads(const place *p, const comm *c);
/* The back end opened, without scratch memory yet; place_ctx_free frees that, too. */
ctx    place_ctx(const place *p);
void   place_ctx_free(ctx *c);
/* Scratch memory of an op on batches of n_tiles; gpu_per_tile: of the network on a GPU (setup.h). */
size_t place_scratch_bytes(device_kind dev, int64_t n_tiles, size_t gpu_per_tile);
