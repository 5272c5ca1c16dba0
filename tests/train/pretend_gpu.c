/* A pretended GPU: core/device.h, the back end "cuda" and NCCL, for tests of the host's part in machines without one. A
 * program that has this file among its sources takes it in the place of the libraries' own.
 *
 * Its memory is locked but for ops (which are those of the CPU) and copies: the host that reads a device pointer dies
 * of it, if not at once. What runs beside the host comes as late as it may: a copy to the host when the host waits for
 * the stream; a copy on STREAM_COPY when something waits for an event behind it; a sum over the ranks when it is waited
 * for. So a wait that is missing gives wrong numbers, and with all of them the numbers are those of the CPU, bit for
 * bit. Events measure nothing. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/device.h"
#include "core/half.h"
#include "dist/comm_nccl.h"
#include "kernels/backend.h"

enum { MAX_REGIONS = 256, MAX_LATE = 4096, PAGE = 4096 };

/* ---- memory --------------------------------------------------------------------------------------------------- */

static struct {
    char  *at;
    size_t bytes;
} region[MAX_REGIONS];
static int             n_regions, users;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool            is_open, unlocked;
static device_counts   counted;

static void protect(int how) {
    for (int i = 0; i < n_regions; i++)
        CHECK(mprotect(region[i].at, region[i].bytes, how) == 0, "mprotect of %zu bytes", region[i].bytes);
}

/* Memory may be touched between the two; they may be nested. */
static void touch(void) {
    pthread_mutex_lock(&lock);
    if (users++ == 0 && !unlocked) protect(PROT_READ | PROT_WRITE);
    unlocked = true;
    pthread_mutex_unlock(&lock);
}

static void leave_if(bool shut) {
    pthread_mutex_lock(&lock);
    if (--users == 0 && shut) {
        protect(PROT_NONE);
        unlocked = false;
    }
    pthread_mutex_unlock(&lock);
}

static void leave(void) {
    leave_if(true);
}

/* Ops follow each other by thousands, and turning pages is slow. */
static void leave_op(void) {
    static int n;
    leave_if(++n % 16 == 0);
}

void *device_alloc(size_t bytes) {
    size_t n = bytes / PAGE * PAGE + PAGE;
    CHECK(is_open && n_regions < MAX_REGIONS, "%d pieces of memory, GPU open: %d", n_regions, is_open);
    pthread_mutex_lock(&lock);
    char *p = mmap(NULL, n, unlocked ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    CHECK(p != MAP_FAILED, "no memory for %zu bytes", n);
    region[n_regions].at = p;
    region[n_regions++].bytes = n;
    counted.allocations++;
    pthread_mutex_unlock(&lock);
    return p;
}

void device_free(void *p) {
    if (!p) return;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < n_regions && region[i].at != p) i++;
    CHECK(i < n_regions, "%p is not memory of the GPU", p);
    munmap(p, region[i].bytes);
    region[i] = region[--n_regions];
    pthread_mutex_unlock(&lock);
}

static bool on_gpu(const void *p) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_regions; i++)
        found |= (const char *)p >= region[i].at && (const char *)p < region[i].at + region[i].bytes;
    pthread_mutex_unlock(&lock);
    return found;
}

void *device_host_alloc(size_t bytes) {
    counted.allocations++;
    return aligned_alloc(256, bytes / 256 * 256 + 256);
}
void device_host_free(void *p) {
    free(p);
}
void device_memory(size_t *free_bytes, size_t *total_bytes) {
    size_t used = 0;
    for (int i = 0; i < n_regions; i++) used += region[i].bytes;
    *total_bytes = (size_t)64 << 30;
    *free_bytes = *total_bytes - used;
}

int device_count(const char **why) {
    if (why) *why = "";
    return 4;
}
bool device_describe(int index, device_info *out) {
    *out = (device_info){.major = 9, .multiprocessors = 1, .memory = (size_t)64 << 30};
    snprintf(out->name, sizeof out->name, "pretended");
    snprintf(out->uuid, sizeof out->uuid, "GPU-%d", index);
    return index < 4;
}
void device_open(int index) {
    (void)index;
    is_open = true;
}
bool device_is_open(void) {
    return is_open;
}
void device_close(void) {
    is_open = false;
}
void *device_stream(stream_kind s) {
    (void)s;
    return NULL;
}

