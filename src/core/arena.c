#include "core/arena.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

arena arena_new(const char *name, size_t bytes) {
    arena a = {.name = name, .size = (bytes + ALIGN - 1) / ALIGN * ALIGN};
    a.base = aligned_alloc(ALIGN, a.size ? a.size : ALIGN);
    CHECK(a.base, "no memory for arena %s: %.1f MB", name, (double)bytes / 1e6);
    return a;
}

arena arena_counting(const char *name) {
    return (arena){.name = name, .base = (char *)(uintptr_t)4096, .size = SIZE_MAX / 2, .counting = true};
}

void arena_free(arena *a) {
    if (!a->counting) free(a->base);
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
    CHECK(a->dev == DEV_CPU, "arena %s is not in CPU memory", a->name);
    if (!a->counting) memset(p, 0, bytes);
    return p;
}
