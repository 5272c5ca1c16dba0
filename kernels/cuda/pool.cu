/* Pooling over lists of rows, and subdivision (ops/pool.h).
 *
 * Short lists (the eight children of a cell): a thread takes V columns of a parent and walks its members, eight loads
 * in flight; threads of neighbouring parents read neighbouring memory. Long lists (a block of tokens): a thread block
 * takes a parent, its lanes take turns over the members. Which one is decided by the mean length. Eight members are
 * added pairwise in f32, the eights in double. */
#include "kernels/cuda/dev/vec.cuh"

enum { POOL_THREADS = 256, POOL_EIGHT = 8, POOL_LONG = 32 };

template <class T> struct pool_lists {
    const T       *x; /* forward: rows; backward: gradients of parents */
    const int32_t *first, *order;
    T             *y;
    int64_t        P, C;
    bool           add_one;
};

/* sum of members at, at + step, .. (at most eight, below hi), pairwise */
template <class T, int V>
__device__ __forceinline__ void add_eight(const pool_lists<T> &p, int64_t at, int step, int64_t hi, int64_t col,
                                          float (&sum)[V]) {
    pack<T, V> x[POOL_EIGHT];
#pragma unroll
    for (int j = 0; j < POOL_EIGHT; j++) {
        int64_t i = at + j * step;
        if (i < hi) {
            x[j] = load_raw<T, V>(p.x + (p.order ? p.order[i] : i) * p.C + col);
        } else {
#pragma unroll
            for (int v = 0; v < V; v++) x[j].v[v] = from_float<T>(0.0f);
        }
    }
#pragma unroll
    for (int v = 0; v < V; v++) {
        float s[POOL_EIGHT];
#pragma unroll
        for (int j = 0; j < POOL_EIGHT; j++) s[j] = to_float(x[j].v[v]);
        sum[v] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    }
}

/* What the sum is divided by; a parent without members has no sum either. */
template <class T> __device__ __forceinline__ float divisor(const pool_lists<T> &p, int64_t lo, int64_t hi) {
    return hi > lo ? (float)(hi - lo + (p.add_one ? 1 : 0)) : 1.0f;
}

template <class T, int V> __global__ void __launch_bounds__(POOL_THREADS) pool_fwd_short_kernel(const pool_lists<T> p) {
    int64_t parent = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (parent >= p.P) return;
    int64_t lo = p.first[parent], hi = p.first[parent + 1];
    float   n = divisor(p, lo, hi);
    for (int64_t col = threadIdx.x * V; col < p.C; col += blockDim.x * V) {
        float sum[V];
        add_eight<T, V>(p, lo, 1, hi, col, sum);
        if (hi - lo > POOL_EIGHT) {
            double total[V];
#pragma unroll
            for (int v = 0; v < V; v++) total[v] = sum[v];
            for (int64_t at = lo + POOL_EIGHT; at < hi; at += POOL_EIGHT) {
                add_eight<T, V>(p, at, 1, hi, col, sum);
#pragma unroll
                for (int v = 0; v < V; v++) total[v] += sum[v];
            }
#pragma unroll
            for (int v = 0; v < V; v++) sum[v] = (float)total[v];
        }
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] = sum[v] / n;
        store_vec<T, V>(p.y + parent * p.C + col, sum);
    }
}

/* A block per parent (grid x) and column tile (grid y). */
template <class T, int V> __global__ void __launch_bounds__(POOL_THREADS) pool_fwd_long_kernel(const pool_lists<T> p) {
    __shared__ double room[V * POOL_THREADS];
    int               lanes = blockDim.y, threads = blockDim.x * blockDim.y, t = threadIdx.y * blockDim.x + threadIdx.x;
    int64_t           parent = blockIdx.x, col = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * V;
    int64_t           lo = p.first[parent], hi = p.first[parent + 1];
    double            total[V];
#pragma unroll
    for (int v = 0; v < V; v++) total[v] = 0;
    if (col < p.C)
        for (int64_t at = lo + threadIdx.y; at < hi; at += POOL_EIGHT * lanes) {
            float sum[V];
            add_eight<T, V>(p, at, lanes, hi, col, sum);
#pragma unroll
            for (int v = 0; v < V; v++) total[v] += sum[v];
        }
#pragma unroll
    for (int v = 0; v < V; v++) room[v * threads + t] = total[v];
    __syncthreads();
    for (int s = 1; s < lanes; s *= 2) {
        if (threadIdx.y % (2 * s) == 0 && (int)threadIdx.y + s < lanes)
#pragma unroll
            for (int v = 0; v < V; v++) room[v * threads + t] += room[v * threads + t + s * blockDim.x];
        __syncthreads();
    }
    if (threadIdx.y != 0 || col >= p.C) return;
    float n = divisor(p, lo, hi), mean[V];
#pragma unroll
    for (int v = 0; v < V; v++) mean[v] = (float)room[v * threads + t] / n;
    store_vec<T, V>(p.y + parent * p.C + col, mean);
}