/* ---- copies and events ---------------------------------------------------------------------------------------- */

struct device_event {
    int64_t recorded[STREAM_COUNT]; /* how much had been given to that stream; 0: not recorded there */
};

/* Of STREAM_COPY: copies not made yet. Of STREAM_COMPUTE: bytes that have left the GPU but are not at the host. */
typedef struct {
    void       *dst;
    const void *src;
    void       *taken; /* owned */
    size_t      bytes;
    int64_t     number;
} late_copy;

static late_copy       late[MAX_LATE];
static int             n_late;
static int64_t         given[STREAM_COUNT];
static pthread_mutex_t late_lock = PTHREAD_MUTEX_INITIALIZER;

static void copy_now(void *dst, const void *src, size_t bytes) {
    touch();
    memcpy(dst, src, bytes);
    leave();
}

/* Makes the late copies of a kind up to a number. */
static void catch_up(bool of_compute, int64_t number) {
    int kept = 0;
    pthread_mutex_lock(&late_lock);
    for (int i = 0; i < n_late; i++) {
        late_copy *l = &late[i];
        if ((l->taken != NULL) == of_compute && l->number <= number) {
            copy_now(l->dst, of_compute ? l->taken : l->src, l->bytes);
            free(l->taken);
        } else {
            late[kept++] = *l;
        }
    }
    n_late = kept;
    pthread_mutex_unlock(&late_lock);
}

void device_copy(void *dst, const void *src, size_t bytes, stream_kind s) {
    if (bytes == 0) return;
    bool    from = on_gpu(src), to = on_gpu(dst);
    int64_t number = ++given[s];
    CHECK(from || to, "a copy from host to host");
    if (!from) counted.uploads++, counted.upload_bytes += (int64_t)bytes;
    if (!to) counted.downloads++, counted.download_bytes += (int64_t)bytes;
    if (to && s != STREAM_COPY) {
        copy_now(dst, src, bytes);
        return;
    }
    late_copy l = {.dst = dst, .src = src, .bytes = bytes, .number = number};
    if (!to) {
        CHECK(s == STREAM_COMPUTE, "a copy to the host on stream %d", (int)s);
        l.taken = malloc(bytes);
        copy_now(l.taken, src, bytes);
        memset(dst, 0xff, bytes); /* nothing good is there yet */
    }
    pthread_mutex_lock(&late_lock);
    CHECK(n_late < MAX_LATE, "%d copies under way", n_late);
    late[n_late++] = l;
    pthread_mutex_unlock(&late_lock);
}

void device_zero(void *p, size_t bytes, stream_kind s) {
    given[s]++;
    touch();
    memset(p, 0, bytes);
    leave();
}

void device_sync(stream_kind s) {
    counted.syncs++;
    catch_up(s == STREAM_COMPUTE, INT64_MAX);
}

device_event *device_event_new(void) {
    return calloc(1, sizeof(device_event));
}
void device_event_free(device_event *e) {
    free(e);
}
void device_event_record(device_event *e, stream_kind s) {
    memset(e, 0, sizeof *e);
    e->recorded[s] = ++given[s];
}
void device_event_wait(device_event *e, stream_kind s) {
    (void)s;
    if (e->recorded[STREAM_COPY]) catch_up(false, e->recorded[STREAM_COPY]);
}
void device_event_sync(device_event *e) {
    counted.syncs++;
    device_event_wait(e, STREAM_COMPUTE);
}
bool device_event_done(device_event *e) {
    device_event_wait(e, STREAM_COMPUTE);
    return true;
}
double device_event_seconds(device_event *from, device_event *to) {
    CHECK(from->recorded[STREAM_COMPUTE] && to->recorded[STREAM_COMPUTE], "points that were not recorded");
    return 0;
}
device_counts device_counted(void) {
    return counted;
}
void device_range_push(const char *name) {
    (void)name;
}
void device_range_pop(void) {}

/* ---- the back end --------------------------------------------------------------------------------------------- */

#define X(op, args)                                                                                                    \
    static void op##_pretend(ctx *c, const args *a) {                                                                  \
        touch();                                                                                                       \
        backend_cpu.op(c, a);                                                                                          \
        leave_op();                                                                                                    \
    }
BACKEND_OPS(X)
#undef X

