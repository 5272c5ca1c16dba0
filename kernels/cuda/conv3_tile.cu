/* conv3 between 32 and 64 channels on dense tiles of 4^3 cells, on Hopper: cells are the rows of a warpgroup's
 * products, and all 27 matrices stay in shared memory. What a warp reads of x serves for three offsets along x
 * (dev/conv_planes.cuh).
 *
 * Forward and dx. Three of a block's warpgroups make two whole tiles each, 32 channels at a time; the fourth copies the
 * tiles that follow, each with the cells around it. A warp has a half of one tile: its four planes of eight cells.
 *
 * dw. The cells are the products' depth. A block makes the 27 matrices of 32 x 32 channels: a product has 32 channels
 * of x at two offsets as its rows. Of the nine offsets along y and z a warpgroup takes two, each with all three along
 * x; the fifth warpgroup has one. A sixth one copies the tiles ahead. */
#include "kernels/cuda/dev/conv_planes.cuh"

namespace {

enum { OFFSETS = 27 };

/* ---- forward, dx ------------------------------------------------------------------------------------------------- */

enum { MAKERS = 3, THREADS = (MAKERS + 1) * GROUP, UNIT = 2 * HALO };

/* A unit is 32 channels of two tiles; a maker's units of two tiles follow each other. */
template <int K, int N> struct rows_shape {
    static constexpr int HALVES = K / 32, MATRIX = K * N * 2, WEIGHTS = OFFSETS * MATRIX, PLACES = 4;
    static constexpr int RESULT = 16 * N * 2, SHARED = WEIGHTS + PLACES * UNIT;
    static_assert(2 * GROUP / 32 * RESULT <= UNIT, "results go where the tiles were");
    static_assert(HALVES == 1 || HALVES == 2, "a maker has one unit of a pair of tiles, or two");
};

/* Unit u of a block: makers take them by turns. */
template <int HALVES> struct unit_at {
    int     half;
    int64_t tile; /* the first one of the two */

    __device__ __forceinline__ unit_at(int u)
        : half(u / MAKERS % HALVES),
          tile(2 * (blockIdx.x + (int64_t)(u / (MAKERS * HALVES) * MAKERS + u % MAKERS) * gridDim.x)) {}
};

/* sum[p]: of the cells with x = 2p and 2p + 1 of a half of a tile, two along y and all along z. */
template <int K, int N, bool FIRST>
__device__ __forceinline__ void unit_sums(float (&sum)[2][N / 8][4], uint32_t tile, const plane_entry &entry,
                                          uint32_t weights, int lane) {
    constexpr int STEPS = 2, BATCHES = 9 * STEPS; /* offsets along z, y, channels */
    uint32_t      read[2][PAIRS_READ][4], between[2][2][4];
    auto          load = [&](int t) {
#pragma unroll
        for (int i = 0; i < PAIRS_READ; i++)
            ldmatrix_x4(read[t % 2][i], entry.at(tile, i, t / STEPS % 3, t / STEPS / 3, t % STEPS * 2));
    };
    load(0);
#pragma unroll
    for (int t = 0; t < BATCHES; t++) {
        uint32_t(&x)[PAIRS_READ][4] = read[t % 2], (&b)[2][4] = between[t % 2];
        const uint32_t w = weights + t / STEPS * 3 * rows_shape<K, N>::MATRIX;
        pin(x);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            b[p][0] = x[p][1], b[p][1] = x[p + 1][0];
            b[p][2] = x[p][3], b[p][3] = x[p + 1][2];
        }
        pin(b);
        wgmma_begin();
#pragma unroll
        for (int dx = 0; dx < 3; dx++)
#pragma unroll
            for (int p = 0; p < 2; p++) {
                const uint32_t(&m)[4] = dx == 1 ? b[p] : x[p + dx / 2];
                if (FIRST && t == 0 && dx == 0)
                    matrix_sum<true>(sum[p], m, w, 0, lane);
                else
                    matrix_sum(sum[p], m, w + dx * rows_shape<K, N>::MATRIX, t % STEPS, lane);
            }
        wgmma_commit();
        wgmma_wait<1>(); /* the products before, whose registers the next ones take */
        if (t + 1 < BATCHES) load(t + 1);
    }
    wgmma_wait<0>();
    pin(sum[0]);
    pin(sum[1]);
}

