/* What the files behind comm_nccl.h share in a build with CUDA. Calls are enqueued on STREAM_COMM. */
#pragma once
#include "dist/comm_nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>

#include "core/device.h"

/* Groups of ranks: all, and with levels this rank's node and column (comm_levels.h). */
typedef enum { GROUP_ALL, GROUP_INSIDE, GROUP_BETWEEN, GROUPS } group;

typedef struct {
    cudaEvent_t e;
    char        what[96];
    int64_t     step;
} stream_mark;

struct nccl {
    ncclComm_t           comm[GROUPS];
    const struct levels *levels; /* NULL: there is one group */
    int                  rank, size, gpu;
    double               patience;
    int64_t              step;
    device_event        *computed, *reduced;
    bool                 joined; /* STREAM_COMPUTE waits for everything so far */

    pthread_t       thread; /* the watch; below: under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t  changed;
    bool            stop;
    ncclComm_t      looked_at[GROUPS]; /* comm while it is alive */
    const char     *inside;            /* the call that has not returned, NULL: none */
    double          inside_since;
    stream_mark     mark[2];
    int             older;
    bool            waiting, younger; /* for mark[older]; mark[!older] stands behind it */
    double          waiting_since;
};

/* Ends the job but for ncclSuccess. */
void nccl_check(const struct nccl *n, ncclResult_t r, const char *call);
#define NCCL_DO(n, call) nccl_check(n, call, #call)

static inline cudaStream_t nccl_stream(void) {
    return device_stream(STREAM_COMM);
}

static inline ncclDataType_t nccl_type(const tensor *x) {
    CHECK(x->dev == DEV_CUDA && (x->dt == DT_F32 || x->dt == DT_BF16 || x->dt == DT_F64), "NCCL on %s %s",
          dtype_name(x->dt), x->dev == DEV_CUDA ? "of a GPU" : "of the CPU");
    return x->dt == DT_F32 ? ncclFloat32 : x->dt == DT_F64 ? ncclFloat64 : ncclBfloat16;
}

static inline char *nccl_at(const tensor *x, int64_t i) {
    return (char *)x->data + (size_t)i * dtype_size(x->dt);
}

static inline void nccl_broadcast(struct nccl *n, const tensor *x, int root, group g) {
    size_t count = (size_t)tensor_count(x);
    if (count > 0) NCCL_DO(n, ncclBroadcast(x->data, x->data, count, nccl_type(x), root, n->comm[g], nccl_stream()));
}

/* Where the communicator has levels. `first` as for nccl_sum_slices; NULL: the whole sum to all. */
void nccl_sum_by_levels(struct nccl *n, const tensor *x, const int64_t *first);
void nccl_share_by_levels(struct nccl *n, const comm_piece *piece, int n_pieces);
