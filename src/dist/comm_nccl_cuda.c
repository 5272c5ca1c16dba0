/* Sums between GPUs. The communicators are made over MPI; their calls come from one thread and are enqueued on
 * STREAM_COMM.
 *
 * NCCL's kernels wait for other ranks for ever, and so does the host behind them. A watch (one thread, five looks a
 * second) ends the job instead: when NCCL reports an error, when a call does not return, or when what was enqueued is
 * not through in time. It looks at one of two marks in the stream, the older one; the younger one moves along with
 * every call and takes over when the older is reached, so each piece of work has its own patience. */
#define _GNU_SOURCE /* pthread_timedjoin_np */
#include "dist/comm_levels.h"
#include "dist/comm_nccl_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/beat.h"

enum { LOOK_NS = 200000000, ABORT_SECONDS = 5 };

/* ---- the end -------------------------------------------------------------------------------------------------- */

static void *abort_comm(void *arg) {
    ncclCommAbort(arg);
    return NULL;
}

/* Frees the GPU of kernels that will never end. It may itself not return. */
static void give_up_comms(const ncclComm_t lost[GROUPS]) {
    pthread_t       t[GROUPS];
    bool            begun[GROUPS];
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ABORT_SECONDS;
    for (int g = 0; g < GROUPS; g++) begun[g] = lost[g] && pthread_create(&t[g], NULL, abort_comm, lost[g]) == 0;
    for (int g = 0; g < GROUPS; g++)
        if (begun[g]) pthread_timedjoin_np(t[g], NULL, &until);
}

void nccl_check(const struct nccl *n, ncclResult_t r, const char *call) {
    if (r == ncclSuccess) return;
    char text[400];
    snprintf(text, sizeof text, "%s; %.300s", ncclGetErrorString(r), ncclGetLastError(n->comm[GROUP_ALL]));
    give_up_comms(n->comm);
    FATAL("step %lld, GPU %d: %s: %s (NCCL_DEBUG=INFO tells more)", (long long)n->step, n->gpu, call, text);
}

#define CUDA_DO(call)                                                                                                  \
    do {                                                                                                               \
        cudaError_t call_error = (call);                                                                               \
        CHECK(call_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(call_error));                             \
    } while (0)

/* Keeps the mutex: comm_device_settled does not return any more. The watch may have it for the same purpose. */
void nccl_give_up(struct nccl *n) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    pthread_mutex_timedlock(&n->mutex, &until);
    give_up_comms(n->looked_at);
}

/* ---- the watch ------------------------------------------------------------------------------------------------ */

static void out_of_time(struct nccl *n, const char *what, int64_t step) {
    give_up_comms(n->looked_at);
    FATAL(
        "step %lld, GPU %d: %s did not end within %.0f s: another rank has stopped or cannot be reached, or is slower "
        "than train.comm_timeout_s",
        (long long)step, n->gpu, what, n->patience);
}

/* With the mutex held. */
static void look_at_errors(struct nccl *n) {
    for (int g = 0; g < GROUPS; g++) {
        ncclResult_t async = ncclSuccess;
        if (!n->looked_at[g] || ncclCommGetAsyncError(n->looked_at[g], &async) != ncclSuccess || async == ncclSuccess ||
            async == ncclInProgress)
            continue;
        char text[400];
        snprintf(text, sizeof text, "%s; %.300s", ncclGetErrorString(async), ncclGetLastError(n->looked_at[g]));
        give_up_comms(n->looked_at);
        FATAL("step %lld, GPU %d: %s: %s", (long long)n->step, n->gpu, n->mark[n->older].what, text);
    }
}

/* With the mutex held. */
static void look(struct nccl *n) {
    double now = now_seconds();
    look_at_errors(n);
    if (n->inside && now - n->inside_since > n->patience) out_of_time(n, n->inside, n->step);
    if (!n->waiting) return;
    stream_mark *m = &n->mark[n->older];
    cudaError_t  r = cudaEventQuery(m->e);
    if (r == cudaErrorNotReady) {
        cudaGetLastError();
        if (now - n->waiting_since > n->patience) out_of_time(n, m->what, m->step);
        return;
    }
    CHECK(r == cudaSuccess, "step %lld, GPU %d: %s: %s", (long long)m->step, n->gpu, m->what, cudaGetErrorString(r));
    n->older ^= n->younger;
    n->waiting = n->younger;
    n->younger = false;
    n->waiting_since = now;
}

static void *watch(void *arg) {
    struct nccl *n = arg;
    CUDA_DO(cudaSetDevice(n->gpu)); /* a thread starts with GPU 0 */
    pthread_mutex_lock(&n->mutex);
    while (!n->stop) {
        struct timespec until;
        look(n);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&n->changed, &n->mutex, &until);
    }
    pthread_mutex_unlock(&n->mutex);
    return NULL;
}

static void watch_start(struct nccl *n) {
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&n->mutex, NULL);
    pthread_cond_init(&n->changed, &a);
    pthread_condattr_destroy(&a);
    for (int i = 0; i < 2; i++) CUDA_DO(cudaEventCreateWithFlags(&n->mark[i].e, cudaEventDisableTiming));
    int rc = pthread_create(&n->thread, NULL, watch, n);
    CHECK(rc == 0, "no thread to watch NCCL: error %d", rc);
}

