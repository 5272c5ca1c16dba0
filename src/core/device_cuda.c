/* core/device.h over the CUDA runtime. */
#include "core/device.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define CUDA_DO(call)                                                                                                  \
    do {                                                                                                               \
        cudaError_t call_error = (call);                                                                               \
        CHECK(call_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(call_error));                             \
    } while (0)

enum { LEAST_MAJOR = 8, ALIGN = 256 };

static int               opened = -1;
static cudaStream_t      stream[STREAM_COUNT];
/* A thread of CUDA has a device of its own, number 0 at first: the loader's thread has to follow the main one. */
static _Thread_local int of_thread = -1;

static struct { atomic_llong allocations, syncs, uploads, downloads, upload_bytes, download_bytes; } counted;

static void enter(const char *what) {
    CHECK(opened >= 0, "%s: no GPU is open", what);
    if (of_thread == opened) return;
    CUDA_DO(cudaSetDevice(opened));
    of_thread = opened;
}

/* ---- which GPUs ----------------------------------------------------------------------------------------------- */

int device_count(const char **why) {
    static char reason[256];
    int         n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    reason[0] = 0;
    if (why) *why = reason;
    if (e != cudaSuccess || n == 0) {
        cudaGetLastError(); /* not to be found by the check of a later launch */
        snprintf(reason, sizeof reason, "%s", e == cudaSuccess ? "no CUDA device" : cudaGetErrorString(e));
        return 0;
    }
    for (int i = 0; i < n; i++) {
        device_info d;
        if (!device_describe(i, &d)) {
            snprintf(reason, sizeof reason, "GPU %d does not answer", i);
            return i;
        }
        if (d.major < LEAST_MAJOR) {
            snprintf(reason, sizeof reason, "GPU %d, %s, has compute capability %d.%d; %d.0 is the least", i, d.name,
                     d.major, d.minor, (int)LEAST_MAJOR);
            return i;
        }
    }
    return n;
}

bool device_describe(int index, device_info *out) {
    struct cudaDeviceProp p;
    *out = (device_info){0};
    if (index < 0 || cudaGetDeviceProperties(&p, index) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    int n = snprintf(out->uuid, sizeof out->uuid, "GPU");
    for (int i = 0; i < 16; i++)
        n += snprintf(out->uuid + n, sizeof out->uuid - (size_t)n, "%s%02x",
                      i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)p.uuid.bytes[i]);
    out->major = p.major;
    out->minor = p.minor;
    out->multiprocessors = p.multiProcessorCount;
    out->memory = p.totalGlobalMem;
    if (cudaDriverGetVersion(&out->driver) != cudaSuccess || cudaRuntimeGetVersion(&out->runtime) != cudaSuccess)
        cudaGetLastError();
    return true;
}

/* ---- open, streams -------------------------------------------------------------------------------------------- */

void device_open(int index) {
    if (opened == index) return;
    CHECK(opened < 0, "GPU %d is open, %d is wanted", opened, index);
    const char *why;
    int         n = device_count(&why);
    CHECK(index >= 0 && index < n, "GPU %d of %d: %s", index, n, n == 0 || *why ? why : "no such GPU");
    /* Waits spin: a step waits once, at its end, and the next one's launches should start at once. The price is one
     * busy core per rank; the loader's thread has others. */
    CUDA_DO(cudaInitDevice(index, cudaDeviceScheduleSpin, cudaInitDeviceFlagsAreValid));
    CUDA_DO(cudaSetDevice(index));
    of_thread = opened = index;
    /* None waits for the default stream. Reductions go first where both could run: they take few multiprocessors, and
     * other ranks wait for them. */
    int low, high;
    CUDA_DO(cudaDeviceGetStreamPriorityRange(&low, &high));
    for (int s = 0; s < STREAM_COUNT; s++)
        CUDA_DO(cudaStreamCreateWithPriority(&stream[s], cudaStreamNonBlocking, s == STREAM_COMM ? high : low));
}

bool device_is_open(void) {
    return opened >= 0;
}

void device_close(void) {
    if (opened < 0) return;
    enter(__func__);
    for (int s = 0; s < STREAM_COUNT; s++) {
        CUDA_DO(cudaStreamSynchronize(stream[s]));
        CUDA_DO(cudaStreamDestroy(stream[s]));
        stream[s] = NULL;
    }
    opened = -1;
}

