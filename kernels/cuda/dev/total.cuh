/* Sums over everything: losses, norms. Blocks of fixed shares write partial sums in double, one block adds those in
 * order, so repeats give equal bits. */
#pragma once
#include "kernels/cuda/dev/vec.cuh"

enum { TOTAL_THREADS = 256 };

/* Blocks for n pieces of work (16-byte accesses, say), a few per thread; 0 for none. */
static inline int total_blocks(const ctx *c, int64_t n) {
    int64_t blocks = ceil_div(n, (int64_t)TOTAL_THREADS * 4), most = (int64_t)c->cuda->multiprocessors * 16;
    return (int)(blocks < most ? blocks : most);
}

/* Behind the block's share: partial[q][block]. */
template <int Q> __device__ __forceinline__ void store_totals(double (&sum)[Q], double *partial) {
    __shared__ double room[33];
#pragma unroll
    for (int q = 0; q < Q; q++) {
        double s = block_sum(sum[q], room);
        if (threadIdx.x == 0) partial[(int64_t)q * gridDim.x + blockIdx.x] = s;
    }
}

/* out[q] = sum of partial[q][0 .. n-1], q = blockIdx.x. */
static __global__ void __launch_bounds__(TOTAL_THREADS) add_totals_kernel(const double *partial, int n, double *out) {
    __shared__ double room[33];
    double            s = 0;
    for (int i = threadIdx.x; i < n; i += TOTAL_THREADS) s += partial[(int64_t)blockIdx.x * n + i];
    s = block_sum(s, room);
    if (threadIdx.x == 0) out[blockIdx.x] = s;
}

static inline void add_totals(ctx *c, const double *partial, int n_blocks, int n_sums, double *out) {
    add_totals_kernel<<<(unsigned)n_sums, TOTAL_THREADS, 0, stream_of(c)>>>(partial, n_blocks, out);
    LAUNCHED(c);
}
