/* conv3 forward and dx with gathered rows on Hopper: bf16, 32 or multiples of 64 channels in, multiples of 32 out,
 * dense levels and masks of one word.
 *
 * What binds is how fast rows and weights come out of the L2 cache (35 bytes a clock and multiprocessor on an H100),
 * then how often they pass through shared memory. So tiles are as large as the registers hold, and both sides of the
 * products are read where they lie. The products are turned:
 *
 *     y^T (channels out, rows) += w_k^T (channels out, channels in) x^T (channels in, rows)
 *
 * as a product of 64 channels by 192 rows reads shared memory half as often as one of 64 rows by 64 channels. A slice
 * is 64 channels in of one offset (32 in: of two offsets).
 *
 * One block lives on each multiprocessor and makes tile after tile. Its warps have three tasks:
 *
 *     finders   find the neighbours' rows, some offsets and tiles ahead
 *     loaders   copy those rows and the slice's weights to shared memory, STAGES slices ahead
 *     2 groups  multiply; each has 64 channels of all rows, or where only 64 come out, half of the rows
 *
 * Forms, besides the 27 neighbours on one level: from parents to children, where a tile holds the rows of one child of
 * its cells, from 8 parents; and back, where a cell's row is the sum over 64 cells below (dev/conv_up.cuh). Between 32
 * and 64 channels all weights stay in shared memory (HELD). */
#include "kernels/cuda/dev/conv_wide.cuh"

