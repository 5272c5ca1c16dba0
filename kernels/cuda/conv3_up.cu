/* conv3 of the level above (dev/conv_up.cuh) where it costs most: 32 channels in and out, tiles of 4^3 parents with 8^3
 * children, the finest level of the decoder. On Hopper's products of a warpgroup; a tile's 64 parents are their rows.
 *
 * To the children. A warpgroup makes a whole tile: the sums of all eight children stay in registers. The parents at one
 * of 27 offsets go from shared memory to registers once, and meet the matrices of all children that have this offset.
 * All 64 matrices stay in shared memory; of a block's two warpgroups one loads and stores while the other multiplies.
 *
 * To the parents (dx). A parent's row is the sum over 4^3 cells around its middle. A tile of children with one cell
 * around it comes in two halves of 16 channels, each loaded by a warpgroup of its own while the other is multiplied.
 * Two more warpgroups share the cells, and the second one's sums are added to the first one's.
 *
 * dw is in conv3_up_dw.cu.
 *
 * Parents lie in shared memory as dev/conv_index.cuh says, matrices as dev/mma.cuh does. Children, 16 channels:
 *
 *     cell (X,Y,Z), 0 <= X,Y,Z < 10, at 32 * ((X*10 + Y)*12 + Z), its halves exchanged if X/2 is odd, and with the
 *     cell beside it (Z ^ 1) if Y/2 is odd
 *
 * so that a cube of eight parents touches all banks once at any of the 64 cells. */
#include "kernels/cuda/dev/conv_slots.cuh"
#include "kernels/cuda/dev/mbarrier.cuh"

namespace {

enum { WIDTH = 32, MATRIX = WIDTH * WIDTH * 2, WEIGHTS = UP_MATRICES * MATRIX };

/* ---- to the children --------------------------------------------------------------------------------------------- */

enum { UP_GROUPS = 2, UP_THREADS = UP_GROUPS * GROUP, RESULT = CELLS * UP_CHILDREN * 64 };
enum { UP_SHARED = WEIGHTS + UP_GROUPS * (HALO + RESULT) };

/* entry: of the row whose address this lane gives, in the tile at `halo`. */
__device__ __forceinline__ void children_sums(float (&sum)[UP_CHILDREN][4][4], uint32_t halo, int entry,
                                              uint32_t weights, int lane) {
    uint32_t x[3][2][4]; /* of the offset that is multiplied, of the one before and of the next */
    auto     load = [&](int k) {
        const int move = halo_move<SIDE>(k), turn = halo_turn(k);
#pragma unroll
        for (int step = 0; step < 2; step++)
            ldmatrix_x4(x[k % 3][step], halo + halo_chunk(entry, move, turn, 2 * step));
    };
    load(0);
#pragma unroll
    for (int k = 0; k < 27; k++) {
        if (k + 1 < 27) load(k + 1);
        pin(x[k % 3]);
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int child = 0; child < UP_CHILDREN; child++) {
                const int jx = k % 3 - (child >> 2), jy = k / 3 % 3 - (child >> 1 & 1), jz = k / 9 - (child & 1);
                if (jx >> 1 != 0 || jy >> 1 != 0 || jz >> 1 != 0) continue;
                const int      j = jx + 2 * jy + 4 * jz;
                const uint32_t w = weights + (child * UP_PARENTS + j) * MATRIX;
                if (j == 0 && step == 0) /* a child's first */
                    matrix_sum<true>(sum[child], x[k % 3][step], w, step, lane);
                else
                    matrix_sum(sum[child], x[k % 3][step], w, step, lane);
            }
        wgmma_commit();
        wgmma_wait<1>(); /* the products of offset k-1, whose registers offset k+2 takes */
    }
    wgmma_wait<0>();
#pragma unroll
    for (int child = 0; child < UP_CHILDREN; child++) pin(sum[child]);
}

/* Where a warp keeps 16 bytes of its results: of one of its 16 parents, a child and a quarter of the channels. */
__device__ __forceinline__ int result_at(int row, int child, int quarter) {
    return (row * UP_CHILDREN + (child ^ (row >> 2 & 1))) * 64 + ((quarter ^ (row & 3)) << 4);
}

