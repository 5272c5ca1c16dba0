/* What surrounds the attention kernels of attn_segment: the tables of tiles, the bound of the keys' norms, delta of the
 * fused backward, the sum of partial dk and dv, and zeros for keys without a segment. */
#include "kernels/cuda/attn_segment.cuh"

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

static const int SCAN_THREADS = 1024;

/* What is to be cut into tiles: the rows or the keys of the segments. */
struct tiled_segments {
    const int32_t *q_first, *k_first;
    int            S, hs, tile;
    bool           rows, with_windows;

    __device__ __forceinline__ int tiles_of(int s) const {
        int n = rows ? (q_first[s + 1] - q_first[s]) * hs : k_first[s + 1] - k_first[s];
        return with_windows || window_keys(q_first, k_first, s) == 0 ? (n + tile - 1) / tile : 0;
    }
};

/* tile_first[s]: number of tiles before segment s, (S+1). One block; a thread adds up a run of segments. */
__global__ void __launch_bounds__(SCAN_THREADS) count_tiles_kernel(const tiled_segments of, int32_t *tile_first) {
    __shared__ int32_t before[32];
    const int          S = of.S;
    int     run = (S + SCAN_THREADS - 1) / SCAN_THREADS, s0 = min(S, (int)threadIdx.x * run), s1 = min(S, s0 + run);
    int     warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t mine = 0;
    for (int s = s0; s < s1; s++) mine += of.tiles_of(s);
    int32_t upto = mine;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        int32_t x = __shfl_up_sync(0xffffffffu, upto, o);
        if (lane >= o) upto += x;
    }
    if (lane == 31) before[warp] = upto;
    __syncthreads();
    if (warp == 0) {
        int32_t x = before[lane], sum = x;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            int32_t y = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += y;
        }
        before[lane] = sum - x;
    }
    __syncthreads();
    int32_t at = before[warp] + upto - mine;
    for (int s = s0; s < s1; s++) {
        tile_first[s] = at;
        at += of.tiles_of(s);
    }
    if (threadIdx.x == SCAN_THREADS - 1) tile_first[S] = at; /* the last run, empty or not, ends at S */
}

__global__ void fill_jobs_kernel(const tiled_segments of, const int32_t *tile_first, int n_jobs, attn_job *job) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n_jobs) return;
    attn_job j = {-1, 0, 0, 0, 0, 0, {0, 0}};
    if (t < tile_first[of.S]) {
        int s = segment_of(tile_first, of.S, t);
        j.segment = s;
        j.at = (t - tile_first[s]) * of.tile;
        j.q0 = of.q_first[s];
        j.rows = (of.q_first[s + 1] - j.q0) * of.hs;
        j.k0 = of.k_first[s];
        j.keys = of.k_first[s + 1] - j.k0;
    }
    job[t] = j;
}

static attn_job *make_jobs(ctx *c, const attn_segment_args *a, tiled_segments of, int64_t n, int *n_jobs) {
    int64_t S = a->q_first->dim[0] - 1, bound = n / of.tile + S;
    CHECK(n < (int64_t)1 << 30 && bound * a->k->dim[1] < (int64_t)1 << 31,
          "attn_segment: %lld rows in %lld segments are too many", (long long)n, (long long)S);
    *n_jobs = (int)bound;
    if (bound == 0) return NULL;
    of.q_first = ptr<int32_t>(a->q_first), of.k_first = ptr<int32_t>(a->k_first), of.S = (int)S;
    int32_t  *tile_first = (int32_t *)arena_alloc(&c->scratch, (size_t)(S + 1) * sizeof *tile_first);
    attn_job *job = (attn_job *)arena_alloc(&c->scratch, (size_t)bound * sizeof *job);
    count_tiles_kernel<<<1, SCAN_THREADS, 0, stream_of(c)>>>(of, tile_first);
    LAUNCHED(c);
    fill_jobs_kernel<<<(unsigned)ceil_div(bound, 256), 256, 0, stream_of(c)>>>(of, tile_first, (int)bound, job);
    LAUNCHED(c);
    return job;
}

