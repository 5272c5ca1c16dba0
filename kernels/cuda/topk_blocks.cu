/* Block scores and selection (ops/topk_blocks.h). No score leaves the chip: a warp owns 16 queries of one sample and
 * one key head, walks over the sample's compression blocks 32 at a time (dev/topk_scores.cuh), and keeps the K best
 * blocks of each query in registers (dev/topk_list.cuh).
 *
 * `ends`: bit i is set if compression block i of the step is the last of its selection block. There its lane has the
 * selection block's score: with one compression block in each it is what the step gave, else sums run to the right over
 * the lane's eight blocks, from lane to lane and from step to step.
 *
 * A score above the query's K-th best so far is rare. Only then a tile goes to shared memory, eight queries at a time,
 * and the four lanes of a query put the passing blocks into its list. A NaN never passes.
 *
 * What this form does not take is in topk_loops.cu. */
#include "kernels/cuda/dev/topk_list.cuh"
#include "kernels/cuda/dev/topk_scores.cuh"

namespace {

enum { WARPS = 2, MOST = 32 /* blocks chosen */ };
/* Floats between rows of a tile of 8 queries: 16-byte stores of eight lanes meet all banks. */
enum { PITCH = TOPK_COLS + 4 };

/* Bytes of one warp's shared memory: the tile, then the scorer's. */
template <int GROUPS> __host__ __device__ constexpr int room_of(int hs) {
    return 8 * PITCH * (int)sizeof(float) + topk_scorer<GROUPS>::bytes(hs);
}

/* Bits of the blocks before the first of lane `quad`. */
__device__ __forceinline__ uint32_t before_quad(int quad) {
    return (1u << 8 * quad) - 1;
}

/* Sums over the compression blocks of each selection block, at its last one. carry: of the selection block that the
 * step before left open, and of the one that this step does; the same in the four lanes. */
__device__ __forceinline__ void sum_blocks(float (&sum)[2][8], float (&carry)[2], uint32_t ends, int quad) {
    const uint32_t mine = ends >> 8 * quad & 255, before = ends & before_quad(quad);
    const int      first = __ffs(mine) - 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float(&x)[8] = sum[half];
#pragma unroll
        for (int k = 1; k < 8; k++)
            if (!(mine >> (k - 1) & 1)) x[k] += x[k - 1];
        /* What the lanes to the left have left open, nearest first, up to one that ends a block. */
        float open = mine >> 7 ? 0 : x[7], in = 0;
#pragma unroll
        for (int o = 1; o < 4; o++) {
            float left = __shfl_up_sync(ALL_LANES, open, o, 4);
            if (quad >= o && !(before >> 8 * (quad - o + 1))) in += left;
        }
        if (!before) in += carry[half];
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (k == first) x[k] += in;
        if (!mine) open += in;
        carry[half] = __shfl_sync(ALL_LANES, open, 3, 4);
    }
}

/* Scores at the ends of a tile for the optional output; the first is block `column` of its sample. */
__device__ __forceinline__ void write_scores(const topk_view &v, const query_tile &t, int g, const float *tile,
                                             int half, uint32_t ends, int64_t column, int lane) {
    int r = lane / 4 + 8 * half;
    if (r >= t.n) return;
    for (int i = lane % 4; i < TOPK_COLS; i += 4)
        if (ends >> i & 1)
            v.score[(g * v.N + t.n0 + r) * v.wide + column + __popc(ends & ((1u << i) - 1))] =
                tile[lane / 4 * PITCH + i];
}