__global__ void __launch_bounds__(UP_THREADS, 1) children_kernel(const conv_rows_args a) {
    extern __shared__ __align__(1024) unsigned char room[];
    __shared__ uint32_t                             slot[SLOT_TABLE];

    const int      group = threadIdx.x / GROUP, thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
    unsigned char *own = room + WEIGHTS + group * (HALO + RESULT), *out = own + HALO + warp * (RESULT / 4);
    const uint32_t weights = smem_addr(room), halo = smem_addr(own);
    const int      entry = halo_entry<SIDE>(warp * 16 + lane % 16) ^ (lane / 16 << 4);
    const int64_t  stride = gridDim.x * (int64_t)UP_GROUPS;

    parent_slots(slot);
    load_weights<UP_THREADS, WIDTH, WIDTH>(a.w, UP_MATRICES, weights);
    int64_t tile = blockIdx.x * (int64_t)UP_GROUPS + group;
    load_slots<GROUP, 4, SLOTS>(a.x, WIDTH, CELLS, 0, near_tile(a.g, tile), slot, halo, thread);
    cp_async_commit();
    near_tile near(a.g, tile + stride); /* beyond the last tile: none, and zeros are loaded */
    for (; tile < a.g.n_tiles; tile += stride) {
        cp_async_wait<0>();
        group_barrier(group);
        float sum[UP_CHILDREN][4][4];
        children_sums(sum, halo, entry, weights, lane);
        group_barrier(group); /* nobody reads the parents any more */
        load_slots<GROUP, 4, SLOTS>(a.x, WIDTH, CELLS, 0, near, slot, halo, thread);
        cp_async_commit();
        near = near_tile(a.g, tile + 2 * stride);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            int   col = n * 8 + lane % 4 * 2;
            float b0 = a.bias ? a.bias[col] : 0.0f, b1 = a.bias ? a.bias[col + 1] : 0.0f;
#pragma unroll
            for (int child = 0; child < UP_CHILDREN; child++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    *reinterpret_cast<uint32_t *>(out + result_at(lane / 4 + 8 * h, child, n) + lane % 4 * 4) =
                        pack_bf16(sum[child][n][2 * h] + b0, sum[child][n][2 * h + 1] + b1);
        }
        __syncwarp();
        const int64_t row0 = (tile * CELLS + warp * 16) * UP_CHILDREN;
#pragma unroll 4
        for (int i = lane; i < 16 * UP_CHILDREN * 4; i += 32) {
            int         row = i / (UP_CHILDREN * 4), child = i / 4 % UP_CHILDREN;
            const uint4 v = *reinterpret_cast<const uint4 *>(out + result_at(row, child, i % 4));
            conv_store(a.silu, a.pre, a.y, row0 * WIDTH + i * 8, v);
        }
        __syncwarp(); /* before the next results take the place of these */
    }
    cp_async_wait<0>();
}

/* ---- to the parents ---------------------------------------------------------------------------------------------- */

enum {
    DOWN_GROUPS = 2,
    DOWN_THREADS = (DOWN_GROUPS + 1) * GROUP,
    EDGE = 10,
    LINE = 12,
    HALF = EDGE * EDGE * LINE * 32,
    ADDED = CELLS * WIDTH * 4
};
enum { CHILD_SLOTS = EDGE * EDGE * EDGE, CHILD_TABLE = 1024 }; /* for load_slots */
enum { DOWN_SHARED = WEIGHTS + 2 * HALF + ADDED };

__device__ __forceinline__ int child_twist(int X, int Y) {
    return (Y & 1) << 5 | (X & 1) << 4; /* of halves of coordinates */
}

__device__ __forceinline__ void child_slots(uint32_t *slot) {
    for (int i = threadIdx.x; i < CHILD_TABLE; i += DOWN_THREADS) {
        const int s = i < CHILD_SLOTS ? i : CHILD_SLOTS - 1, X = s / (EDGE * EDGE), Y = s / EDGE % EDGE, Z = s % EDGE;
        int       t, cell;
        halo_source<2 * SIDE>(s, &t, &cell);
        slot[i] = slot_word(t, cell, ((X * EDGE + Y) * LINE + Z) * 32 ^ child_twist(X >> 1, Y >> 1));
    }
}

