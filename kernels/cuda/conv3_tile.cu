/* conv3 between 32 and 64 channels on dense tiles of 4^3 cells, on Hopper: a tile's 64 cells are the rows of
 * a warpgroup's products, and all 27 matrices stay in shared memory.
 *
 * Forward and dx. Three of a block's warpgroups make a whole tile each; the fourth copies the tiles that follow, each
 * with the cells around it. The cells at one of 27 offsets go from shared memory to registers, ahead of the products.
 *
 * dw. The cells are the products' depth. A block makes the 27 matrices of 32 x 32 channels: a product has 32 channels
 * of x at two offsets as its rows, so there are 14 pairs of offsets, the last one with nothing behind the 27th;
 * warpgroup g of four takes pairs g, g + 4, .. A fifth one copies the tiles ahead. */
#include "kernels/cuda/dev/conv_slots.cuh"
#include "kernels/cuda/dev/mbarrier.cuh"

namespace {

enum { OFFSETS = 27 };

/* Barriers of N places for tiles: one is there, or nobody reads it any more. */
template <int N> struct tile_bars {
    uint32_t at;

    __device__ __forceinline__ uint32_t full(int place) const { return at + place * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t free(int place) const { return at + (N + place) * MBARRIER_BYTES; }
    /* By one thread: who reads a place says so by `readers` warps. */
    __device__ __forceinline__ void     init(int readers) const {
            for (int i = 0; i < N; i++) {
                mbarrier_init(full(i), GROUP);
                mbarrier_init_warps(free(i), readers);
        }
    }
};

/* ---- forward, dx ------------------------------------------------------------------------------------------------- */

enum { MAKERS = 3, THREADS = (MAKERS + 1) * GROUP };

template <int K, int N> struct rows_shape {
    static constexpr int MATRIX = K * N * 2, WEIGHTS = OFFSETS * MATRIX, TILE = K / 32 * HALO, PITCH = N * 2 + 16;
    static constexpr int PLACES = K == 64 ? 4 : 8, SHARED = WEIGHTS + PLACES * TILE;
    static_assert(CELLS * PITCH <= TILE, "results go where the tile was");
};

template <int K, int N>
__device__ __forceinline__ void tile_sums(float (&sum)[N / 8][4], uint32_t halo, int entry, uint32_t weights,
                                          int lane) {
    constexpr int STEPS = K / 16;
    uint32_t      x[3][STEPS][4]; /* of the offset that is multiplied, of the one before and of the next */
    auto          load = [&](int k) {
        const int move = halo_move<SIDE>(k), turn = halo_turn(k);
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            ldmatrix_x4(x[k % 3][step], halo + step / 2 * HALO + halo_chunk(entry, move, turn, step % 2 * 2));
    };
    load(0);
#pragma unroll
    for (int k = 0; k < OFFSETS; k++) {
        if (k + 1 < OFFSETS) load(k + 1);
        pin(x[k % 3]);
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            if (k == 0 && step == 0)
                matrix_sum<true>(sum, x[k % 3][step], weights, step, lane);
            else
                matrix_sum(sum, x[k % 3][step], weights + k * rows_shape<K, N>::MATRIX, step, lane);
        wgmma_commit();
        wgmma_wait<1>(); /* the products of offset k-1, whose registers offset k+2 takes */
    }
    wgmma_wait<0>();
    pin(sum);
}

/* The warpgroup that copies. */
template <int K, int N>
__device__ __forceinline__ void copy_tiles(const conv_rows_args &a, tile_bars<rows_shape<K, N>::PLACES> bars,
                                           const uint32_t *slot, uint32_t tiles, int thread) {
    typedef rows_shape<K, N> shape;
    near_tile                near(a.g, blockIdx.x);
    int                      place = 0;
    uint32_t                 turn = 0;
    for (int64_t tile = blockIdx.x; tile < a.g.n_tiles; tile += gridDim.x) {
        const near_tile next(a.g, tile + gridDim.x);
        mbarrier_wait(bars.free(place), turn ^ 1);
        load_slots<GROUP, K / 8, SLOTS>(a.x, K, CELLS, 0, near, slot, tiles + place * shape::TILE, thread);
        mbarrier_arrive_copied(bars.full(place));
        near = next;
        if (++place == shape::PLACES) place = 0, turn ^= 1;
    }
    cp_async_wait<0>();
}

template <int K, int N> __global__ void __launch_bounds__(THREADS, 1) tile_rows_kernel(const conv_rows_args a) {
    if constexpr (HAS_WGMMA) {
        typedef rows_shape<K, N> shape;
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint32_t                             slot[SLOT_TABLE];
        __shared__ uint64_t                             bar[2 * shape::PLACES];

        const int                      group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
        const int                      thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
        const uint32_t                 weights = smem_addr(room), tiles = weights + shape::WEIGHTS;
        const tile_bars<shape::PLACES> bars = {smem_addr(bar)};
        if (threadIdx.x == 0) bars.init(GROUP / 32);
        parent_slots(slot);
        load_weights<THREADS, K, N>(a.w, OFFSETS, weights);
        if (group == MAKERS) {
            registers_fewer<56>(); /* 3 * 152 + 56: the 4 * 128 of the launch */
            copy_tiles<K, N>(a, bars, slot, tiles, thread);
            return;
        }
        registers_more<152>();
        const int entry = halo_entry<SIDE>(warp * 16 + lane % 16) ^ (lane / 16 << 4);
        for (int s = group;; s += MAKERS) {
            const int64_t tile = blockIdx.x + (int64_t)s * gridDim.x;
            const int     place = s % shape::PLACES;
            if (tile >= a.g.n_tiles) break;
            float sum[N / 8][4];
            mbarrier_wait(bars.full(place), s / shape::PLACES & 1);
            tile_sums<K, N>(sum, tiles + place * shape::TILE, entry, weights, lane);
            group_barrier(group); /* nobody reads the tile any more */
            unsigned char *out = room + shape::WEIGHTS + place * shape::TILE + warp * (16 * shape::PITCH);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                int            col = n * 8 + lane % 4 * 2;
                float          b0 = a.bias ? a.bias[col] : 0.0f, b1 = a.bias ? a.bias[col + 1] : 0.0f;
                unsigned char *to = out + lane / 4 * shape::PITCH + col * 2;
                *reinterpret_cast<uint32_t *>(to) = pack_bf16(sum[n][0] + b0, sum[n][1] + b1);
                *reinterpret_cast<uint32_t *>(to + 8 * shape::PITCH) = pack_bf16(sum[n][2] + b0, sum[n][3] + b1);
            }
            __syncwarp();
#pragma unroll
            for (int i = lane; i < 16 * (N / 8); i += 32) {
                const int     r = i / (N / 8), chunk = i % (N / 8);
                const int64_t row = tile * CELLS + warp * 16 + r;
                const uint4   v = *reinterpret_cast<const uint4 *>(out + r * shape::PITCH + chunk * 16);
                conv_store(a.silu, a.pre, a.y, row * N + chunk * 8, v);
            }
            mbarrier_arrive_warp(bars.free(place));
        }
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

template <int K, int N> void rows_as(ctx *c, const conv_sum *a) {
    constexpr int  SHARED = rows_shape<K, N>::SHARED;
    conv_rows_args r = gather_rows_of<false>(c, a, K, N);
    int64_t        blocks = ceil_div(a->g.n_tiles, MAKERS);
    if (blocks > c->cuda->multiprocessors) blocks = c->cuda->multiprocessors;
    conv_allow_shared(tile_rows_kernel<K, N>, SHARED);
    tile_rows_kernel<K, N><<<(unsigned)blocks, THREADS, SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

enum { WIDTH = 32, PAIRS = (OFFSETS + 1) / 2, DEPTH = CELLS / 16, STAGES = 8, STAGE = HALO + CELLS * WIDTH * 2 };
enum { DW_GROUPS = 4, DW_THREADS = (DW_GROUPS + 1) * GROUP };

/* What a block loads and multiplies. */
struct dw_block {
    int               begin, end; /* tiles */
    int               i0, o0;
    uint32_t          base;
    tile_bars<STAGES> bars;
};

/* The warpgroup that copies: 32 channels of x around a tile, and of d in it. */
__device__ __forceinline__ void copy_tiles(const conv_dw_args &a, const dw_block &b, const uint32_t *slot, int thread) {
    const int   cell = thread / 4, chunk = thread % 4;
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
        for (int h = 0; h < CELLS; h += GROUP / 4) /* rows of multiples of 8 are permuted alike */
            copy_of_row(x + HALO + tile_chunk<WIDTH>(cell, chunk) + h * (WIDTH * 2), d, tile * CELLS + cell + h,
                        a.O * 2);
        mbarrier_arrive_copied(b.bars.full(stage));
        near = next;
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
    cp_async_wait<0>();
}

/* MINE: pairs of this warpgroup, multiplied two at a time. */
template <int MINE> __device__ __forceinline__ void dw_tiles(const conv_dw_args &a, const dw_block &b) {
    constexpr int BATCHES = DEPTH * 2;
    const int     group = threadIdx.x / GROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    /* A warp's 16 lines of a pair: a half of the channels at one of the two offsets. */
    const int     entry = halo_entry<SIDE>(lane / 16 * 8 + lane % 8) ^ ((warp % 2 * 2 + (lane / 8 & 1)) << 4);
    int           line[MINE];
#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const int k = min(2 * (group + DW_GROUPS * q) + warp / 2, OFFSETS - 1);
        line[q] = halo_chunk(entry, halo_move<SIDE>(k), halo_turn(k), 0);
    }
    float    sum[MINE][4][4] = {};
    int      stage = 0;
    uint32_t turn = 0;
    for (int tile = b.begin; tile < b.end; tile++) {
        const uint32_t x = b.base + stage * STAGE, d = x + HALO;
        uint32_t       l[2][2][4];
        auto           lines = [&](int t) {
            /* 16 cells further in the order of Morton: two cells along y, or along x */
            const int s = t / 2, move = ((s & 1) * 2 * 6 + (s >> 1) * 2 * 36) * 64;
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (t % 2 * 2 + i < MINE) ldmatrix_x4_trans(l[t % 2][i], x + line[t % 2 * 2 + i] + move);
        };
        mbarrier_wait(b.bars.full(stage), turn);
        shared_for_wgmma(); /* what cp.async wrote; the barrier shows its writes to this thread */
        lines(0);
#pragma unroll
        for (int t = 0; t < BATCHES; t++) {
            pin(l[t % 2]);
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (t % 2 * 2 + i < MINE) matrix_sum(sum[t % 2 * 2 + i], l[t % 2][i], d, t / 2, lane);
            wgmma_commit();
            wgmma_wait<1>(); /* the batch before, whose registers the next one takes */
            if (t + 1 < BATCHES) lines(t + 1);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int q = 0; q < MINE; q++) pin(sum[q]);
        mbarrier_arrive_warp(b.bars.free(stage));
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const int k = 2 * (group + DW_GROUPS * q) + warp / 2;
        if (k >= OFFSETS) break;
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int i = b.i0 + warp % 2 * 16 + lane / 4 + 8 * h, o = b.o0 + n * 8 + lane % 4 * 2;
                *reinterpret_cast<float2 *>(a.partial + ((blockIdx.x * (int64_t)OFFSETS + k) * a.I + i) * a.O + o) =
                    make_float2(sum[q][n][2 * h], sum[q][n][2 * h + 1]);
            }
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
        parent_slots(slot);
        __syncthreads();
        if (group == DW_GROUPS) {
            registers_fewer<32>(); /* 4 * 112 + 32: the 5 * 96 of the launch */
            copy_tiles(a, b, slot, threadIdx.x - DW_GROUPS * GROUP);
            return;
        }
        registers_more<112>();
        if (group < PAIRS % DW_GROUPS)
            dw_tiles<PAIRS / DW_GROUPS + 1>(a, b);
        else
            dw_tiles<PAIRS / DW_GROUPS>(a, b);
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
