/* Block scores and selection (ops/topk_blocks.h). No score leaves the chip: a warp owns 16 queries of one sample and
 * one key head, walks over the sample's compression blocks 32 at a time, and keeps the K best blocks of each query.
 *
 * Scores of 16 queries x 32 compression blocks, summed over the group's heads: an mma tile has 16 queries of ONE head
 * as its rows, so that the sum over heads is an addition of tiles, register by register. Lane 4*row + quad holds
 * columns 8j + 2quad + e of queries `row` and `row + 8`. The exponentials are the cost: 16 of a lane per head and step.
 *
 * Selection: a score above the query's K-th best so far is rare. Only then the tile goes to shared memory and the four
 * lanes of a row put the passing blocks into its list, eight rows at a time. A list is sorted, its entries are
 * (score bits, ~block): scores are not negative, so larger entries are better blocks and equal scores fall to the lower
 * number. An entry that is 0 is unused. A NaN never passes.
 *
 * Selection blocks of several compression blocks: the tile goes to shared memory always, the lanes of a row add up the
 * blocks that end in it, and the sum of the block that goes on is carried to the next step.
 *
 * Widths without 16-byte rows, and float32: the same, with scores from plain loops. */
#include <limits.h>
#include <math.h>

#include "kernels/cuda/dev/select_tiles.cuh"

namespace {

enum { ROWS = 16, COLS = 32, WARPS = 2 };
/* Floats between rows of a score tile: pairs written by the lanes of four rows meet all banks. */
enum { PITCH = 40 };

struct topk_view {
    const void    *q, *ck;
    const float   *lse;
    const int32_t *sample_first, *cmp_first, *slc_first, *slc_cmp;
    int32_t       *block;
    float         *score;
    int64_t        N, wide;
    int            H, G, D, hs, K, B;
    float          scale;
};

/* Bytes of one warp's shared memory, and where its parts start. */
struct topk_room {
    int rows, lse, list, tile, sums, total;
};

/* groups: of 32 channels; 0: plain loops. many: several compression blocks in a selection block. */
__host__ __device__ inline topk_room room_of(int groups, int hs, int D, int K, bool many) {
    topk_room r;
    int       tile = ROWS * PITCH * (int)sizeof(float);
    r.rows = 0;
    r.lse = groups > 0 ? hs * groups * ROWS * 64 : (COLS * (D + 1) * (int)sizeof(float) + 15) / 16 * 16;
    r.list = r.lse + (groups > 0 ? hs * ROWS * (int)sizeof(float) : 0);
    r.tile = r.list + ROWS * K * (int)sizeof(uint64_t);
    r.sums = r.tile + tile;
    r.total = r.sums + (many ? tile : 0);
    return r;
}

struct query_tile {
    int     sample, n;
    int64_t n0;
};

/* The samples are cut into tiles of 16 queries each for itself; what is tile `index` of all? False: there is none. */
__device__ __forceinline__ bool find_tile(const topk_view &v, int index, int lane, query_tile *out) {
    int before = 0;
    for (int s0 = 0; s0 < v.B; s0 += 32) {
        int s = s0 + lane, n = s < v.B ? v.sample_first[s + 1] - v.sample_first[s] : 0;
        int tiles = (n + ROWS - 1) / ROWS, upto = tiles;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            int x = __shfl_up_sync(ALL_LANES, upto, o);
            if (lane >= o) upto += x;
        }
        uint32_t hit = __ballot_sync(ALL_LANES, index < before + upto);
        if (hit) {
            int l = __ffs(hit) - 1, at = index - before - __shfl_sync(ALL_LANES, upto - tiles, l);
            out->sample = s0 + l;
            out->n0 = (int64_t)v.sample_first[out->sample] + (int64_t)at * ROWS;
            out->n = min((int)ROWS, (int)(v.sample_first[out->sample + 1] - out->n0));
            return true;
        }
        before += __shfl_sync(ALL_LANES, upto, 31);
    }
    return false;
}

/* Score below which a query's list takes nothing any more; everything that is a number passes while it has room. */
__device__ __forceinline__ float least_of(const uint64_t *list, int K) {
    uint64_t last = list[K - 1];
    return last ? __uint_as_float((uint32_t)(last >> 32)) : -1.0f;
}

