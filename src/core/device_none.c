/* core/device.h in a build without CUDA: there is no GPU. */
#include "core/device.h"

#define NONE FATAL("this build has no CUDA back end")

int device_count(const char **why) {
    if (why) *why = "this build has no CUDA back end (configure with -DD3S2_CUDA=ON)";
    return 0;
}
bool device_describe(int index, device_info *out) {
    (void)index;
    *out = (device_info){0};
    return false;
}
bool device_is_open(void) {
    return false;
}
void          device_close(void) {}
device_counts device_counted(void) {
    return (device_counts){0};
}
void device_range_push(const char *name) {
    (void)name;
}
void device_range_pop(void) {}

void device_open(int index) {
    FATAL("GPU %d: this build has no CUDA back end", index);
}
void *device_stream(stream_kind s) {
    (void)s;
    NONE;
}
void *device_alloc(size_t bytes) {
    (void)bytes;
    NONE;
}
void device_free(void *p) {
    if (p) NONE;
}
void *device_host_alloc(size_t bytes) {
    (void)bytes;
    NONE;
}
void device_host_free(void *p) {
    if (p) NONE;
}
void device_memory(size_t *free_bytes, size_t *total_bytes) {
    (void)free_bytes, (void)total_bytes;
    NONE;
}
void device_copy(void *dst, const void *src, size_t bytes, stream_kind s) {
    (void)dst, (void)src, (void)bytes, (void)s;
    NONE;
}
void device_zero(void *p, size_t bytes, stream_kind s) {
    (void)p, (void)bytes, (void)s;
    NONE;
}
void device_sync(stream_kind s) {
    (void)s;
    NONE;
}
device_event *device_event_new(void) {
    NONE;
}
void device_event_free(device_event *e) {
    if (e) NONE;
}
void device_event_record(device_event *e, stream_kind s) {
    (void)e, (void)s;
    NONE;
}
void device_event_wait(device_event *e, stream_kind s) {
    (void)e, (void)s;
    NONE;
}
void device_event_sync(device_event *e) {
    (void)e;
    NONE;
}
bool device_event_done(device_event *e) {
    (void)e;
    NONE;
}
double device_event_seconds(device_event *from, device_event *to) {
    (void)from, (void)to;
    NONE;
}