namespace {

enum { PIECE = 4 }; /* neighbours are found for so many matrices at a time */
enum form { CELLS, CELLS_32, HELD_32_64, HELD_64_32, TO_CHILDREN, TO_PARENTS };
template <form F> constexpr bool halves() { /* 32 channels in: a slice is of two offsets */
    return F == CELLS_32 || F == HELD_32_64;
}
template <form F> constexpr int matrices_of() {
    return F == TO_CHILDREN ? (int)UP_PARENTS : F == TO_PARENTS ? (int)UP_MATRICES : 27;
}
template <form F> constexpr int held_slices() {
    return F == HELD_32_64 ? 14 : F == HELD_64_32 ? 27 : 0;
}
template <form F> constexpr int held_rows() { /* of a slice's weights */
    return F == HELD_32_64 ? 64 : 32;
}

struct wide_args {
    conv_grid    g;
    const bf16  *x, *w; /* w: wide_weights_kernel */
    const float *bias;
    bf16        *pre, *y;
    int          Cin, Cout, columns; /* columns: tiles of channels out */
    int          tiles;
    bool         silu;
};

/* A tile of OUT channels (64 or 128) by ROWS rows. */
template <int OUT, int ROWS, form F> struct wide_shape {
    static constexpr int N = OUT == 128 ? ROWS : ROWS / 2; /* rows of a group's product */
    static constexpr int WEIGHTS = OUT * ROW, HELD_OF_ONE = held_rows<F>() * ROW, HELD = held_slices<F>() * HELD_OF_ONE;
    static constexpr int STAGE = ROWS * ROW + (HELD ? 0 : WEIGHTS);
    /* Loaders, finders: a group of each (a finder has whole rows: one warp may have none), as two warps copy slower
     * than the L2 cache gives. */
    static constexpr int LOADERS = GROUP, FINDERS = ROWS % GROUP == 0 ? GROUP : GROUP * 3 / 4, THREADS = 4 * GROUP;
    /* Near rows of a matrix, words: the ROWS / 8 rows with r % 8 alike follow each other, and lists of these start in
     * different banks. */
    static constexpr int LIST = ROWS / 8 + 4, NEAR_OF_ONE = 8 * LIST, NEAR = PIECE * NEAR_OF_ONE * 4;
    static constexpr int PIECES = HELD ? 3 : 4, REST = PIECES * NEAR + 256; /* pieces in hand, and the barriers */
    static constexpr int STAGES = (BLOCK_BYTES - REST - HELD) / STAGE, NEAR_AT = HELD + STAGES * STAGE;
    static constexpr int BARS_AT = NEAR_AT + PIECES * NEAR;
    static constexpr int SHARED = BARS_AT + (2 * STAGES + 2 * PIECES + 1) * MBARRIER_BYTES;
    static_assert(N % 8 == 0 && N <= 256, "rows of one product");
    static_assert(2 * GROUP + LOADERS + FINDERS <= THREADS, "beside two groups that multiply");
    static_assert(STAGE % 1024 == 0 && SHARED + STEP_BYTES <= BLOCK_BYTES, "tiles start at whole patterns");
};

/* What all warps of a block agree on. */
template <int OUT, int ROWS, form F> struct wide_block {
    typedef wide_shape<OUT, ROWS, F>    shape;
    unsigned char                      *room;
    uint32_t                            base;
    __device__ __forceinline__ uint32_t bar(int i) const { return base + shape::BARS_AT + i * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t full(int stage) const { return bar(stage); }
    __device__ __forceinline__ uint32_t free(int stage) const { return bar(shape::STAGES + stage); }
    __device__ __forceinline__ uint32_t found(int piece) const { return bar(2 * shape::STAGES + piece); }
    __device__ __forceinline__ uint32_t used(int piece) const { return bar(2 * shape::STAGES + shape::PIECES + piece); }
    __device__ __forceinline__ uint32_t held() const { return bar(2 * shape::STAGES + 2 * shape::PIECES); }
    __device__ __forceinline__ uint32_t stage(int i) const { return base + shape::HELD + i * shape::STAGE; }
    __device__ __forceinline__ int32_t *near(int piece, int j, int row) const { /* of the j-th matrix of a piece */
        return reinterpret_cast<int32_t *>(room + shape::NEAR_AT + piece * shape::NEAR) + j * shape::NEAR_OF_ONE +
               row % 8 * shape::LIST + row / 8;
    }
};

/* Tile t: columns of one tile of rows follow each other (they read the same rows), and so do children. */
template <form F> struct tile_place {
    int                        column, child, rows;
    __device__ __forceinline__ tile_place(const wide_args &a, int t) {
        constexpr int CHILDREN = F == TO_CHILDREN ? UP_CHILDREN : 1;
        column = t % a.columns;
        child = t / a.columns % CHILDREN;
        rows = t / a.columns / CHILDREN;
    }
};

template <form F> __device__ __forceinline__ int slices_of(const wide_args &a) {
    return halves<F>() ? (27 + 1) / 2 : matrices_of<F>() * (a.Cin / DEEP);
}

/* Offset at which matrix m meets the rows of x (of their parents). */
template <form F> __device__ __forceinline__ int offset_of(int child, int m) {
    if (F == TO_CHILDREN) return up_offset(child, m);
    if (F == TO_PARENTS)
        return 26 - up_offset(m / UP_PARENTS, m % UP_PARENTS); /* a child meets it at the opposite one */
    return m;
}

template <int OUT, int ROWS, form F>
__device__ __forceinline__ void find(const wide_args &a, const wide_block<OUT, ROWS, F> &block, const uint16_t *step,
                                     int tid) {
    typedef wide_shape<OUT, ROWS, F> shape;
    constexpr int                    EACH = ROWS / shape::FINDERS; /* rows of a thread */
    constexpr int                    AT_ONCE = EACH <= 2 ? PIECE : PIECE / 2, N = AT_ONCE * EACH;
    ring_place<shape::PIECES>        piece;
    for (int t = blockIdx.x; t < a.tiles; t += gridDim.x) {
        tile_place<F> tile(a, t);
        int32_t       code[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int row = tile.rows * ROWS + i * shape::FINDERS + tid;
            code[i] = row < a.g.n_rows ? (int32_t)conv_row_code(&a.g, row) : -1;
        }
        for (int m0 = 0; m0 < matrices_of<F>(); m0 += PIECE) {
            mbarrier_wait(block.used(piece.at), piece.turn ^ 1);
#pragma unroll
            for (int j0 = 0; j0 < PIECE; j0 += AT_ONCE) {
                int32_t of[N], near[N];
                int     offset[N];
#pragma unroll
                for (int i = 0; i < N; i++) {
                    of[i] = code[i % EACH];
                    offset[i] = offset_of<F>(tile.child, min(m0 + j0 + i / EACH, matrices_of<F>() - 1));
                }
                neighbors<N>(a.g, step, of, offset, near);
#pragma unroll
                for (int i = 0; i < N; i++) {
                    const int j = j0 + i / EACH, m = m0 + j;
                    if (m >= matrices_of<F>()) near[i] = -1;
                    if (F == TO_PARENTS && near[i] >= 0) near[i] = near[i] * UP_CHILDREN + m / UP_PARENTS;
                    *block.near(piece.at, j, i % EACH * shape::FINDERS + tid) = near[i];
                }
            }
            mbarrier_arrive_warp(block.found(piece.at));
            piece.next();
        }
    }
}

template <int OUT, int ROWS, form F>
__device__ __forceinline__ void load(const wide_args &a, const wide_block<OUT, ROWS, F> &block, int tid) {
    typedef wide_shape<OUT, ROWS, F> shape;
    constexpr int  STEP = halves<F>() ? 2 : 1, EACH = ROWS * 8 / shape::LOADERS; /* rows of a thread, 8 apart */
    const int      chunk = tid % 8, r0 = tid / 64 * (EACH * 8) + tid / 8 % 8;
    const int      slices = halves<F>() ? 1 : a.Cin / DEEP;
    const uint32_t row_bytes = a.Cin * 2, to_row = tile_chunk<DEEP>(r0, chunk);
    const int      weight_bytes = min(OUT, a.Cout) * ROW; /* rows of no channel make sums that nobody reads */
    ring_place<shape::PIECES> piece;
    ring_place<shape::STAGES> stage;
    if (shape::HELD && tid == 0) {
        mbarrier_arrive_for(block.held(), shape::HELD);
        for (int m = 0; m < held_slices<F>(); m++)
            bulk_copy(block.base + m * shape::HELD_OF_ONE, (const char *)a.w + m * shape::WEIGHTS, shape::HELD_OF_ONE,
                      block.held());
    }
    for (int t = blockIdx.x; t < a.tiles; t += gridDim.x) {
        tile_place<F> tile(a, t);
        for (int m0 = 0; m0 < matrices_of<F>(); m0 += PIECE) {
            mbarrier_wait(block.found(piece.at), piece.turn);
            for (int j = 0; j < PIECE && m0 + j < matrices_of<F>(); j += STEP) {
                const int32_t *near = block.near(piece.at, j + (halves<F>() ? chunk / 4 : 0), r0);
                const int      matrix = F == TO_CHILDREN ? tile.child * UP_PARENTS + m0 + j : (m0 + j) / STEP;
                const char    *x = (const char *)a.x + (halves<F>() ? chunk % 4 : chunk) * 16;
                const char    *w =
                    (const char *)a.w + ((int64_t)matrix * slices * a.columns + tile.column) * shape::WEIGHTS;
                int n[EACH]; /* at once: between copies each would wait for shared memory */
#pragma unroll
                for (int i = 0; i < EACH; i += 4) {
                    const int4 four = *reinterpret_cast<const int4 *>(near + i);
                    n[i] = four.x, n[i + 1] = four.y, n[i + 2] = four.z, n[i + 3] = four.w;
                }
                for (int s = 0; s < slices; s++, x += ROW, w += (int64_t)a.columns * shape::WEIGHTS) {
                    const uint32_t to = block.stage(stage.at);
                    mbarrier_wait(block.free(stage.at), stage.turn ^ 1);
                    if (!shape::HELD && tid == 0) {
                        mbarrier_arrive_for(block.full(stage.at), weight_bytes);
                        bulk_copy(to + ROWS * ROW, w, weight_bytes, block.full(stage.at));
                    }
#pragma unroll
                    for (int i = 0; i < EACH; i++) copy_of_row(to + to_row + i * 8 * ROW, x, n[i], row_bytes);
                    mbarrier_arrive_copied(block.full(stage.at));
                    stage.next();
                }
            }
            mbarrier_arrive_warp(block.used(piece.at));
            piece.next();
        }
    }
    cp_async_wait<0>();
}

/* The sums of a warp, 16 channels by N rows, 16 bytes at a time: lane 4r+q has rows r of 16, and of row r + 8 (q / 2)
 * the q % 2-th half of the channels. */
template <form F, int N>
__device__ __forceinline__ void write(const wide_args &a, const float (&sum)[N / 8][4], int row0, int child,
                                      int channel, int lane) {
    constexpr int STEP = F == TO_CHILDREN ? UP_CHILDREN : 1;
    if (channel >= a.Cout) return; /* of a tile that is wider than the layer */
    float b0 = 0.0f, b1 = 0.0f;
    if (a.bias) {
        b0 = a.bias[channel + lane / 4];
        b1 = a.bias[channel + lane / 4 + 8];
    }
    const int to_channel = channel + lane % 2 * 8;
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            v[2 * i] = turn_matrix(pack_bf16(sum[j + i][0] + b0, sum[j + i][1] + b0));
            v[2 * i + 1] = turn_matrix(pack_bf16(sum[j + i][2] + b1, sum[j + i][3] + b1));
        }
        turn_quad(v, lane);
        const int row = row0 + j * 8 + lane % 4 / 2 * 8 + lane / 4;
        if (row >= a.g.n_rows) continue;
        const uint4   all = make_uint4(v[0], v[1], v[2], v[3]);
        const int64_t to = ((int64_t)row * STEP + child) * a.Cout + to_channel;
        *reinterpret_cast<uint4 *>((a.silu ? a.pre : a.y) + to) = all;
        if (a.silu) {
            float f[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                f[2 * i] = bf16_lo(v[i]);
                f[2 * i + 1] = bf16_hi(v[i]);
            }
            act_values<bf16, 8>(ACT_SILU, f);
            store_vec<bf16, 8>(a.y + to, f);
        }
    }
}

