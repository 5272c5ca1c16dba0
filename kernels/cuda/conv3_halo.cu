/* conv3 on tensor cores for dense levels of side 2, 4 or 8: whole tiles with one cell around them in shared memory (the
 * layout is in dev/conv_index.cuh). A cell is read from device memory once per block (and again by the blocks of the
 * tiles beside it), not once per offset: the neighbour of a row is a constant number of bytes away. bf16, channels in
 * multiples of 8, taken 32 at a time (zeros behind the last).
 *
 * Forward and dx. A block holds a group of tiles, 64 rows for each of its WM warps down, and makes WN times 32 columns.
 * The weights come straight from device memory (the first-level cache holds what all warps read in turn) in the order
 * of the fragments, one step ahead of the products; between two slices of 32 channels there is no barrier.
 *
 * dw. A block walks over groups of tiles and keeps 27 x 32 x 32 sums in registers: warp (g,h) those of offsets 7g ..
 * 7g+6 and of half h of 32 channels of x. The next group is loaded while this one is multiplied, where shared memory
 * has room for two. */
#include "kernels/cuda/dev/conv_parts.cuh"
#include "kernels/cuda/dev/mma.cuh"

namespace {

enum { SLICE = 32, DW_THREADS = 256, DW_OFFSETS = 7 };

/* Tiles of 64 * warps rows. */
template <int S, int WM> struct group_of {
    static constexpr int H = S + 2, CELLS = S * S * S, HALO = H * H * H, ROWS = WM * 64, TILES = ROWS / CELLS;
    static constexpr int BYTES = TILES * HALO * 64;
};

/* 32 channels of the tiles' cells and of those around them; `near`: the 27 neighbours of each tile. */
template <int S, int TILES, int THREADS>
__device__ __forceinline__ void load_halo(uint32_t to, const int32_t *near, const bf16 *x, int64_t width,
                                          int channel0) {
    constexpr int H = S + 2, HALO = H * H * H, CELLS = S * S * S;
#pragma unroll 4
    for (int i = threadIdx.x; i < TILES * HALO * 4; i += THREADS) {
        int     slot = i >> 2, chunk = i & 3, tile = slot / HALO, t, cell;
        int     twist = halo_source<S>(slot % HALO, &t, &cell), channel = channel0 + chunk * 8;
        int32_t from = near[tile * 27 + t];
        bool    there = from >= 0 && channel < width;
        cp_async_16(to + slot * 64 + ((chunk ^ twist) << 4),
                    there ? x + ((int64_t)from * CELLS + cell) * width + channel : x, there ? 16 : 0);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

struct rows_args {
    int64_t        n_tiles, n_rows, Cin, Cout;
    const int32_t *nb;
    const bf16    *x;
    const uint4   *w; /* [column block][offset][step of 16 channels][half][lane] */
    const float   *bias;
    bf16          *pre, *y;
    int            slices;
    bool           silu;
};

/* One uint4 of w: for columns 16*half .. +15 of a block of 32, the two registers of B for 8 columns, then for 8 more.
 */
__global__ void __launch_bounds__(256) halo_weights_kernel(const conv_sum a, int n_steps, int64_t count, uint4 *out) {
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    int      lane = (int)(at % 32), half = (int)(at / 32 % 2), step = (int)(at / 64 % n_steps);
    int      k = (int)(at / 64 / n_steps % 27);
    int64_t  block = at / 64 / n_steps / 27;
    uint32_t word[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int64_t i = step * 16 + lane % 4 * 2 + r % 2 * 8, o = block * 32 + half * 16 + r / 2 * 8 + lane / 4;
        float   v[2];
#pragma unroll
        for (int e = 0; e < 2; e++)
            v[e] = i + e < a.Cin && o < a.Cout
                       ? to_float(((const bf16 *)a.w)[k * a.k_step + (i + e) * a.ci_step + o * a.co_step])
                       : 0.0f;
        word[r] = pack_bf16(v[0], v[1]);
    }
    out[at] = make_uint4(word[0], word[1], word[2], word[3]);
}

/* Blocks: x = groups of tiles, y = columns. */
template <int S, int WM, int WN>
__global__ void __launch_bounds__(WM *WN * 32, 512 / (WM * WN * 32)) halo_rows_kernel(const rows_args a) {
    typedef group_of<S, WM> group;
    constexpr int           THREADS = WM * WN * 32, OUT_PITCH = 32 * 2 + 16;
    static_assert(WM * WN * 64 * OUT_PITCH <= group::BYTES, "results go where the tiles were");
    extern __shared__ __align__(128) unsigned char room[];
    __shared__ int32_t                             near[group::TILES * 27];

    const int      tid = threadIdx.x, lane = tid % 32, warp = tid / 32, wm = warp % WM, wn = warp / WM;
    const int64_t  tile0 = (int64_t)blockIdx.x * group::TILES, column_block = (int64_t)blockIdx.y * WN + wn;
    const uint32_t base = smem_addr(room);
    for (int i = tid; i < group::TILES * 27; i += THREADS)
        near[i] = tile0 + i / 27 < a.n_tiles ? a.nb[tile0 * 27 + i] : -1;

    /* Of the rows whose addresses this lane gives: their place for its half of 16 channels. */
    int entry[4];
#pragma unroll
    for (int m = 0; m < 4; m++) entry[m] = halo_entry<S>(wm * 64 + m * 16 + lane % 16) ^ (lane / 16 << 4);

    float      sum[4][4][4] = {};
    /* A column block beyond the last has no weights: its warps load with the others and multiply nothing. */
    const bool mine = column_block * 32 < a.Cout;
    for (int slice = 0; slice < a.slices; slice++) {
        __syncthreads(); /* `near` is there, nobody reads the slice before */
        load_halo<S, group::TILES, THREADS>(base, near, a.x, a.Cin, slice * SLICE);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        if (!mine) continue;
        const int    k_step = a.slices * 2 * 64; /* uint4s of an offset */
        const uint4 *w = a.w + (column_block * 27 * a.slices + slice) * 128 + lane;
        uint4        now[2] = {__ldg(w), __ldg(w + 32)};
#pragma unroll 1
        for (int k = 0; k < 27; k++) {
            const int move = halo_move<S>(k), turn = halo_turn(k);
#pragma unroll
            for (int kk = 0; kk < 2; kk++) {
                /* The step after the last is the last once more. */
                const uint4 *next = kk == 0 ? w + 64 : k < 26 ? w + k_step : w;
                const uint4  soon[2] = {__ldg(next), __ldg(next + 32)};
                uint32_t     x[4][4];
#pragma unroll
                for (int m = 0; m < 4; m++) ldmatrix_x4(x[m], base + halo_chunk(entry[m], move, turn, kk * 2));
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    mma_bf16(sum[m][0], x[m], now[0].x, now[0].y);
                    mma_bf16(sum[m][1], x[m], now[0].z, now[0].w);
                    mma_bf16(sum[m][2], x[m], now[1].x, now[1].y);
                    mma_bf16(sum[m][3], x[m], now[1].z, now[1].w);
                }
                now[0] = soon[0];
                now[1] = soon[1];
            }
            w += k_step;
        }
    }
    __syncthreads();
    if (!mine) return;

    /* Through shared memory, so that rows are written 16 bytes at a time; each warp for itself. */
    unsigned char *out = room + warp * (64 * OUT_PITCH);
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int     col = n * 8 + lane % 4 * 2;
        int64_t o = column_block * 32 + col;
        float   b0 = a.bias && o < a.Cout ? a.bias[o] : 0.0f, b1 = a.bias && o < a.Cout ? a.bias[o + 1] : 0.0f;
#pragma unroll
        for (int m = 0; m < 4; m++) {
            unsigned char *to = out + (m * 16 + lane / 4) * OUT_PITCH + col * 2;
            *reinterpret_cast<uint32_t *>(to) = pack_bf16(sum[m][n][0] + b0, sum[m][n][1] + b1);
            *reinterpret_cast<uint32_t *>(to + 8 * OUT_PITCH) = pack_bf16(sum[m][n][2] + b0, sum[m][n][3] + b1);
        }
    }
    __syncwarp();
    const int64_t row0 = tile0 * group::CELLS + wm * 64, o = column_block * 32 + lane % 4 * 8;
    if (o >= a.Cout) return;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int     r = i * 8 + lane / 4;
        int64_t to = (row0 + r) * a.Cout + o;
        if (row0 + r >= a.n_rows) break;
        const uint4 v = *reinterpret_cast<const uint4 *>(out + r * OUT_PITCH + lane % 4 * 16);
        conv_store(a.silu, a.pre, a.y, to, v);
    }
}

