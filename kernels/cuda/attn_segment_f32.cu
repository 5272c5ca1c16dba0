/* Attention inside segments in f32: plain multiply-adds. A block of four warps owns 32 rows (or, for dk and dv, keys),
 * eight a warp, and walks over tiles of 32 of the others, one a lane: scores are dot products of a lane, then the lanes
 * share out the columns and add up weights times rows. Weights pass through shared memory. */
#include "kernels/cuda/attn_segment.cuh"

static constexpr float LN_2 = 0.6931471805599453f;

template <int DI_> struct f32_shape {
    static constexpr int DI = DI_, DP = 32 * DI,
                         PITCH = DP + 4; /* columns of a lane; padded width; floats a tile row */
    static constexpr int WARPS = 4, THREADS = 32 * WARPS, MINE = 8, ROWS = WARPS * MINE, TILE = 32;
};

/* own: 32 rows of two tensors; other: a tile of two tensors; weight: two rows of 32 for each own row. */
template <class F> struct f32_room {
    float own[2][F::ROWS][F::DP], other[2][F::TILE][F::PITCH], weight[2][F::ROWS][F::TILE];
};

/* A row of D values (NULL: zeros) to shared memory by one warp, padded with zeros. */
template <class F> __device__ __forceinline__ void bring(float *to, const float *row, int D, int lane) {
#pragma unroll
    for (int i = 0; i < F::DI; i++) {
        int d = lane + 32 * i;
        to[d] = row && d < D ? row[d] : 0;
    }
}

/* x[i] = <own row i of the warp, other row `lane`> of tensor t */
template <class F>
__device__ __forceinline__ void dots(float (&x)[F::MINE], const f32_room<F> *room, int t, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < F::MINE; i++) x[i] = 0;
#pragma unroll 4
    for (int d = 0; d < F::DP; d += 4) {
        float4 b = *reinterpret_cast<const float4 *>(&room->other[t][lane][d]);
#pragma unroll
        for (int i = 0; i < F::MINE; i++) {
            float4 a = *reinterpret_cast<const float4 *>(&room->own[t][warp * F::MINE + i][d]);
            x[i] = fmaf(a.x, b.x, x[i]);
            x[i] = fmaf(a.y, b.y, x[i]);
            x[i] = fmaf(a.z, b.z, x[i]);
            x[i] = fmaf(a.w, b.w, x[i]);
        }
    }
}

/* sum[i][c] += sum over the tile's rows of weight w times column lane + 32c of tensor t */
template <class F>
__device__ __forceinline__ void gather(float (&sum)[F::MINE][F::DI], const f32_room<F> *room, int w, int t, int warp,
                                       int lane) {
#pragma unroll 1
    for (int r = 0; r < F::TILE; r += 4) {
        float b[4][F::DI];
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int c = 0; c < F::DI; c++) b[e][c] = room->other[t][r + e][lane + 32 * c];
#pragma unroll
        for (int i = 0; i < F::MINE; i++) {
            float4 a = *reinterpret_cast<const float4 *>(&room->weight[w][warp * F::MINE + i][r]);
#pragma unroll
            for (int c = 0; c < F::DI; c++) {
                sum[i][c] += a.x * b[0][c];
                sum[i][c] += a.y * b[1][c];
                sum[i][c] += a.z * b[2][c];
                sum[i][c] += a.w * b[3][c];
            }
        }
    }
}

template <class F>
__device__ __forceinline__ void bring_keys(f32_room<F> *room, const segment_problem<float> &a, const attn_job &j, int g,
                                           int key0, int warp, int lane) {
    for (int r = warp; r < F::TILE; r += F::WARPS) {
        int64_t n = key0 + r < j.keys ? key_row_at(a, j, key0 + r) : -1;
        bring<F>(room->other[0][r], n < 0 ? NULL : a.k + n * a.ks + g * a.D, a.D, lane);
        bring<F>(room->other[1][r], n < 0 ? NULL : a.v + n * a.vs + g * a.D, a.D, lane);
    }
}

/* The part of a warp in the table of jobs; blocks are (tile, key head). */
#define F32_KERNEL_BEGIN                                                                                               \
    extern __shared__ __align__(16) unsigned char segment_shared[];                                                    \
    f32_room<F>                                  *room = reinterpret_cast<f32_room<F> *>(segment_shared);              \
    int g = blockIdx.x % a.G, tile = blockIdx.x / a.G % a.n_jobs, warp = threadIdx.x / 32, lane = threadIdx.x % 32,    \
        mine = warp * F::MINE;                                                                                         \
    const attn_job j = a.job[tile];                                                                                    \
    if (j.segment < 0) return