/* dx[member] = dy[parent]/n. Short: a thread per parent and V columns; long: a block per parent. */
template <class T, int V, bool LONG>
__global__ void __launch_bounds__(POOL_THREADS) pool_bwd_kernel(const pool_lists<T> p) {
    int64_t parent = LONG ? blockIdx.x : (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (parent >= p.P) return;
    int64_t lo = p.first[parent], hi = p.first[parent + 1];
    float   n = divisor(p, lo, hi);
    int     start = LONG ? threadIdx.y : 0, step = LONG ? blockDim.y : 1;
    for (int64_t col = threadIdx.x * V; col < p.C; col += blockDim.x * V) {
        float d[V];
        load_vec<T, V>(p.x + parent * p.C + col, d);
#pragma unroll
        for (int v = 0; v < V; v++) d[v] = d[v] / n;
#pragma unroll 8
        for (int64_t i = lo + start; i < hi; i += step)
            store_vec<T, V>(p.y + (p.order ? p.order[i] : i) * p.C + col, d);
    }
}

/* y[8 i + child] = x[i] */
template <class T, int V> __global__ void __launch_bounds__(POOL_THREADS) subdivide_fwd_kernel(const pool_lists<T> p) {
    int64_t parent = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (parent >= p.P) return;
    for (int64_t col = threadIdx.x * V; col < p.C; col += blockDim.x * V) {
        pack<T, V> x = load_raw<T, V>(p.x + parent * p.C + col);
#pragma unroll
        for (int child = 0; child < 8; child++) store_raw<T, V>(p.y + (8 * parent + child) * p.C + col, x);
    }
}

template <class T, int V> __global__ void __launch_bounds__(POOL_THREADS) subdivide_bwd_kernel(const pool_lists<T> p) {
    int64_t parent = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (parent >= p.P) return;
    for (int64_t col = threadIdx.x * V; col < p.C; col += blockDim.x * V) {
        float sum[V];
        add_eight<T, V>(p, 8 * parent, 1, 8 * parent + 8, col, sum);
        store_vec<T, V>(p.y + parent * p.C + col, sum);
    }
}

/* ---- launches ------------------------------------------------------------------------------------------------- */

struct pool_shape {
    dim3 block;
    int  tiles; /* of columns, for the kernels with a block per parent */
};

/* All columns of a parent, or 256 threads of them. */
static pool_shape pool_shape_of(int64_t vecs) {
    unsigned   x = (unsigned)(vecs < POOL_THREADS ? vecs : (int64_t)POOL_THREADS);
    pool_shape s = {dim3(x, POOL_THREADS / x), (int)ceil_div(vecs, x)};
    return s;
}

template <class T> static pool_lists<T> lists_of(const pool_args *a, const tensor *from, const tensor *to, int64_t P) {
    pool_lists<T> p = {
        ptr<const T>(from), ptr<const int32_t>(a->first), ptr<const int32_t>(a->order), ptr<T>(to), P, from->dim[1],
        a->add_one};
    return p;
}

template <class T, int V> static void pool_forward(ctx *c, const pool_lists<T> &p, bool lists_are_long) {
    pool_shape s = pool_shape_of(p.C / V);
    if (lists_are_long)
        pool_fwd_long_kernel<T, V><<<dim3((unsigned)p.P, (unsigned)s.tiles), s.block, 0, stream_of(c)>>>(p);
    else
        pool_fwd_short_kernel<T, V><<<(unsigned)ceil_div(p.P, s.block.y), s.block, 0, stream_of(c)>>>(p);
    LAUNCHED(c);
}

template <class T, int V> static void pool_backward(ctx *c, const pool_lists<T> &p, bool lists_are_long) {
    pool_shape s = pool_shape_of(p.C / V);
    if (lists_are_long)
        pool_bwd_kernel<T, V, true><<<(unsigned)p.P, s.block, 0, stream_of(c)>>>(p);
    else
        pool_bwd_kernel<T, V, false><<<(unsigned)ceil_div(p.P, s.block.y), s.block, 0, stream_of(c)>>>(p);
    LAUNCHED(c);
}

/* N rows in P lists */
static bool long_lists(int64_t N, int64_t P) {
    return N > P * POOL_LONG;
}

template <class T> static void forward(ctx *c, const pool_args *a) {
    int64_t N = a->x->dim[0], P = a->y->dim[0], C = a->y->dim[1];
    if (P * C == 0) return;
    pool_lists<T> p = lists_of<T>(a, a->x, a->y, P);
    BY_WIDTH(T, wide_rows<T>(C, p.x, p.y), V, pool_forward<T, V>(c, p, long_lists(N, P)));
}

template <class T> static void backward(ctx *c, const pool_args *a) {
    int64_t N = a->dx->dim[0], P = a->dy->dim[0], C = a->dx->dim[1];
    if (P * C == 0 || N == 0) return;
    pool_lists<T> p = lists_of<T>(a, a->dy, a->dx, P);
    BY_WIDTH(T, wide_rows<T>(C, p.x, p.y), V, pool_backward<T, V>(c, p, long_lists(N, P)));
}

template <class T> static void subdivide(ctx *c, const tensor *from, const tensor *to, int64_t N, bool bwd) {
    int64_t       C = from->dim[1];
    pool_lists<T> p = {ptr<const T>(from), NULL, NULL, ptr<T>(to), N, C, false};
    if (N * C == 0) return;
    BY_WIDTH(T, wide_rows<T>(C, p.x, p.y), V, pool_shape s = pool_shape_of(C / V);
             unsigned blocks = (unsigned)ceil_div(N, s.block.y);
             if (bwd) subdivide_bwd_kernel<T, V><<<blocks, s.block, 0, stream_of(c)>>>(p);
             else subdivide_fwd_kernel<T, V><<<blocks, s.block, 0, stream_of(c)>>>(p));
    LAUNCHED(c);
}

extern "C" void pool_fwd_cuda(ctx *c, const pool_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void pool_bwd_cuda(ctx *c, const pool_args *a) {
    BY_ACT(a->dy->dt, T, backward<T>(c, a));
}
extern "C" void subdivide_fwd_cuda(ctx *c, const subdivide_args *a) {
    BY_ACT(a->x->dt, T, subdivide<T>(c, a->x, a->y, a->x->dim[0], false));
}
extern "C" void subdivide_bwd_cuda(ctx *c, const subdivide_args *a) {
    BY_ACT(a->dy->dt, T, subdivide<T>(c, a->dy, a->dx, a->dx->dim[0], true));
}