template <int OUT, int ROWS, form F>
__device__ __forceinline__ void multiply(const wide_args &a, const wide_block<OUT, ROWS, F> &block, int group,
                                         int tid) {
    typedef wide_shape<OUT, ROWS, F> shape;
    constexpr int                    N = shape::N;
    const int                        lane = tid % 32, slices = slices_of<F>(a);
    const uint32_t                   rows = block.stage(0) + (OUT == 64 ? group * N * ROW : 0);
    const uint32_t                   weights = block.stage(0) + ROWS * ROW + (OUT == 128 ? group * 64 * ROW : 0);
    ring_reader<shape::STAGES>       ring;
    if (shape::HELD) mbarrier_wait(block.held(), 0);
    for (int t = blockIdx.x; t < a.tiles; t += gridDim.x) {
        tile_place<F> tile(a, t);
        float         sum[N / 8][4];
        ring.before = -1;
        for (int s = 0; s < slices; s++) {
            ring.wait(block);
            shared_for_wgmma(); /* what cp.async wrote; the barrier shows its writes to this thread */
            wgmma_begin();
            const uint32_t w =
                shape::HELD ? block.base + s * shape::HELD_OF_ONE : weights + ring.stage.at * shape::STAGE;
#pragma unroll
            for (int k = 0; k < DEEP / 16; k++)
                wgmma_shared<false>(sum, shared_rows(w, k), shared_rows(rows + ring.stage.at * shape::STAGE, k),
                                    k > 0 || s > 0);
            ring.next(block);
        }
        wgmma_wait<0>();
        pin(sum);
        mbarrier_arrive_warp(block.free(ring.before));
        write<F, N>(a, sum, tile.rows * ROWS + (OUT == 64 ? group * N : 0), tile.child,
                    tile.column * OUT + (OUT == 128 ? group * 64 : 0) + tid / 32 * 16, lane);
    }
}