/* Puts blocks id0 + i with score value[i] into the lists, i over the set bits of pass0 for query `row`, of pass1 for
 * query `row + 8` (value one tile row further). Bits are the same in the four lanes of a row. Whole warp. */
__device__ __forceinline__ void take_passing(uint64_t *list0, uint64_t *list1, int K, const float *value,
                                             uint32_t pass0, uint32_t pass1, int id0, int lane) {
    int quad = lane & 3, shift = lane & ~3;
    while (__any_sync(ALL_LANES, (pass0 | pass1) != 0)) {
        bool      active = (pass0 | pass1) != 0;
        uint64_t *list = pass0 ? list0 : list1;
        uint64_t  entry = 0;
        if (active) {
            int i = __ffs(pass0 ? pass0 : pass1) - 1;
            entry = (uint64_t)__float_as_uint(value[(pass0 ? 0 : 8 * PITCH) + i]) << 32 | (uint32_t)~(id0 + i);
            if (pass0)
                pass0 &= pass0 - 1;
            else
                pass1 &= pass1 - 1;
        }
        /* From the end: worse entries move up by one until four are met that do not all. */
        int  at = 0;
        bool placed = !active;
        for (int s0 = (K - 1) & ~3; s0 >= 0; s0 -= 4) {
            int      s = s0 + quad;
            uint64_t old = !placed && s < K ? list[s] : 0;
            bool     better = old > entry;
            int      n_better = __popc(__ballot_sync(ALL_LANES, better) >> shift & 15);
            __syncwarp();
            if (!placed) {
                if (s + 1 < K && !better) list[s + 1] = old;
                if (n_better > 0) {
                    at = s0 + n_better;
                    placed = true;
                }
            }
            if (__all_sync(ALL_LANES, placed)) break;
        }
        if (active && at < K && quad == 0) list[at] = entry;
        __syncwarp();
    }
}

/* The lists in ascending order of blocks. */
__device__ __forceinline__ void write_lists(const topk_view &v, const uint64_t *lists, const query_tile &t, int g,
                                            int row, int quad) {
    for (int r = row; r < t.n; r += 8) {
        const uint64_t *list = lists + r * v.K;
        int32_t        *out = v.block + (g * v.N + t.n0 + r) * v.K;
        for (int s = quad; s < v.K; s += 4) {
            uint64_t entry = list[s];
            if (!entry) {
                out[s] = -1; /* unused entries are the last ones */
                continue;
            }
            uint32_t id = ~(uint32_t)entry;
            int      rank = 0;
            for (int i = 0; i < v.K; i++) rank += list[i] != 0 && ~(uint32_t)list[i] < id;
            out[rank] = (int32_t)id;
        }
    }
}

/* ---- score tiles ------------------------------------------------------------------------------------------------ */

