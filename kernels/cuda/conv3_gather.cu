/* conv3 on tensor cores for any level: a matrix product whose rows of the left side are gathered. bf16, channels in
 * multiples of 8.
 *
 * Forward and dx. A block makes ROWS rows times BN columns. It finds the 27 neighbour rows of its rows once; then, for
 * each offset and slice of BK channels, the neighbours' values (absent ones: zeros) and the weights come into shared
 * memory by cp.async, STAGES - 1 slices ahead of the products.
 *
 * dw is a (27*I, O) matrix, line m = offset m/I, channel m%I, and the sum goes over rows: a block makes LINES lines
 * times BN columns over one part of the rows. Its lines belong to a few offsets; their neighbour rows are found some
 * hundred rows at a time into two tables, one in use, one for the rows to come. Both operands lie as [row][channel],
 * and ldmatrix turns them.
 *
 * A warp makes 16*MF rows (or lines) times 32 columns. */
#include "kernels/cuda/dev/conv_gather.cuh"

namespace {

enum { ROWS = 128, LINES = 128, STEP_ROWS = 32, TABLE = 4608 };

/* Warps down and across a block of 128 x BN. Narrow blocks have half the warps. */
template <int BN> struct warps_of {
    static constexpr int across = BN / 32, down = BN == 128 ? 2 : 4, threads = across * down * 32,
                         MF = 128 / (16 * down);
};

/* c += a (16*MF,16) b (16,32); b[j] holds columns 16j .. 16j+15. */
template <int MF>
__device__ __forceinline__ void multiply(float (&c)[MF][4][4], const uint32_t (&a)[MF][4], const uint32_t (&b)[2][4]) {
#pragma unroll
    for (int m = 0; m < MF; m++)
#pragma unroll
        for (int n = 0; n < 4; n++) mma_bf16(c[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

template <int BN, int BK> struct rows_shape {
    static constexpr int STAGES = BK == 64 ? 3 : 4;
    static constexpr int A_BYTES = ROWS * BK * 2, B_BYTES = BK * BN * 2, STAGE = A_BYTES + B_BYTES;
    static constexpr int OUT_PITCH = BN * 2 + 16; /* 16 more, so that rows start in different banks */
    static constexpr int PIPE = STAGES * STAGE > ROWS *OUT_PITCH ? STAGES *STAGE : ROWS *OUT_PITCH;
    static constexpr int BYTES = PIPE + 27 * ROWS * 4;
};

/* Blocks: x = row tiles times column tiles, the columns of one row tile in succession (they read the same rows). */
template <int BN, int BK>
__global__ void __launch_bounds__(warps_of<BN>::threads) gather_rows_kernel(const conv_rows_args a) {
    typedef rows_shape<BN, BK> shape;
    constexpr int              MF = warps_of<BN>::MF, THREADS = warps_of<BN>::threads, STAGES = shape::STAGES;
    constexpr int              A_CHUNKS = BK / 8, B_CHUNKS = BN / 8;
    extern __shared__ __align__(128) unsigned char room[];

    const int      tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int      wm = warp % warps_of<BN>::down, wn = warp / warps_of<BN>::down;
    const int      column_tiles = a.Np / BN, n0 = (int)(blockIdx.x % column_tiles) * BN;
    const int64_t  row0 = (int64_t)(blockIdx.x / column_tiles) * ROWS;
    int32_t       *near = reinterpret_cast<int32_t *>(room + shape::PIPE);
    const uint32_t base = smem_addr(room);

    gather_neighbors<ROWS, THREADS>(a, row0, near);
    __syncthreads();

    int  load_k = 0, load_c = 0; /* offset and first channel of the next slice to load */
    auto load = [&](int stage) {
        const uint32_t to = base + stage * shape::STAGE;
#pragma unroll
        for (int i = 0; i < ROWS * A_CHUNKS / THREADS; i++) {
            int     at = tid + i * THREADS, r = at / A_CHUNKS, c = at % A_CHUNKS, channel = load_c + c * 8;
            int32_t n = near[load_k * ROWS + r];
            bool    there = n >= 0 && channel < a.Cin;
            cp_async_16(to + tile_chunk<BK>(r, c), there ? a.x + (int64_t)n * a.Cin + channel : a.x, there ? 16 : 0);
        }
        const bf16 *w = a.w + ((int64_t)load_k * a.Kp + load_c) * a.Np + n0;
        for (int at = tid; at < BK * B_CHUNKS; at += THREADS) {
            int r = at / B_CHUNKS, c = at % B_CHUNKS;
            cp_async_16(to + shape::A_BYTES + tile_chunk<BN>(r, c), w + (int64_t)r * a.Np + c * 8, 16);
        }
        load_c += BK;
        if (load_c == a.Kp) {
            load_c = 0;
            load_k++;
        }
    };

    const int steps = 27 * (a.Kp / BK);
    for (int s = 0; s < STAGES - 1; s++) { /* steps is at least 27 */
        load(s);
        cp_async_commit();
    }
    float sum[MF][4][4] = {};
    for (int s = 0, stage = 0; s < steps; s++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* slice s is there, and nobody reads slice s-1 any more, whose place the next one takes */
        if (s + STAGES - 1 < steps) load(stage == 0 ? STAGES - 1 : stage - 1);
        cp_async_commit();
        const uint32_t left = base + stage * shape::STAGE, right = left + shape::A_BYTES;
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++) {
            uint32_t x[MF][4], w[2][4];
#pragma unroll
            for (int m = 0; m < MF; m++)
                ldmatrix_x4(x[m], left + tile_chunk<BK>((wm * MF + m) * 16 + lane % 16, kk * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < 2; j++)
                ldmatrix_x4_trans(w[j], right + tile_chunk<BN>(kk * 16 + lane % 16, wn * 4 + j * 2 + lane / 16));
            multiply<MF>(sum, x, w);
        }
    }
    cp_async_wait<0>();
    __syncthreads();

    /* Through shared memory, so that rows are written 16 bytes at a time. */
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int   col = wn * 32 + n * 8 + lane % 4 * 2;
        float b0 = 0.0f, b1 = 0.0f;
        if (a.bias && n0 + col < a.Cout) {
            b0 = a.bias[n0 + col];
            b1 = a.bias[n0 + col + 1];
        }
#pragma unroll
        for (int m = 0; m < MF; m++) {
            int            r = (wm * MF + m) * 16 + lane / 4;
            unsigned char *to = room + r * shape::OUT_PITCH + col * 2;
            *reinterpret_cast<uint32_t *>(to) = pack_bf16(sum[m][n][0] + b0, sum[m][n][1] + b1);
            *reinterpret_cast<uint32_t *>(to + 8 * shape::OUT_PITCH) = pack_bf16(sum[m][n][2] + b0, sum[m][n][3] + b1);
        }
    }
    __syncthreads();
    gather_write<ROWS, BN, shape::OUT_PITCH, THREADS>(a, room, row0, n0);
}

template <int BN, int BK> void gather_rows_as(ctx *c, const conv_sum *a) {
    typedef rows_shape<BN, BK> shape;
    int                        Kp = (int)(ceil_div(a->Cin, BK) * BK), Np = (int)(ceil_div(a->Cout, BN) * BN);
    int64_t                    blocks = ceil_div(a->g.n_rows, ROWS) * (Np / BN);
    CHECK(blocks <= INT32_MAX, "conv3: %lld rows of %lld columns", (long long)a->g.n_rows, (long long)a->Cout);
    conv_rows_args r = gather_rows_of(c, a, Kp, Np);
    conv_allow_shared(gather_rows_kernel<BN, BK>, shape::BYTES);
    gather_rows_kernel<BN, BK><<<(unsigned)blocks, warps_of<BN>::threads, shape::BYTES, stream_of(c)>>>(r);
    LAUNCHED(c);
}

template <int BN> void gather_rows_by(ctx *c, const conv_sum *a) {
    if (a->Cin <= 16)
        gather_rows_as<BN, 16>(c, a);
    else if (a->Cin % 64 == 0 && rows_shape<BN, 64>::BYTES <= (int)c->cuda->shared_limit)
        gather_rows_as<BN, 64>(c, a);
    else
        gather_rows_as<BN, 32>(c, a);
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

template <int BN> struct dw_shape {
    static constexpr int STAGES = 4;
    static constexpr int A_BYTES = STEP_ROWS * LINES * 2, B_BYTES = STEP_ROWS * BN * 2, STAGE = A_BYTES + B_BYTES;
    static constexpr int BYTES = STAGES * STAGE + 2 * TABLE * 4;
};

/* Blocks: x = lines, y = columns, z = parts. */
template <int BN> __global__ void __launch_bounds__(warps_of<BN>::threads) gather_dw_kernel(const conv_dw_args a) {
    typedef dw_shape<BN> shape;
    constexpr int        MF = warps_of<BN>::MF, THREADS = warps_of<BN>::threads, STAGES = shape::STAGES;
    constexpr int        A_CHUNKS = LINES / 8, B_CHUNKS = BN / 8;
    extern __shared__ __align__(128) unsigned char room[];

    const int      tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int      wm = warp % warps_of<BN>::down, wn = warp / warps_of<BN>::down;
    const int      lines = 27 * a.I, line0 = blockIdx.x * LINES, n0 = blockIdx.y * BN;
    const int64_t  begin = blockIdx.z * a.part_rows;
    const int64_t  end = begin + a.part_rows < a.g.n_rows ? begin + a.part_rows : a.g.n_rows;
    const int      last = line0 + LINES < lines ? line0 + LINES : lines;
    const int      k0 = line0 / a.I, n_k = (last - 1) / a.I - k0 + 1; /* offsets of this block */
    const int      steps = (int)((end - begin + STEP_ROWS - 1) / STEP_ROWS);
    const int      table_steps = a.table_rows / STEP_ROWS;
    int32_t       *table = reinterpret_cast<int32_t *>(room + STAGES * shape::STAGE); /* [2][offset][row] */
    const uint32_t base = smem_addr(room);

    auto fill = [&](int t) {
        for (int i = tid; i < n_k * a.table_rows; i += THREADS) {
            int64_t row = begin + (int64_t)t * a.table_rows + i % a.table_rows;
            table[(t & 1) * TABLE + i] =
                row < end ? conv_neighbor(&a.g, conv_row_code(&a.g, row), k0 + i / a.table_rows) : -1;
        }
    };
    /* A thread always loads the same chunk of lines. */
    const int chunk = tid % A_CHUNKS, line = line0 + chunk * 8;
    const int channel = line % a.I, of_line = (line / a.I - k0) * a.table_rows;
    auto      load = [&](int stage, int s) {
        const uint32_t to = base + stage * shape::STAGE;
        const int32_t *near = table + (s / table_steps & 1) * TABLE + of_line + s % table_steps * STEP_ROWS;
#pragma unroll
        for (int i = 0; i < STEP_ROWS * A_CHUNKS / THREADS; i++) {
            int     r = tid / A_CHUNKS + i * (THREADS / A_CHUNKS);
            int32_t n = line < lines ? near[r] : -1;
            cp_async_16(to + tile_chunk<LINES>(r, chunk), n >= 0 ? a.x + (int64_t)n * a.I + channel : a.x,
                        n >= 0 ? 16 : 0);
        }
        for (int at = tid; at < STEP_ROWS * B_CHUNKS; at += THREADS) {
            int     r = at / B_CHUNKS, c = at % B_CHUNKS;
            int64_t row = begin + (int64_t)s * STEP_ROWS + r;
            bool    there = row < end && n0 + c * 8 < a.O;
            cp_async_16(to + shape::A_BYTES + tile_chunk<BN>(r, c), there ? a.d + row * a.O + n0 + c * 8 : a.d,
                        there ? 16 : 0);
        }
    };

    fill(0);
    __syncthreads();
    for (int s = 0; s < STAGES - 1; s++) { /* table 0 has more steps than that */
        if (s < steps) load(s, s);
        cp_async_commit();
    }
    float sum[MF][4][4] = {};
    for (int s = 0, stage = 0; s < steps; s++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        /* The next table. The one it replaces was read last some steps ago, and its own first reader comes some steps
         * later. */
        if (s % table_steps == 0 && s + table_steps < steps) fill(s / table_steps + 1);
        if (s + STAGES - 1 < steps) load(stage == 0 ? STAGES - 1 : stage - 1, s + STAGES - 1);
        cp_async_commit();
        const uint32_t left = base + stage * shape::STAGE, right = left + shape::A_BYTES;
#pragma unroll
        for (int kk = 0; kk < STEP_ROWS / 16; kk++) {
            uint32_t x[MF][4], d[2][4];
#pragma unroll
            for (int m = 0; m < MF; m++)
                ldmatrix_x4_trans(x[m], left + tile_chunk<LINES>(kk * 16 + lane / 16 * 8 + lane % 8,
                                                                 (wm * MF + m) * 2 + (lane / 8 & 1)));
#pragma unroll
            for (int j = 0; j < 2; j++)
                ldmatrix_x4_trans(d[j], right + tile_chunk<BN>(kk * 16 + lane % 16, wn * 4 + j * 2 + lane / 16));
            multiply<MF>(sum, x, d);
        }
    }
    cp_async_wait<0>();

    float *out = a.partial + (int64_t)blockIdx.z * lines * a.O;
#pragma unroll
    for (int m = 0; m < MF; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int l = line0 + (wm * MF + m) * 16 + lane / 4 + 8 * h, col = n0 + wn * 32 + n * 8 + lane % 4 * 2;
                if (l < lines && col < a.O)
                    *reinterpret_cast<float2 *>(out + (int64_t)l * a.O + col) =
                        make_float2(sum[m][n][2 * h], sum[m][n][2 * h + 1]);
            }
}

template <int BN> void gather_dw_as(ctx *c, const conv_dw *a) {
    int64_t      x = ceil_div(27 * a->I, LINES), y = ceil_div(a->O, BN), N = a->g.n_rows, count = 27 * a->I * a->O;
    int64_t      parts = conv_dw_parts(c, N, 2048, x * y, 4, (int64_t)sizeof(float) * count);
    conv_dw_args r = gather_dw_of(c, a, parts, STEP_ROWS);
    parts = ceil_div(N, r.part_rows);
    /* 128 lines are of at most 128/I + 2 offsets: 18 for the narrowest, 8 channels. */
    r.table_rows = LINES / a->I + 2 > 4 ? TABLE / 18 / STEP_ROWS * STEP_ROWS : TABLE / 4 / 128 * 128;
    conv_allow_shared(gather_dw_kernel<BN>, dw_shape<BN>::BYTES);
    gather_dw_kernel<BN>
        <<<dim3((unsigned)x, (unsigned)y, (unsigned)parts), warps_of<BN>::threads, dw_shape<BN>::BYTES, stream_of(c)>>>(
            r);
    LAUNCHED(c);
    partials_add(c, a->dw, r.partial, parts, count);
}

} // namespace

void conv_gather_rows(ctx *c, const conv_sum *a) {
    if (a->Cout <= 32)
        gather_rows_by<32>(c, a);
    else if (a->Cout <= 64)
        gather_rows_by<64>(c, a);
    else
        gather_rows_by<128>(c, a);
}

void conv_gather_dw(ctx *c, const conv_dw *a) {
    if (a->O <= 32)
        gather_dw_as<32>(c, a);
    else if (a->O <= 64 || dw_shape<128>::BYTES > (int)c->cuda->shared_limit)
        gather_dw_as<64>(c, a);
    else
        gather_dw_as<128>(c, a);
}
