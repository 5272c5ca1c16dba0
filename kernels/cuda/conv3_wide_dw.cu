/* dw of conv3 on Hopper, for the layers of conv3_wide.cu: bf16, multiples of 32 channels in and of 64 out.
 *
 * A line is a channel in of one matrix (offset). As in conv3_wide.cu the products are turned and as wide as the
 * registers allow:
 *
 *     dw^T (channels out, lines) += d^T (channels out, rows) x^T (rows, lines)
 *
 * A block makes 256 lines, which are of one offset or a few, of 64 or 128 channels out, over one part of the
 * rows, and its warps have three tasks:
 *
 *     finders   find the neighbours of the part's rows at these offsets, and list the rows that have any of them: 64
 *               make a slice. Each warp lists every n-th 64 rows by itself, so that the order is always the same
 *     loaders   copy the rows of x and of d that a slice names to shared memory, STAGES slices ahead
 *     2 groups  multiply; each has 64 channels out of all lines, or where a block has only 64, half of the lines
 *
 * Between a level and the one above it (`UP`) a line is of one of the 64 matrices of dev/conv_up.cuh, rows are of the
 * parents, and d is of their children; a block's lines are of one child. */
#include "kernels/cuda/dev/conv_wide.cuh"

namespace {

enum { LINES = 256, LINE_TILES = LINES / 64, OFFSETS = 8 /* of 32 channels */, LISTS = 8 /* in hand */ };
enum { LIST = DEEP / 8 + 4, LIST_OF_ONE = 8 * LIST }; /* words: as in conv3_wide.cu, rows with r % 8 alike together */

struct wide_dw_args {
    conv_grid   g;
    const bf16 *x, *d;
    float      *partial; /* [part][line][O] */
    int         I, O, lines, part_rows;
};

/* OUT channels out. */
template <int OUT> struct wide_dw_shape {
    static constexpr int N = OUT == 128 ? LINES : LINES / 2; /* lines of a group's product */
    static constexpr int TASK = N <= 128 ? GROUP : GROUP / 2, WARPS = TASK / 32, THREADS = 2 * GROUP + 2 * TASK;
    static constexpr int TILES = LINE_TILES + OUT / 64, STAGE = TILES * TILE;
    static constexpr int LIST_BYTES = (OFFSETS + 1) * LIST_OF_ONE * 4, REST = LISTS * LIST_BYTES + 512;
    static constexpr int STAGES = (BLOCK_BYTES - REST) / STAGE;
    static constexpr int LISTS_AT = STAGES * STAGE, LAST_AT = LISTS_AT + LISTS * LIST_BYTES,
                         END_AT = LAST_AT + LISTS * 4;
    static constexpr int BARS_AT = END_AT + 32, SHARED = BARS_AT + (2 * STAGES + 2 * LISTS) * MBARRIER_BYTES;
    static_assert(SHARED <= LISTS_AT + REST && SHARED + STEP_BYTES <= BLOCK_BYTES && LISTS % WARPS == 0,
                  "a list's place belongs to one warp");
};

template <int OUT> struct wide_dw_block {
    typedef wide_dw_shape<OUT>          shape;
    unsigned char                      *room;
    uint32_t                            base;
    int                                 line0, n_k, k0, child, begin, end; /* offsets k0 .., rows begin .. */
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

template <int OUT, bool UP>
__device__ __forceinline__ void find(const wide_dw_args &a, const wide_dw_block<OUT> &block, const uint16_t *step,
                                     int warp, int lane) {
    constexpr int WARPS = wide_dw_shape<OUT>::WARPS;
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
    auto code_of = [&](int row) { return row < block.end ? (int32_t)conv_row_code(&a.g, row) : -1; };
    auto put = [&](int at, int row, const int32_t(&near)[OFFSETS]) {
#pragma unroll
        for (int j = 0; j < OFFSETS; j++)
            if (j < block.n_k) *block.row(list, j, at) = near[j];
        *block.row(list, OFFSETS, at) = UP ? row * UP_CHILDREN + block.child : row;
    };
    int     row = block.begin + warp * DEEP + lane; /* and 32 further on */
    int32_t next_code[2] = {code_of(row), code_of(row + 32)};
    for (; row - lane < block.end; row += WARPS * DEEP) {
        const int32_t code[2] = {next_code[0], next_code[1]};
        int32_t       near[2][OFFSETS];
        uint32_t      keep[2];
        bool          some[2] = {false, false};
        for (int h = 0; h < 2; h++) next_code[h] = code_of(row + WARPS * DEEP + 32 * h);
#pragma unroll
        for (int j0 = 0; j0 < OFFSETS; j0 += 4) {
            if (j0 >= block.n_k) break;
            int32_t of[8], found[8]; /* two rows at four offsets, or at two */
            int     offset[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int j = j0 + i / 2, k = block.k0 + min(j, block.n_k - 1);
                of[i] = j < block.n_k ? code[i % 2] : -1;
                offset[i] = UP ? up_offset(block.child, k % UP_PARENTS) : k;
            }
            if (block.n_k > j0 + 2)
                neighbors<8>(a.g, step, of, offset, found);
            else {
                int32_t two[4];
                neighbors<4>(a.g, step, {of[0], of[1], of[2], of[3]}, {offset[0], offset[1], offset[2], offset[3]},
                             two);
#pragma unroll
                for (int i = 0; i < 8; i++) found[i] = i < 4 ? two[i] : -1;
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                near[i % 2][j0 + i / 2] = found[i];
                some[i % 2] |= found[i] >= 0;
            }
        }
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

template <int OUT>
__device__ __forceinline__ void load(const wide_dw_args &a, const wide_dw_block<OUT> &block, int n0, int tid) {
    typedef wide_dw_shape<OUT> shape;
    constexpr int  SHARES = shape::TASK / 64, MINE = LINE_TILES / SHARES; /* of the tiles, each some threads' */
    const int      chunk = tid % 8, r0 = tid / 8 % 8, share = tid / 64;
    const uint32_t to_row = tile_chunk<DEEP>(r0, chunk), x_bytes = a.I * 2, d_bytes = a.O * 2;
    const char    *x[MINE], *d = (const char *)(a.d + n0 + chunk * 8);
    int            of[MINE]; /* the offset, or -1 */
#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const int line = block.line0 + (q * SHARES + share) * 64 + chunk * 8;
        of[q] = line < a.lines ? line / a.I - block.k0 : -1;
        x[q] = (const char *)(a.x + line % a.I);
    }
    auto read = [&](const int32_t *rows, int(&n)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            const int4 four = *reinterpret_cast<const int4 *>(rows + i);
            n[i] = four.x, n[i + 1] = four.y, n[i + 2] = four.z, n[i + 3] = four.w;
        }
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
        int            n[MINE][8], own[8]; /* at once: between copies each would wait for shared memory */
#pragma unroll
        for (int q = 0; q < MINE; q++) read(block.row(list.at, max(of[q], 0), r0), n[q]);
        read(block.row(list.at, OFFSETS, r0), own);
        mbarrier_wait(block.free(stage.at), stage.turn ^ 1);
#pragma unroll
        for (int q = 0; q < MINE; q++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                copy_of_row(to + (q * SHARES + share) * TILE + i * 8 * ROW, x[q], of[q] < 0 ? -1 : n[q][i], x_bytes);
#pragma unroll
        for (int t = 0; t < OUT / 64; t++)
            if (t % SHARES == share)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    copy_of_row(to + (LINE_TILES + t) * TILE + i * 8 * ROW, d + t * ROW, own[i], d_bytes);
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
    const uint32_t             d = block.base + (LINE_TILES + (OUT == 128 ? group : 0)) * TILE;
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
    /* Eight lanes have eight channels of one line: 32 bytes. */
    const int lane = tid % 32, o = n0 + (OUT == 128 ? group * 64 : 0) + tid / 32 * 16 + lane / 4;
    const int line0 = block.line0 + (OUT == 64 ? group * N : 0) + lane % 4 * 2;
    float    *out = a.partial + (int64_t)blockIdx.z * a.lines * a.O + o;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int line = line0 + j * 8 + e % 2;
            if (line < a.lines) out[(int64_t)line * a.O + e / 2 * 8] = any ? sum[j][e] : 0.0f;
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
        block.line0 = blockIdx.x * LINES;
        block.k0 = block.line0 / a.I;
        block.n_k = (min(block.line0 + LINES, a.lines) - 1) / a.I - block.k0 + 1;
        block.child = block.k0 / UP_PARENTS;
        block.begin = blockIdx.z * a.part_rows;
        block.end = min(block.begin + a.part_rows, (int)a.g.n_rows);
        if (threadIdx.x == 0) {
            for (int i = 0; i < shape::STAGES; i++) {
                mbarrier_init(block.full(i), shape::TASK);
                mbarrier_init_warps(block.free(i), 2 * GROUP / 32);
                *block.done(i) = 0; /* here, as an arrival behind copies orders nothing but these */
            }
            for (int i = 0; i < LISTS; i++) {
                mbarrier_init_warps(block.found(i), 1);
                mbarrier_init_warps(block.used(i), shape::WARPS);
            }
        }
        step_table(a.g, step);
        __syncthreads();
        if (group >= 2) {
            const int tid = threadIdx.x - 2 * GROUP;
            if (shape::TASK < GROUP) registers_fewer<104>(); /* 2 * 200 + 104: the 3 * 168 of the launch */
            if (tid < shape::TASK)
                load<OUT>(a, block, n0, tid);
            else
                find<OUT, UP>(a, block, step, tid / 32 - shape::WARPS, tid % 32);
        } else {
            if (shape::TASK < GROUP) registers_more<200>();
            multiply<OUT>(a, block, n0, group, threadIdx.x % GROUP);
        }
    } else
        __trap(); /* code for sm_90 on Hopper: rather no result than a wrong one */
}

/* Parts that keep the GPU busy to the end: blocks run in rounds, and the last one should be full. */
static int64_t parts_of(const ctx *c, int64_t rows, int64_t blocks, int64_t part_bytes) {
    int64_t at_once = c->cuda->multiprocessors, most = ceil_div(rows, 2048), best = 1;
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

template <int OUT, bool UP> bool wide_dw_as(ctx *c, const conv_dw *a) {
    typedef wide_dw_shape<OUT> shape;
    wide_dw_args               r = {};
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.d = (const bf16 *)a->d;
    r.I = (int)a->I;
    r.O = (int)a->O;
    r.lines = (UP ? (int)UP_MATRICES : 27) * r.I;
    int64_t x = ceil_div(r.lines, LINES), y = a->O / OUT, count = r.lines * a->O;
    int64_t parts = parts_of(c, a->g.n_rows, x * y, (int64_t)sizeof(float) * count);
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
    return a->O % 128 == 0 ? wide_dw_as<128, UP>(c, a) : wide_dw_as<64, UP>(c, a);
}

} // namespace

bool conv_wide_dw(ctx *c, const conv_dw *a) {
    return wide_dw_of<false>(c, a);
}
bool conv_wide_up_dw(ctx *c, const conv_dw *a) {
    return wide_dw_of<true>(c, a);
}