/* Keeps the queries' rows, heads outermost, and their lse in shared memory. */
template <class T, int GROUPS> struct scorer {
    const bf16  *ck;
    uint32_t     rows;
    const float *lse;
    int          D, hs, row, quad;
    int64_t      ck_stride;
    float        scale2;

    __device__ __forceinline__ scorer(const topk_view &v, const query_tile &t, int g, char *room, const topk_room &part,
                                      int lane)
        : ck((const bf16 *)v.ck + g * v.D), rows(smem_addr(room)), lse((const float *)(room + part.lse)), D(v.D),
          hs(v.hs), row(lane / 4), quad(lane % 4), ck_stride((int64_t)v.G * v.D),
          scale2(v.scale * 1.4426950408889634f) {
        for (int r = 0; r < ROWS; r++) {
            const bf16 *x = (const bf16 *)v.q + ((t.n0 + (r < t.n ? r : 0)) * v.H + g * hs) * D;
            for (int i = lane; i < hs * GROUPS * 4; i += 32) {
                int  h = i / (GROUPS * 4), chunk = i % (GROUPS * 4);
                bool ok = r < t.n && 8 * chunk < D;
                cp_async_16(rows + (h * GROUPS + chunk / 4) * (ROWS * 64) + tile_chunk<32>(r, chunk % 4),
                            ok ? x + h * D + 8 * chunk : x, ok ? 16 : 0);
            }
        }
        cp_async_commit();
        for (int i = lane; i < hs * ROWS; i += 32) {
            int h = i / ROWS, r = i % ROWS;
            /* probability 0 in rows without a query */
            ((float *)(room + part.lse))[i] =
                r < t.n ? v.lse[(t.n0 + r) * v.H + g * hs + h] * 1.4426950408889634f : INFINITY;
        }
        cp_async_wait<0>();
        __syncwarp();
    }

    /* Columns from compression row c0 on; those past c1 are anything. */
    __device__ __forceinline__ void tile(int c0, int c1, float (&acc)[4][4], int lane) const {
        uint32_t y[4][GROUPS][4]; /* operand B: pairs of channels 8i + 2quad of keys 8j + row */
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int             key = c0 + 8 * j + row;
            const uint32_t *from = (const uint32_t *)(ck + (key < c1 ? key : 0) * ck_stride) + quad;
#pragma unroll
            for (int i = 0; i < 4 * GROUPS; i++) y[j][i / 4][i % 4] = key < c1 && 8 * i < D ? __ldg(from + 4 * i) : 0;
#pragma unroll
            for (int e = 0; e < 4; e++) acc[j][e] = 0;
        }
        /* matrices: rows 0-7, 8-15 of a chunk, then of the next */
        uint32_t     x = rows + lane / 8 % 2 * 512 + tile_chunk<32>(lane % 8, lane / 16);
        const float *l = lse + row;
#pragma unroll 2
        for (int h = 0; h < hs; h++, x += GROUPS * ROWS * 64, l += ROWS) {
            uint32_t heads[GROUPS][2][4];
            float    l0 = l[0], l1 = l[8];
#pragma unroll
            for (int i = 0; i < GROUPS; i++) {
                ldmatrix_x4(heads[i][0], x + i * (ROWS * 64));
                ldmatrix_x4(heads[i][1], (x + i * (ROWS * 64)) ^ 32); /* two chunks on: rows are 64-byte aligned */
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float s[4] = {0, 0, 0, 0};
#pragma unroll
                for (int i = 0; i < GROUPS; i++) {
                    mma_bf16(s, heads[i][0], y[j][i][0], y[j][i][1]);
                    mma_bf16(s, heads[i][1], y[j][i][2], y[j][i][3]);
                }
                acc[j][0] += exp2_fast(fmaf(s[0], scale2, -l0));
                acc[j][1] += exp2_fast(fmaf(s[1], scale2, -l0));
                acc[j][2] += exp2_fast(fmaf(s[2], scale2, -l1));
                acc[j][3] += exp2_fast(fmaf(s[3], scale2, -l1));
            }
        }
    }
};

/* Any width and type: keys of the step in shared memory, a lane has one of them. */
template <class T> struct scorer<T, 0> {
    const T     *q, *ck;
    const float *lse;
    float       *keys, *out;
    int          D, hs, H, n, lane;
    int64_t      ck_stride;
    float        scale;

    __device__ __forceinline__ scorer(const topk_view &v, const query_tile &t, int g, char *room, const topk_room &part,
                                      int lane)
        : q((const T *)v.q + (t.n0 * v.H + g * v.hs) * v.D), ck((const T *)v.ck + g * v.D),
          lse(v.lse + t.n0 * v.H + g * v.hs), keys((float *)room), out((float *)(room + part.tile)), D(v.D), hs(v.hs),
          H(v.H), n(t.n), lane(lane), ck_stride((int64_t)v.G * v.D), scale(v.scale) {}

    __device__ __forceinline__ void tile(int c0, int c1, float (&acc)[4][4], int) const {
        for (int i = 0; i < COLS; i++)
            for (int d = lane; d < D; d += 32)
                keys[i * (D + 1) + d] = c0 + i < c1 ? to_float(ck[(c0 + i) * ck_stride + d]) : 0;
        __syncwarp();
        for (int r = 0; r < ROWS; r++) {
            float sum = 0;
            for (int h = 0; h < hs && r < n; h++) {
                const T *x = q + ((int64_t)r * H + h) * D;
                float    s = 0;
                for (int d = 0; d < D; d++) s = fmaf(to_float(x[d]), keys[lane * (D + 1) + d], s);
                sum += expf(s * scale - lse[(int64_t)r * H + h]);
            }
            out[r * PITCH + lane] = sum;
        }
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[j][e] = out[(lane / 4 + e / 2 * 8) * PITCH + 8 * j + lane % 4 * 2 + e % 2];
        __syncwarp();
    }
};

