/* nccl.h and cuda_runtime_api.h of this folder, and core/device.h: a program that has this file and
 * src/dist/comm_nccl_cuda.c among its sources runs the latter on any machine, for what it asks of NCCL, in which order,
 * of which memory. Sums add in the order of ranks. What a call leaves undefined is spoilt. */
#include "nccl.h"

#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/half.h"

enum { MOST_CALLS = 1024, GPUS = 64 };

/* ---- CUDA ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    (void)flags;
    *e = NULL;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    return e ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    return e || s ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    return e ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaGetDevice(int *gpu) {
    *gpu = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int gpu) {
    return gpu ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : "not ready";
}

struct device_event {
    double at;
};

int device_count(const char **why) {
    *why = "";
    return GPUS;
}
void device_open(int index) {
    CHECK(index < GPUS, "GPU %d", index);
}
void *device_stream(stream_kind s) {
    (void)s;
    return NULL;
}
void *device_alloc(size_t bytes) {
    return malloc(bytes + 1);
}
void device_free(void *p) {
    free(p);
}
void *device_host_alloc(size_t bytes) {
    return malloc(bytes + 1);
}
void device_host_free(void *p) {
    free(p);
}
void device_copy(void *dst, const void *src, size_t bytes, stream_kind s) {
    (void)s;
    memcpy(dst, src, bytes);
}
void device_zero(void *p, size_t bytes, stream_kind s) {
    (void)s;
    memset(p, 0, bytes);
}
void device_sync(stream_kind s) {
    (void)s;
}
device_event *device_event_new(void) {
    return calloc(1, sizeof(device_event));
}
void device_event_free(device_event *e) {
    free(e);
}
void device_event_record(device_event *e, stream_kind s) {
    (void)s;
    e->at = now_seconds();
}
void device_event_wait(device_event *e, stream_kind s) {
    (void)s;
    CHECK(e->at > 0, "a wait for nothing");
}
void device_event_sync(device_event *e) {
    CHECK(e->at > 0, "a wait for nothing");
}
double device_event_seconds(device_event *from, device_event *to) {
    return to->at - from->at;
}

/* ---- groups of ranks ------------------------------------------------------------------------------------------ */

struct pretended_group {
    MPI_Comm m;
    int      rank, size;
};

static struct {
    MPI_Request r[MOST_CALLS];
    int         n, depth;
} calls; /* to and from one rank, of the open group */

static struct pretended_group *group_of(MPI_Comm m) {
    struct pretended_group *g = malloc(sizeof *g);
    CHECK(g, "no memory for a group");
    g->m = m;
    MPI_Comm_rank(m, &g->rank);
    MPI_Comm_size(m, &g->size);
    return g;
}

