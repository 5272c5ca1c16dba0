/* attn_select in plain loops, for float32 and for bf16 rows of any width. A block of threads has one query and one key
 * head, a warp one query head; keys come 32 at a time through shared memory. Scores: a lane has a key. Sums over keys:
 * a lane has the columns lane + 32i. */
#include <math.h>

#include "kernels/cuda/dev/select_attn.cuh"

namespace {

enum { TILE = 32, MAX_WARPS = 16, KEY_WARPS = 8 };

/* Shared memory in floats: keys and values (TILE, D+1), then two rows a warp. */
size_t shared_bytes(int D, int warps) {
    return (size_t)(2 * TILE * (D + 1) + 2 * warps * D) * sizeof(float);
}

/* The block's next tile: rows t0 .. t1-1 of k and v, at most TILE, zeros behind them. */
template <class T>
__device__ __forceinline__ void load_tile(const select_view &a, int g, int t0, int t1, float *k, float *v) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    __syncthreads();
    for (int i = warp; i < TILE; i += warps)
        for (int d = lane; d < a.D; d += 32) {
            int64_t at = ((int64_t)(t0 + i) * a.G + g) * a.D + d;
            k[i * (a.D + 1) + d] = t0 + i < t1 ? to_float(((const T *)a.k)[at]) : 0;
            v[i * (a.D + 1) + d] = t0 + i < t1 ? to_float(((const T *)a.v)[at]) : 0;
        }
    __syncthreads();
}

__device__ __forceinline__ float dot(const float *x, const float *y, int D) {
    float s = 0;
    for (int d = 0; d < D; d++) s = fmaf(x[d], y[d], s);
    return s;
}

/* acc[i] += sum over keys of weight (a lane has its key's) times column lane + 32i. */
template <int COLUMNS>
__device__ __forceinline__ void add_keys(float (&acc)[COLUMNS], float weight, const float *tile, int D, int lane) {
    for (int key = 0; key < TILE; key++) {
        float w = __shfl_sync(ALL_LANES, weight, key);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (lane + 32 * i < D) acc[i] = fmaf(w, tile[key * (D + 1) + lane + 32 * i], acc[i]);
    }
}

template <class T, int COLUMNS> __global__ void fwd_kernel(const select_view a) {
    extern __shared__ float shared[];
    const int               warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, g = blockIdx.y;
    const int64_t           n = blockIdx.x;
    const int32_t          *block = a.block + (g * a.N + n) * a.K;
    float                  *k = shared, *v = k + TILE * (a.D + 1), *q = v + TILE * (a.D + 1) + 2 * warp * a.D;
    for (int h0 = 0; h0 < a.hs; h0 += warps) {
        bool    active = h0 + warp < a.hs;
        int64_t row = n * a.H + g * a.hs + (active ? h0 + warp : 0);
        for (int d = lane; d < a.D; d += 32) q[d] = to_float(((const T *)a.q)[row * a.D + d]);
        __syncwarp();
        float max = -INFINITY, sum = 0, acc[COLUMNS] = {};
        for (int s = 0; s < a.K; s++) {
            int b = block[s];
            if (b < 0) continue;
            int t1 = a.first[b + 1];
            for (int t0 = a.first[b]; t0 < t1; t0 += TILE) {
                load_tile<T>(a, g, t0, t1, k, v);
                if (!active) continue;
                bool  ok = t0 + lane < t1;
                float x = ok ? dot(q, k + lane * (a.D + 1), a.D) * a.scale : -INFINITY;
                float next = fmaxf(max, warp_max(x)), p = ok ? expf(x - next) : 0, keep = expf(max - next);
                max = next;
                sum = sum * keep + warp_sum(p);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) acc[i] *= keep;
                add_keys<COLUMNS>(acc, p, v, a.D, lane);
            }
        }
        if (active) {
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                if (lane + 32 * i < a.D)
                    ((T *)a.out)[row * a.D + lane + 32 * i] = from_float<T>(sum == 0 ? 0 : acc[i] / sum);
            if (lane == 0) a.lse[row] = sum == 0 ? -INFINITY : max + logf(sum);
        }
        __syncwarp();
    }
}

template <class T, int COLUMNS> __global__ void dq_kernel(const select_view a) {
    extern __shared__ float shared[];
    const int               warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, g = blockIdx.y;
    const int64_t           n = blockIdx.x;
    const int32_t          *block = a.block + (g * a.N + n) * a.K;
    float *k = shared, *v = k + TILE * (a.D + 1), *q = v + TILE * (a.D + 1) + 2 * warp * a.D, *dout = q + a.D;
    for (int h0 = 0; h0 < a.hs; h0 += warps) {
        bool    active = h0 + warp < a.hs;
        int64_t row = n * a.H + g * a.hs + (active ? h0 + warp : 0);
        float   lse = a.given ? a.given[row].x * 0.6931471805599453f : a.lse[row], delta = 0, acc[COLUMNS] = {};
        for (int d = lane; d < a.D; d += 32) {
            q[d] = to_float(((const T *)a.q)[row * a.D + d]);
            dout[d] = to_float(((const T *)a.dout)[row * a.D + d]);
            if (!a.given) delta += dout[d] * to_float(((const T *)a.o)[row * a.D + d]);
        }
        delta = a.given ? -a.given[row].y : warp_sum(delta);
        if (active && lane == 0) a.stat[row] = make_float2(lse, delta);
        for (int s = 0; s < a.K; s++) {
            int b = block[s];
            if (b < 0) continue;
            int t1 = a.first[b + 1];
            for (int t0 = a.first[b]; t0 < t1; t0 += TILE) {
                load_tile<T>(a, g, t0, t1, k, v);
                if (!active) continue;
                float x = dot(q, k + lane * (a.D + 1), a.D) * a.scale, dp = dot(dout, v + lane * (a.D + 1), a.D);
                add_keys<COLUMNS>(acc, t0 + lane < t1 ? expf(x - lse) * (dp - delta) : 0, k, a.D, lane);
            }
        }
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (active && lane + 32 * i < a.D) {
                T *to = (T *)a.dq + row * a.D + lane + 32 * i;
                *to = from_float<T>(acc[i] * a.scale + (a.dq_add ? to_float(*to) : 0));
            }
        __syncwarp();
    }
}