template <int GROUPS, int E, bool MANY>
__global__ void __launch_bounds__(32 * WARPS, GROUPS == 1 ? 6 : 1) topk_kernel(const topk_view v) {
    extern __shared__ __align__(128) char shared[];
    const int  warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4, g = blockIdx.y;
    char      *room = shared + warp * room_of<GROUPS>(v.hs);
    float     *tile = (float *)room;
    query_tile t;
    if (!find_tile(v, blockIdx.x * WARPS + warp, lane, &t)) return; /* warps do not meet */

    topk_scorer<GROUPS> scores(v, t, g, room + 8 * PITCH * (int)sizeof(float), lane);
    const int           m0 = v.cmp_first[t.sample], m1 = v.cmp_first[t.sample + 1];
    const int           b0 = v.slc_first[t.sample], b1 = v.slc_first[t.sample + 1];
    best_list<E>        best[2];
    best[0].clear(v.K, quad, row < t.n);
    best[1].clear(v.K, quad, row + 8 < t.n);
    float carry[2] = {0, 0};
    int   block = b0; /* the first that has not ended */
    scores.start(m0, m1);

#pragma unroll 1
    for (int c0 = m0; c0 < m1; c0 += TOPK_COLS) {
        /* Every selection block has tokens, so as many blocks of both kinds are the same blocks. */
        const int end = block + lane < b1 ? MANY ? v.slc_cmp[block + lane + 1] - 1 - c0 : lane : TOPK_COLS;
        float     sum[2][8];
        scores.step(c0, m1, sum);
        const uint32_t ends = __reduce_or_sync(ALL_LANES, end < TOPK_COLS ? 1u << end : 0);
        if constexpr (MANY) sum_blocks(sum, carry, ends, quad);

        uint32_t pass[2] = {0, 0};
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (sum[half][k] > best[half].least) pass[half] |= 1u << k;
            pass[half] = pass[half] << 8 * quad & ends;
        }
        if (v.score || __any_sync(ALL_LANES, (pass[0] | pass[1]) != 0)) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float4 *to = (float4 *)(tile + row * PITCH + 8 * quad);
                to[0] = make_float4(sum[half][0], sum[half][1], sum[half][2], sum[half][3]);
                to[1] = make_float4(sum[half][4], sum[half][5], sum[half][6], sum[half][7]);
                __syncwarp();
                if (v.score) write_scores(v, t, g, tile, half, ends, block - b0, lane);
                uint32_t left = quad_or(pass[half]);
                while (__any_sync(ALL_LANES, left != 0)) {
                    int   i = (__ffs(left) - 1) & 31; /* somewhere in the tile when nothing is left */
                    float score = tile[row * PITCH + i];
                    best[half].insert(left ? score : -1.0f, block + (MANY ? __popc(ends & ((1u << i) - 1)) : i), quad);
                    left &= left - 1;
                }
                __syncwarp();
            }
        }
        block += __popc(ends);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int r = row + 8 * half;
        best[half].write(v.block + (g * v.N + t.n0 + r) * v.K, v.K, quad, r < t.n);
    }
}

template <int GROUPS, int E, bool MANY> void launch(ctx *c, const topk_view &v) {
    size_t  bytes = (size_t)WARPS * room_of<GROUPS>(v.hs);
    int64_t tiles = v.N / TOPK_ROWS + v.B;
    allow_shared_bytes(c, topk_kernel<GROUPS, E, MANY>, bytes, "topk_blocks");
    topk_kernel<GROUPS, E, MANY>
        <<<dim3((unsigned)ceil_div(tiles, WARPS), (unsigned)v.G), 32 * WARPS, bytes, stream_of(c)>>>(v);
    LAUNCHED(c);
}

template <int GROUPS> bool fits(const ctx *c, const topk_view &v) {
    return (size_t)WARPS * room_of<GROUPS>(v.hs) <= c->cuda->shared_limit;
}

/* False: too many heads for shared memory. many: several compression blocks in a selection block. */
template <int GROUPS> bool launch(ctx *c, const topk_view &v, bool many) {
    if (!fits<GROUPS>(c, v)) return false;
    if (v.K <= 8)
        many ? launch<GROUPS, 2, true>(c, v) : launch<GROUPS, 2, false>(c, v);
    else
        many ? launch<GROUPS, 8, true>(c, v) : launch<GROUPS, 8, false>(c, v);
    return true;
}

} // namespace

extern "C" void topk_blocks_fwd_cuda(ctx *c, const topk_blocks_args *a) {
    topk_view v = {};
    v.q = a->q->data, v.ck = a->ck->data, v.lse = ptr<float>(a->lse);
    v.sample_first = ptr<int32_t>(a->sample_first), v.cmp_first = ptr<int32_t>(a->cmp_sample_first);
    v.slc_first = ptr<int32_t>(a->slc_sample_first), v.slc_cmp = ptr<int32_t>(a->slc_cmp_first);
    v.block = ptr<int32_t>(a->block), v.score = tensor_given(a->score) ? ptr<float>(a->score) : NULL;
    v.N = a->q->dim[0], v.H = (int)a->q->dim[1], v.D = (int)a->q->dim[2], v.G = (int)a->ck->dim[1];
    v.hs = v.H / v.G, v.K = (int)a->block->dim[2], v.B = (int)a->sample_first->dim[0] - 1, v.scale = a->scale;
    if (v.N == 0) return;
    if (v.score) { /* columns past a sample's own */
        v.wide = a->score->dim[2];
        CUDA_DO(cudaMemsetAsync(v.score, 0, tensor_bytes(a->score), stream_of(c)));
    }
    bool many = a->ck->dim[0] != a->slc_cmp_first->dim[0] - 1;
    bool chunks = a->q->dt == DT_BF16 && v.D % 8 == 0 && (uintptr_t)v.q % 16 == 0 && (uintptr_t)v.ck % 16 == 0;
    bool done = false;
    if (chunks && v.D <= 128 && v.K <= MOST)
        done = v.D <= 32 ? launch<1>(c, v, many) : v.D <= 64 ? launch<2>(c, v, many) : launch<4>(c, v, many);
    if (!done) topk_loops(c, v, a->q->dt, many);
}
