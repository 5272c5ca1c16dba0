/* dw of conv3 of the level above (dev/conv_up.cuh) where it costs most: 32 channels in and out, tiles of 4^3 parents
 * with 8^3 children. On Hopper's products of a warpgroup; a tile's 64 parents are their depth.
 *
 * A block makes the matrices of the four children with the same x. A product has 32 channels of x, at two offsets that
 * are neighbours along x, as its rows and one child's d as its columns. Offsets along y and z that are 0 meet children
 * on both sides, so the lines of x of nine pairs of offsets serve for sixteen products. By which of the two are 0 a
 * block's four warpgroups share them: each has one product of each child, with one, two, two and four lines. Registers
 * hold the sums from the first tile to the last.
 *
 * One more copies the tiles ahead. Each warpgroup also adds up one child's d by columns, where db is wanted. */
#include "kernels/cuda/dev/conv_slots.cuh"

namespace {

enum { WIDTH = 32, MATRIX_VALUES = WIDTH * WIDTH, QUARTER = UP_CHILDREN / 2 };
enum { GROUPS = 4, COPIERS = GROUP, THREADS = GROUPS * GROUP + COPIERS, WARPS = GROUPS * GROUP / 32 };
enum { D_TILE = CELLS * WIDTH * 2, STAGE = HALO + QUARTER * D_TILE, STAGES = 7, SHARED = STAGES * STAGE };
enum { PLANE = 6 * 6, NEAR_SLOTS = 5 * PLANE }; /* parents of children with one x reach to one side only */

/* The tiles of a block, and where they pass through. */
struct dw_block {
    int               begin, end;
    int               side; /* x of the children */
    uint32_t          base;
    tile_bars<STAGES> bars;
};

/* The warpgroup that copies. */
__device__ __forceinline__ void copy_tiles(const conv_dw_args &a, const dw_block &b, const uint32_t *slot, int thread) {
    constexpr int  ROWS = COPIERS / (QUARTER * 4);
    const int      row = thread / (QUARTER * 4), column = thread % (QUARTER * 4);
    const uint32_t d_to = HALO + column / 4 * D_TILE + tile_chunk<WIDTH>(row, column % 4);
    const bf16    *d = a.d + ((b.begin * (int64_t)CELLS + row) * UP_CHILDREN + b.side * QUARTER) * WIDTH + column * 8;
    near_tile      near(a.g, b.begin);
    int            stage = 0;
    uint32_t       turn = 0;
    for (int tile = b.begin; tile < b.end; tile++) {
        const near_tile next(a.g, tile + 1);
        const uint32_t  to = b.base + stage * STAGE;
        mbarrier_wait(b.bars.free(stage), turn ^ 1);
        load_slots<COPIERS, 4, NEAR_SLOTS, 3>(a.x, WIDTH, CELLS, 0, near, slot + b.side * PLANE, to, thread);
#pragma unroll
        for (int i = 0; i < CELLS / ROWS; i++) /* rows 8 apart are permuted alike */
            cp_async_16(to + d_to + i * ROWS * (WIDTH * 2), d + i * ROWS * UP_CHILDREN * WIDTH, 16);
        mbarrier_arrive_copied(b.bars.full(stage));
        near = next;
        d += CELLS * UP_CHILDREN * WIDTH;
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
    cp_async_wait<0>();
}

/* Eight columns of two rows of a tile of d, of WIDE channels. */
template <int WIDE> __device__ __forceinline__ void add_columns(uint32_t d, int thread, float (&sum)[8]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint4 v;
        shared_load(d + tile_chunk<WIDE>(thread / 4 + h * (CELLS / 2), thread % 4), v);
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) sum[2 * i] += bf16_lo(word[i]), sum[2 * i + 1] += bf16_hi(word[i]);
    }
}

