/* topk_blocks for float32, and for widths, numbers of heads and K that topk_blocks.cu does not take. A warp owns 16
 * queries of one sample and one key head and walks over the sample's compression blocks 32 at a time, as there; scores
 * come from plain loops, and the lists of best blocks lie in shared memory.
 *
 * A score above the query's K-th best so far is rare. Then the four lanes of a query put the passing blocks into its
 * list, eight queries at a time. A list is sorted, its entries are (score bits, ~block): scores are not negative, so
 * larger entries are better blocks and equal scores fall to the lower number. An entry that is 0 is unused. A NaN never
 * passes.
 *
 * Selection blocks of several compression blocks: the lanes of a query add up the blocks that end in the step, and the
 * sum of the block that goes on is carried to the next. */
#include <limits.h>
#include <math.h>

#include "kernels/cuda/dev/topk_view.cuh"

namespace {

enum { ROWS = TOPK_ROWS, COLS = TOPK_COLS, WARPS = 2 };
/* Floats between rows of a score tile: pairs written by the lanes of four rows meet all banks. */
enum { PITCH = 40 };

/* Bytes of one warp's shared memory, and where its parts start. */
struct topk_room {
    int list, tile, sums, total; /* keys first */
};

/* many: several compression blocks in a selection block. */
__host__ __device__ inline topk_room room_of(int D, int K, bool many) {
    topk_room r;
    int       tile = ROWS * PITCH * (int)sizeof(float);
    r.list = (COLS * (D + 1) * (int)sizeof(float) + 15) / 16 * 16;
    r.tile = r.list + ROWS * K * (int)sizeof(uint64_t);
    r.sums = r.tile + tile;
    r.total = r.sums + (many ? tile : 0);
    return r;
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
            entry = (uint64_t)__float_as_uint(value[(pass0 ? 0 : 8 * PITCH) + i]) << 32 | (uint32_t) ~(id0 + i);
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

/* Keys of the step in shared memory, a lane has one of them. */
template <class T> struct scorer {
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

template <class T, bool MANY> __global__ void __launch_bounds__(32 * WARPS) loops_kernel(const topk_view v) {
    extern __shared__ __align__(128) char shared[];
    const int       warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4, g = blockIdx.y;
    const topk_room part = room_of(v.D, v.K, MANY);
    char           *room = shared + warp * part.total;
    uint64_t       *lists = (uint64_t *)(room + part.list);
    float          *tile = (float *)(room + part.tile), *sums = (float *)(room + part.sums);
    query_tile      t;
    if (!find_tile(v, blockIdx.x * WARPS + warp, lane, &t)) return; /* warps do not meet */

    for (int i = lane; i < ROWS * v.K; i += 32) lists[i] = 0;
    const scorer<T> s(v, t, g, room, part, lane);
    const int       m0 = v.cmp_first[t.sample], m1 = v.cmp_first[t.sample + 1];
    const int       b0 = v.slc_first[t.sample], b1 = v.slc_first[t.sample + 1];
    best_lists      best = {lists + row * v.K, lists + (row + 8) * v.K, -1.0f, -1.0f};
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

template <class T, bool MANY> void launch(ctx *c, const topk_view &v) {
    size_t  bytes = (size_t)WARPS * room_of(v.D, v.K, MANY).total;
    int64_t tiles = v.N / ROWS + v.B;
    allow_shared_bytes(c, loops_kernel<T, MANY>, bytes, "topk_blocks");
    loops_kernel<T, MANY>
        <<<dim3((unsigned)ceil_div(tiles, WARPS), (unsigned)v.G), 32 * WARPS, bytes, stream_of(c)>>>(v);
    LAUNCHED(c);
}

} // namespace

void topk_loops(ctx *c, const topk_view &v, dtype dt, bool many) {
    if (dt == DT_F32)
        many ? launch<float, true>(c, v) : launch<float, false>(c, v);
    else
        many ? launch<bf16, true>(c, v) : launch<bf16, false>(c, v);
}
