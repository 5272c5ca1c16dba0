/* dw of conv3 on Hopper, for the layers of conv3_wide.cu: bf16, multiples of 32 channels in and of 64 out.
 *
 * A line is a channel in of one matrix (offset). As in conv3_wide.cu the products are turned and as wide as the
 * registers allow:
 *
 *     dw^T (channels out, lines) += d^T (channels out, rows) x^T (rows, lines)
 *
 * A block makes 192 lines, which are of one offset or a few, of 128 channels out, or 256 lines of 64, over one part of
 * the rows, and its warps have three tasks:
 *
 *     finders   find the neighbours of the part's rows at these offsets, and list the rows that have any of them: 64
 *               make a slice. Each warp lists every n-th 64 rows by itself, so that the order is always the same
 *     loaders   copy the rows of x and of d that a slice names to shared memory, STAGES slices ahead
 *     2 groups  multiply; each has 64 channels out of all lines, or where a block has only 64, half of the lines
 *
 * What a block fetches for a product is least with 128 channels out. If only the channels in are a multiple of that,
 * x and d change places: dw_k(i,o) = sum_q d[q + d(26-k)](o) x[q](i), and a line is a channel out.
 *
 * Between a level and the one above it (`UP`) a line is of one of the 64 matrices of dev/conv_up.cuh, rows are of the
 * parents, and d is of their children; a block's lines are of one child. */
#include "kernels/cuda/dev/conv_wide.cuh"

