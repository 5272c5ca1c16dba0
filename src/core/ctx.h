/* What every op call gets: the back end, scratch memory, and switches. One ctx per rank (and later per GPU stream). */
#pragma once
#include "core/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

struct backend;

typedef struct ctx {
    const struct backend *be;
    arena                 scratch; /* one op: marked by the op's front, reset behind the call */
    bool                  dry;     /* check shapes and count memory, touch nothing */
    bool                  deterministic;
    void                 *stream; /* CUDA stream; NULL on the CPU */
} ctx;

#ifdef __cplusplus
}
#endif
