/* Columns per thread and flat elementwise passes.
 *
 * Memory-bound kernels read and write 16 bytes per thread where the row length and every pointer allow it, else one
 * element: V columns per thread, 16/sizeof(T) or 1. */
#pragma once
#include "kernels/cuda/dev/common.cuh"
#include "kernels/cuda/state.h"

/* All of them on 16 bytes; NULL is. */
template <class... P> static inline bool aligned16(P... p) {
    uintptr_t bits = 0;
    ((bits |= (uintptr_t)p), ...);
    return bits % 16 == 0;
}

/* Rows of C elements of T may be cut into 16-byte pieces. */
template <class T, class... P> static inline bool wide_rows(int64_t C, P... p) {
    return C % (16 / (int64_t)sizeof(T)) == 0 && aligned16(p...);
}

/* Runs the statement with V as a constant:  BY_WIDTH(T, wide_rows<T>(C, x, y), V, kernel<T, V><<<...>>>(...)); */
#define BY_WIDTH(T, wide, V, ...)                                                                                      \
    do {                                                                                                               \
        if (wide) {                                                                                                    \
            constexpr int V = 16 / (int)sizeof(T);                                                                     \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            constexpr int V = 1;                                                                                       \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

template <class T, int V> __device__ __forceinline__ pack<T, V> load_raw(const T *p) {
    return *reinterpret_cast<const pack<T, V> *>(p);
}
template <class T, int V> __device__ __forceinline__ void store_raw(T *p, const pack<T, V> &x) {
    *reinterpret_cast<pack<T, V> *>(p) = x;
}
template <class T, int V> __device__ __forceinline__ void unpack(const pack<T, V> &x, float (&out)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) out[i] = to_float(x.v[i]);
}

/* V elements beside V columns of another dtype (f32 parameters beside bf16 rows): 16 bytes at a time. */
template <class T, int V> __device__ __forceinline__ void load_vec(const T *p, float (&out)[V]) {
    constexpr int N = V * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : V;
#pragma unroll
    for (int j = 0; j < V; j += N) {
        pack<T, N> x = load_raw<T, N>(p + j);
#pragma unroll
        for (int i = 0; i < N; i++) out[j + i] = to_float(x.v[i]);
    }
}
template <class T, int V> __device__ __forceinline__ void store_vec(T *p, const float (&in)[V]) {
    constexpr int N = V * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : V;
#pragma unroll
    for (int j = 0; j < V; j += N) {
        pack<T, N> x;
#pragma unroll
        for (int i = 0; i < N; i++) x.v[i] = from_float<T>(in[j + i]);
        store_raw<T, N>(p + j, x);
    }
}

/* ---- flat arrays ---------------------------------------------------------------------------------------------- */

enum { FLAT_THREADS = 256 };

/* f.at<V>(i) for i = 0, V, 2V ..; what is left of n goes one by one. */
template <int V, class F> __global__ void __launch_bounds__(FLAT_THREADS) flat_kernel(int64_t n, const F f) {
    int64_t i = ((int64_t)blockIdx.x * FLAT_THREADS + threadIdx.x) * V, step = (int64_t)gridDim.x * FLAT_THREADS * V;
    for (; i + V <= n; i += step) f.template at<V>(i);
    if (V > 1)
        for (; i < n; i++) f.template at<1>(i);
}

/* More blocks than fit at once, so that the last wave is a small part. */
template <int V, class F> static inline void flat_pass(ctx *c, int64_t n, const F &f) {
    if (n == 0) return;
    int64_t blocks = ceil_div(n, (int64_t)FLAT_THREADS * V), most = (int64_t)c->cuda->multiprocessors * 64;
    flat_kernel<V><<<(unsigned)(blocks < most ? blocks : most), FLAT_THREADS, 0, stream_of(c)>>>(n, f);
    LAUNCHED(c);
}