/* The warpgroup that copies. */
template <int K, int N>
__device__ __forceinline__ void copy_units(const conv_rows_args &a, tile_bars<rows_shape<K, N>::PLACES> bars,
                                           const uint32_t *slot, uint32_t units, int thread) {
    typedef rows_shape<K, N>       shape;
    typedef unit_at<shape::HALVES> at;
    int                            place = 0;
    uint32_t                       turn = 0;
    near_tile                      near0(a.g, at(0).tile), near1(a.g, at(0).tile + 1);
    for (int u = 0;; u++) {
        const at        unit(u), after(u + 1);
        const near_tile next0(a.g, after.tile), next1(a.g, after.tile + 1);
        if (unit.tile < a.g.n_tiles) {
            const uint32_t to = units + place * UNIT;
            mbarrier_wait(bars.free(place), turn ^ 1);
            load_slots<GROUP, 4, SLOTS>(a.x, K, CELLS, unit.half * 32, near0, slot, to, thread);
            load_slots<GROUP, 4, SLOTS>(a.x, K, CELLS, unit.half * 32, near1, slot, to + HALO, thread);
            mbarrier_arrive_copied(bars.full(place));
        } else if (u % MAKERS == 0) /* if only others have no tiles left, this one's second half is still to come */
            break;
        near0 = next0;
        near1 = next1;
        if (++place == shape::PLACES) place = 0, turn ^= 1;
    }
    cp_async_wait<0>();
}

/* A warp's 16 rows of N, through shared memory, to rows `to` .. of y. */
template <int N>
__device__ __forceinline__ void store_rows(const conv_rows_args &a, const float (&sum)[N / 8][4], uint32_t staged,
                                           int64_t to, int lane) {
#pragma unroll
    for (int n = 0; n < N / 8; n += 2) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int   col = (n + i) * 8 + lane % 4 * 2;
            const float b0 = a.bias ? a.bias[col] : 0.0f, b1 = a.bias ? a.bias[col + 1] : 0.0f;
            r[2 * i] = pack_bf16(sum[n + i][0] + b0, sum[n + i][1] + b1);
            r[2 * i + 1] = pack_bf16(sum[n + i][2] + b0, sum[n + i][3] + b1);
        }
        stmatrix_x4(staged + tile_chunk<N>(lane % 16, n + lane / 16), r);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * (N / 8); i += 32) {
        /* Row x y z z (bits) of the products is row z x y z of y, where cells go by Morton. */
        const int m = i / (N / 8), chunk = i % (N / 8), r = (m << 1 & 12) | (m >> 2 & 2) | (m & 1);
        uint4     v;
        shared_load(staged + tile_chunk<N>(r, chunk), v);
        conv_store(a.silu, a.pre, a.y, (to + m) * N + chunk * 8, v);
    }
}

