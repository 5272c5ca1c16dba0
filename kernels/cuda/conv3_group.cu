/* conv3 with gathered rows, as conv3_gather.cu does it, on Hopper's products of a warpgroup: bf16, channels in
 * multiples of 64, or 32 in where they are gathered from one level (then a slice is of two offsets).
 *
 * Everything lies in tiles of 64 x 64 in shared memory. A block has two warpgroups; each multiplies 64 rows (or lines
 * of dw), which come from a tile through registers, with BN columns, which the tensor cores read where they lie. A
 * slice is 64 channels (dw: 64 rows) deep. The copies of the slice STAGES - 1 ahead are issued while the products of a
 * slice run; two blocks share a multiprocessor, so that one multiplies while the other waits at its barrier.
 *
 * Three forms (dev/conv_up.cuh): the 27 neighbours on one level; from parents to children, where a block makes the rows
 * of one child of its cells from 8 parents; and back, where a cell's row is the sum over 64 cells below. */
#include "kernels/cuda/dev/conv_gather.cuh"
#include "kernels/cuda/dev/wgmma.cuh"

namespace {

enum { GROUPS = 2, THREADS = 128 * GROUPS, ROWS = 64 * GROUPS, LINES = ROWS, DEEP = 64, TILE = DEEP * 128 };
enum form { CELLS, CELLS_32, TO_CHILDREN, TO_PARENTS }; /* _32: of 32 channels */
enum { TABLE_ROWS = 512, TABLE_SLICES = TABLE_ROWS / DEEP, OFFSETS = LINES / 32 /* of the lines of a block */ };

/* Stages of GROUPS tiles for the left side and BN/64 for the right one. */
template <int BN> struct group_ring {
    static constexpr int TILES = BN / 64, STAGES = BN == 64 ? 4 : 3, RIGHT = GROUPS * TILE;
    static constexpr int STAGE = RIGHT + TILES * TILE, BYTES = STAGES * STAGE;
};

/* c += a b over 64 rows of the tile b, by the four warps of a group; without wgmma each warp by itself. */
__device__ __forceinline__ void tile_sum(float (&c)[8][4], const uint32_t (&a)[4][4], uint32_t b, int lane) {
    if constexpr (HAS_WGMMA)
        group_sum<64>(c, a, wgmma_tile<64>(b), 0);
    else
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t two[4];
                ldmatrix_x4_trans(two, b + tile_chunk<64>(k * 16 + lane % 16, n * 2 + lane / 16));
                mma_bf16(c[2 * n], a[k], two[0], two[1]);
                mma_bf16(c[2 * n + 1], a[k], two[2], two[3]);
            }
}

