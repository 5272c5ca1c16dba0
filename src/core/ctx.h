/* What every op call gets: the back end, scratch memory, and switches. One ctx per rank (and later per GPU stream). */
#pragma once
#include "core/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

struct backend;

typedef struct ctx {
    const struct backend *be;
    arena                 scratch; /* one op: marked by the op's front, reset behind the call; memory of be->dev */
    dtype                 act;     /* of activations and their gradients: DT_F32, or DT_BF16 on a GPU (numerics.md) */
    bool                  dry;     /* check shapes and count memory, touch nothing */
    bool                  deterministic;
    void                 *stream;  /* cudaStream_t of every launch; NULL on the CPU */
    struct cuda_state    *cuda;    /* library handles and plans of the CUDA back end, made by be->open; else NULL */
    struct op_profile    *profile; /* times every op (ops/op_profile.h); NULL: nobody asks */
} ctx;

#ifdef __cplusplus
}
#endif
