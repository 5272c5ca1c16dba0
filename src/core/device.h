/* One GPU of this process: memory, streams, copies, events. A build without CUDA, or a machine without driver or card,
 * has none: device_count() is 0 and nothing else may be called. The only file of src/core that sees CUDA is
 * device_cuda.c; device_none.c stands in for it in a build without.
 *
 * Failures are fatal (a lost GPU is no user error). Copies and zeroing are asynchronous in a stream; host memory of a
 * copy is from device_host_alloc, so that it really is (other memory works, and the host waits). Any thread may call.
 * Everything that a step must not do is counted. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char   name[128], uuid[48];
    int    major, minor, multiprocessors; /* compute capability */
    size_t memory;                        /* bytes on the card */
    int    driver, runtime;               /* CUDA versions, 1000*major + 10*minor */
} device_info;

/* Number of usable GPUs; 0 with the reason in *why (may be NULL) when there is none. Never fatal. */
int  device_count(const char **why);
bool device_describe(int index, device_info *out);

/* Opens GPU `index` for this process and makes its streams. Opening the same again is fine, another is fatal. */
void device_open(int index);
bool device_is_open(void);
/* Waits for the streams and ends them. Memory stays until it is freed; another GPU may be opened. */
void device_close(void);

/* compute: ops; copy: uploads of the next batch; comm: reductions. */
typedef enum { STREAM_COMPUTE, STREAM_COPY, STREAM_COMM, STREAM_COUNT } stream_kind;
void *device_stream(stream_kind s); /* cudaStream_t */

void *device_alloc(size_t bytes);      /* 256-byte aligned, not cleared */
void  device_free(void *p);            /* NULL is fine; the device waits for its work first */
void *device_host_alloc(size_t bytes); /* pinned */
void  device_host_free(void *p);
void  device_memory(size_t *free_bytes, size_t *total_bytes);

/* Direction follows from the pointers. */
void device_copy(void *dst, const void *src, size_t bytes, stream_kind s);
void device_zero(void *p, size_t bytes, stream_kind s);
void device_sync(stream_kind s); /* the host waits */

/* Points in a stream. device_event_wait: stream s waits for e, the host does not. */
typedef struct device_event device_event;
device_event               *device_event_new(void);
void                        device_event_free(device_event *e);
void                        device_event_record(device_event *e, stream_kind s);
void                        device_event_wait(device_event *e, stream_kind s);
void                        device_event_sync(device_event *e); /* the host waits */
bool                        device_event_done(device_event *e);
double                      device_event_seconds(device_event *from, device_event *to); /* both done */

/* How often since the process started: allocations of either kind, waits of the host, copies host <-> device (not
 * inside the device). */
typedef struct {
    int64_t allocations, syncs, uploads, downloads, upload_bytes, download_bytes;
} device_counts;
device_counts device_counted(void);

/* Ranges for profilers (NVTX); free without one. */
void device_range_push(const char *name);
void device_range_pop(void);

#ifdef __cplusplus
}
#endif