/* ---- the kernel ------------------------------------------------------------------------------------------------- */

/* Scores of n blocks for the optional output: `value` is a tile, block i its column i. */
__device__ __forceinline__ void write_scores(const topk_view &v, const query_tile &t, int g, const float *tile, int n,
                                             int64_t column, int row, int quad) {
    for (int r = row; r < t.n; r += 8)
        for (int i = quad; i < n; i += 4) v.score[(g * v.N + t.n0 + r) * v.wide + column + i] = tile[r * PITCH + i];
}

/* What a warp knows of its queries' lists: those of `row` and `row + 8`, and the scores that no longer pass. */
struct best_lists {
    uint64_t *list0, *list1;
    float     least0, least1;
};

/* Blocks id0 .. id0 + n - 1, whose scores are the columns of `tile`; passN: bits of those that beat leastN. */
__device__ __forceinline__ void take_tile(const topk_view &v, const query_tile &t, int g, best_lists &best,
                                          const float *tile, uint32_t pass0, uint32_t pass1, int id0, int n, int column,
                                          int lane) {
    int row = lane / 4, quad = lane % 4;
    if (v.score) write_scores(v, t, g, tile, n, column, row, quad);
    take_passing(best.list0, best.list1, v.K, tile + row * PITCH, quad_or(pass0), quad_or(pass1), id0, lane);
    if (row < t.n) best.least0 = least_of(best.list0, v.K);
    if (row + 8 < t.n) best.least1 = least_of(best.list1, v.K);
    __syncwarp();
}