/* A warpgroup. ALONG: the offsets are not 0 along z (1), y (2), both or neither, but on each child's own side. */
template <int ALONG>
__device__ __forceinline__ void multiply(const conv_dw_args &a, const dw_block &b, bool want_columns,
                                         float (*columns)[WIDTH]) {
    constexpr bool Y = ALONG & 2, Z = ALONG & 1;
    constexpr int  LINES = (Y ? 2 : 1) * (Z ? 2 : 1);
    /* Children of a batch of products, its lines, and batches of a tile. */
    constexpr int  OF = LINES == 4 ? 2 : 4, OF_LINES = LINES == 1 ? 1 : 2, BATCHES = 16 / OF;
    const int      thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
    /* A warp's 16 lines: a half of the channels at one of the two offsets. */
    const int      entry = halo_entry<SIDE>(lane / 16 * 8 + lane % 8) ^ ((warp % 2 * 2 + (lane / 8 & 1)) << 4);
    const int      k = b.side + warp / 2 + (Y ? 0 : 3) + (Z ? 0 : 9);
    const int      first = halo_chunk(entry, halo_move<SIDE>(k), halo_turn(k), 0);
    float          sum[QUARTER][4][4] = {}, column[8] = {};
    int            stage = 0;
    uint32_t       turn = 0;
    for (int tile = b.begin; tile < b.end; tile++) {
        const uint32_t x = b.base + stage * STAGE + first, d = b.base + stage * STAGE + HALO;
        uint32_t       l[2][OF_LINES][4];
        auto           lines = [&](int t) {
            /* 16 parents further in the order of Morton: two cells along y, or along x */
            const int s = t * OF / 4, move = (s & 1) * 2 * 6 + (s >> 1) * 2 * PLANE;
#pragma unroll
            for (int q = 0; q < OF_LINES; q++) {
                const int line = (LINES == 4 ? t % 2 * 2 : 0) + q, y = Z ? line / 2 : line, z = Z ? line % 2 : 0;
                ldmatrix_x4_trans(l[t % 2][q], x + (move + y * 2 * 6 + z * 2) * 64);
            }
        };
        mbarrier_wait(b.bars.full(stage), turn);
        shared_for_wgmma(); /* what cp.async wrote; the barrier shows its writes to this thread */
        lines(0);
        if (want_columns) add_columns<WIDTH>(d + ALONG * D_TILE, thread, column);
#pragma unroll
        for (int t = 0; t < BATCHES; t++) {
            pin(l[t % 2]);
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < OF; i++) {
                const int child = t * OF % 4 + i, q = LINES == 1 ? 0 : Z ? child % 2 : child / 2;
                matrix_sum(sum[child], l[t % 2][q], d + child * D_TILE, t * OF / 4, lane);
            }
            wgmma_commit();
            wgmma_wait<1>(); /* the batch before, whose registers the next one takes */
            if (t + 1 < BATCHES) lines(t + 1);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int child = 0; child < QUARTER; child++) pin(sum[child]);
        mbarrier_arrive_warp(b.bars.free(stage));
        if (++stage == STAGES) stage = 0, turn ^= 1;
    }
#pragma unroll
    for (int child = 0; child < QUARTER; child++) {
        const int y = child / 2, z = child % 2, parent = warp / 2 + 2 * (Y ? y : 1 - y) + 4 * (Z ? z : 1 - z);
        const int m = (b.side * QUARTER + child) * UP_PARENTS + parent;
        float    *to = a.partial + (blockIdx.x * (int64_t)UP_MATRICES + m) * MATRIX_VALUES + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *reinterpret_cast<float2 *>(to + (warp % 2 * 16 + lane / 4 + 8 * h) * WIDTH + n * 8) =
                    make_float2(sum[child][n][2 * h], sum[child][n][2 * h + 1]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) column[i] += __shfl_xor_sync(0xffffffffu, column[i], step);
        if (lane < 4) columns[ALONG * 4 + warp][lane * 8 + i] = column[i];
    }
}