static const backend pretended = {.name = "cuda",
                                  .dev = DEV_CUDA,
#define X(op, args) .op = op##_pretend,
                                  BACKEND_OPS(X)
#undef X
};

const backend *backend_find(const char *name) {
    const backend *all[] = {&backend_ref, &backend_cpu, &pretended};
    for (int i = 0; i < 3; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    return NULL;
}

/* ---- NCCL ----------------------------------------------------------------------------------------------------- */

struct nccl {
    comm    c;
    tensor  sum[MAX_LATE];    /* started, not waited for */
    int64_t own[MAX_LATE][2]; /* of each: the elements that are wanted */
    int     n;
};

void comm_device_open(comm *c, double timeout_s) {
    (void)timeout_s;
    if (c->size == 1 || c->nccl) return;
    struct nccl *n = calloc(1, sizeof *n);
    CHECK(n, "no memory for %d ranks", c->size);
    n->c = *c;
    c->nccl = n;
}
void comm_device_close(comm *c) {
    free(c->nccl);
    c->nccl = NULL;
}
void comm_device_settled(const comm *c) {
    (void)c;
}
void comm_device_step(const comm *c, int64_t step) {
    (void)c;
    (void)step;
}
const char *comm_device_version(void) {
    return "0.0.0";
}

void nccl_sum(struct nccl *n, const tensor *x) {
    CHECK(n->n < MAX_LATE && x->dev == DEV_CUDA, "%d sums, device %d", n->n, (int)x->dev);
    n->sum[n->n] = *x;
    n->own[n->n][0] = 0;
    n->own[n->n++][1] = tensor_count(x);
}

void nccl_sum_slices(struct nccl *n, const tensor *x, const int64_t *first) {
    nccl_sum(n, x);
    n->own[n->n - 1][0] = first[comm_own_slice(&n->c)];
    n->own[n->n - 1][1] = first[comm_own_slice(&n->c) + 1];
}

static void sum_doubles(const struct nccl *n, const tensor *x) {
    double *f = malloc(tensor_bytes(x) + 1);
    CHECK(f, "no memory for %lld doubles", (long long)tensor_count(x));
    copy_now(f, x->data, tensor_bytes(x));
    comm_sum_f64(&n->c, f, tensor_count(x));
    copy_now(x->data, f, tensor_bytes(x));
    free(f);
}

/* What is not `own` is spoilt: nobody may read it. */
static void sum_now(const struct nccl *n, const tensor *x, const int64_t own[2]) {
    int64_t   count = tensor_count(x);
    float    *f = malloc((size_t)count * sizeof *f + 1);
    uint16_t *half = x->data;
    CHECK(f, "no memory for %lld floats", (long long)count);
    touch();
    for (int64_t i = 0; i < count; i++) f[i] = x->dt == DT_F32 ? F32(x)[i] : bf16_to_f32(half[i]);
    leave();
    tensor host = tensor_wrap(f, DT_F32, DIMS(count));
    comm_wait(comm_sum_start(&n->c, &host)); /* by levels, where the comm has them */
    touch();
    for (int64_t i = 0; i < count; i++) {
        float v = i >= own[0] && i < own[1] ? f[i] : NAN;
        if (x->dt == DT_F32)
            F32(x)[i] = v;
        else
            half[i] = f32_to_bf16(v);
    }
    leave();
    free(f);
}

void nccl_give_up(struct nccl *n) {
    (void)n;
}
void nccl_join(struct nccl *n) {
    for (int i = 0; i < n->n; i++) {
        if (n->sum[i].dt == DT_F64)
            sum_doubles(n, &n->sum[i]);
        else
            sum_now(n, &n->sum[i], n->own[i]);
    }
    n->n = 0;
}

void nccl_share(struct nccl *n, const comm_piece *piece, int n_pieces) {
    CHECK(n->n == 0, "%d sums are under way", n->n);
    for (int i = 0; i < n_pieces; i++) {
        size_t     bytes = tensor_bytes(&piece[i].x);
        char      *copy = malloc(bytes + 1);
        comm_piece host = piece[i];
        CHECK(copy, "no memory for %zu bytes", bytes);
        copy_now(copy, piece[i].x.data, bytes);
        host.x.data = copy;
        host.x.dev = DEV_CPU;
        comm_share(&n->c, &host, 1);
        copy_now(piece[i].x.data, copy, bytes);
        free(copy);
    }
}