template <class T, int GROUPS, bool MANY> __global__ void __launch_bounds__(32 * WARPS) topk_kernel(const topk_view v) {
    extern __shared__ __align__(128) char shared[];
    const int       warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4, g = blockIdx.y;
    const topk_room part = room_of(GROUPS, v.hs, v.D, v.K, MANY);
    char           *room = shared + warp * part.total;
    uint64_t       *lists = (uint64_t *)(room + part.list);
    float          *tile = (float *)(room + part.tile), *sums = (float *)(room + part.sums);
    query_tile      t;
    if (!find_tile(v, blockIdx.x * WARPS + warp, lane, &t)) return; /* warps do not meet */

    for (int i = lane; i < ROWS * v.K; i += 32) lists[i] = 0;
    const scorer<T, GROUPS> s(v, t, g, room, part, lane);
    const int               m0 = v.cmp_first[t.sample], m1 = v.cmp_first[t.sample + 1];
    const int               b0 = v.slc_first[t.sample], b1 = v.slc_first[t.sample + 1];
    best_lists              best = {lists + row * v.K, lists + (row + 8) * v.K, -1.0f, -1.0f};
    if (row >= t.n) best.least0 = INFINITY;
    if (row + 8 >= t.n) best.least1 = INFINITY;
    float carry0 = 0, carry1 = 0; /* MANY: of block `block`, the first that has not ended */
    int   block = b0;
    __syncwarp();

    for (int c0 = m0; c0 < m1; c0 += COLS) {
        float acc[4][4];
        s.tile(c0, m1, acc, lane);
        const int n_cols = min((int)COLS, m1 - c0), c1 = c0 + n_cols;
        uint32_t  pass0 = 0, pass1 = 0;
        if constexpr (!MANY) {
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int      i = 8 * j + 2 * quad + e;
                    uint32_t bit = i < n_cols ? 1u << i : 0;
                    if (acc[j][e] > best.least0) pass0 |= bit;
                    if (acc[j][2 + e] > best.least1) pass1 |= bit;
                }
            if (!v.score && !__any_sync(ALL_LANES, (pass0 | pass1) != 0)) continue;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            *(float2 *)(tile + row * PITCH + 8 * j + 2 * quad) = make_float2(acc[j][0], acc[j][1]);
            *(float2 *)(tile + (row + 8) * PITCH + 8 * j + 2 * quad) = make_float2(acc[j][2], acc[j][3]);
        }
        __syncwarp();
        if constexpr (!MANY) {
            /* Every selection block has tokens, so as many blocks of both kinds are the same blocks. */
            take_tile(v, t, g, best, tile, pass0, pass1, c0, n_cols, c0 - m0, lane);
        } else {
            /* Blocks that end in this step, 32 at a time. */
            for (int n = 32; n == 32; block += n) {
                int b = block + lane, lo = b < b1 ? v.slc_cmp[b] : INT_MAX, hi = b < b1 ? v.slc_cmp[b + 1] : INT_MAX;
                n = __popc(__ballot_sync(ALL_LANES, hi <= c1));
                pass0 = pass1 = 0;
                for (int i0 = 0; i0 < n; i0 += 4) {
                    int i = i0 + quad, from = __shfl_sync(ALL_LANES, lo, i), to = __shfl_sync(ALL_LANES, hi, i);
                    if (i >= n) continue;
                    float sum0 = from < c0 ? carry0 : 0, sum1 = from < c0 ? carry1 : 0;
                    for (int col = max(from, c0) - c0; col < to - c0; col++) {
                        sum0 += tile[row * PITCH + col];
                        sum1 += tile[(row + 8) * PITCH + col];
                    }
                    sums[row * PITCH + i] = sum0;
                    sums[(row + 8) * PITCH + i] = sum1;
                    if (sum0 > best.least0) pass0 |= 1u << i;
                    if (sum1 > best.least1) pass1 |= 1u << i;
                }
                __syncwarp();
                take_tile(v, t, g, best, sums, pass0, pass1, block, n, block - b0, lane);
            }
            /* The block that goes on. */
            int from = block < b1 ? v.slc_cmp[block] : c1;
            if (from >= c0) carry0 = carry1 = 0;
            for (int col = max(from, c0) - c0; col < n_cols; col++) {
                carry0 += tile[row * PITCH + col];
                carry1 += tile[(row + 8) * PITCH + col];
            }
            __syncwarp();
        }
    }
    write_lists(v, lists, t, g, row, quad);
}

template <class T, int GROUPS, bool MANY> void launch(ctx *c, const topk_view &v) {
    size_t  bytes = (size_t)WARPS * room_of(GROUPS, v.hs, v.D, v.K, MANY).total;
    int64_t tiles = v.N / ROWS + v.B;
    allow_shared_bytes(c, topk_kernel<T, GROUPS, MANY>, bytes, "topk_blocks");
    topk_kernel<T, GROUPS, MANY>
        <<<dim3((unsigned)ceil_div(tiles, WARPS), (unsigned)v.G), 32 * WARPS, bytes, stream_of(c)>>>(v);
    LAUNCHED(c);
}

template <class T, int GROUPS> void launch(ctx *c, const topk_view &v, bool many) {
    if (many)
        launch<T, GROUPS, true>(c, v);
    else
        launch<T, GROUPS, false>(c, v);
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
    bool chunks = v.D % 8 == 0 && (uintptr_t)v.q % 16 == 0 && (uintptr_t)v.ck % 16 == 0;
    int  groups = v.D <= 32 ? 1 : v.D <= 64 ? 2 : 4;
    if (a->q->dt == DT_F32)
        launch<float, 0>(c, v, many);
    else if (!chunks || v.D > 128 ||
             (size_t)WARPS * room_of(groups, v.hs, v.D, v.K, many).total > c->cuda->shared_limit)
        launch<bf16, 0>(c, v, many);
    else if (groups == 1)
        launch<bf16, 1>(c, v, many);
    else if (groups == 2)
        launch<bf16, 2>(c, v, many);
    else
        launch<bf16, 4>(c, v, many);
}
