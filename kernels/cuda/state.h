/* What the CUDA back end keeps for one ctx: made by backend_cuda.open, in ctx.cuda. Kernels get their launch sizes from
 * here; the matrix products keep their library handle and chosen algorithms here (linear.cu). */
#pragma once
#include "core/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct matmul_cache matmul_cache; /* linear.cu */

typedef struct cuda_state {
    int           multiprocessors, major, minor;
    size_t        shared_limit; /* bytes of shared memory a block may opt in to */
    matmul_cache *matmul;
} cuda_state;

void          cuda_open(ctx *c); /* state.cu: device_open must have been called */
void          cuda_close(ctx *c);
matmul_cache *matmul_cache_new(void);
void          matmul_cache_free(matmul_cache *m);

#ifdef __cplusplus
}
#endif