ncclResult_t ncclGetVersion(int *version) {
    *version = 21800; /* the oldest that has all of this */
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    snprintf(id->internal, sizeof id->internal, "pretended");
    return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t *c, int size, ncclUniqueId id, int rank) {
    MPI_Comm m;
    MPI_Comm_dup(MPI_COMM_WORLD, &m);
    *c = group_of(m);
    CHECK((*c)->size == size && (*c)->rank == rank && strcmp(id.internal, "pretended") == 0, "rank %d of %d", rank,
          size);
    return ncclSuccess;
}
ncclResult_t ncclCommSplit(ncclComm_t c, int color, int key, ncclComm_t *out, void *config) {
    MPI_Comm m;
    CHECK(!config, "a configuration");
    MPI_Comm_split(c->m, color, key, &m);
    *out = group_of(m);
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    MPI_Comm_free(&c->m);
    free(c);
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
    static atomic_int n;
    printf("gave up group %d, of %d\n", atomic_fetch_add(&n, 1) + 1, c->size);
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error) {
    CHECK(c->size > 0, "a group that is gone");
    *error = ncclSuccess;
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t r) {
    return r == ncclSuccess ? "no error" : "in progress";
}
const char *ncclGetLastError(ncclComm_t c) {
    (void)c;
    return "";
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static size_t width_of(ncclDataType_t t) {
    return t == ncclFloat64 ? 8 : t == ncclFloat32 ? 4 : 2;
}

/* Of all ranks' n numbers, into `to`, which may be `from`. */
static void sum_all(const void *from, void *to, size_t n, ncclDataType_t t, ncclComm_t c) {
    size_t bytes = n * width_of(t);
    char  *all = malloc(bytes * (size_t)c->size + 1);
    CHECK(all && n > 0, "a sum of %zu numbers", n);
    MPI_Allgather(from, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, c->m);
    for (size_t i = 0; i < n; i++) {
        double s = 0;
        for (size_t r = 0; r < (size_t)c->size; r++)
            s += t == ncclFloat64   ? ((const double *)(void *)all)[r * n + i]
                 : t == ncclFloat32 ? (double)((const float *)(void *)all)[r * n + i]
                                    : (double)bf16_to_f32(((const uint16_t *)(void *)all)[r * n + i]);
        if (t == ncclFloat64)
            ((double *)to)[i] = s;
        else if (t == ncclFloat32)
            ((float *)to)[i] = (float)s;
        else
            ((uint16_t *)to)[i] = f32_to_bf16((float)s);
    }
    free(all);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t s) {
    CHECK(op == ncclSum && !s, "reduction %d", (int)op);
    sum_all(from, to, n, t, c);
    return ncclSuccess;
}

ncclResult_t ncclReduce(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, int root, ncclComm_t c,
                        cudaStream_t s) {
    CHECK(root >= 0 && root < c->size, "root %d of %d", root, c->size);
    ncclAllReduce(from, to, n, t, op, c, s);
    if (c->rank != root) memset(to, 0xff, n * width_of(t));
    return ncclSuccess;
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c,
                               cudaStream_t s) {
    size_t bytes = n * width_of(t), own = (size_t)c->rank * bytes;
    char  *sum = malloc(bytes * (size_t)c->size);
    CHECK((const char *)to == (const char *)from + own, "rank %d scatters to another place", c->rank);
    ncclAllReduce(from, sum, n * (size_t)c->size, t, op, c, s);
    memset((char *)to - own, 0xff, bytes * (size_t)c->size);
    memcpy(to, sum + own, bytes);
    free(sum);
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t s) {
    int bytes = (int)(n * width_of(t));
    CHECK((const char *)from == (const char *)to + (size_t)c->rank * (size_t)bytes && !s,
          "rank %d gathers from another place", c->rank);
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, to, bytes, MPI_BYTE, c->m);
    return ncclSuccess;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t t, int root, ncclComm_t c,
                           cudaStream_t s) {
    CHECK(from == to && !s, "a broadcast to another place");
    MPI_Bcast(to, (int)(n * width_of(t)), MPI_BYTE, root, c->m);
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *from, size_t n, ncclDataType_t t, int to, ncclComm_t c, cudaStream_t s) {
    CHECK(calls.depth > 0 && calls.n < MOST_CALLS && !s, "%d calls, depth %d", calls.n, calls.depth);
    MPI_Isend(from, (int)(n * width_of(t)), MPI_BYTE, to, 0, c->m, &calls.r[calls.n++]);
    return ncclSuccess;
}

ncclResult_t ncclRecv(void *to, size_t n, ncclDataType_t t, int from, ncclComm_t c, cudaStream_t s) {
    CHECK(calls.depth > 0 && calls.n < MOST_CALLS && !s, "%d calls, depth %d", calls.n, calls.depth);
    MPI_Irecv(to, (int)(n * width_of(t)), MPI_BYTE, from, 0, c->m, &calls.r[calls.n++]);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    calls.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    CHECK(calls.depth > 0, "the end of no group");
    if (--calls.depth > 0) return ncclSuccess;
    MPI_Waitall(calls.n, calls.r, MPI_STATUSES_IGNORE);
    calls.n = 0;
    return ncclSuccess;
}
