/* Rows of attention tensors as operands of mma, straight from memory.
 *
 * A product over channels may take them in any order if both sides take the same. Where mma wants of lane 4*row + quad
 * the pairs 2quad.. and 2quad+8.. of two steps of 16 channels, the lane takes the 32 channels' chunk 8quad .. 8quad+7
 * instead: its pairs 0 and 1 serve the first step, 2 and 3 the second. Eight lanes read 128 bytes in a row.
 * Channels are handled in groups of 32; channels past D are zero. */
#pragma once
#include "kernels/cuda/dev/common.cuh"
#include "kernels/cuda/dev/mma.cuh"
#include "kernels/cuda/state.h"

enum { ALL_LANES = 0xffffffffu };

/* The A operands of both steps, from the lane's chunks of rows `row` and `row + 8`: loaded word by word, as an operand
 * that stays has to lie in registers as mma wants it, and words of one wide load would be moved there again before
 * every product. Zeros when !okN. */
struct row_operand {
    uint32_t step[2][4];

    __device__ __forceinline__ void load(const void *x0, bool ok0, const void *x1, bool ok1) {
        const uint32_t *p0 = (const uint32_t *)x0, *p1 = (const uint32_t *)x1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            step[i / 2][i % 2 * 2] = ok0 ? __ldg(p0 + i) : 0;
            step[i / 2][i % 2 * 2 + 1] = ok1 ? __ldg(p1 + i) : 0;
        }
    }
};

/* c += A B over 32 channels; y is the lane's chunk of column `row` of B. */
__device__ __forceinline__ void mma_chunks(float (&c)[4], const row_operand &a, const uint4 &y) {
    mma_bf16(c, a.step[0], y.x, y.y);
    mma_bf16(c, a.step[1], y.z, y.w);
}

/* The lane's chunk of channels 32*group .. of a row that starts at x; zeros when !ok. D % 8 == 0. */
__device__ __forceinline__ uint4 row_chunk(const bf16 *x, int group, int quad, int D, bool ok) {
    int d = 32 * group + 8 * quad;
    return ok && d < D ? *reinterpret_cast<const uint4 *>(x + d) : make_uint4(0, 0, 0, 0);
}

/* Sum of the squares of two values. */
__device__ __forceinline__ float word_square(uint32_t x) {
    return bf16_lo(x) * bf16_lo(x) + bf16_hi(x) * bf16_hi(x);
}
/* Sum and maximum over the four lanes that share a row. */
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ uint32_t quad_or(uint32_t x) {
    x |= __shfl_xor_sync(ALL_LANES, x, 1);
    return x | __shfl_xor_sync(ALL_LANES, x, 2);
}

/* Dynamic shared memory above 48 kB has to be asked for. */
template <class F> static void allow_shared_bytes(const ctx *c, F *kernel, size_t bytes, const char *op) {
    CHECK(bytes <= c->cuda->shared_limit, "%s: wants %zu bytes of shared memory, a block has %zu", op, bytes,
          c->cuda->shared_limit);
    if (bytes > 48 * 1024)
        CUDA_DO(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