/* The products of one slice are issued (slice_sums), and done (slice_done): until then nobody touches c and a. */
template <int TILES>
__device__ __forceinline__ void slice_sums(float (&c)[TILES][8][4], uint32_t (&a)[4][4], uint32_t right, int lane) {
    pin(a);
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < TILES; t++) tile_sum(c[t], a, right + t * TILE, lane);
    wgmma_commit();
}
template <int TILES> __device__ __forceinline__ void slice_done(float (&c)[TILES][8][4]) {
    wgmma_wait<0>();
#pragma unroll
    for (int t = 0; t < TILES; t++) pin(c[t]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

template <int BN> struct rows_shape : group_ring<BN> {
    static constexpr int OUT_PITCH = BN * 2 + 16; /* 16 more, so that rows start in different banks */
    static constexpr int SHARED = group_ring<BN>::BYTES + 28 * ROWS * 4;
    static_assert(ROWS * OUT_PITCH <= group_ring<BN>::BYTES, "results go where the slices were");
};

/* Blocks: row tiles times (children and) column tiles, those of one row tile in succession (they read the same rows).
 * Rows are of a.g, the level of the parents where there are two. */
template <int BN, form F> __global__ void __launch_bounds__(THREADS, 2) group_rows_kernel(const conv_rows_args a) {
    typedef rows_shape<BN> shape;
    constexpr int          STAGES = shape::STAGES, TILES = shape::TILES, CHUNKS = BN / 8;
    constexpr int          CHILDREN = F == TO_CHILDREN ? UP_CHILDREN : 1;
    extern __shared__ __align__(1024) unsigned char room[];

    const int      tid = threadIdx.x, lane = tid % 32, warp_row = tid / 32 * 16;
    const int      column_tiles = a.Np / BN, n0 = (int)(blockIdx.x % column_tiles) * BN;
    const int      child = (int)(blockIdx.x / column_tiles % CHILDREN);
    const int64_t  row0 = (int64_t)(blockIdx.x / column_tiles / CHILDREN) * ROWS;
    int32_t       *near = reinterpret_cast<int32_t *>(room + shape::BYTES);
    const uint32_t base = smem_addr(room);

    if (F == TO_CHILDREN)
        gather_neighbors<ROWS, THREADS>(
            a, row0, UP_PARENTS, [=](int j) { return up_offset(child, j); }, near);
    else
        gather_neighbors<ROWS, THREADS>(a, row0, near);
    if (F == CELLS_32 && tid < ROWS) near[27 * ROWS + tid] = -1; /* beside the last offset */
    __syncthreads();

    int         load_c = 0, load_m = 0; /* of the next slice to load: first channel, matrix (to parents), */
    const int  *of = F == TO_PARENTS ? near + (26 - up_offset(0, 0)) * ROWS : near; /* neighbours, weights */
    const bf16 *w = a.w + n0 + (int64_t)child * UP_PARENTS * a.Kp * a.Np;
    auto        load = [&](int stage) {
        const uint32_t left = base + stage * shape::STAGE, right = left + shape::RIGHT;
#pragma unroll
        for (int i = 0; i < ROWS * 8 / THREADS; i++) {
            int     r = tid / 8 + i * (THREADS / 8), c = tid % 8;
            int32_t n = F == CELLS_32 ? of[c / 4 * ROWS + r] : of[r];
            int64_t row = F == TO_PARENTS ? (int64_t)n * UP_CHILDREN + load_m / UP_PARENTS : n;
            cp_async_16(left + tile_chunk<64>(r, c),
                        n >= 0 ? a.x + row * a.Cin + (F == CELLS_32 ? c % 4 * 8 : load_c + c * 8) : a.x,
                        n >= 0 ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < DEEP * CHUNKS / THREADS; i++) {
            int r = tid / CHUNKS + i * (THREADS / CHUNKS), c = tid % CHUNKS;
            cp_async_16(right + c / 8 * TILE + tile_chunk<64>(r, c % 8), w + (int64_t)r * a.Np + c * 8, 16);
        }
        w += (int64_t)DEEP * a.Np; /* [matrix][Kp][Np] is one list of slices */
        load_c += DEEP;
        if (F == CELLS_32) {
            of += 2 * ROWS;
        } else if (load_c == a.Cin) {
            load_c = 0;
            load_m++; /* a child meets this parent at the opposite offset */
            of = F == TO_PARENTS ? near + (26 - up_offset(load_m / UP_PARENTS, load_m)) * ROWS : of + ROWS;
        }
    };

    const int offsets = F == TO_CHILDREN ? (int)UP_PARENTS : F == TO_PARENTS ? (int)UP_MATRICES : 27;
    const int steps = F == CELLS_32 ? (offsets + 1) / 2 : offsets * (a.Cin / DEEP);
    for (int s = 0; s < STAGES - 1; s++) { /* steps is at least 8 */
        load(s);
        cp_async_commit();
    }
    float sum[TILES][8][4] = {};
    for (int s = 0, stage = 0; s < steps; s++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
        cp_async_wait<STAGES - 2>();
        shared_for_wgmma();
        __syncthreads(); /* slice s is there, and slice s-1, whose place the next one takes, has been multiplied */
        const uint32_t left = base + stage * shape::STAGE;
        uint32_t       x[4][4];
#pragma unroll
        for (int k = 0; k < 4; k++) ldmatrix_x4(x[k], left + tile_chunk<64>(warp_row + lane % 16, k * 2 + lane / 16));
        slice_sums<TILES>(sum, x, left + shape::RIGHT, lane);
        if (s + STAGES - 1 < steps) load(stage == 0 ? STAGES - 1 : stage - 1);
        cp_async_commit();
        slice_done<TILES>(sum);
    }
    cp_async_wait<0>();
    __syncthreads();

    /* Through shared memory, so that rows are written 16 bytes at a time. */
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < 8; n++) {
            int   col = t * 64 + n * 8 + lane % 4 * 2;
            float b0 = 0.0f, b1 = 0.0f;
            if (a.bias && n0 + col < a.Cout) {
                b0 = a.bias[n0 + col];
                b1 = a.bias[n0 + col + 1];
            }
            unsigned char *to = room + (warp_row + lane / 4) * shape::OUT_PITCH + col * 2;
            *reinterpret_cast<uint32_t *>(to) = pack_bf16(sum[t][n][0] + b0, sum[t][n][1] + b1);
            *reinterpret_cast<uint32_t *>(to + 8 * shape::OUT_PITCH) = pack_bf16(sum[t][n][2] + b0, sum[t][n][3] + b1);
        }
    __syncthreads();
    gather_write<ROWS, BN, shape::OUT_PITCH, THREADS, CHILDREN>(a, room, row0, n0, child);
}

template <int BN, form F> void group_rows_as(ctx *c, const conv_sum *a) {
    typedef rows_shape<BN> shape;
    int                    Np = (int)(ceil_div(a->Cout, BN) * BN);
    int64_t                blocks = ceil_div(a->g.n_rows, ROWS) * (Np / BN) * (F == TO_CHILDREN ? UP_CHILDREN : 1);
    CHECK(blocks <= INT32_MAX, "conv3: %lld rows of %lld columns", (long long)a->g.n_rows, (long long)a->Cout);
    constexpr bool UP = F == TO_CHILDREN || F == TO_PARENTS;
    conv_rows_args r = F == CELLS_32 ? gather_rows_of(c, a, 32, Np, 28) : gather_rows_of<UP>(c, a, (int)a->Cin, Np);
    conv_allow_shared(group_rows_kernel<BN, F>, shape::SHARED);
    group_rows_kernel<BN, F><<<(unsigned)blocks, THREADS, shape::SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

template <int BN> struct dw_shape : group_ring<BN> {
    static constexpr int SHARED = group_ring<BN>::BYTES + 2 * OFFSETS * TABLE_ROWS * 4;
};

/* A line is a channel of one offset. Blocks: x = lines, y = columns, z = parts. UP: a line is of one of
 * the 64 matrices, rows are of the parents, and d is of their children; a block's lines are of one child. */
template <int BN, bool UP> __global__ void __launch_bounds__(THREADS, 2) group_dw_kernel(const conv_dw_args a) {
    typedef dw_shape<BN> shape;
    constexpr int        STAGES = shape::STAGES, TILES = shape::TILES, CHUNKS = BN / 8, STEP = UP ? UP_CHILDREN : 1;
    extern __shared__ __align__(1024) unsigned char room[];

    const int      tid = threadIdx.x, lane = tid % 32, warp = tid / 32, group = warp / 4;
    const int      lines = (UP ? (int)UP_MATRICES : 27) * a.I, line0 = blockIdx.x * LINES, n0 = blockIdx.y * BN;
    const int64_t  begin = blockIdx.z * a.part_rows;
    const int64_t  end = begin + a.part_rows < a.g.n_rows ? begin + a.part_rows : a.g.n_rows;
    const int      last = (line0 + LINES < lines ? line0 + LINES : lines) - 1;
    const int      k0 = line0 / a.I, n_k = last / a.I - k0 + 1, child = k0 / UP_PARENTS; /* matrices k0 .. */
    const int      rows = (int)(end - begin), steps = (rows + DEEP - 1) / DEEP;
    int32_t       *table = reinterpret_cast<int32_t *>(room + shape::BYTES); /* [2][offset][row] */
    const uint32_t base = smem_addr(room);

    auto fill = [&](int t) {
#pragma unroll 1
        for (int i = tid; i < n_k * TABLE_ROWS; i += THREADS) {
            int row = t * TABLE_ROWS + i % TABLE_ROWS, m = k0 + i / TABLE_ROWS;
            table[(t & 1) * OFFSETS * TABLE_ROWS + i] =
                row < rows ? conv_neighbor(&a.g, conv_row_code(&a.g, begin + row), UP ? up_offset(child, m) : m) : -1;
        }
    };
    /* A thread always loads the same chunk of lines, and of columns. */
    const int   half = tid / 8 % 2, line = line0 + half * 64 + tid % 8 * 8;
    const bool  there = line < lines;
    const bf16 *x = a.x + line % a.I;
    const int   of_line = there ? (line / a.I - k0) * TABLE_ROWS : 0, right_row = tid / CHUNKS,
              right_chunk = tid % CHUNKS;
    const bf16 *d = a.d + ((begin + right_row) * STEP + (UP ? child : 0)) * a.O + n0 + right_chunk * 8; /* next slice */
    auto        load = [&](int stage, int s) {
        const uint32_t left = base + stage * shape::STAGE, right = left + shape::RIGHT;
        const int32_t *near = table + (s / TABLE_SLICES & 1) * OFFSETS * TABLE_ROWS + of_line + s % TABLE_SLICES * DEEP;
        const int      rows_left = n0 + right_chunk * 8 < a.O ? rows - s * DEEP - right_row : 0;
#pragma unroll
        for (int i = 0; i < DEEP * GROUPS * 8 / THREADS; i++) {
            int     r = tid / 16 + i * (THREADS / 16);
            int32_t n = there ? near[r] : -1;
            cp_async_16(left + half * TILE + tile_chunk<64>(r, tid % 8), n >= 0 ? x + (int64_t)n * a.I : a.x,
                        n >= 0 ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < DEEP * CHUNKS / THREADS; i++) {
            const int down = i * (THREADS / CHUNKS);
            cp_async_16(right + right_chunk / 8 * TILE + tile_chunk<64>(right_row + down, right_chunk % 8),
                        down < rows_left ? d + (int64_t)down * STEP * a.O : a.d, down < rows_left ? 16 : 0);
        }
        d += (int64_t)DEEP * STEP * a.O;
    };

    fill(0);
    __syncthreads();
    for (int s = 0; s < STAGES - 1; s++) { /* table 0 has more slices than that */
        if (s < steps) load(s, s);
        cp_async_commit();
    }
    float sum[TILES][8][4] = {};
    for (int s = 0, stage = 0; s < steps; s++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
        cp_async_wait<STAGES - 2>();
        shared_for_wgmma();
        __syncthreads();
        const uint32_t left = base + stage * shape::STAGE, own = left + group * TILE;
        uint32_t       l[4][4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            ldmatrix_x4_trans(l[k],
                              own + tile_chunk<64>(k * 16 + lane / 16 * 8 + lane % 8, warp % 4 * 2 + (lane / 8 & 1)));
        slice_sums<TILES>(sum, l, left + shape::RIGHT, lane);
        /* The next table. The one it replaces was read last in the step before, and its own first reader comes some
         * steps later. */
        if (s % TABLE_SLICES == 0 && s + TABLE_SLICES < steps) fill(s / TABLE_SLICES + 1);
        if (s + STAGES - 1 < steps) load(stage == 0 ? STAGES - 1 : stage - 1, s + STAGES - 1);
        cp_async_commit();
        slice_done<TILES>(sum);
    }
    cp_async_wait<0>();

    float *out = a.partial + (int64_t)blockIdx.z * lines * a.O;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int l = line0 + warp * 16 + lane / 4 + 8 * h, col = n0 + t * 64 + n * 8 + lane % 4 * 2;
                if (l < lines && col < a.O)
                    *reinterpret_cast<float2 *>(out + (int64_t)l * a.O + col) =
                        make_float2(sum[t][n][2 * h], sum[t][n][2 * h + 1]);
            }
}

/* Parts that keep the GPU busy to the end: blocks run in rounds, and the last one should be full. */
static int64_t dw_parts(const ctx *c, int64_t rows, int64_t blocks, int64_t part_bytes) {
    int64_t at_once = 2 * (int64_t)c->cuda->multiprocessors, most = ceil_div(rows, 2048), best = 1;
    if (most > DW_PARTIAL_BYTES / part_bytes) most = DW_PARTIAL_BYTES / part_bytes;
    if (most > 1 + 4 * at_once / blocks) most = 1 + 4 * at_once / blocks;
    double least = 0;
    for (int64_t p = 1; p <= most; p++) {
        double rounds = (double)ceil_div(blocks * p, at_once) / (double)p;
        if (p > 1 && rounds > 0.98 * least) continue; /* more parts are more sums to add up */
        best = p;
        least = rounds;
    }
    return best;
}

template <int BN, bool UP> void group_dw_as(ctx *c, const conv_dw *a) {
    int64_t matrices = UP ? (int64_t)UP_MATRICES : 27, x = ceil_div(matrices * a->I, LINES), y = ceil_div(a->O, BN);
    int64_t count = matrices * a->I * a->O;
    int64_t parts = dw_parts(c, a->g.n_rows, x * y, (int64_t)sizeof(float) * count);
    conv_dw_args r = gather_dw_of(c, a, parts, DEEP, matrices);
    parts = ceil_div(a->g.n_rows, r.part_rows);
    conv_allow_shared(group_dw_kernel<BN, UP>, dw_shape<BN>::SHARED);
    group_dw_kernel<BN, UP>
        <<<dim3((unsigned)x, (unsigned)y, (unsigned)parts), THREADS, dw_shape<BN>::SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
    if (UP)
        conv_up_fold(c, a, r.partial, parts);
    else
        partials_add(c, a->dw, r.partial, parts, count);
}

template <form F> bool rows_of(ctx *c, const conv_sum *a) {
    if (a->Cout % 128 == 0)
        group_rows_as<128, F>(c, a);
    else
        group_rows_as<64, F>(c, a);
    return true;
}

template <bool UP> bool dw_of(ctx *c, const conv_dw *a) {
    if (a->O % 128 == 0)
        group_dw_as<128, UP>(c, a);
    else
        group_dw_as<64, UP>(c, a);
    return true;
}

static bool serves(const ctx *c, int64_t I, int64_t O) {
    return c->cuda->major == 9 && I % 64 == 0 && O % 64 == 0 && c->cuda->shared_limit >= (size_t)dw_shape<128>::SHARED;
}

} // namespace

bool conv_group_rows(ctx *c, const conv_sum *a) {
    if (a->Cin == 32) return serves(c, 64, a->Cout) && rows_of<CELLS_32>(c, a);
    return serves(c, a->Cin, a->Cout) && rows_of<CELLS>(c, a);
}
bool conv_group_children(ctx *c, const conv_sum *a) {
    return serves(c, a->Cin, a->Cout) && rows_of<TO_CHILDREN>(c, a);
}
bool conv_group_parents(ctx *c, const conv_sum *a) {
    return serves(c, a->Cin, a->Cout) && rows_of<TO_PARENTS>(c, a);
}

bool conv_group_dw(ctx *c, const conv_dw *a) {
    return serves(c, a->I == 32 ? 64 : a->I, a->O) && dw_of<false>(c, a);
}
bool conv_group_up_dw(ctx *c, const conv_dw *a) {
    return serves(c, a->I, a->O) && dw_of<true>(c, a);
}