void *device_stream(stream_kind s) {
    enter(__func__);
    CHECK((int)s >= 0 && s < STREAM_COUNT, "stream %d", (int)s);
    return stream[s];
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

void *device_alloc(size_t bytes) {
    void *p = NULL;
    enter(__func__);
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : ALIGN);
    if (e != cudaSuccess) {
        size_t free_bytes = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total);
        FATAL("no memory on GPU %d for %.1f MB: %s, %.1f of %.1f MB are free; on the host", opened, (double)bytes / 1e6,
              cudaGetErrorString(e), (double)free_bytes / 1e6, (double)total / 1e6);
    }
    CHECK((uintptr_t)p % ALIGN == 0, "GPU memory at %p is not aligned to %d", p, (int)ALIGN);
    atomic_fetch_add(&counted.allocations, 1);
    return p;
}

void device_free(void *p) {
    if (p) CUDA_DO(cudaFree(p));
}

void *device_host_alloc(size_t bytes) {
    void *p = NULL;
    enter(__func__);
    cudaError_t e = cudaHostAlloc(&p, bytes ? bytes : ALIGN, cudaHostAllocPortable);
    CHECK(e == cudaSuccess, "no memory: %.1f MB of pinned memory: %s", (double)bytes / 1e6, cudaGetErrorString(e));
    atomic_fetch_add(&counted.allocations, 1);
    return p;
}

void device_host_free(void *p) {
    if (p) CUDA_DO(cudaFreeHost(p));
}

void device_memory(size_t *free_bytes, size_t *total_bytes) {
    enter(__func__);
    CUDA_DO(cudaMemGetInfo(free_bytes, total_bytes));
}

static bool on_gpu(const void *p) {
    struct cudaPointerAttributes a;
    CUDA_DO(cudaPointerGetAttributes(&a, p));
    return a.type == cudaMemoryTypeDevice;
}

void device_copy(void *dst, const void *src, size_t bytes, stream_kind s) {
    if (bytes == 0) return;
    cudaStream_t q = device_stream(s);
    bool         from = on_gpu(src), to = on_gpu(dst);
    CHECK(from || to, "a copy from host to host");
    if (!from) {
        atomic_fetch_add(&counted.uploads, 1);
        atomic_fetch_add(&counted.upload_bytes, (long long)bytes);
    } else if (!to) {
        atomic_fetch_add(&counted.downloads, 1);
        atomic_fetch_add(&counted.download_bytes, (long long)bytes);
    }
    enum cudaMemcpyKind kind = !from ? cudaMemcpyHostToDevice : to ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost;
    CUDA_DO(cudaMemcpyAsync(dst, src, bytes, kind, q));
}

void device_zero(void *p, size_t bytes, stream_kind s) {
    if (bytes > 0) CUDA_DO(cudaMemsetAsync(p, 0, bytes, device_stream(s)));
}

void device_sync(stream_kind s) {
    CUDA_DO(cudaStreamSynchronize(device_stream(s)));
    atomic_fetch_add(&counted.syncs, 1);
}

/* ---- events --------------------------------------------------------------------------------------------------- */

struct device_event {
    cudaEvent_t e;
};

device_event *device_event_new(void) {
    enter(__func__);
    device_event *e = malloc(sizeof *e);
    CHECK(e, "no memory for an event");
    CUDA_DO(cudaEventCreateWithFlags(&e->e, cudaEventDefault));
    return e;
}

void device_event_free(device_event *e) {
    if (!e) return;
    CUDA_DO(cudaEventDestroy(e->e));
    free(e);
}

void device_event_record(device_event *e, stream_kind s) {
    CUDA_DO(cudaEventRecord(e->e, device_stream(s)));
}

void device_event_wait(device_event *e, stream_kind s) {
    CUDA_DO(cudaStreamWaitEvent(device_stream(s), e->e, 0));
}

void device_event_sync(device_event *e) {
    enter(__func__);
    CUDA_DO(cudaEventSynchronize(e->e));
    atomic_fetch_add(&counted.syncs, 1);
}

bool device_event_done(device_event *e) {
    enter(__func__);
    cudaError_t r = cudaEventQuery(e->e);
    if (r == cudaErrorNotReady) {
        cudaGetLastError();
        return false;
    }
    CUDA_DO(r);
    return true;
}

double device_event_seconds(device_event *from, device_event *to) {
    float ms = 0;
    enter(__func__);
    CUDA_DO(cudaEventElapsedTime(&ms, from->e, to->e));
    return 1e-3 * (double)ms;
}

device_counts device_counted(void) {
    return (device_counts){.allocations = atomic_load(&counted.allocations),
                           .syncs = atomic_load(&counted.syncs),
                           .uploads = atomic_load(&counted.uploads),
                           .downloads = atomic_load(&counted.downloads),
                           .upload_bytes = atomic_load(&counted.upload_bytes),
                           .download_bytes = atomic_load(&counted.download_bytes)};
}

/* ---- profiler ------------------------------------------------------------------------------------------------- */

void device_range_push(const char *name) {
    nvtxRangePushA(name);
}

void device_range_pop(void) {
    nvtxRangePop();
}
