/* What every kernel file starts with: types, loads and stores of the two activation forms, launches and their check,
 * reductions. Kernel files end in extern "C" functions NAME_cuda(ctx *, const NAME_args *). */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "core/ctx.h"
#include "kernels/backend.h"

typedef __nv_bfloat16 bf16;

static inline cudaStream_t stream_of(const ctx *c) {
    return (cudaStream_t)c->stream;
}

/* Behind every launch. Debug builds wait for the kernel, so that its own line is named. */
#ifdef NDEBUG
#define LAUNCHED(c)                                                                                                    \
    do {                                                                                                               \
        cudaError_t launch_error = cudaGetLastError();                                                                 \
        CHECK(launch_error == cudaSuccess, "kernel launch: %s", cudaGetErrorString(launch_error));                     \
    } while (0)
#else
#define LAUNCHED(c)                                                                                                    \
    do {                                                                                                               \
        cudaError_t launch_error = cudaGetLastError();                                                                 \
        if (launch_error == cudaSuccess) launch_error = cudaStreamSynchronize(stream_of(c));                           \
        CHECK(launch_error == cudaSuccess, "kernel: %s", cudaGetErrorString(launch_error));                            \
    } while (0)
#endif
#define CUDA_DO(call)                                                                                                  \
    do {                                                                                                               \
        cudaError_t call_error = (call);                                                                               \
        CHECK(call_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(call_error));                             \
    } while (0)

/* Runs the statement with T = float or bf16, as `dt` says:  BY_ACT(a->x->dt, T, kernel<T><<<...>>>(...)); */
#define BY_ACT(dt, T, ...)                                                                                             \
    do {                                                                                                               \
        if ((dt) == DT_BF16) {                                                                                         \
            typedef bf16 T;                                                                                            \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            typedef float T;                                                                                           \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

template <class T> static inline T *ptr(const tensor *t) {
    return t ? (T *)t->data : (T *)nullptr;
}

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

/* N consecutive elements in one 16-byte (or smaller) access; p aligned to N*sizeof(T). N*sizeof(T) is 4, 8 or 16. */
template <class T, int N> struct alignas(sizeof(T) * N) pack {
    T v[N];
};
template <class T, int N> __device__ __forceinline__ void load_pack(const T *p, float (&out)[N]) {
    pack<T, N> x = *reinterpret_cast<const pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = to_float(x.v[i]);
}
template <class T, int N> __device__ __forceinline__ void store_pack(T *p, const float (&in)[N]) {
    pack<T, N> x;
#pragma unroll
    for (int i = 0; i < N; i++) x.v[i] = from_float<T>(in[i]);
    *reinterpret_cast<pack<T, N> *>(p) = x;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

/* Sum over the block, the same in all threads, in an order that does not change from run to run. `room` is 33 values of
 * shared memory; whole warps only; ends with a barrier, so `room` may be used again at once. */
template <class T> __device__ __forceinline__ T block_sum(T x, T *room) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        T y = warp_sum(lane < warps ? room[lane] : T(0));
        if (lane == 0) room[32] = y;
    }
    __syncthreads();
    T total = room[32];
    __syncthreads();
    return total;
}

/* Index of the segment of `first` (n+1 ascending offsets) that holds row r: first[s] <= r < first[s+1]. */
__device__ __forceinline__ int segment_of(const int32_t *first, int n, int64_t r) {
    int lo = 0, hi = n;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (first[mid] <= r)
            lo = mid;
        else
            hi = mid;
    }
    /* empty segments share an offset: the loop ends in the last of them, which is the one with the row */
    return lo;
}
