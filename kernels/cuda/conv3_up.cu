/* conv3 of the level above (dev/conv_up.cuh) where it costs most: 32 channels in and out, tiles of 4^3 parents with 8^3
 * children, the finest level of the decoder. On Hopper's products of a warpgroup; a tile's 64 parents are their rows.
 *
 * To the children. A warpgroup makes a whole tile: the sums of all eight children stay in registers. The parents at one
 * of 27 offsets go from shared memory to registers once, and meet the matrices of all children that have this offset.
 * All 64 matrices stay in shared memory; of a block's two warpgroups one loads and stores while the other multiplies.
 *
 * To the parents (dx). A parent's row is the sum over 4^3 cells around its middle. A tile of children with one cell
 * around it comes in two halves of 16 channels, each loaded by a warpgroup of its own while the other is multiplied.
 * Two more warpgroups share the cells, and the second one's sums are added to the first one's. A warp's 16 rows are
 * eight parents with one x and the eight beside them: of four cells along x two are the neighbour's as well, and three
 * reads serve for four.
 *
 * dw is in conv3_up_dw.cu.
 *
 * Parents lie in shared memory as dev/conv_index.cuh says, matrices as dev/mma.cuh does. Children, 16 channels:
 *
 *     cell (X,Y,Z), 0 <= X,Y,Z < 10, at 32 * ((X*10 + Y)*12 + Z), its halves exchanged if Z/4 is odd, and with the
 *     cell beside it (Z ^ 1) if Y/2 is odd
 *
 * so that eight parents with one x, two along y and four along z, touch all banks once at any of the 64 cells. */
#include "kernels/cuda/dev/conv_slots.cuh"

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
enum { CHILD_SLOTS = EDGE * EDGE * EDGE };
enum { DOWN_SHARED = WEIGHTS + 2 * HALF + ADDED };

/* Byte of a half of 16 channels of child (X,Y,Z). */
__device__ __forceinline__ int child_chunk(int X, int Y, int Z, int chunk) {
    return (((X * EDGE + Y) * LINE + Z) * 32 | chunk << 4) ^ ((Y >> 1 & 1) << 5 | (Z >> 2 & 1) << 4);
}

/* The cells of warpgroup G: those with j = 2G and 2G + 1 of (i,j,l), 0 <= i,j,l < 4. Cell i of an axis is child
 * !(i & 1) of a parent for which this parent is the upper one if i < 2. A batch of products is a pair of j and l. The
 * second eight parents' cells i are the first eight's i + 2, so those at i = 0, 1 are read for both, then 4 and 5 of
 * the first eight for the last two. at: byte of the cells of l, at i = 0 and j = 2G, of the parent that a lane reads;
 * last: from there to 4 and 5. */
template <int G, int HALF_NUMBER>
__device__ __forceinline__ void parent_sums(float (&sum)[2][4][4], uint32_t children, const int (&at)[4], int last,
                                            uint32_t weights, int lane) {
    uint32_t read[2][3][4], between[2][2][4];
    auto     load = [&](int t) {
        const uint32_t from = children + at[t & 3] + (t >> 2) * (LINE * 32);
        ldmatrix_x4(read[t % 2][0], from);
        ldmatrix_x4(read[t % 2][1], from + EDGE * LINE * 32);
        ldmatrix_x4(read[t % 2][2], from + last);
    };
    load(0);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        const int j = 2 * G + (t >> 2), l = t & 3;
        uint32_t(&x)[3][4] = read[t % 2], (&b)[2][4] = between[t % 2];
        pin(x);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            b[p][0] = x[p][1], b[p][1] = x[2][p];
            b[p][2] = x[p][3], b[p][3] = x[2][p + 2];
        }
        pin(b);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int      child = (i & 1 ? 0 : 4) | (j & 1 ? 0 : 2) | (l & 1 ? 0 : 1);
            const int      parent = (i < 2) | (j < 2) << 1 | (l < 2) << 2;
            const uint32_t w = weights + (child * UP_PARENTS + parent) * MATRIX;
            if (HALF_NUMBER == 0 && t == 0 && i < 2)
                matrix_sum<true>(sum[i], x[i], w, 0, lane);
            else
                matrix_sum(sum[i & 1], i < 2 ? x[i] : b[i - 2], w, HALF_NUMBER, lane);
        }
        wgmma_commit();
        wgmma_wait<1>(); /* the products before, whose registers the next take */
        if (t + 1 < 8) load(t + 1);
    }
    wgmma_wait<0>();
    pin(sum[0]);
    pin(sum[1]);
}

/* Barriers of the halves of the channels; and of what one warpgroup's sums pass through on their way to the other: they
 * are there, or have been taken. */
struct down_bars {
    tile_bars<2> half;