template <class F>
__global__ void __launch_bounds__(F::THREADS) segment_fwd_f32_kernel(const __grid_constant__ segment_problem<float> a) {
    F32_KERNEL_BEGIN;
    float o[F::MINE][F::DI], sum[F::MINE], most[F::MINE], s[F::MINE];
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int       r = j.at + mine + i;
        query_row at = query_row_at(a, j, g, r < j.rows ? r : 0);
        bring<F>(room->own[0][mine + i], r < j.rows ? a.q + at.n * a.qs + at.h * a.D : NULL, a.D, lane);
        sum[i] = 0;
        most[i] = -INFINITY;
#pragma unroll
        for (int c = 0; c < F::DI; c++) o[i][c] = 0;
    }
    for (int key0 = 0; key0 < j.keys; key0 += F::TILE) {
        __syncthreads();
        bring_keys(room, a, j, g, key0, warp, lane);
        __syncthreads();
        dots(s, room, 0, warp, lane);
        bool there = key0 + lane < j.keys;
#pragma unroll
        for (int i = 0; i < F::MINE; i++) {
            float x = there ? __fmul_rn(s[i], a.scale) : -INFINITY, m = fmaxf(most[i], warp_max(x));
            float shrink = expf(most[i] - m), p = there ? expf(x - m) : 0;
            sum[i] = sum[i] * shrink + p;
            most[i] = m;
#pragma unroll
            for (int c = 0; c < F::DI; c++) o[i][c] *= shrink;
            room->weight[0][mine + i][lane] = p;
        }
        __syncwarp();
        gather(o, room, 0, 1, warp, lane);
    }
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int   r = j.at + mine + i;
        float total = warp_sum(sum[i]);
        if (r >= j.rows) continue;
        query_row at = query_row_at(a, j, g, r);
        int64_t   to = (int64_t)at.n * a.H + at.h;
        if (lane == 0) a.lse[to] = j.keys ? most[i] + logf(total) : -INFINITY;
#pragma unroll
        for (int c = 0; c < F::DI; c++)
            if (lane + 32 * c < a.D) a.out[to * a.D + lane + 32 * c] = j.keys ? o[i][c] / total : 0;
    }
}

template <class F>
__global__ void __launch_bounds__(F::THREADS) segment_dq_f32_kernel(const __grid_constant__ segment_problem<float> a) {
    F32_KERNEL_BEGIN;
    float dq[F::MINE][F::DI], lse[F::MINE], delta[F::MINE], s[F::MINE], dp[F::MINE];
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int       r = j.at + mine + i;
        bool      there = r < j.rows;
        query_row at = query_row_at(a, j, g, there ? r : 0);
        int64_t   to = (int64_t)at.n * a.H + at.h;
        bring<F>(room->own[0][mine + i], there ? a.q + at.n * a.qs + at.h * a.D : NULL, a.D, lane);
        bring<F>(room->own[1][mine + i], there ? a.dout + to * a.D : NULL, a.D, lane);
        lse[i] = a.given ? a.given[to].x * LN_2 : a.lse[to];
#pragma unroll
        for (int c = 0; c < F::DI; c++) dq[i][c] = 0;
    }
    __syncwarp();
    /* Delta by one lane a row, in the order of `dots`: where one key is alone, dP - delta is 0, not a rounding. */
    float     mine_delta = 0;
    int       r = j.at + mine + lane % F::MINE;
    query_row at = query_row_at(a, j, g, r < j.rows ? r : 0);
    int64_t   to = (int64_t)at.n * a.H + at.h;
    if (a.given)
        mine_delta = -a.given[to].y;
    else
        for (int d = 0; d < a.D; d++)
            mine_delta = fmaf(room->own[1][mine + lane % F::MINE][d], a.out[to * a.D + d], mine_delta);
    if (lane < F::MINE && r < j.rows) a.stat[to] = float2{a.given ? a.given[to].x * LN_2 : a.lse[to], mine_delta};
#pragma unroll
    for (int i = 0; i < F::MINE; i++) delta[i] = __shfl_sync(0xffffffffu, mine_delta, i);
    for (int key0 = 0; key0 < j.keys; key0 += F::TILE) {
        __syncthreads();
        bring_keys(room, a, j, g, key0, warp, lane);
        __syncthreads();
        dots(s, room, 0, warp, lane);
        dots(dp, room, 1, warp, lane);
#pragma unroll
        for (int i = 0; i < F::MINE; i++) {
            float p = key0 + lane < j.keys ? expf(s[i] * a.scale - lse[i]) : 0;
            room->weight[0][mine + i][lane] = key0 + lane < j.keys ? p * (dp[i] - delta[i]) * a.scale : 0;
        }
        __syncwarp();
        gather(dq, room, 0, 0, warp, lane);
    }
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int r = j.at + mine + i;
        if (r >= j.rows) continue;
        query_row at = query_row_at(a, j, g, r);
#pragma unroll
        for (int c = 0; c < F::DI; c++)
            if (lane + 32 * c < a.D) {
                float *to = a.dq + at.n * a.qs + at.h * a.D + lane + 32 * c;
                *to = dq[i][c] + (a.dq_add ? *to : 0);
            }
    }
}