template <int S, int WM, int WN> void halo_rows_as(ctx *c, const rows_args &r) {
    typedef group_of<S, WM> group;
    dim3                    blocks((unsigned)ceil_div(r.n_tiles, group::TILES), (unsigned)ceil_div(r.Cout, WN * 32));
    conv_allow_shared(halo_rows_kernel<S, WM, WN>, group::BYTES);
    halo_rows_kernel<S, WM, WN><<<blocks, WM * WN * 32, group::BYTES, stream_of(c)>>>(r);
    LAUNCHED(c);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

struct dw_args {
    int64_t        n_tiles, n_rows, groups, I, O;
    const int32_t *nb;
    const bf16    *x, *d;
    float         *partial; /* [part][27][I][O] */
    int            o_blocks, buffers;
};

template <int S> struct dw_shape {
    static constexpr int    WM = S == 8 ? 8 : S == 4 ? 4 : 2;
    typedef group_of<S, WM> group;
    static constexpr int    NEAR = (group::TILES * 27 * 4 + 127) / 128 * 128, D_BYTES = group::ROWS * 64;
    static constexpr int    BUFFER = group::BYTES + D_BYTES; /* x with halo, then d */
    static constexpr int    ENTRIES = group::ROWS * 4;
    static constexpr int    bytes(int buffers) { return buffers * BUFFER + NEAR + ENTRIES; }
};

/* Blocks: x = parts of the groups, y = blocks of 32 x 32 channels. */
template <int S> __global__ void __launch_bounds__(DW_THREADS, 1) halo_dw_kernel(const dw_args a) {
    typedef dw_shape<S>           shape;
    typedef typename shape::group group;
    extern __shared__ __align__(128) unsigned char room[];

    const int      tid = threadIdx.x, lane = tid % 32, warp = tid / 32, half = warp % 2, k0 = warp / 2 * DW_OFFSETS;
    const int      i0 = (int)(blockIdx.y / a.o_blocks) * 32, o0 = (int)(blockIdx.y % a.o_blocks) * 32;
    const int64_t  begin = blockIdx.x * a.groups / gridDim.x, end = (blockIdx.x + (int64_t)1) * a.groups / gridDim.x;
    int32_t       *near = reinterpret_cast<int32_t *>(room + a.buffers * shape::BUFFER);
    int           *entry = reinterpret_cast<int *>(room + a.buffers * shape::BUFFER + shape::NEAR);
    const uint32_t base = smem_addr(room);

    for (int i = tid; i < group::ROWS; i += DW_THREADS) entry[i] = halo_entry<S>(i);
    int move[DW_OFFSETS], turn[DW_OFFSETS];
#pragma unroll
    for (int q = 0; q < DW_OFFSETS; q++) {
        move[q] = halo_move<S>(k0 + q < 27 ? k0 + q : 26);
        turn[q] = halo_turn(k0 + q < 27 ? k0 + q : 26);
    }

    /* Begins and ends with a barrier: `near` is shared by all loads. */
    auto load = [&](int buffer, int64_t g) {
        const int64_t tile0 = g * group::TILES, row0 = tile0 * group::CELLS;
        __syncthreads();
        for (int i = tid; i < group::TILES * 27; i += DW_THREADS)
            near[i] = tile0 + i / 27 < a.n_tiles ? a.nb[tile0 * 27 + i] : -1;
        __syncthreads();
        const uint32_t to = base + buffer * shape::BUFFER;
        load_halo<S, group::TILES, DW_THREADS>(to, near, a.x, a.I, i0);
        for (int i = tid; i < group::ROWS * 4; i += DW_THREADS) {
            int  r = i >> 2, chunk = i & 3, column = o0 + chunk * 8;
            bool there = row0 + r < a.n_rows && column < a.O;
            cp_async_16(to + group::BYTES + tile_chunk<32>(r, chunk), there ? a.d + (row0 + r) * a.O + column : a.d,
                        there ? 16 : 0);
        }
        cp_async_commit();
    };

    float sum[DW_OFFSETS][4][4] = {};
    if (begin < end) load(0, begin);
    for (int64_t g = begin; g < end; g++) {
        const int  buffer = a.buffers == 2 ? (int)(g - begin & 1) : 0;
        const bool ahead = a.buffers == 2 && g + 1 < end;
        if (ahead) {
            load(buffer ^ 1, g + 1); /* its first barrier: nobody reads that buffer any more */
            cp_async_wait<1>();
        } else
            cp_async_wait<0>();
        __syncthreads();
        const uint32_t x = base + buffer * shape::BUFFER, d = x + group::BYTES;
#pragma unroll 1
        for (int r0 = 0; r0 < group::ROWS; r0 += 16) {
            const int e = entry[r0 + lane / 16 * 8 + lane % 8] ^ ((half * 2 + (lane / 8 & 1)) << 4);
            uint32_t  right[2][4];
#pragma unroll
            for (int j = 0; j < 2; j++)
                ldmatrix_x4_trans(right[j], d + tile_chunk<32>(r0 + lane % 16, j * 2 + lane / 16));
#pragma unroll
            for (int q = 0; q < DW_OFFSETS; q++) {
                if (k0 + q >= 27) break; /* the same in all lanes */
                uint32_t left[4];
                ldmatrix_x4_trans(left, x + halo_chunk(e, move[q], turn[q], 0));
#pragma unroll
                for (int n = 0; n < 4; n++)
                    mma_bf16(sum[q][n], left, right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]);
            }
        }
        if (a.buffers == 1 && g + 1 < end) load(0, g + 1);
    }

#pragma unroll
    for (int q = 0; q < DW_OFFSETS; q++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int i = i0 + half * 16 + lane / 4 + 8 * h, o = o0 + n * 8 + lane % 4 * 2;
                if (k0 + q < 27 && i < a.I && o < a.O)
                    *reinterpret_cast<float2 *>(a.partial + (((int64_t)blockIdx.x * 27 + k0 + q) * a.I + i) * a.O + o) =
                        make_float2(sum[q][n][2 * h], sum[q][n][2 * h + 1]);
            }
}

