/* An arena is a stack of bytes on one device. Ops and models allocate from it and free by going back to a mark.
 *
 * Layout code runs twice: an arena without memory (arena_counting) hands out addresses that nobody may touch and only
 * counts, so the printed size and the used size cannot disagree. Three arenas per device: weights (run), step
 * (micro-batch), scratch (one op). */
#pragma once
#include "core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char       *base; /* 64-byte aligned, 256 on a GPU; a fake address when counting */
    size_t      size, used, peak;
    bool        counting, pinned;
    device_kind dev;
    const char *name; /* for the message when it is full */
} arena;

arena arena_new(const char *name, size_t bytes);           /* CPU memory; release with arena_free */
bool  arena_try(arena *a, const char *name, size_t bytes); /* the same; false: there is not so much, *a is empty */
/* Memory of the CPU, or of the open GPU (core/device.h). */
arena arena_new_on(const char *name, size_t bytes, device_kind dev);
/* CPU memory that the GPU copies from and to without a detour; plain memory when no GPU is open. All of it is taken at
 * once, touched or not. */
arena arena_new_pinned(const char *name, size_t bytes);
arena arena_counting(const char *name);
arena arena_counting_on(const char *name, device_kind dev); /* its tensors say that they are on dev */
void  arena_free(arena *a);

void  *arena_alloc(arena *a, size_t bytes); /* 64-byte aligned, not cleared; fatal when full, with both sizes */
tensor arena_tensor(arena *a, dtype dt, const int64_t *dims, int n_dims); /* a zero count still gives a non-NULL data */
/* Cleared; on a GPU in the compute stream. */
void  *arena_zeros(arena *a, size_t bytes);

static inline size_t arena_mark(const arena *a) {
    return a->used;
}
static inline void arena_reset(arena *a, size_t mark) {
    a->used = mark;
}

#ifdef __cplusplus
}
#endif