template <int OUT, int ROWS, form F>
__global__ void __launch_bounds__(wide_shape<OUT, ROWS, F>::THREADS, 1) wide_rows_kernel(const wide_args a) {
    if constexpr (HAS_WGMMA) {
        typedef wide_shape<OUT, ROWS, F> shape;
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint16_t                             step[STEPS];
        const wide_block<OUT, ROWS, F>                  block = {room, smem_addr(room)};
        const int                                       group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
        if (threadIdx.x == 0) {
            for (int i = 0; i < shape::STAGES; i++) {
                mbarrier_init(block.full(i), shape::LOADERS + (shape::HELD ? 0 : 1)); /* rows, and weights */
                mbarrier_init_warps(block.free(i), 2 * GROUP / 32);
            }
            mbarrier_init(block.held(), 1);
            for (int i = 0; i < shape::PIECES; i++) {
                mbarrier_init_warps(block.found(i), shape::FINDERS / 32);
                mbarrier_init_warps(block.used(i), shape::LOADERS / 32);
            }
            shared_for_wgmma(); /* the copies of weights know the barriers too */
        }
        step_table(a.g, step);
        __syncthreads();
        const int helper = (int)threadIdx.x - 2 * GROUP, finder = helper - shape::LOADERS;
        if (group < 2) {
            multiply<OUT, ROWS, F>(a, block, group, threadIdx.x % GROUP);
        } else {
            if (finder < 0)
                load<OUT, ROWS, F>(a, block, helper);
            else if (finder < shape::FINDERS)
                find<OUT, ROWS, F>(a, block, step, finder);
        }
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* w as the kernel copies it: [matrix][slice of channels in][tile of channels out], each OUT rows of 64 values, in the
 * order of shared memory (tile_chunk); zeros where there is no channel. A block makes 64 x 64 values. */
template <form F>
__global__ void __launch_bounds__(256) wide_weights_kernel(const conv_sum a, int blocks_out, bf16 *out) {
    constexpr bool UP = F == TO_CHILDREN || F == TO_PARENTS;
    constexpr int  PITCH = 66;                      /* values: whole words, and rows start in different banks */
    __shared__ __align__(16) bf16 tile[64 * PITCH]; /* [channel out][channel in] */
    const int                     slices = halves<F>() ? 1 : (int)(a.Cin / DEEP);
    const int n0 = (int)(blockIdx.x % blocks_out) * 64, i0 = (int)(blockIdx.x / blocks_out % slices) * DEEP;
    const int m = (int)(blockIdx.x / blocks_out / slices);
    for (int at = threadIdx.x; at < 64 * 64; at += 256) {
        int   i = a.ci_step == 1 ? at % 64 : at / 64, n = a.ci_step == 1 ? at / 64 : at % 64;
        int   k = halves<F>() ? 2 * m + i / 32 : m;
        float sum = 0.0f;
        if (n0 + n < a.Cout && (UP || k < 27)) {
            const bf16 *w = (const bf16 *)a.w + (halves<F>() ? i % 32 : i0 + i) * a.ci_step + (n0 + n) * a.co_step;
            if (!UP)
                sum = to_float(w[k * a.k_step]);
            else
                for (int o = 0; o < 27; o++)
                    if (up_parent(m / UP_PARENTS, o) == m % UP_PARENTS) sum += to_float(w[o * a.k_step]);
        }
        tile[n * PITCH + i] = __float2bfloat16_rn(sum);
    }
    __syncthreads();
    uint32_t *to = reinterpret_cast<uint32_t *>(out + (int64_t)blockIdx.x * (64 * DEEP));
    for (int at = threadIdx.x; at < 64 * DEEP / 2; at += 256) {
        int n = at / 32, chunk = at / 4 % 8 ^ n % 8;
        to[at] = *reinterpret_cast<const uint32_t *>(tile + n * PITCH + chunk * 8 + at % 4 * 2);
    }
}

/* ---- which tile -------------------------------------------------------------------------------------------------- */

template <int OUT, int ROWS, form F> void wide_rows_as(ctx *c, const conv_sum *a) {
    typedef wide_shape<OUT, ROWS, F> shape;
    constexpr bool                   UP = F == TO_CHILDREN || F == TO_PARENTS;
    constexpr int                    MATRICES = halves<F>() ? 14 : UP ? (int)UP_MATRICES : 27;
    const int     columns = (int)ceil_div(a->Cout, OUT), slices = halves<F>() ? 1 : (int)(a->Cin / DEEP);
    const int64_t blocks = (int64_t)MATRICES * slices * columns * (OUT / 64);
    bf16         *w = (bf16 *)arena_alloc(&c->scratch, sizeof(bf16) * 64 * DEEP * (size_t)blocks);
    wide_weights_kernel<F><<<(unsigned)blocks, 256, 0, stream_of(c)>>>(*a, columns * (OUT / 64), w);
    LAUNCHED(c);
    wide_args r = {};
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.w = w;
    r.bias = a->bias;
    r.pre = (bf16 *)a->pre;
    r.y = (bf16 *)a->y;
    r.Cin = (int)a->Cin;
    r.Cout = (int)a->Cout;
    r.columns = columns;
    int64_t tiles = ceil_div(a->g.n_rows, ROWS) * columns * (F == TO_CHILDREN ? UP_CHILDREN : 1);
    int64_t at_once = c->cuda->multiprocessors;
    CHECK(tiles < INT32_MAX - 1024, "conv3: %lld rows of %lld columns", (long long)a->g.n_rows, (long long)a->Cout);
    r.tiles = (int)tiles;
    r.silu = a->act == ACT_SILU;
    conv_allow_shared(wide_rows_kernel<OUT, ROWS, F>, shape::SHARED);
    wide_rows_kernel<OUT, ROWS, F>
        <<<(unsigned)(tiles < at_once ? tiles : at_once), shape::THREADS, shape::SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* What a launch with tiles of so many rows by 64 channels takes, in rows of a block: the last round of tiles may be
 * nearly empty. */
static int64_t rows_of_a_block(const ctx *c, const conv_sum *a, int64_t rows, int64_t children) {
    int64_t tiles = ceil_div(a->g.n_rows, rows) * ceil_div(a->Cout, 64) * children;
    return ceil_div(tiles, c->cuda->multiprocessors) * rows;
}

/* 192 rows and not 256 by 128 channels: one stage more, so that more bytes are on their way, and registers for 16 warps
 * (512 to 512 channels at 45,904 tiles: 1.13 ms against 1.26). 384 rows by 64 channels fetch a tenth less for a product
 * than 256 and are some 5 % faster, if the rounds of blocks allow it. */
template <form F> bool wide_rows_of(ctx *c, const conv_sum *a) {
    const int64_t children = F == TO_CHILDREN ? (int64_t)UP_CHILDREN : 1;
    if (a->Cout % 128 == 0)
        wide_rows_as<128, 192, F>(c, a);
    else if (20 * rows_of_a_block(c, a, 256, children) > 19 * rows_of_a_block(c, a, 384, children))
        wide_rows_as<64, 384, F>(c, a);
    else
        wide_rows_as<64, 256, F>(c, a);
    return true;
}

static bool serves(const ctx *c, const conv_sum *a) {
    return wide_level(c, &a->g) && a->Cin % DEEP == 0 && a->Cout % 32 == 0;
}

} // namespace

bool conv_wide_rows(ctx *c, const conv_sum *a) {
    conv_sum deep = *a;
    if (a->Cin == 32 && a->Cout % 64 == 0) deep.Cin = DEEP;
    if (!serves(c, &deep)) return false;
    if (a->Cin == 32 && a->Cout == 64)
        wide_rows_as<64, 256, HELD_32_64>(c, a);
    else if (a->Cin == 32)
        wide_rows_of<CELLS_32>(c, a);
    else if (a->Cin == 64 && a->Cout == 32)
        wide_rows_as<64, 256, HELD_64_32>(c, a);
    else
        wide_rows_of<CELLS>(c, a);
    return true;
}
bool conv_wide_children(ctx *c, const conv_sum *a) {
    return a->Cout % 64 == 0 && serves(c, a) && wide_rows_of<TO_CHILDREN>(c, a);
}
bool conv_wide_parents(ctx *c, const conv_sum *a) {
    return a->Cout % 64 == 0 && serves(c, a) && wide_rows_of<TO_PARENTS>(c, a);
}