namespace {

enum { OFFSETS = 8 /* of 32 channels */, LISTS = 8 /* in hand */ };
enum { LIST = DEEP / 8 + 4, LIST_OF_ONE = 8 * LIST }; /* words: as in conv3_wide.cu, rows with r % 8 alike together */

struct wide_dw_args {
    conv_grid   g;
    const bf16 *x, *d;
    float      *partial;                             /* [part][line][O] */
    int         I, O, lines, child_lines, part_rows; /* child_lines: not UP: all of them */
    bool        turned;                              /* x and d, I and O have changed places */
};

/* OUT channels out. */
template <int OUT> struct wide_dw_shape {
    static constexpr int LINES = OUT == 128 ? 192 : 256, LINE_TILES = LINES / 64;
    static constexpr int N = OUT == 128 ? LINES : LINES / 2; /* lines of a group's product */
    /* Four warps copy: two are slower than the L2 cache. */
    static constexpr int LOADERS = GROUP, FINDERS = GROUP, WARPS = FINDERS / 32, THREADS = 4 * GROUP;
    static constexpr int TILES = LINE_TILES + OUT / 64, STAGE = TILES * TILE;
    static constexpr int LIST_BYTES = (OFFSETS + 1) * LIST_OF_ONE * 4, REST = LISTS * LIST_BYTES + 512;
    static constexpr int STAGES = (BLOCK_BYTES - REST) / STAGE;
    static constexpr int LISTS_AT = STAGES * STAGE, LAST_AT = LISTS_AT + LISTS * LIST_BYTES,
                         END_AT = LAST_AT + LISTS * 4;
    static constexpr int BARS_AT = END_AT + 32, SHARED = BARS_AT + (2 * STAGES + 2 * LISTS) * MBARRIER_BYTES;
    static_assert(N % 8 == 0 && N <= 256, "lines of one product");
    static_assert(2 * GROUP + LOADERS + FINDERS == THREADS, "beside two groups that multiply");
    static_assert(SHARED <= LISTS_AT + REST && SHARED + STEP_BYTES <= BLOCK_BYTES && BARS_AT % MBARRIER_BYTES == 0 &&
                      LISTS % WARPS == 0,
                  "a list's place belongs to one warp");
};

template <int OUT> struct wide_dw_block {
    typedef wide_dw_shape<OUT>          shape;
    unsigned char                      *room;
    uint32_t                            base;
    int                                 line0, line_end, n_k, k0, child; /* offsets k0 .. */
    int                                 begin, end;                      /* rows */
    __device__ __forceinline__ uint32_t bar(int i) const { return base + shape::BARS_AT + i * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t full(int stage) const { return bar(stage); }
    __device__ __forceinline__ uint32_t free(int stage) const { return bar(shape::STAGES + stage); }
    __device__ __forceinline__ uint32_t found(int list) const { return bar(2 * shape::STAGES + list); }
    __device__ __forceinline__ uint32_t used(int list) const { return bar(2 * shape::STAGES + LISTS + list); }
    __device__ __forceinline__ int32_t *row(int list, int j,
                                            int r) const { /* of x at the j-th offset, or (OFFSETS) d */
        return reinterpret_cast<int32_t *>(room + shape::LISTS_AT + list * shape::LIST_BYTES) + j * LIST_OF_ONE +
               r % 8 * LIST + r / 8;
    }
    __device__ __forceinline__ int *last(int list) const { /* not a list: its warp has no more */
        return reinterpret_cast<int *>(room + shape::LAST_AT) + list;
    }
    __device__ __forceinline__ int *done(int stage) const { /* not a slice: the sums are complete */
        return reinterpret_cast<int *>(room + shape::END_AT) + stage;
    }
};

/* Finds at K of the block's offsets at a time, HALVES times. */
template <int OUT, bool UP, int K, int HALVES>
__device__ __forceinline__ void find(const wide_dw_args &a, const wide_dw_block<OUT> &block, const uint16_t *step,
                                     int warp, int lane) {
    constexpr int WARPS = wide_dw_shape<OUT>::WARPS, AHEAD = 2 / HALVES, EACH = K * HALVES;
    int           list = warp, turn = 0, count = 0;
    auto          publish = [&](int is_last) {
        if (lane == 0) *block.last(list) = is_last;
        mbarrier_arrive_warp(block.found(list));
    };
    auto next = [&]() {
        list += WARPS;
        if (list >= LISTS) {
            list -= LISTS;
            turn ^= 1;
        }
        mbarrier_wait(block.used(list), turn ^ 1);
    };
    auto put = [&](int at, int row, const int32_t(&near)[EACH]) {
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (j < block.n_k) *block.row(list, j, at) = near[j];
        *block.row(list, OFFSETS, at) = UP ? row * UP_CHILDREN + block.child : row;
    };
    int32_t code[2];
    auto    read_codes = [&](int row) {
#pragma unroll
        for (int h = 0; h < 2; h++)
            code[h] = row + 32 * h < block.end ? (int32_t)conv_row_code(&a.g, row + 32 * h) : -1;
    };
    auto look = [&](neighbor_search<2 * K> &search, int half) {
        int32_t of[2 * K];
        int     offset[2 * K];
#pragma unroll
        for (int i = 0; i < 2 * K; i++) {
            const int j = half * K + i / 2, k = block.k0 + min(j, block.n_k - 1);
            of[i] = j < block.n_k ? code[i % 2] : -1;
            offset[i] = UP ? up_offset(block.child, k % UP_PARENTS) : k;
        }
        search.tiles(a.g, step, of, offset);
    };
    /* Each step of a search waits for memory: three are on their way, and the next rows' codes. */
    constexpr int          FURTHER = WARPS * DEEP;
    int                    row = block.begin + warp * DEEP + lane; /* and 32 further on */
    neighbor_search<2 * K> search;
    read_codes(row);
    look(search, 0);
    search.words(a.g);
    if (HALVES == 1) read_codes(row + FURTHER);
    look(search, HALVES - 1);
    read_codes(row + AHEAD * FURTHER);
    for (; row - lane < block.end; row += FURTHER) {
        int32_t  near[2][EACH];
        uint32_t keep[2];
        bool     some[2] = {false, false};
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            int32_t found[2 * K];
            search.rows(a.g, found);
            search.words(a.g);
            look(search, half);
#pragma unroll
            for (int i = 0; i < 2 * K; i++) {
                near[i % 2][half * K + i / 2] = found[i];
                some[i % 2] |= found[i] >= 0;
            }
        }
        read_codes(row + (AHEAD + 1) * FURTHER);
        int at[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            keep[h] = __ballot_sync(0xffffffffu, some[h]);
            at[h] = count + __popc(keep[h] & ((1u << lane) - 1));
            count += __popc(keep[h]);
            if (some[h] && at[h] < DEEP) put(at[h], row + 32 * h, near[h]);
        }
        if (count < DEEP) continue;
        publish(0);
        next();
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (some[h] && at[h] >= DEEP) put(at[h] - DEEP, row + 32 * h, near[h]);
        count -= DEEP;
    }
    if (count > 0) {
        for (int at = count + lane; at < DEEP; at += 32)
            for (int j = 0; j <= OFFSETS; j++) *block.row(list, j, at) = -1;
        publish(0);
        next();
    }
    publish(1);
}

template <int OUT, bool UP>
__device__ __forceinline__ void find_by(const wide_dw_args &a, const wide_dw_block<OUT> &block, const uint16_t *step,
                                        int warp, int lane) {
    if (block.n_k <= 2)
        find<OUT, UP, 2, 1>(a, block, step, warp, lane);
    else if (block.n_k <= 4)
        find<OUT, UP, 4, 1>(a, block, step, warp, lane);
    else
        find<OUT, UP, 4, 2>(a, block, step, warp, lane);
}

template <int OUT>
__device__ __forceinline__ void load(const wide_dw_args &a, const wide_dw_block<OUT> &block, int n0, int tid) {
    typedef wide_dw_shape<OUT> shape;
    constexpr int              EACH = 64 * 8 / shape::LOADERS; /* rows of a tile, 8 apart */
    const int                  chunk = tid % 8, r0 = tid / 64 * (EACH * 8) + tid / 8 % 8;
    const uint32_t             to_row = tile_chunk<DEEP>(r0, chunk), x_bytes = a.I * 2, d_bytes = a.O * 2;
    const char                *x[shape::LINE_TILES], *d = (const char *)(a.d + n0 + chunk * 8);
    int                        of[shape::LINE_TILES]; /* the offset, or -1 */
#pragma unroll
    for (int q = 0; q < shape::LINE_TILES; q++) {
        const int line = block.line0 + q * 64 + chunk * 8;
        of[q] = line < block.line_end ? line / a.I - block.k0 : -1;
        x[q] = (const char *)(a.x + line % a.I);
    }
    auto read = [&](const int32_t *rows, int(&n)[EACH]) {
        static_assert(EACH == 4, "one read");
        const int4 four = *reinterpret_cast<const int4 *>(rows);
        n[0] = four.x, n[1] = four.y, n[2] = four.z, n[3] = four.w;
    };
    ring_place<LISTS>         list;
    ring_place<shape::STAGES> stage;
    for (uint32_t ended = 0; ended != (1u << shape::WARPS) - 1; list.next()) {
        const uint32_t warp = 1u << list.at % shape::WARPS;
        if (ended & warp) continue;
        mbarrier_wait(block.found(list.at), list.turn);
        if (*block.last(list.at)) {
            ended |= warp;
            continue;
        }
        const uint32_t to = block.base + stage.at * shape::STAGE + to_row;
        int n[shape::LINE_TILES][EACH], own[EACH]; /* at once: between copies each would wait for shared memory */
#pragma unroll
        for (int q = 0; q < shape::LINE_TILES; q++) read(block.row(list.at, max(of[q], 0), r0), n[q]);
        read(block.row(list.at, OFFSETS, r0), own);
        mbarrier_wait(block.free(stage.at), stage.turn ^ 1);
#pragma unroll
        for (int q = 0; q < shape::LINE_TILES; q++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
                copy_of_row(to + q * TILE + i * 8 * ROW, x[q], of[q] < 0 ? -1 : n[q][i], x_bytes);
#pragma unroll
        for (int t = 0; t < OUT / 64; t++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
                copy_of_row(to + (shape::LINE_TILES + t) * TILE + i * 8 * ROW, d + t * ROW, own[i], d_bytes);
        mbarrier_arrive_copied(block.full(stage.at));
        mbarrier_arrive_warp(block.used(list.at));
        stage.next();
    }
    mbarrier_wait(block.free(stage.at), stage.turn ^ 1);
    if (tid == 0) *block.done(stage.at) = 1;
    mbarrier_arrive(block.full(stage.at));
    cp_async_wait<0>();
}

template <int OUT>
__device__ __forceinline__ void multiply(const wide_dw_args &a, const wide_dw_block<OUT> &block, int n0, int group,
                                         int tid) {
    typedef wide_dw_shape<OUT> shape;
    constexpr int              N = shape::N;
    const uint32_t             x = block.base + (OUT == 64 ? group * (N / 64) * TILE : 0);
    const uint32_t             d = block.base + (shape::LINE_TILES + (OUT == 128 ? group : 0)) * TILE;
    ring_reader<shape::STAGES> ring;
    float                      sum[N / 8][4];
    bool                       any = false;
    for (;; any = true) {
        ring.wait(block);
        if (*block.done(ring.stage.at)) break;
        shared_for_wgmma(); /* what cp.async wrote; the barrier shows its writes to this thread */
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < DEEP / 16; k++)
            wgmma_shared<true>(sum, shared_cols(d + ring.stage.at * shape::STAGE, k, TILE),
                               shared_cols(x + ring.stage.at * shape::STAGE, k, TILE), k > 0 || any);
        ring.next(block);
    }
    wgmma_wait<0>();
    pin(sum);
    /* Four lanes have eight lines of one channel, eight lanes eight channels of one line: 32 bytes. */
    const int lane = tid % 32, o = n0 + (OUT == 128 ? group * 64 : 0) + tid / 32 * 16 + lane / 4;
    const int line0 = block.line0 + (OUT == 64 ? group * N : 0) + lane % 4 * 2, o_step = a.turned ? a.I : 1;
    float    *out = a.partial + (int64_t)blockIdx.z * a.lines * a.O + (int64_t)o * o_step;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int line = line0 + j * 8 + h, k = line / a.I;
            if (line >= block.line_end) continue;
            float *to = out + (a.turned ? (int64_t)(26 - k) * a.I * a.O + (line - k * a.I) : (int64_t)line * a.O);
#pragma unroll
            for (int e = 0; e < 2; e++) to[e * 8 * o_step] = any ? sum[j][h + 2 * e] : 0.0f;
        }
}

/* Blocks: x = lines, y = channels out, z = parts. */
template <int OUT, bool UP>
__global__ void __launch_bounds__(wide_dw_shape<OUT>::THREADS, 1) wide_dw_kernel(const wide_dw_args a) {
    if constexpr (HAS_WGMMA) {
        typedef wide_dw_shape<OUT> shape;
        extern __shared__ __align__(1024) unsigned char room[];
        __shared__ uint16_t                             step[STEPS];
        wide_dw_block<OUT>                              block = {room, smem_addr(room)};
        const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0), n0 = blockIdx.y * OUT;
        const int blocks_of_child = (a.child_lines + shape::LINES - 1) / shape::LINES;
        block.line0 = blockIdx.x / blocks_of_child * a.child_lines + blockIdx.x % blocks_of_child * shape::LINES;
        block.line_end = min(block.line0 + shape::LINES, (block.line0 / a.child_lines + 1) * a.child_lines);
        block.k0 = block.line0 / a.I;
        block.n_k = (block.line_end - 1) / a.I - block.k0 + 1;
        block.child = block.k0 / UP_PARENTS;
        block.begin = blockIdx.z * a.part_rows;
        block.end = min(block.begin + a.part_rows, (int)a.g.n_rows);
        if (threadIdx.x == 0) {
            for (int i = 0; i < shape::STAGES; i++) {
                mbarrier_init(block.full(i), shape::LOADERS);
                mbarrier_init_warps(block.free(i), 2 * GROUP / 32);
                *block.done(i) = 0; /* here, as an arrival behind copies orders nothing but these */
            }
            for (int i = 0; i < LISTS; i++) {
                mbarrier_init_warps(block.found(i), 1);
                mbarrier_init_warps(block.used(i), shape::LOADERS / 32);
            }
        }
        step_table(a.g, step);
        __syncthreads();
        const int helper = (int)threadIdx.x - 2 * GROUP, finder = helper - shape::LOADERS;
        if (group < 2)
            multiply<OUT>(a, block, n0, group, threadIdx.x % GROUP);
        else if (finder < 0)
            load<OUT>(a, block, n0, helper);
        else
            find_by<OUT, UP>(a, block, step, finder / 32, finder % 32);
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

/* Parts that take the least time: blocks run in rounds, the last of which should be full, and each part's sums are
 * written and read. `work`: multiplications and additions of all parts; rates as an H100's. */
static int64_t parts_of(const ctx *c, int64_t rows, double work, int64_t blocks, int64_t part_bytes) {
    int64_t at_once = c->cuda->multiprocessors, most = ceil_div(rows, 2048), best = 1;
    if (most > DW_PARTIAL_BYTES / part_bytes) most = DW_PARTIAL_BYTES / part_bytes;
    double least = 0;
    for (int64_t p = 1; p <= most; p++) {
        double rounds = (double)ceil_div(blocks * p, at_once);
        double s =
            work / 500e12 * rounds * (double)at_once / (double)(blocks * p) + (double)(2 * p * part_bytes) / 2e12;
        if (p > 1 && s >= least) continue;
        best = p;
        least = s;
    }
    return best;
}

template <int OUT, bool UP, bool TURNED = false> bool wide_dw_as(ctx *c, const conv_dw *a) {
    typedef wide_dw_shape<OUT> shape;
    wide_dw_args               r = {};
    r.g = a->g;
    r.x = (const bf16 *)(TURNED ? a->d : a->x);
    r.d = (const bf16 *)(TURNED ? a->x : a->d);
    r.I = (int)(TURNED ? a->O : a->I);
    r.O = (int)(TURNED ? a->I : a->O);
    r.turned = TURNED;
    r.lines = (UP ? (int)UP_MATRICES : 27) * r.I;
    r.child_lines = UP ? (int)UP_PARENTS * r.I : r.lines;
    int64_t x = ceil_div(r.child_lines, shape::LINES) * (r.lines / r.child_lines), y = r.O / OUT;
    int64_t count = (int64_t)r.lines * r.O;
    double  work = 2.0 * (double)a->g.n_rows * (double)count;
    int64_t parts = parts_of(c, a->g.n_rows, work, x * y, (int64_t)sizeof(float) * count);
    r.part_rows = (int)ceil_div(a->g.n_rows, parts);
    parts = ceil_div(a->g.n_rows, r.part_rows);
    r.partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * count));
    conv_allow_shared(wide_dw_kernel<OUT, UP>, shape::SHARED);
    wide_dw_kernel<OUT, UP>
        <<<dim3((unsigned)x, (unsigned)y, (unsigned)parts), shape::THREADS, shape::SHARED, stream_of(c)>>>(r);
    LAUNCHED(c);
    if (UP)
        conv_up_fold(c, a, r.partial, parts);
    else
        partials_add(c, a->dw, r.partial, parts, count);
    return true;
}

template <bool UP> bool wide_dw_of(ctx *c, const conv_dw *a) {
    if (!wide_level(c, &a->g) || a->I % 32 != 0 || a->O % 64 != 0) return false;
    if (!UP && a->O % 128 != 0 && a->I % 128 == 0) return wide_dw_as<128, UP, true>(c, a);
    return a->O % 128 == 0 ? wide_dw_as<128, UP>(c, a) : wide_dw_as<64, UP>(c, a);
}

} // namespace

bool conv_wide_dw(ctx *c, const conv_dw *a) {
    return wide_dw_of<false>(c, a);
}
bool conv_wide_up_dw(ctx *c, const conv_dw *a) {
    return wide_dw_of<true>(c, a);
}