template <int S> bool halo_dw_as(ctx *c, const conv_dw *a) {
    typedef dw_shape<S> shape;
    int                 limit = (int)c->cuda->shared_limit;
    if (shape::bytes(1) > limit) return false;
    dw_args r = {};
    r.n_tiles = a->g.n_tiles;
    r.n_rows = a->g.n_rows;
    r.groups = ceil_div(a->g.n_tiles, shape::group::TILES);
    r.I = a->I;
    r.O = a->O;
    r.nb = a->g.nb;
    r.x = (const bf16 *)a->x;
    r.d = (const bf16 *)a->d;
    r.o_blocks = (int)ceil_div(a->O, 32);
    r.buffers = shape::bytes(2) <= limit ? 2 : 1;
    int64_t blocks = ceil_div(a->I, 32) * r.o_blocks, count = 27 * a->I * a->O;
    /* One block fills a multiprocessor. A part more than there is room for would take a whole round. */
    int64_t parts = c->cuda->multiprocessors / blocks, most = DW_PARTIAL_BYTES / ((int64_t)sizeof(float) * count);
    if (parts > r.groups) parts = r.groups;
    if (parts > most) parts = most;
    if (parts < 1) parts = 1;
    r.partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * count));
    CHECK(blocks <= 65535, "conv3: %lld x %lld channels", (long long)a->I, (long long)a->O);
    conv_allow_shared(halo_dw_kernel<S>, shape::bytes(r.buffers));
    halo_dw_kernel<S>
        <<<dim3((unsigned)parts, (unsigned)blocks), DW_THREADS, shape::bytes(r.buffers), stream_of(c)>>>(r);
    LAUNCHED(c);
    partials_add(c, a->dw, r.partial, parts, count);
    return true;
}

} // namespace

