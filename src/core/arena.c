#include "core/arena.h"

#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/fault.h"

enum { ALIGN = 64 };

static arena sized(const char *name, size_t bytes) {
    return (arena){.name = name, .size = (bytes + ALIGN - 1) / ALIGN * ALIGN};
}

bool arena_try(arena *a, const char *name, size_t bytes) {
    *a = sized(name, bytes);
    if (!fault_at("arena.new")) a->base = aligned_alloc(ALIGN, a->size ? a->size : ALIGN);
    if (!a->base) *a = (arena){.name = name};
    return a->base != NULL;
}

arena arena_new(const char *name, size_t bytes) {
    arena a;
    CHECK(arena_try(&a, name, bytes), "no memory for arena %s: %.1f MB", name, (double)bytes / 1e6);
    return a;
}

arena arena_new_on(const char *name, size_t bytes, device_kind dev) {
    if (dev == DEV_CPU) return arena_new(name, bytes);
    arena a = sized(name, bytes);
    a.dev = dev;
    a.base = device_alloc(a.size);
    return a;
}

arena arena_new_pinned(const char *name, size_t bytes) {
    if (!device_is_open()) return arena_new(name, bytes);
    arena a = sized(name, bytes);
    a.pinned = true;
    a.base = device_host_alloc(a.size);
    return a;
}

arena arena_counting(const char *name) {
    return arena_counting_on(name, DEV_CPU);
}

arena arena_counting_on(const char *name, device_kind dev) {
    return (arena){.name = name, .base = (char *)(uintptr_t)4096, .size = SIZE_MAX / 2, .counting = true, .dev = dev};
}

void arena_free(arena *a) {
    void (*release)(void *) = a->dev == DEV_CUDA ? device_free : a->pinned ? device_host_free : free;
    if (!a->counting) release(a->base);
    *a = (arena){0};
}

void *arena_alloc(arena *a, size_t bytes) {
    size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (need == 0) need = ALIGN;
    CHECK(need <= a->size - a->used, "arena %s is full: %.1f MB used of %.1f MB, %.1f MB more wanted",
          a->name ? a->name : "?", (double)a->used / 1e6, (double)a->size / 1e6, (double)need / 1e6);
    void *p = a->base + a->used;
    a->used += need;
    if (a->used > a->peak) a->peak = a->used;
    return p;
}

tensor arena_tensor(arena *a, dtype dt, const int64_t *dims, int n_dims) {
    tensor t = tensor_wrap(NULL, dt, dims, n_dims);
    t.dev = a->dev;
    t.data = arena_alloc(a, tensor_bytes(&t));
    return t;
}

void *arena_zeros(arena *a, size_t bytes) {
    void *p = arena_alloc(a, bytes);
    if (a->counting) return p;
    if (a->dev == DEV_CUDA)
        device_zero(p, bytes, STREAM_COMPUTE);
    else
        memset(p, 0, bytes);
    return p;
}
