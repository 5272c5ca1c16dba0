/* Gradient buckets: contiguous pieces of the flat gradient slab whose sums over the ranks start while backward still
 * runs.
 *
 * A bucket may start when all layers that own rows in it are complete. Buckets start in one fixed order (by the layer
 * that completes them, last layers first), the same on every rank whatever its number of micro-batches, so ranks
 * without data take part. The layout knows rows only as (offset, count, layer): it does not see models. */
#pragma once
#include "dist/comm.h"

typedef struct {
    int64_t offset, count;
    int     layer; /* -1: complete at the end of the whole backward */
} bucket_row;

typedef struct {
    int64_t       first, count; /* floats of the slab */
    int           min_layer;    /* backward runs from the last layer to the first: this one completes the bucket */
    comm_request *request;
} bucket;

typedef struct {
    const comm *c;
    bucket     *item; /* in the order of starting */
    int         n, n_started, n_layers;
    bool       *layer_done;
    tensor      slab;
    int64_t    *slice, *part; /* [size+1] slices of the slab, and of one bucket; NULL: everybody needs everything */
    double      exposed;      /* seconds the last finish waited; on a GPU it waits in the stream, not here */
    /* With narrow (as long as the slab, bf16) sums travel rounded: cast copies from a tensor to one of the other dtype,
     * on the GPU in STREAM_COMPUTE. */
    tensor      narrow;
    void (*cast)(void *user, const tensor *from, tensor *to);
    void *user;
} buckets;

/* rows in ascending offset, covering the slab of `total` floats but for padding. bucket_bytes: least size of a bucket.
 */
void buckets_init(buckets *b, const comm *c, const bucket_row *rows, int n_rows, int64_t total, int64_t bucket_bytes);
/* comm_owner(c, s) needs the sums of elements slice[s] .. slice[s+1]-1 only; the rest of the slab is undefined after
 * the finish. */
void buckets_slice(buckets *b, const int64_t *slice);
void buckets_free(buckets *b);

/* Start of a step's last micro-batch (or of a step without any). */
void   buckets_begin(buckets *b, const tensor *slab);
/* A layer's gradients are complete on this rank; -1: all of them. Starts what may start. */
void   buckets_layer_done(buckets *b, int layer);
/* Collective: starts the rest, waits for all (on a GPU in stream order: comm_wait). The slab then holds the sums
 * (with buckets_slice: its slice does).
 * Returns the seconds it took, which in host memory is what communication cost beyond backward. */
double buckets_finish(buckets *b);