template <class F>
__global__ void __launch_bounds__(F::THREADS) segment_dkv_f32_kernel(const __grid_constant__ segment_problem<float> a) {
    F32_KERNEL_BEGIN;
    int   part = blockIdx.x / a.G / a.n_jobs;
    float dk[F::MINE][F::DI], dv[F::MINE][F::DI], s[F::MINE], dp[F::MINE];
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int     key = j.at + mine + i;
        int64_t n = key < j.keys ? key_row_at(a, j, key) : -1;
        bring<F>(room->own[0][mine + i], n < 0 ? NULL : a.k + n * a.ks + g * a.D, a.D, lane);
        bring<F>(room->own[1][mine + i], n < 0 ? NULL : a.v + n * a.vs + g * a.D, a.D, lane);
#pragma unroll
        for (int c = 0; c < F::DI; c++) dk[i][c] = dv[i][c] = 0;
    }
    int64_t n_tiles = (j.rows + F::TILE - 1) / F::TILE;
    int     t1 = (int)(n_tiles * (part + 1) / a.parts);
    for (int t = (int)(n_tiles * part / a.parts); t < t1; t++) {
        __syncthreads();
        for (int r = warp; r < F::TILE; r += F::WARPS) {
            bool      there = t * F::TILE + r < j.rows;
            query_row at = query_row_at(a, j, g, there ? t * F::TILE + r : 0);
            bring<F>(room->other[0][r], there ? a.q + at.n * a.qs + at.h * a.D : NULL, a.D, lane);
            bring<F>(room->other[1][r], there ? a.dout + ((int64_t)at.n * a.H + at.h) * a.D : NULL, a.D, lane);
        }
        bool      there = t * F::TILE + lane < j.rows;
        query_row at = query_row_at(a, j, g, there ? t * F::TILE + lane : 0);
        float2    stat = a.stat[(int64_t)at.n * a.H + at.h];
        __syncthreads();
        dots(s, room, 0, warp, lane);
        dots(dp, room, 1, warp, lane);
#pragma unroll
        for (int i = 0; i < F::MINE; i++) {
            float p = there ? expf(s[i] * a.scale - stat.x) : 0;
            room->weight[0][mine + i][lane] = there ? p * (dp[i] - stat.y) * a.scale : 0;
            room->weight[1][mine + i][lane] = p;
        }
        __syncwarp();
        gather(dk, room, 0, 0, warp, lane);
        gather(dv, room, 1, 1, warp, lane);
    }
#pragma unroll
    for (int i = 0; i < F::MINE; i++) {
        int key = j.at + mine + i;
        if (key >= j.keys) continue;
        int64_t n = key_row_at(a, j, key), sums = (((int64_t)part * a.n_keys + j.k0 + key) * a.G + g) * 2 * a.D;
        float  *to_k = a.parts > 1 ? a.part + sums : a.dk + n * a.ks + g * a.D;
        float  *to_v = a.parts > 1 ? a.part + sums + a.D : a.dv + n * a.vs + g * a.D;
#pragma unroll
        for (int c = 0; c < F::DI; c++)
            if (lane + 32 * c < a.D) {
                to_k[lane + 32 * c] = dk[i][c];
                to_v[lane + 32 * c] = dv[i][c];
            }
    }
}

#define F32_LAUNCH(name, kernel, blocks)                                                                               \
    do {                                                                                                               \
        int64_t n_blocks = (blocks);                                                                                   \
        CHECK(n_blocks < (int64_t)1 << 31, "%s: %lld blocks", name, (long long)n_blocks);                              \
        allow_shared(c, kernel<F>, sizeof(f32_room<F>), name);                                                         \
        kernel<F><<<(unsigned)n_blocks, F::THREADS, sizeof(f32_room<F>), stream_of(c)>>>(*p);                          \
        LAUNCHED(c);                                                                                                   \
    } while (0)

template <class F> static void launch_fwd(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    p->job = segment_row_jobs(c, a, F::ROWS, &p->n_jobs);
    F32_LAUNCH("attn_segment_fwd", segment_fwd_f32_kernel, (int64_t)p->n_jobs * p->G);
}
template <class F> static void launch_dq(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    p->job = segment_row_jobs(c, a, F::ROWS, &p->n_jobs);
    F32_LAUNCH("attn_segment_bwd", segment_dq_f32_kernel, (int64_t)p->n_jobs * p->G);
}
template <class F> static void launch_dkv(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    p->job = segment_key_jobs(c, a, F::ROWS, &p->n_jobs);
    segment_parts(c, p, a->q->dim[0], F::ROWS);
    F32_LAUNCH("attn_segment_bwd", segment_dkv_f32_kernel, (int64_t)p->n_jobs * p->G * p->parts);
    segment_add_parts(c, *p);
}

#define BY_WIDTH(launch)                                                                                               \
    do {                                                                                                               \
        if (p->D <= 32)                                                                                                \
            launch<f32_shape<1>>(c, p, a);                                                                             \
        else if (p->D <= 64)                                                                                           \
            launch<f32_shape<2>>(c, p, a);                                                                             \
        else                                                                                                           \
            launch<f32_shape<4>>(c, p, a);                                                                             \
    } while (0)

void segment_fwd(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    BY_WIDTH(launch_fwd);
}
void segment_dq(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    BY_WIDTH(launch_dq);
}
void segment_dkv(ctx *c, segment_problem<float> *p, const attn_segment_args *a) {
    BY_WIDTH(launch_dkv);
}