/* The cells of one warpgroup: those with i = 2*group and 2*group + 1 of (i,j,l), 0 <= i,j,l < 4. Cell i of an axis is
 * child !(i & 1) of a parent for which this parent is the upper one if i < 2. */
__device__ __forceinline__ void parent_sums(float (&sum)[2][4][4], uint32_t children, int at, int twist, int group,
                                            uint32_t weights, int half, int lane) {
    uint32_t d[2][4][4];
    twist ^= child_twist(group, 0);
    at += group * 2 * (EDGE * LINE * 32);
    weights += (group ? 0 : 1) * MATRIX;
    auto load = [&](int ij) {
        const int i = ij >> 2, j = ij & 3;
#pragma unroll
        for (int l = 0; l < 4; l++)
            ldmatrix_x4(d[ij % 2][l],
                        children + ((at + ((i * EDGE + j) * LINE + l) * 32) ^ twist ^ child_twist(0, j >> 1)));
    };
    load(0);
#pragma unroll
    for (int ij = 0; ij < 8; ij++) {
        const int i = ij >> 2, j = ij & 3;
        pin(d[ij % 2]);
        wgmma_begin();
#pragma unroll
        for (int l = 0; l < 4; l++) {
            const int child = (i & 1 ? 0 : 4) | (j & 1 ? 0 : 2) | (l & 1 ? 0 : 1), parent = (j < 2) << 1 | (l < 2) << 2;
            matrix_sum(sum[l & 1], d[ij % 2][l], weights + (child * UP_PARENTS + parent) * MATRIX, half, lane);
        }
        wgmma_commit();
        wgmma_wait<1>(); /* the products before, whose registers the next take */
        if (ij + 1 < 8) load(ij + 1);
    }
    wgmma_wait<0>();
    pin(sum[0]);
    pin(sum[1]);
}

/* Barriers of one half of the channels: it is there, or nobody reads it any more. */
__device__ __forceinline__ uint32_t half_full(uint32_t bars, int half) {
    return bars + half * MBARRIER_BYTES;
}
__device__ __forceinline__ uint32_t half_free(uint32_t bars, int half) {
    return bars + (2 + half) * MBARRIER_BYTES;
}

/* Steps are the halves of one tile after the other. */
__device__ __forceinline__ int64_t step_tile(int64_t s) {
    return blockIdx.x + s / 2 * gridDim.x;
}

/* The warpgroup that loads. */
__device__ __forceinline__ void load_children(const conv_rows_args &a, int64_t n_steps, const uint32_t *slot,
                                              uint32_t children, uint32_t bars) {
    near_tile near(a.g, step_tile(0)), near_next(a.g, step_tile(2));
    for (int64_t s = 0; s < n_steps; s++) {
        const int half = (int)(s & 1);
        if (half == 0 && s > 0) {
            near = near_next;
            near_next = near_tile(a.g, step_tile(s + 2));
        }
        mbarrier_wait(half_free(bars, half), (s / 2 & 1) ^ 1);
        load_slots<GROUP, 2, CHILD_SLOTS>(a.x, WIDTH, CELLS * UP_CHILDREN, half * 16, near, slot,
                                          children + half * HALF, threadIdx.x % GROUP);
        mbarrier_arrive_copied(half_full(bars, half));
    }
    cp_async_wait<0>();
}