static void watch_end(struct nccl *n) {
    pthread_mutex_lock(&n->mutex);
    n->stop = true;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->mutex);
    pthread_join(n->thread, NULL);
    pthread_mutex_destroy(&n->mutex);
    pthread_cond_destroy(&n->changed);
    for (int i = 0; i < 2; i++) CUDA_DO(cudaEventDestroy(n->mark[i].e));
}

static void enter(struct nccl *n, const char *call) {
    pthread_mutex_lock(&n->mutex);
    n->inside = call;
    n->inside_since = now_seconds();
    pthread_mutex_unlock(&n->mutex);
}

static void leave(struct nccl *n) {
    pthread_mutex_lock(&n->mutex);
    n->inside = NULL;
    pthread_mutex_unlock(&n->mutex);
}

/* Puts a mark behind what was just enqueued. */
static void enqueued(struct nccl *n, const char *what, int64_t count, dtype dt) {
    pthread_mutex_lock(&n->mutex);
    stream_mark *m = &n->mark[n->waiting ? !n->older : n->older];
    CUDA_DO(cudaEventRecord(m->e, nccl_stream()));
    snprintf(m->what, sizeof m->what, "%s of %lld %s", what, (long long)count, dtype_name(dt));
    m->step = n->step;
    if (n->waiting) {
        n->younger = true;
    } else {
        n->waiting = true;
        n->waiting_since = now_seconds();
    }
    n->inside = NULL;
    pthread_mutex_unlock(&n->mutex);
    beat_collective(what, count * (int64_t)dtype_size(dt), false);
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static void after_compute(struct nccl *n, const char *call) {
    device_event_record(n->computed, STREAM_COMPUTE);
    device_event_wait(n->computed, STREAM_COMM);
    n->joined = false;
    enter(n, call);
}

/* Sums in double are small and wanted by all: NCCL's own order serves them. */
void nccl_sum(struct nccl *n, const tensor *x) {
    ncclDataType_t type = nccl_type(x);
    size_t         count = (size_t)tensor_count(x);
    if (count == 0) return;
    after_compute(n, "start of a sum");
    if (n->levels && x->dt != DT_F64)
        nccl_sum_by_levels(n, x, NULL);
    else
        NCCL_DO(n, ncclAllReduce(x->data, x->data, count, type, ncclSum, n->comm[GROUP_ALL], nccl_stream()));
    enqueued(n, "sum", (int64_t)count, x->dt);
}

/* Slices differ in length, and of a bucket most are empty: sums to one rank each, in one group. */
void nccl_sum_slices(struct nccl *n, const tensor *x, const int64_t *first) {
    ncclDataType_t type = nccl_type(x);
    ncclComm_t     c = n->comm[GROUP_ALL];
    if (first[n->size] == first[0]) return;
    after_compute(n, "start of a sum of slices");
    if (n->levels) {
        nccl_sum_by_levels(n, x, first);
    } else {
        NCCL_DO(n, ncclGroupStart());
        for (int r = 0; r < n->size; r++) {
            char  *slice = nccl_at(x, first[r]);
            size_t count = (size_t)(first[r + 1] - first[r]);
            if (count > 0) NCCL_DO(n, ncclReduce(slice, slice, count, type, ncclSum, r, c, nccl_stream()));
        }
        NCCL_DO(n, ncclGroupEnd());
    }
    enqueued(n, "sum of slices", first[n->size] - first[0], x->dt);
}

void nccl_share(struct nccl *n, const comm_piece *piece, int n_pieces) {
    int64_t bytes = 0;
    for (int i = 0; i < n_pieces; i++) bytes += (int64_t)tensor_bytes(&piece[i].x);
    after_compute(n, "start of an exchange");
    if (n->levels) {
        nccl_share_by_levels(n, piece, n_pieces);
    } else {
        NCCL_DO(n, ncclGroupStart());
        for (int i = 0; i < n_pieces; i++) nccl_broadcast(n, &piece[i].x, piece[i].owner, GROUP_ALL);
        NCCL_DO(n, ncclGroupEnd());
    }
    enqueued(n, "exchange, in bytes,", bytes, DT_U8);
}

void nccl_join(struct nccl *n) {
    if (n->joined) return;
    device_event_record(n->reduced, STREAM_COMM);
    device_event_wait(n->reduced, STREAM_COMPUTE);
    n->joined = true;
}

/* ---- open and close ------------------------------------------------------------------------------------------- */

static tensor on_gpu(void *p, dtype dt, int64_t n) {
    tensor t = tensor_wrap(p, dt, DIMS(n));
    t.dev = DEV_CUDA;
    return t;
}

static void expect(const comm *c, const char *what, const float *x, float want) {
    float got = NAN;
    device_copy(&got, x, sizeof got, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    CHECK(got == want, "NCCL gave %g for %s over %d ranks that is %g", (double)got, what, c->size, (double)want);
}

/* Zeros, but a 1 at the end of the last rank's. */
static void try_out_fill(const comm *c, float *x, int64_t n) {
    float one = 1;
    device_zero(x, (size_t)n * sizeof *x, STREAM_COMPUTE);
    if (c->rank == c->size - 1) device_copy(x + n - 1, &one, sizeof one, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE); /* of the copy from this stack */
}

/* The first calls of each kind set connections up, so they are made here: a failure is easily told from one of
 * training, and what memory they take is taken before the rest is shared out. */
static void try_out(const comm *c) {
    enum { N = 1 << 20 };
    float      *x = device_alloc(N * sizeof *x);
    int64_t    *first = malloc(((size_t)c->size + 1) * sizeof *first);
    comm_piece *piece = malloc((size_t)c->size * sizeof *piece);
    tensor      all = on_gpu(x, DT_F32, N), last = on_gpu(x + N - 1, DT_F32, 1), wide = on_gpu(x, DT_F64, c->size);
    CHECK(first && piece && c->size <= N / 2, "no memory for %d slices", c->size);
    for (int s = 0; s <= c->size; s++) first[s] = (int64_t)N * s / c->size;
    for (int s = 0; s < c->size; s++)
        piece[s] = (comm_piece){tensor_rows(&all, first[s], first[s + 1] - first[s]), comm_owner(c, s)};
    try_out_fill(c, x, N);
    comm_wait(comm_sum_start(c, &last));
    expect(c, "a sum", x + N - 1, 1);
    comm_wait(comm_sum_start(c, &all));
    expect(c, "a sum", x + N - 1, (float)c->size);
    try_out_fill(c, x, N);
    comm_wait(comm_sum_start(c, &wide));
    comm_wait(comm_sum_slices_start(c, &all, first));
    comm_share(c, piece, c->size);
    expect(c, "a sum of slices", x + N - 1, 1);
    device_free(x);
    free(first);
    free(piece);
}

/* A node's ranks by their places, a column's by their nodes. */
static void split(struct nccl *n) {
    const struct levels *v = n->levels;
    ncclComm_t           all = n->comm[GROUP_ALL];
    NCCL_DO(n, ncclCommSplit(all, v->node, v->place, &n->comm[GROUP_INSIDE], NULL));
    NCCL_DO(n, ncclCommSplit(all, v->place, v->node, &n->comm[GROUP_BETWEEN], NULL));
}

void comm_device_open(comm *c, double timeout_s) {
    if (c->size == 1 || c->nccl) return;
    struct nccl *n = calloc(1, sizeof *n);
    ncclUniqueId id = {{0}};
    CHECK(n, "no memory for NCCL");
    *n = (struct nccl){
        .levels = c->levels, .rank = c->rank, .size = c->size, .patience = timeout_s, .joined = true, .step = -1};
    device_stream(STREAM_COMM); /* makes the open GPU this thread's */
    CUDA_DO(cudaGetDevice(&n->gpu));
    n->computed = device_event_new();
    n->reduced = device_event_new();
    watch_start(n);
    if (c->rank == 0) NCCL_DO(n, ncclGetUniqueId(&id));
    comm_bcast(c, &id, sizeof id, 0);
    enter(n, "the set-up of NCCL's communicators");
    NCCL_DO(n, ncclCommInitRank(&n->comm[GROUP_ALL], n->size, id, n->rank));
    if (n->levels) split(n);
    leave(n);
    pthread_mutex_lock(&n->mutex);
    memcpy(n->looked_at, n->comm, sizeof n->comm);
    pthread_mutex_unlock(&n->mutex);
    c->nccl = n;
    try_out(c);
}

void comm_device_close(comm *c) {
    struct nccl *n = c->nccl;
    if (!n) return;
    device_sync(STREAM_COMM);
    pthread_mutex_lock(&n->mutex);
    memset(n->looked_at, 0, sizeof n->looked_at);
    pthread_mutex_unlock(&n->mutex);
    enter(n, "the end of NCCL's communicators");
    for (int g = GROUPS - 1; g >= 0; g--)
        if (n->comm[g]) NCCL_DO(n, ncclCommDestroy(n->comm[g]));
    leave(n);
    watch_end(n);
    device_event_free(n->computed);
    device_event_free(n->reduced);
    free(n);
    c->nccl = NULL;
}

/* The watch keeps the mutex from the moment it gives up: kernels that it ends leave anything in memory. */
void comm_device_settled(const comm *c) {
    if (!c->nccl) return;
    pthread_mutex_lock(&c->nccl->mutex);
    pthread_mutex_unlock(&c->nccl->mutex);
}

void comm_device_step(const comm *c, int64_t step) {
    struct nccl *n = c->nccl;
    if (!n) return;
    pthread_mutex_lock(&n->mutex);
    n->step = step;
    pthread_mutex_unlock(&n->mutex);
}

const char *comm_device_version(void) {
    static char text[32];
    int         v = 0;
    if (ncclGetVersion(&v) == ncclSuccess) snprintf(text, sizeof text, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    return text;
}