attn_job *segment_row_jobs(ctx *c, const attn_segment_args *a, int tile, int *n_jobs, bool with_windows) {
    tiled_segments of = {};
    of.hs = (int)(a->q->dim[1] / a->k->dim[1]), of.tile = tile, of.rows = true, of.with_windows = with_windows;
    return make_jobs(c, a, of, a->q->dim[0] * of.hs, n_jobs);
}

attn_job *segment_key_jobs(ctx *c, const attn_segment_args *a, int tile, int *n_jobs, bool with_windows) {
    tiled_segments of = {};
    of.hs = (int)(a->q->dim[1] / a->k->dim[1]), of.tile = tile, of.rows = false, of.with_windows = with_windows;
    return make_jobs(c, a, of, tensor_given(a->k_order) ? a->k_order->dim[0] : a->k->dim[0], n_jobs);
}

/* ---- norms of the keys ------------------------------------------------------------------------------------------- */

/* Bits of a float that is not negative order like the float; NaN is above all. */
__global__ void key_bound_kernel(const bf16 *k, int64_t stride, int64_t M, int D, bool wide, uint32_t *bound) {
    const bf16 *head = k + (int64_t)blockIdx.y * D;
    uint32_t    bits = 0;
    for (int64_t m = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; m < M; m += (int64_t)gridDim.x * blockDim.x) {
        const bf16 *row = head + m * stride;
        float       sum = 0;
        if (wide)
            for (int d = 0; d < D; d += 8) {
                float x[8];
                load_pack<bf16, 8>(row + d, x);
#pragma unroll
                for (int e = 0; e < 8; e++) sum += x[e] * x[e];
            }
        else
            for (int d = 0; d < D; d++) sum += to_float(row[d]) * to_float(row[d]);
        bits = max(bits, __float_as_uint(fabsf(sum)));
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, o));
    if (threadIdx.x % 32 == 0) atomicMax(bound + blockIdx.y, bits);
}

uint32_t *segment_key_bound(ctx *c, const segment_problem<bf16> &p, int64_t M) {
    uint32_t *bound = (uint32_t *)arena_alloc(&c->scratch, (size_t)p.G * sizeof *bound);
    CUDA_DO(cudaMemsetAsync(bound, 0, (size_t)p.G * sizeof *bound, stream_of(c)));
    if (M == 0) return bound;
    CHECK(p.G <= 65535, "attn_segment: %d key heads", p.G);
    dim3 grid((unsigned)(M < 65536 ? ceil_div(M, 128) : 512), (unsigned)p.G);
    key_bound_kernel<<<grid, 128, 0, stream_of(c)>>>(p.k, p.ks, M, p.D, p.wide, bound);
    LAUNCHED(c);
    return bound;
}

/* ---- what the fused backward needs of each row ------------------------------------------------------------------- */

/* stat of heads of 32, four lanes a row: lse log2 e and -<dout, out>, if it is not given. A row without keys gets dq =
 * 0, if it is not added to. */
__global__ void __launch_bounds__(256) find_stat_kernel(const __grid_constant__ segment_problem<bf16> a, int64_t rows) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, row = i / 4, n = row / a.H;
    if (row >= rows) return; /* eight rows a warp: its lanes go together, but for the last */
    float lse = a.given ? a.given[row].x : a.lse[row];
    if (!a.given) {
        float out[8], dout[8], delta = 0;
        load_pack<bf16, 8>(a.out + i * 8, out);
        load_pack<bf16, 8>(a.dout + i * 8, dout);
#pragma unroll
        for (int e = 0; e < 8; e++) delta += out[e] * dout[e];
        unsigned quad = 0xfu << (threadIdx.x % 32 / 4 * 4);
        delta += __shfl_xor_sync(quad, delta, 1);
        delta += __shfl_xor_sync(quad, delta, 2);
        if (i % 4 == 0) a.stat[row] = float2{lse * 1.4426950408889634f, -delta};
    }
    if (lse == -INFINITY && !a.dq_add)
        *reinterpret_cast<uint4 *>(a.dq + n * a.qs + (row - n * a.H) * 32 + i % 4 * 8) = uint4{0, 0, 0, 0};
}

