/* conv3 between 32 and 64 channels on dense tiles of 4^3 cells, on Hopper: a tile's 64 cells are the rows of
 * a warpgroup's products, and all 27 matrices stay in shared memory.
 *
 * Forward and dx. Each of a block's four warpgroups makes whole tiles; its cells and those around them are loaded while
 * the other three multiply. The cells at one of 27 offsets go from shared memory to registers, ahead of the products.
 *
 * dw. The cells are the products' depth. A block makes the 27 matrices of 32 x 32 channels: a product has 32 channels
 * of x at two offsets as its rows, so there are 14 pairs of offsets, the last one with nothing behind the 27th;
 * warpgroup g takes pairs g, g + 4, .. The tiles ahead are loaded meanwhile. */
#include "kernels/cuda/dev/conv_slots.cuh"

namespace {

enum { GROUPS = 4, THREADS = GROUPS * GROUP, OFFSETS = 27 };

/* ---- forward, dx ------------------------------------------------------------------------------------------------- */

template <int K, int N> struct rows_shape {
    static constexpr int MATRIX = K * N * 2, WEIGHTS = OFFSETS * MATRIX, TILE = K / 32 * HALO, PITCH = N * 2 + 16;
    static constexpr int SHARED = WEIGHTS + GROUPS * TILE;
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

template <int K, int N> __global__ void __launch_bounds__(THREADS, 1) tile_rows_kernel(const conv_rows_args a) {
    typedef rows_shape<K, N> shape;
    extern __shared__ __align__(1024) unsigned char room[];
    __shared__ uint32_t                             slot[SLOT_TABLE];

    const int      group = threadIdx.x / GROUP, thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
    unsigned char *own = room + shape::WEIGHTS + group * shape::TILE, *out = own + warp * (16 * shape::PITCH);
    const uint32_t weights = smem_addr(room), halo = smem_addr(own);
    const int      entry = halo_entry<SIDE>(warp * 16 + lane % 16) ^ (lane / 16 << 4);
    const int64_t  stride = gridDim.x * (int64_t)GROUPS;

    parent_slots(slot);
    load_weights<THREADS, K, N>(a.w, OFFSETS, weights);
    int64_t   tile = blockIdx.x * (int64_t)GROUPS + group;
    near_tile near(a.g, tile);
    for (; tile < a.g.n_tiles; tile += stride) {
        load_slots<GROUP, K / 8, SLOTS>(a.x, K, CELLS, 0, near, slot, halo, thread);
        cp_async_commit();
        near = near_tile(a.g, tile + stride);
        cp_async_wait<0>();
        group_barrier(group);
        float sum[N / 8][4];
        tile_sums<K, N>(sum, halo, entry, weights, lane);
        group_barrier(group); /* nobody reads the tile any more */
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
        group_barrier(group); /* before the next tile takes the place of the results */
    }
}

template <int K, int N> void rows_as(ctx *c, const conv_sum *a) {
    constexpr int  SHARED = rows_shape<K, N>::SHARED;
    conv_rows_args r = gather_rows_of<false>(c, a, K, N);
    int64_t        blocks = ceil_div(a->g.n_tiles, GROUPS);
    if (blocks > c->cuda->multiprocessors) blocks = c->cuda->multiprocessors;
    conv_allow_shared(tile_rows_kernel<K, N>, SHARED);
    tile_rows_kernel<K, N><<<(unsigned)blocks, THREADS, SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

enum { WIDTH = 32, PAIRS = (OFFSETS + 1) / 2, DEPTH = CELLS / 16, STAGES = 6, STAGE = HALO + CELLS * WIDTH * 2 };

/* What a block loads and multiplies. */
struct dw_block {
    int64_t  begin, end; /* tiles */
    int      i0, o0;
    uint32_t base;
};

/* The 32 channels of x around a tile, and those of d in it. */
__device__ __forceinline__ void load_stage(const conv_dw_args &a, const dw_block &b, const near_tile &near,
                                           const uint32_t *slot, int stage) {
    const uint32_t x = b.base + stage * STAGE;
    load_slots<THREADS, 4, SLOTS>(a.x, a.I, CELLS, b.i0, near, slot, x, threadIdx.x);
    if (threadIdx.x >= CELLS * 4) return;
    const int     cell = threadIdx.x / 4, chunk = threadIdx.x % 4;
    const int64_t row = near.row(OWN_TILE, cell, CELLS);
    cp_async_16(x + HALO + tile_chunk<WIDTH>(cell, chunk), row >= 0 ? a.d + row * a.O + b.o0 + chunk * 8 : a.d,
                row >= 0 ? 16 : 0);
}

/* MINE: pairs of this warpgroup. */
template <int MINE>
__device__ __forceinline__ void dw_tiles(const conv_dw_args &a, const dw_block &b, const uint32_t *slot) {
    const int group = threadIdx.x / GROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    near_tile near(a.g, b.begin);
    int64_t   ahead = b.begin; /* the next tile to load; `near` is of it */
    auto      load = [&](int stage) {
        if (ahead < b.end) {
            load_stage(a, b, near, slot, stage);
            near = near_tile(a.g, ++ahead);
        }
        cp_async_commit();
    };
    /* A warp's 16 lines of a pair: a half of the channels at one of the two offsets. */
    const int entry = halo_entry<SIDE>(lane / 16 * 8 + lane % 8) ^ ((warp % 2 * 2 + (lane / 8 & 1)) << 4);
    int       line[MINE];
#pragma unroll
    for (int q = 0; q < MINE; q++) {
        int k = 2 * (group + GROUPS * q) + warp / 2;
        k = k < OFFSETS ? k : OFFSETS - 1;
        line[q] = halo_chunk(entry, halo_move<SIDE>(k), halo_turn(k), 0);
    }
    float sum[MINE][4][4] = {};
    for (int s = 0; s < STAGES - 1; s++) load(s);
    int stage = 0;
    for (int64_t tile = b.begin; tile < b.end; tile++) {
        cp_async_wait<STAGES - 2>();
        shared_for_wgmma();
        __syncthreads(); /* the tile is there, and the one before, whose place the next takes, has been multiplied */
        load(stage == 0 ? STAGES - 1 : stage - 1);
        const uint32_t x = b.base + stage * STAGE, d = x + HALO;
        uint32_t       l[2][MINE][4];
        auto           lines = [&](int s) {
            /* 16 cells further in the order of Morton: two cells along y, or along x */
            const int move = ((s & 1) * 2 * 6 + (s >> 1) * 2 * 36) * 64;
#pragma unroll
            for (int q = 0; q < MINE; q++) ldmatrix_x4_trans(l[s % 2][q], x + line[q] + move);
        };
        lines(0);
#pragma unroll
        for (int s = 0; s < DEPTH; s++) {
            pin(l[s % 2]);
            wgmma_begin();
#pragma unroll
            for (int q = 0; q < MINE; q++) matrix_sum(sum[q], l[s % 2][q], d, s, lane);
            wgmma_commit();
            wgmma_wait<1>(); /* the step before, whose registers the next one takes */
            if (s + 1 < DEPTH) lines(s + 1);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int q = 0; q < MINE; q++) pin(sum[q]);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    cp_async_wait<0>();
#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const int k = 2 * (group + GROUPS * q) + warp / 2;
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
__global__ void __launch_bounds__(THREADS, 1) tile_dw_kernel(const conv_dw_args a) {
    extern __shared__ __align__(1024) unsigned char room[];
    __shared__ uint32_t                             slot[SLOT_TABLE];
    const int                                       o_blocks = a.O / WIDTH;
    const dw_block b = {blockIdx.x * a.g.n_tiles / gridDim.x, (blockIdx.x + (int64_t)1) * a.g.n_tiles / gridDim.x,
                        (int)blockIdx.y / o_blocks * WIDTH, (int)blockIdx.y % o_blocks * WIDTH, smem_addr(room)};
    parent_slots(slot);
    __syncthreads();
    if (threadIdx.x / GROUP < PAIRS % GROUPS)
        dw_tiles<PAIRS / GROUPS + 1>(a, b, slot);
    else
        dw_tiles<PAIRS / GROUPS>(a, b, slot);
}

bool serves(const ctx *c, const conv_grid *g, int64_t I, int64_t O, size_t shared) {
    return c->cuda->major == 9 && !g->mask && g->side == SIDE && ((I == 32 && O == 64) || (I == 64 && O == 32)) &&
           c->cuda->shared_limit >= shared + 1024; /* the slots */
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
    tile_dw_kernel<<<grid, THREADS, STAGES * STAGE, stream_of(c)>>>(r);
    LAUNCHED(c);
    partials_add(c, a->dw, r.partial, parts, OFFSETS * a->I * a->O);
    return true;
}