/* A block of threads has one key row; its warps share the rows (query of the list, head), lanes the columns. */
template <class T, int COLUMNS>
__global__ void __launch_bounds__(32 * KEY_WARPS) dkv_kernel(const select_view a, const select_lists lists) {
    extern __shared__ float sums[]; /* (KEY_WARPS, 2, D) */
    const int               warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = blockIdx.y;
    const int64_t           key = blockIdx.x, at = (key * a.G + g) * a.D;
    const int               list = g * a.NB + segment_of(a.first, a.NB, key);
    const int32_t          *query = lists.query + lists.first[list];
    const int               n_rows = (lists.first[list + 1] - lists.first[list]) * a.hs;
    float                   k[COLUMNS], v[COLUMNS], dk[COLUMNS] = {}, dv[COLUMNS] = {};
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        bool ok = lane + 32 * i < a.D;
        k[i] = ok ? to_float(((const T *)a.k)[at + lane + 32 * i]) : 0;
        v[i] = ok ? to_float(((const T *)a.v)[at + lane + 32 * i]) : 0;
    }
    for (int r = warp; r < n_rows; r += KEY_WARPS) {
        int64_t row = (int64_t)query[r / a.hs] * a.H + g * a.hs + r % a.hs;
        float2  stat = a.stat[row];
        float   q[COLUMNS], dout[COLUMNS], s = 0, dp = 0;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            bool ok = lane + 32 * i < a.D;
            q[i] = ok ? to_float(((const T *)a.q)[row * a.D + lane + 32 * i]) : 0;
            dout[i] = ok ? to_float(((const T *)a.dout)[row * a.D + lane + 32 * i]) : 0;
            s = fmaf(q[i], k[i], s);
            dp = fmaf(dout[i], v[i], dp);
        }
        float p = expf(warp_sum(s) * a.scale - stat.x), ds = p * (warp_sum(dp) - stat.y);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            dk[i] = fmaf(ds, q[i], dk[i]);
            dv[i] = fmaf(p, dout[i], dv[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        if (lane + 32 * i < a.D) {
            sums[2 * warp * a.D + lane + 32 * i] = dk[i];
            sums[(2 * warp + 1) * a.D + lane + 32 * i] = dv[i];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * a.D; i += blockDim.x) {
        float sum = 0;
        for (int w = 0; w < KEY_WARPS; w++) sum += sums[2 * w * a.D + i];
        if (i < a.D)
            ((T *)a.dk)[at + i] = from_float<T>(sum * a.scale);
        else
            ((T *)a.dv)[at + i - a.D] = from_float<T>(sum);
    }
}

/* COLUMNS: of a lane */
template <class T, int COLUMNS> void launch_fwd(ctx *c, const select_view &a) {
    int    warps = a.hs < MAX_WARPS ? a.hs : MAX_WARPS;
    size_t bytes = shared_bytes(a.D, warps);
    allow_shared_bytes(c, fwd_kernel<T, COLUMNS>, bytes, "attn_select");
    fwd_kernel<T, COLUMNS><<<dim3((unsigned)a.N, (unsigned)a.G), 32 * warps, bytes, stream_of(c)>>>(a);
    LAUNCHED(c);
}

template <class T, int COLUMNS> void launch_bwd(ctx *c, const select_view &a, const select_lists &lists) {
    int    warps = a.hs < MAX_WARPS ? a.hs : MAX_WARPS;
    size_t bytes = shared_bytes(a.D, warps), sum_bytes = (size_t)(2 * KEY_WARPS * a.D) * sizeof(float);
    allow_shared_bytes(c, dq_kernel<T, COLUMNS>, bytes, "attn_select");
    dq_kernel<T, COLUMNS><<<dim3((unsigned)a.N, (unsigned)a.G), 32 * warps, bytes, stream_of(c)>>>(a);
    LAUNCHED(c);
    dkv_kernel<T, COLUMNS><<<dim3((unsigned)a.N, (unsigned)a.G), 32 * KEY_WARPS, sum_bytes, stream_of(c)>>>(a, lists);
    LAUNCHED(c);
}

} // namespace

template <class T> void select_loops_fwd(ctx *c, const select_view &a) {
    if (a.D <= 32)
        launch_fwd<T, 1>(c, a);
    else
        launch_fwd<T, 4>(c, a);
}

template <class T> void select_loops_bwd(ctx *c, const select_view &a, const select_lists &lists) {
    if (a.D <= 32)
        launch_bwd<T, 1>(c, a, lists);
    else
        launch_bwd<T, 4>(c, a, lists);
}

template void select_loops_fwd<float>(ctx *, const select_view &);
template void select_loops_fwd<bf16>(ctx *, const select_view &);
template void select_loops_bwd<float>(ctx *, const select_view &, const select_lists &);
template void select_loops_bwd<bf16>(ctx *, const select_view &, const select_lists &);