void segment_find_stat(ctx *c, const segment_problem<bf16> &p, int64_t n_queries) {
    int64_t rows = n_queries * p.H;
    if (p.given && p.dq_add) return;
    find_stat_kernel<<<(unsigned)ceil_div(rows * 4, 256), 256, 0, stream_of(c)>>>(p, rows);
    LAUNCHED(c);
}

/* ---- sums over parts of the rows --------------------------------------------------------------------------------- */

/* Enough blocks to fill the GPU four times over where there are few keys, but no part below 512 rows. The memory is at
 * most about (12 multiprocessors) * tile * 2 D floats: 52 MB for 132 multiprocessors, 128 keys and D = 32. */
template <class T> void segment_parts(ctx *c, segment_problem<T> *p, int64_t n_queries, int tile) {
    int64_t blocks = (p->n_keys / tile + p->S) * p->G, want = 12 * (int64_t)(c->cuda ? c->cuda->multiprocessors : 132);
    int64_t parts = want / (blocks ? blocks : 1), most = p->S ? n_queries * p->hs / p->S / 512 : 1;
    if (parts > most) parts = most;
    if (p->windows) parts = 1; /* a sum over parts is one of all keys */
    p->parts = parts > 1 ? (int)parts : 1;
    p->part = NULL;
    if (p->parts > 1)
        p->part =
            (float *)arena_alloc(&c->scratch, (size_t)p->parts * (size_t)(p->n_keys * p->G * 2 * p->D) * sizeof(float));
}
template void segment_parts(ctx *, segment_problem<bf16> *, int64_t, int);
template void segment_parts(ctx *, segment_problem<float> *, int64_t, int);

template <class T> __global__ void add_parts_kernel(const __grid_constant__ segment_problem<T> a) {
    int64_t row = (int64_t)a.G * a.D, count = (int64_t)a.k_first[a.S] * row;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int64_t      at = i / row, g = (i - at * row) / a.D, d = i - at * row - g * a.D, step = a.n_keys * row * 2;
    const float *x = a.part + (at * a.G + g) * 2 * a.D + d;
    float        dk = 0, dv = 0;
#pragma unroll 4
    for (int p = 0; p < a.parts; p++, x += step) {
        dk += x[0];
        dv += x[a.D];
    }
    int64_t m = a.k_order ? a.k_order[at] : at;
    a.dk[m * a.ks + g * a.D + d] = from_float<T>(dk);
    a.dv[m * a.vs + g * a.D + d] = from_float<T>(dv);
}

template <class T> void segment_add_parts(ctx *c, const segment_problem<T> &p) {
    if (p.parts == 1 || p.n_keys == 0) return;
    add_parts_kernel<T><<<(unsigned)ceil_div(p.n_keys * p.G * p.D, 256), 256, 0, stream_of(c)>>>(p);
    LAUNCHED(c);
}
template void segment_add_parts(ctx *, const segment_problem<bf16> &);
template void segment_add_parts(ctx *, const segment_problem<float> &);

/* ---- keys without a segment -------------------------------------------------------------------------------------- */

/* With an order, every row is cleared, those with a segment are written later. Without, the rows past the last one. */
template <class T>
__global__ void clear_unnamed_kernel(const __grid_constant__ segment_problem<T> a, int64_t M, bool all) {
    int64_t row = (int64_t)a.G * a.D, start = all ? 0 : a.k_first[a.S] * row;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = start + (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < M * row; i += step) {
        int64_t m = i / row, col = i - m * row;
        a.dk[m * a.ks + col] = from_float<T>(0.f);
        a.dv[m * a.vs + col] = from_float<T>(0.f);
    }
}

template <class T> void segment_clear_unnamed(ctx *c, const segment_problem<T> &p, int64_t M) {
    if (M == 0 || (p.k_order && p.n_keys == M)) return;
    int64_t blocks = ceil_div(M * p.G * p.D, 256);
    clear_unnamed_kernel<T><<<(unsigned)(blocks < 512 ? blocks : 512), 256, 0, stream_of(c)>>>(p, M, p.k_order != NULL);
    LAUNCHED(c);
}
template void segment_clear_unnamed(ctx *, const segment_problem<bf16> &, int64_t);
template void segment_clear_unnamed(ctx *, const segment_problem<float> &, int64_t);