/* Blocks: x = parts, y = x of the children. */
__global__ void __launch_bounds__(THREADS, 1) up_dw_kernel(const conv_dw_args a, float *columns) {
    if constexpr (HAS_WGMMA) {
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint64_t                             bar[2 * STAGES];
        __shared__ uint32_t                             slot[SLOT_TABLE];
        __shared__ float                                column[WARPS][WIDTH];

        const int      group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
        const dw_block b = {(int)(blockIdx.x * a.g.n_tiles / gridDim.x),
                            (int)((blockIdx.x + (int64_t)1) * a.g.n_tiles / gridDim.x),
                            (int)blockIdx.y,
                            smem_addr(room),
                            {smem_addr(bar)}};
        if (threadIdx.x == 0) b.bars.init(WARPS);
        parent_slots(slot);
        __syncthreads();
        if (group == GROUPS) {
            registers_fewer<32>(); /* 4 * 112 + 32: the 5 * 96 of the launch */
            copy_tiles(a, b, slot, threadIdx.x - GROUPS * GROUP);
            return;
        }
        registers_more<112>();
        if (group == 0)
            multiply<0>(a, b, columns, column);
        else if (group == 1)
            multiply<1>(a, b, columns, column);
        else if (group == 2)
            multiply<2>(a, b, columns, column);
        else
            multiply<3>(a, b, columns, column);
        if (!columns) return;
        barrier_sync<GROUPS * GROUP>(1);
        if (threadIdx.x >= WIDTH) return;
        float all = 0.0f;
        for (int i = 0; i < WARPS; i++) all += column[i][threadIdx.x];
        columns[(blockIdx.x * 2 + blockIdx.y) * WIDTH + threadIdx.x] = all;
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

/* A matrix of the 27 is part of one of each child's eight. */
__global__ void __launch_bounds__(256) fold_kernel(const float *sum, int64_t count, float *dw) {
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (at >= 27 * count) return;
    int   k = (int)(at / count);
    float all = 0.0f;
#pragma unroll
    for (int child = 0; child < UP_CHILDREN; child++)
        all += sum[(child * UP_PARENTS + up_parent(child, k)) * count + at % count];
    dw[at] += all;
}

} // namespace

bool conv_up_makes_db(const ctx *c, const conv_dw *a) {
    return c->cuda->major == 9 && a->g.side == SIDE && a->I == WIDTH && a->O == WIDTH &&
           c->cuda->shared_limit >= SHARED + 4096; /* barriers and columns */
}

bool conv_up_dw(ctx *c, const conv_dw *a) {
    if (!conv_up_makes_db(c, a)) return false;
    int64_t      parts = c->cuda->multiprocessors / 2;
    float       *columns = NULL;
    conv_dw_args r = {};
    if (parts > a->g.n_tiles) parts = a->g.n_tiles;
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.d = (const bf16 *)a->d;
    r.partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * UP_MATRICES * MATRIX_VALUES));
    if (a->db) columns = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * 2 * WIDTH));
    conv_allow_shared(up_dw_kernel, SHARED);
    up_dw_kernel<<<dim3((unsigned)parts, 2), THREADS, SHARED, stream_of(c)>>>(r, columns);
    LAUNCHED(c);
    if (a->db) partials_add(c, a->db, columns, parts * 2, WIDTH);
    conv_up_fold(c, a, r.partial, parts);
    return true;
}

void conv_up_fold(ctx *c, const conv_dw *a, const float *partial, int64_t parts) {
    int64_t count = a->I * a->O;
    size_t  bytes = sizeof(float) * (size_t)(UP_MATRICES * count);
    float  *sum = (float *)arena_alloc(&c->scratch, bytes);
    CUDA_DO(cudaMemsetAsync(sum, 0, bytes, stream_of(c)));
    partials_add(c, sum, partial, parts, UP_MATRICES * count);
    fold_kernel<<<(unsigned)ceil_div(27 * count, 256), 256, 0, stream_of(c)>>>(sum, count, a->dw);
    LAUNCHED(c);
}