__global__ void __launch_bounds__(DOWN_THREADS, 1) parents_kernel(const conv_rows_args a) {
    extern __shared__ __align__(1024) unsigned char room[];
    __shared__ uint32_t                             slot[CHILD_TABLE];
    __shared__ uint64_t                             bar[4];

    const int      group = threadIdx.x / GROUP, thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32;
    const uint32_t weights = smem_addr(room), children = weights + WEIGHTS, bars = smem_addr(bar);
    float4        *added = reinterpret_cast<float4 *>(room + WEIGHTS + 2 * HALF);
    const int64_t  n_steps = a.g.n_tiles > blockIdx.x ? 2 * ((a.g.n_tiles - 1 - blockIdx.x) / gridDim.x + 1) : 0;
    if (threadIdx.x == 0)
        for (int half = 0; half < 2; half++) {
            mbarrier_init(half_full(bars, half), GROUP);
            mbarrier_init_warps(half_free(bars, half), DOWN_GROUPS * GROUP / 32);
        }
    child_slots(slot);
    load_weights<DOWN_THREADS, WIDTH, WIDTH>(a.w, UP_MATRICES, weights);
    if (group == DOWN_GROUPS) {
        load_children(a, n_steps, slot, children, bars);
        return;
    }
    /* Of the row whose address this lane gives: its parent's first cell. */
    const int row = warp * 16 + lane % 16, x = conv_gather(row >> 2), y = conv_gather(row >> 1), z = conv_gather(row);
    const int at = ((x * EDGE + y) * LINE + z) * 64 | lane / 16 << 4, twist = child_twist(x, y);
    float     sum[2][4][4] = {};
    for (int64_t s = 0; s < n_steps; s++) {
        const int half = (int)(s & 1);
        mbarrier_wait(half_full(bars, half), s / 2 & 1);
        parent_sums(sum, children + half * HALF, at, twist, group, weights, half, lane);
        mbarrier_arrive_warp(half_free(bars, half));
        if (half == 0) continue;
        barrier_sync<DOWN_GROUPS * GROUP>(1); /* the sums of the tile before have been read */
        if (group == 1)
#pragma unroll
            for (int n = 0; n < 4; n++)
                added[n * GROUP + thread] = make_float4(sum[0][n][0] + sum[1][n][0], sum[0][n][1] + sum[1][n][1],
                                                        sum[0][n][2] + sum[1][n][2], sum[0][n][3] + sum[1][n][3]);
        barrier_sync<DOWN_GROUPS * GROUP>(1);
        if (group == 0) {
            bf16 *out = a.y + (step_tile(s) * CELLS + warp * 16 + lane / 4) * WIDTH + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                float4 more = added[n * GROUP + thread];
                *reinterpret_cast<uint32_t *>(out + n * 8) =
                    pack_bf16(sum[0][n][0] + sum[1][n][0] + more.x, sum[0][n][1] + sum[1][n][1] + more.y);
                *reinterpret_cast<uint32_t *>(out + 8 * WIDTH + n * 8) =
                    pack_bf16(sum[0][n][2] + sum[1][n][2] + more.z, sum[0][n][3] + sum[1][n][3] + more.w);
            }
        }
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[t][n][e] = 0.0f;
    }
}

static bool serves(const ctx *c, const conv_grid *g, int64_t I, int64_t O, size_t shared) {
    return c->cuda->major == 9 && g->side == SIDE && I == WIDTH && O == WIDTH &&
           c->cuda->shared_limit >= shared + 5120; /* the slots, barriers */
}

static unsigned blocks_of(const ctx *c, int64_t work) {
    return (unsigned)(work < c->cuda->multiprocessors ? work : c->cuda->multiprocessors);
}

} // namespace

bool conv_up_children(ctx *c, const conv_sum *a) {
    if (!serves(c, &a->g, a->Cin, a->Cout, UP_SHARED)) return false;
    conv_rows_args r = gather_rows_of<true>(c, a, WIDTH, WIDTH);
    conv_allow_shared(children_kernel, UP_SHARED);
    children_kernel<<<blocks_of(c, ceil_div(a->g.n_tiles, UP_GROUPS)), UP_THREADS, UP_SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
    return true;
}

bool conv_up_parents(ctx *c, const conv_sum *a) {
    if (!serves(c, &a->g, a->Cin, a->Cout, DOWN_SHARED)) return false;
    conv_rows_args r = gather_rows_of<true>(c, a, WIDTH, WIDTH);
    conv_allow_shared(parents_kernel, DOWN_SHARED);
    parents_kernel<<<blocks_of(c, a->g.n_tiles), DOWN_THREADS, DOWN_SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
    return true;
}