bool conv_halo_rows(ctx *c, const conv_sum *a) {
    if ((size_t)group_of<2, 2>::BYTES + 4096 > c->cuda->shared_limit) return false;
    rows_args r = {};
    r.n_tiles = a->g.n_tiles;
    r.n_rows = a->g.n_rows;
    r.Cin = a->Cin;
    r.Cout = a->Cout;
    r.nb = a->g.nb;
    r.x = (const bf16 *)a->x;
    r.bias = a->bias;
    r.pre = (bf16 *)a->pre;
    r.y = (bf16 *)a->y;
    r.slices = (int)ceil_div(a->Cin, SLICE);
    r.silu = a->act == ACT_SILU;
    int64_t count = ceil_div(a->Cout, 32) * 27 * r.slices * 2 * 64;
    uint4  *w = (uint4 *)arena_alloc(&c->scratch, sizeof(uint4) * (size_t)count);
    halo_weights_kernel<<<(unsigned)ceil_div(count, 256), 256, 0, stream_of(c)>>>(*a, r.slices * 2, count, w);
    LAUNCHED(c);
    r.w = w;
    if (a->g.side == 8)
        halo_rows_as<8, 8, 1>(c, r);
    else if (a->g.side == 4 && a->Cout <= 32)
        halo_rows_as<4, 4, 1>(c, r);
    else if (a->g.side == 4)
        halo_rows_as<4, 4, 2>(c, r);
    else if (a->Cout <= 64)
        halo_rows_as<2, 2, 2>(c, r);
    else
        halo_rows_as<2, 2, 4>(c, r);
    return true;
}

bool conv_halo_dw(ctx *c, const conv_dw *a) {
    return a->g.side == 8 ? halo_dw_as<8>(c, a) : a->g.side == 4 ? halo_dw_as<4>(c, a) : halo_dw_as<2>(c, a);
}