template <int K, int N> __global__ void __launch_bounds__(THREADS, 1) tile_rows_kernel(const conv_rows_args a) {
    if constexpr (HAS_WGMMA) {
        typedef rows_shape<K, N> shape;
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint32_t                             slot[SLOT_TABLE];
        __shared__ uint64_t                             bar[2 * shape::PLACES];

        const int                      group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
        const int                      thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
        const uint32_t                 weights = smem_addr(room), units = weights + shape::WEIGHTS;
        const tile_bars<shape::PLACES> bars = {smem_addr(bar)};
        if (threadIdx.x == 0) bars.init(GROUP / 32);
        plane_slots(slot);
        load_weights<THREADS, K, N>(a.w, OFFSETS, weights);
        if (group == MAKERS) {
            registers_fewer<56>(); /* 3 * 152 + 56: the 4 * 128 of the launch */
            copy_units<K, N>(a, bars, slot, units, thread);
            return;
        }
        registers_more<152>();
        /* A warp has a half of one of the two tiles. */
        const int         own = warp / 2, y0 = warp % 2 * 2;
        const plane_entry entry(lane / 8 % 2, y0 + lane / 4 % 2, lane % 4, lane / 16);
        for (int u = group;; u += MAKERS * shape::HALVES) {
            const int64_t tile = unit_at<shape::HALVES>(u).tile + own;
            if (tile - own >= a.g.n_tiles) break;
            float sum[2][N / 8][4];
            int   place = u % shape::PLACES;
            mbarrier_wait(bars.full(place), u / shape::PLACES & 1);
            unit_sums<K, N, true>(sum, units + place * UNIT + own * HALO, entry, weights, lane);
            if constexpr (shape::HALVES == 2) {
                mbarrier_arrive_warp(bars.free(place));
                const int v = u + MAKERS;
                place = v % shape::PLACES;
                mbarrier_wait(bars.full(place), v / shape::PLACES & 1);
                unit_sums<K, N, false>(sum, units + place * UNIT + own * HALO, entry, weights + 32 * N * 2, lane);
            }
            group_barrier(group); /* nobody reads the tiles any more */
            const uint32_t staged = units + place * UNIT + warp * 2 * shape::RESULT;
            if (tile < a.g.n_tiles)
#pragma unroll
                for (int p = 0; p < 2; p++)
                    store_rows<N>(a, sum[p], staged + p * shape::RESULT, tile * CELLS + p * 32 + y0 * 8, lane);
            mbarrier_arrive_warp(bars.free(place));
        }
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

template <int K, int N> void rows_as(ctx *c, const conv_sum *a) {
    constexpr int  SHARED = rows_shape<K, N>::SHARED;
    conv_rows_args r = gather_rows_of<false>(c, a, K, N);
    int64_t        blocks = ceil_div(a->g.n_tiles, 2 * MAKERS);
    if (blocks > c->cuda->multiprocessors) blocks = c->cuda->multiprocessors;
    conv_allow_shared(tile_rows_kernel<K, N>, SHARED);
    tile_rows_kernel<K, N><<<(unsigned)blocks, THREADS, SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

enum { WIDTH = 32, LINES = 9, DEPTH = CELLS / 16, STAGES = 8, STAGE = HALO + CELLS * WIDTH * 2 };
enum { DW_GROUPS = (LINES + 1) / 2, DW_THREADS = (DW_GROUPS + 1) * GROUP };

/* What a block loads and multiplies. */
struct dw_block {
    int               begin, end; /* tiles */
    int               i0, o0;
    uint32_t          base;
    tile_bars<STAGES> bars;
};

/* The warpgroup that copies: 32 channels of x around a tile, and of d in it. Rows of d go as x's planes are multiplied:
 * of cell x y z x y z (bits) to y x x y z z. */
__device__ __forceinline__ void copy_tiles(const conv_dw_args &a, const dw_block &b, const uint32_t *slot, int thread) {
    const int   cell = thread / 4, chunk = thread % 4;
    const int   row = (cell & 16) << 1 | (cell << 1 & 12) | (cell >> 2 & 2) | (cell & 1);
    const char *d = reinterpret_cast<const char *>(a.d + b.o0 + chunk * 8);
    near_tile   near(a.g, b.begin);
    int         stage = 0;
    uint32_t    turn = 0;
    for (int tile = b.begin; tile < b.end; tile++) {
        const near_tile next(a.g, tile + 1);
        const uint32_t  x = b.base + stage * STAGE;
        mbarrier_wait(b.bars.free(stage), turn ^ 1);
        load_slots<GROUP, 4, SLOTS, 4>(a.x, a.I, CELLS, b.i0, near, slot, x, thread);
#pragma unroll
        for (int h = 0; h < 2; h++) /* the upper bit of x; rows of multiples of 8 are permuted alike */
            copy_of_row(x + HALO + tile_chunk<WIDTH>(row, chunk) + h * 16 * (WIDTH * 2), d,
                        tile * CELLS + cell + h * (CELLS / 2), a.O * 2);
        mbarrier_arrive_copied(b.bars.full(stage));
        near = next;
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
    cp_async_wait<0>();
}

/* A warpgroup: three offsets along x of two along y and z, whose number is `line` in this warp. A tenth is none: its
 * sums go nowhere. */
__device__ __forceinline__ void dw_tiles(const conv_dw_args &a, const dw_block &b, int line) {
    const int      warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    /* A warp's 16 lines: a half of the channels at one of the two. */
    const uint32_t at =
        plane_chunk(lane / 16, lane / 4 % 2 + line % 3, lane % 4 + line / 3, warp % 2 * 2 + lane / 8 % 2);
    float    sum[3][4][4] = {};
    int      stage = 0;
    uint32_t turn = 0;
    for (int tile = b.begin; tile < b.end; tile++) {
        const uint32_t from = b.base + stage * STAGE, x = from + at, d = from + HALO;
        uint32_t       read[2][PAIRS_READ][4], between[4];
        /* For batch t: cells with x = 0, 1 or 2, 3; the upper bit of y. */
        auto           load = [&](int t) {
            const int h = t / 2, p = t % 2;
#pragma unroll
            for (int i = p ? 2 : 0; i < p + 2; i++)
                ldmatrix_x4_trans(read[h][i], x + i * 2 * PLANE_BYTES + h * 2 * LINE_BYTES);
        };
        mbarrier_wait(b.bars.full(stage), turn);
        shared_for_wgmma(); /* what cp.async wrote; the barrier shows its writes to this thread */
        load(0);
#pragma unroll
        for (int t = 0; t < DEPTH; t++) {
            uint32_t(&low)[4] = read[t / 2][t % 2], (&high)[4] = read[t / 2][t % 2 + 1];
            between[0] = low[2], between[1] = low[3];
            between[2] = high[0], between[3] = high[1];
            pin(low);
            pin(high);
            pin(between);
            wgmma_begin();
            matrix_sum(sum[0], low, d, t, lane);
            matrix_sum(sum[1], between, d, t, lane);
            matrix_sum(sum[2], high, d, t, lane);
            wgmma_commit();
            wgmma_wait<0>(); /* there are no registers for a second batch; the other warpgroups multiply meanwhile */
            if (t + 1 < DEPTH) load(t + 1);
        }
#pragma unroll
        for (int dx = 0; dx < 3; dx++) pin(sum[dx]);
        mbarrier_arrive_warp(b.bars.free(stage));
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
    if (line >= LINES) return;
#pragma unroll
    for (int dx = 0; dx < 3; dx++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int k = line * 3 + dx, i = b.i0 + warp % 2 * 16 + lane / 4 + 8 * h;
                const int o = b.o0 + n * 8 + lane % 4 * 2;
                *reinterpret_cast<float2 *>(a.partial + ((blockIdx.x * (int64_t)OFFSETS + k) * a.I + i) * a.O + o) =
                    make_float2(sum[dx][n][2 * h], sum[dx][n][2 * h + 1]);
            }
}

/* Blocks: x = parts of the tiles, y = blocks of 32 x 32 channels. */
__global__ void __launch_bounds__(DW_THREADS, 1) tile_dw_kernel(const conv_dw_args a) {
    if constexpr (HAS_WGMMA) {
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint32_t                             slot[SLOT_TABLE];
        __shared__ uint64_t                             bar[2 * STAGES];

        const int      group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0), o_blocks = a.O / WIDTH;
        const dw_block b = {(int)(blockIdx.x * a.g.n_tiles / gridDim.x),
                            (int)((blockIdx.x + (int64_t)1) * a.g.n_tiles / gridDim.x),
                            (int)blockIdx.y / o_blocks * WIDTH,
                            (int)blockIdx.y % o_blocks * WIDTH,
                            smem_addr(room),
                            {smem_addr(bar)}};
        if (threadIdx.x == 0) b.bars.init(DW_GROUPS * GROUP / 32);
        plane_slots(slot);
        __syncthreads();
        if (group == DW_GROUPS) {
            registers_fewer<40>(); /* 5 * 88 + 40: the 6 * 80 of the launch */
            copy_tiles(a, b, slot, threadIdx.x - DW_GROUPS * GROUP);
            return;
        }
        registers_more<88>();
        dw_tiles(a, b, 2 * group + threadIdx.x / 64 % 2);
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

bool serves(const ctx *c, const conv_grid *g, int64_t I, int64_t O, size_t shared) {
    return c->cuda->major == 9 && !g->mask && g->side == SIDE && ((I == 32 && O == 64) || (I == 64 && O == 32)) &&
           c->cuda->shared_limit >= shared + 2048; /* slots, barriers */
}

} // namespace

bool conv_tile_rows(ctx *c, const conv_sum *a) {
    if (!serves(c, &a->g, a->Cin, a->Cout, rows_shape<64, 32>::SHARED)) return false;
    if (a->Cin == 32)
        rows_as<32, 64>(c, a);
    else
        rows_as<64, 32>(c, a);
    return true;
}

bool conv_tile_dw(ctx *c, const conv_dw *a) {
    if (!serves(c, &a->g, a->I, a->O, STAGES * STAGE)) return false;
    conv_dw_args r = {};
    int64_t      blocks = a->I / WIDTH * (a->O / WIDTH), parts = c->cuda->multiprocessors / blocks;
    if (parts > a->g.n_tiles) parts = a->g.n_tiles;
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.d = (const bf16 *)a->d;
    r.I = (int)a->I;
    r.O = (int)a->O;
    r.partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * OFFSETS * a->I * a->O));
    dim3 grid((unsigned)parts, (unsigned)blocks);
    conv_allow_shared(tile_dw_kernel, STAGES * STAGE);
    tile_dw_kernel<<<grid, DW_THREADS, STAGES * STAGE, stream_of(c)>>>(r);
    LAUNCHED(c);
    partials_add(c, a->dw, r.partial, parts, OFFSETS * a->I * a->O);
    return true;
}