    __device__ __forceinline__ uint32_t added() const { return half.at + 4 * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t taken() const { return half.at + 5 * MBARRIER_BYTES; }
    /* By one thread. */
    __device__ __forceinline__ void     init() const {
            half.init(DOWN_GROUPS * GROUP / 32);
            mbarrier_init_warps(added(), GROUP / 32);
            mbarrier_init_warps(taken(), GROUP / 32);
    }
};

/* The warpgroup that loads: a thread the same half of every 64th slot. Where its slots lie it knows from the first tile
 * on, and where a tile's rows are for both halves of the channels. */
__device__ __forceinline__ void load_children(const conv_rows_args &a, uint32_t children, down_bars bars) {
    constexpr int STRIDE = GROUP / 2, COPIES = (CHILD_SLOTS + STRIDE - 1) / STRIDE;
    const int     thread = threadIdx.x % GROUP, chunk = thread % 2;
    const char   *from = reinterpret_cast<const char *>(a.x + chunk * 8);
    uint32_t      to[COPIES], turn = 1;
    int           source[COPIES], row[COPIES]; /* of a slot: its tile's number around this one, and cell */
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int s = min(thread / 2 + i * STRIDE, CHILD_SLOTS - 1);
        int       t, cell;
        halo_source<2 * SIDE>(s, &t, &cell);
        source[i] = t | cell << 5;
        to[i] = children + child_chunk(s / (EDGE * EDGE), s / EDGE % EDGE, s % EDGE, chunk);
    }
    near_tile near(a.g, blockIdx.x);
    for (int64_t tile = blockIdx.x; tile < a.g.n_tiles; tile += gridDim.x) {
        const near_tile next(a.g, tile + gridDim.x);
#pragma unroll
        for (int i = 0; i < COPIES; i++) /* below 0 if there is no tile */
            row[i] = __shfl_sync(0xffffffffu, near.tile, source[i] & 31) * (CELLS * UP_CHILDREN) + (source[i] >> 5);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            mbarrier_wait(bars.half.free(half), turn);
#pragma unroll
            for (int i = 0; i < COPIES; i++)
                if ((i + 1) * STRIDE <= CHILD_SLOTS || thread / 2 + i * STRIDE < CHILD_SLOTS)
                    copy_of_row(to[i] + half * HALF, from + half * 32, row[i], WIDTH * 2);
            mbarrier_arrive_copied(bars.half.full(half));
        }
        near = next;
        turn ^= 1;
    }
    cp_async_wait<0>();
}

/* The second warpgroup's sums go to shared memory, where the first one finds them. Neither waits for the other longer
 * than that takes: they run apart, and one multiplies while the other has nothing to. */
template <int G>
__device__ __forceinline__ void make_parents(const conv_rows_args &a, uint32_t weights, uint32_t children,
                                             float4 *added, down_bars bars) {
    /* Of the row whose address this lane gives: its parent's first cells. */
    const int thread = threadIdx.x % GROUP, warp = thread / 32, lane = thread % 32, beside = lane / 8 % 2;
    const int x0 = warp / 2 * 2, y0 = warp % 2 * 2, last = (4 - beside) * (EDGE * LINE * 32);
    int       at[4];
#pragma unroll
    for (int l = 0; l < 4; l++)
        at[l] = child_chunk(2 * (x0 + beside), 2 * (y0 + lane / 4 % 2 + G), 2 * (lane % 4) + l, lane / 16);
    uint32_t turn = 0;
    for (int64_t tile = blockIdx.x; tile < a.g.n_tiles; tile += gridDim.x, turn ^= 1) {
        float sum[2][4][4];
        mbarrier_wait(bars.half.full(0), turn);
        parent_sums<G, 0>(sum, children, at, last, weights, lane);
        mbarrier_arrive_warp(bars.half.free(0));
        mbarrier_wait(bars.half.full(1), turn);
        parent_sums<G, 1>(sum, children + HALF, at, last, weights, lane);
        mbarrier_arrive_warp(bars.half.free(1));
        if (G == 1) {
            mbarrier_wait(bars.taken(), turn ^ 1);
#pragma unroll
            for (int n = 0; n < 4; n++)
                added[n * GROUP + thread] = make_float4(sum[0][n][0] + sum[1][n][0], sum[0][n][1] + sum[1][n][1],
                                                        sum[0][n][2] + sum[1][n][2], sum[0][n][3] + sum[1][n][3]);
            mbarrier_arrive_warp(bars.added());
        } else {
            const int row = conv_spread(x0) << 2 | conv_spread(y0 + lane / 16) << 1 | conv_spread(lane / 4 % 4);
            bf16     *out = a.y + (tile * CELLS + row) * WIDTH + lane % 4 * 2;
            float4    more[4];
            mbarrier_wait(bars.added(), turn);
#pragma unroll
            for (int n = 0; n < 4; n++) more[n] = added[n * GROUP + thread];
            mbarrier_arrive_warp(bars.taken());
#pragma unroll
            for (int n = 0; n < 4; n++) {
                *reinterpret_cast<uint32_t *>(out + n * 8) =
                    pack_bf16(sum[0][n][0] + sum[1][n][0] + more[n].x, sum[0][n][1] + sum[1][n][1] + more[n].y);
                *reinterpret_cast<uint32_t *>(out + 4 * WIDTH + n * 8) = /* x0 + 1 */
                    pack_bf16(sum[0][n][2] + sum[1][n][2] + more[n].z, sum[0][n][3] + sum[1][n][3] + more[n].w);
            }
        }
    }
}

__global__ void __launch_bounds__(DOWN_THREADS, 1) parents_kernel(const conv_rows_args a) {
    if constexpr (HAS_WGMMA) {
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint64_t                             bar[6];

        const int       group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
        const uint32_t  weights = smem_addr(room), children = weights + WEIGHTS;
        float4         *added = reinterpret_cast<float4 *>(room + WEIGHTS + 2 * HALF);
        const down_bars bars = {{smem_addr(bar)}};
        if (threadIdx.x == 0) bars.init();
        load_weights<DOWN_THREADS, WIDTH, WIDTH>(a.w, UP_MATRICES, weights);
        if (group == DOWN_GROUPS)
            load_children(a, children, bars);
        else if (group == 0)
            make_parents<0>(a, weights, children, added, bars);
        else
            make_parents<1>(a, weights, children, added, bars);
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
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
