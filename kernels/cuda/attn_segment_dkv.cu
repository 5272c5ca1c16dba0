/* Attention inside segments, backward, bf16, second half: dk and dv by tiles of keys, walking over the rows (queries
 * and the heads that share the keys) of the segment, or over one of `parts` parts of them. The products of
 * attn_segment_dq.cu are transposed here, keys are their rows, so that P and dS come out as operands of the next ones,
 * dv = sum P dout and dk = scale sum dS q. */
#include "kernels/cuda/attn_segment.cuh"
#include "kernels/cuda/dev/group_rows.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;

template <int D_, int MT_, bool WIDE_, bool WGMMA_ = false> struct dkv_shape {
    static constexpr bool WIDE = WIDE_, WGMMA = WGMMA_;
    static constexpr bool REST = D_ == 32 && WIDE && !WGMMA; /* segments that are no windows are left to it */
    static constexpr int  D = D_, MT = MT_;                  /* a warp has MT tiles of 16 keys */
    static constexpr int  WARPS = WGMMA ? 8 : 4, THREADS = 32 * WARPS, WARP_KEYS = 16 * MT, KEYS = WARPS * WARP_KEYS;
    static constexpr int  ROWS = WGMMA ? 128 : 64, STEP = 32; /* of a tile; of a warpgroup's products */
    static constexpr int  STAGES = WGMMA ? 4 : D > 64 ? 2 : 3;
    static constexpr int  AHEAD = WGMMA ? 2 : STAGES - 1; /* stages on their way; sums that run read the one before */
    static constexpr int  TILE = ROWS * D * 2, STAGE = 2 * TILE + ROWS * 8; /* bytes: q, dout, stat */
    static constexpr int  OWN = KEYS * D * 2;                               /* bytes of the keys' k or v */
    static constexpr int  BYTES = 2 * OWN + STAGES * STAGE;
    static constexpr int  SUMS = 2 * MT * (D / 8) * 4; /* accumulators of a lane */
    /* 128 or 255 registers by warpgroups, 168 or 255 without. */
    static constexpr int  BLOCKS = WGMMA ? (D <= 32 ? 2 : 1) : D <= 64 ? 3 : 2;
    static_assert(WGMMA || (WARPS - 1) * SUMS * 128 <= STAGES * STAGE, "the ring holds the sums of all warps but one");
    static_assert(!WGMMA || (STAGE % (16 * D) == 0 && OWN % (16 * D) == 0), "tiles start with the permutation");
};

/* Rows of a segment on their way through shared memory, as key_ring has keys: q, dout and stat of F::ROWS rows. */
template <class F> struct row_ring {
    typedef tile_loader<F::D, F::ROWS, F::THREADS, F::WIDE> loader;
    const segment_problem<bf16>                            &a;
    loader                                                  move;
    uint32_t                                                ring;
    int from, to;            /* offsets of the stages that are read and filled next */
    int g, q0, at, end;      /* at: first row of the tile that is loaded next; where to stop */
    int next[loader::COUNT]; /* with an order: queries of its rows; beyond the end, of the last one */

    __device__ __forceinline__ row_ring(const segment_problem<bf16> &a, const attn_job &j, int g, uint32_t ring,
                                        int begin, int end)
        : a(a), move(threadIdx.x, a.D), ring(ring), from(0), to(0), g(g), q0(j.q0), at(begin), end(end) {
        if (begin < end) find();
    }
    __device__ __forceinline__ int  row_of(int i) const { return min(at + move.row_of(i), end - 1); }
    __device__ __forceinline__ void find() {
        if (!a.q_order) return;
#pragma unroll
        for (int i = 0; i < loader::COUNT; i++) next[i] = __ldg(a.q_order + q0 + divide(row_of(i), a.by_hs));
    }
    __device__ __forceinline__ void load() {
        if (at < end) {
#pragma unroll
            for (int i = 0; i < loader::COUNT; i++) {
                /* Rows that are not there are zeros, stat too, and add nothing: dout = q = 0. */
                bool there = at + move.row_of(i) < end;
                int  r = row_of(i), query = divide(r, a.by_hs), h = g * a.hs + r - query * a.hs;
                int  n = a.q_order ? next[i] : q0 + query, col = h * a.D + move.col;
                move.load(ring + to, i, row_at(a.q, n, a.q_bytes) + col, there && move.brings());
                move.load(ring + to + F::TILE, i, row_at(a.dout, n, a.o_bytes) + col, there && move.brings());
                if (move.chunk == 0 && move.row < F::ROWS)
                    cp_async_8(ring + to + 2 * F::TILE + move.row_of(i) * 8, a.stat + (int64_t)n * a.H + h,
                               there ? 8 : 0);
            }
            at += F::ROWS;
            if (at < end) find();
        }
        to = next_stage<F>(to);
        cp_async_commit();
    }
    /* The tile to work on: q, dout F::TILE bytes further, and then stat. */
    __device__ __forceinline__ uint32_t take() {
        uint32_t tile = ring + from;
        from = next_stage<F>(from);
        return tile;
    }
};

template <class F> struct dkv_keys {
    uint32_t k[F::MT][F::D / 16][4], v[F::MT][F::D / 16][4];
    float    dk[F::MT][F::D / 8][4], dv[F::MT][F::D / 8][4];
};

/* dk and dv of the warp's keys from 16 rows. */
template <class F>
__device__ __forceinline__ void walk_rows(dkv_keys<F> &w, uint32_t q, uint32_t dout, uint32_t stat,
                                          const uint32_t (&n_rows_of)[F::D / 16],
                                          const uint32_t (&k_rows_of)[F::D / 16], float c, int quad) {
    float  p[F::MT][2][4], ds[F::MT][2][4];
    float4 st[2]; /* lse and delta of rows 2quad, 2quad+1 */
#pragma unroll
    for (int i = 0; i < 2; i++) shared_load(stat + (i * 8 + quad * 2) * 8, st[i]);
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4(b, q + n_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (step == 0)
                    mma_bf16(p[mt][i], w.k[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                else
                    mma_bf16(p[mt][i], w.k[mt][step], b[2 * i], b[2 * i + 1]);
    }
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4(b, dout + n_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (step == 0)
                    mma_bf16(ds[mt][i], w.v[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                else
                    mma_bf16(ds[mt][i], w.v[mt][step], b[2 * i], b[2 * i + 1]);
    }
    uint32_t pa[F::MT][4], da[F::MT][4];
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                p[mt][i][e] = exp2_fast(p[mt][i][e] * c - (e % 2 ? st[i].z : st[i].x));
                ds[mt][i][e] = p[mt][i][e] * (ds[mt][i][e] + (e % 2 ? st[i].w : st[i].y));
            }
            pa[mt][2 * i] = pack_bf16(p[mt][i][0], p[mt][i][1]);
            pa[mt][2 * i + 1] = pack_bf16(p[mt][i][2], p[mt][i][3]);
            da[mt][2 * i] = pack_bf16(ds[mt][i][0], ds[mt][i][1]);
            da[mt][2 * i + 1] = pack_bf16(ds[mt][i][2], ds[mt][i][3]);
        }
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, dout + k_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            mma_bf16(w.dv[mt][2 * step], pa[mt], b[0], b[1]);
            mma_bf16(w.dv[mt][2 * step + 1], pa[mt], b[2], b[3]);
        }
    }
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, q + k_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            mma_bf16(w.dk[mt][2 * step], da[mt], b[0], b[1]);
            mma_bf16(w.dk[mt][2 * step + 1], da[mt], b[2], b[3]);
        }
    }
}

/* Result of one product tile column by column pair: keys lane/4 and lane/4 + 8 of 16, `keys` of which are there. */
template <class F>
__device__ __forceinline__ void store_part(const segment_problem<bf16> &a, float *part, const float (&x)[F::D / 8][4],
                                           float scale, int keys, int lane) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int key = lane / 4 + 8 * half;
        if (key >= keys) break;
        float *row = part + (int64_t)key * a.G * 2 * a.D;
#pragma unroll
        for (int dt = 0; dt < F::D / 8; dt++) {
            int   d = dt * 8 + lane % 4 * 2;
            float lo = x[dt][2 * half] * scale, hi = x[dt][2 * half + 1] * scale;
            if (F::WIDE || a.D % 2 == 0) {
                if (d < a.D) *reinterpret_cast<float2 *>(row + d) = float2{lo, hi};
            } else {
                if (d < a.D) row[d] = lo;
                if (d + 1 < a.D) row[d + 1] = hi;
            }
        }
    }
}

template <class F>
__device__ __forceinline__ void store_keys(uint32_t tile, const segment_problem<bf16> &a, const attn_job &j, int key0,
                                           int keys, bf16 *dst, uint32_t bytes, int lane) {
    tile_loader<F::D, F::WARP_KEYS, 32, F::WIDE> move(lane, a.D);
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        int r = move.row_of(i);
        if (r >= keys) break;
        store_chunk<F::WIDE>(row_at(dst, key_row_at(a, j, key0 + r), bytes), tile + move.to(i), move.chunk, a.D);
    }
}

template <class F>
__device__ __forceinline__ void dkv_tile(const segment_problem<bf16> &a, const attn_job &j, int g, int part) {
    constexpr int     D = F::D;
    extern __shared__ __align__(1024) unsigned char segment_shared[];
    int      n_keys = min(j.keys - j.at, F::KEYS), warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane % 4;
    uint32_t k_tile = smem_addr(segment_shared), v_tile = k_tile + F::OWN, ring = k_tile + 2 * F::OWN;

    {
        tile_loader<D, F::KEYS, F::THREADS, F::WIDE> move(threadIdx.x, a.D);
        int                                          col = g * a.D + move.col;
#pragma unroll
        for (int i = 0; i < move.COUNT; i++) {
            bool there = move.row_of(i) < n_keys;
            int  row = key_row_at(a, j, there ? j.at + move.row_of(i) : 0);
            move.load(k_tile, i, row_at(a.k, row, a.k_bytes) + col, there && move.brings());
            move.load(v_tile, i, row_at(a.v, row, a.v_bytes) + col, there && move.brings());
        }
        cp_async_commit();
    }
    int64_t     n_tiles = (j.rows + F::ROWS - 1) / F::ROWS;
    int         begin = (int)(n_tiles * part / a.parts) * F::ROWS;
    int         end = min(j.rows, (int)(n_tiles * (part + 1) / a.parts) * F::ROWS);
    row_ring<F> rows(a, j, g, ring, begin, end);
#pragma unroll
    for (int t = 0; t < F::AHEAD; t++) rows.load();

    /* Few keys: several warps have the same ones and share the rows, 16 at a time. */
    int groups = (n_keys + F::WARP_KEYS - 1) / F::WARP_KEYS;
    groups = F::WGMMA ? F::WARPS : groups > 2 ? 4 : groups;
    int shares = F::WARPS / groups, group = warp % groups, share = warp / groups;
    int keys = n_keys - group * F::WARP_KEYS; /* of this warp */
    k_tile += group * (F::WARP_KEYS * D * 2);
    v_tile += group * (F::WARP_KEYS * D * 2);

    dkv_keys<F> w;
    uint32_t    n_rows_of[D / 16], k_rows_of[D / 16]; /* ldmatrix where the tile's rows are a product's n, or its k */
    cp_async_wait<F::AHEAD>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        n_rows_of[step] = matrix_offset<D>(lane, step, false);
        k_rows_of[step] = matrix_offset<D>(lane, step, true);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            ldmatrix_x4(w.k[mt][step], k_tile + mt * (32 * D) + k_rows_of[step]);
            ldmatrix_x4(w.v[mt][step], v_tile + mt * (32 * D) + k_rows_of[step]);
        }
    }
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int dt = 0; dt < D / 8; dt++)
#pragma unroll
            for (int e = 0; e < 4; e++) w.dk[mt][dt][e] = w.dv[mt][dt][e] = 0;

    float c = a.scale * LOG2_E;
    for (int left = end - begin; left > 0; left -= F::ROWS) {
        cp_async_wait<F::AHEAD - 1>();
        if (F::WGMMA) shared_for_wgmma();
        __syncthreads(); /* the tile is there for all, and all are done with the one whose place is next */
        uint32_t q = rows.take(), dout = q + F::TILE, stat = dout + F::TILE;
        if constexpr (F::WGMMA && HAS_WGMMA) {
            group_tile<D, F::STEP, F::ROWS>(w.k[0], w.v[0], w.dk[0], w.dv[0], q, dout, stat, c, quad,
                                            [&] { rows.load(); });
            continue;
        }
        rows.load();
        if (keys <= 0) continue;
        if (shares == 1 && left >= F::ROWS) {
#pragma unroll
            for (int r = 0; r < F::ROWS; r += 16)
                walk_rows(w, q + r * (2 * D), dout + r * (2 * D), stat + r * 8, n_rows_of, k_rows_of, c, quad);
        } else {
            int n = min(left, F::ROWS);
#pragma unroll 1
            for (int r = share * 16; r < n; r += shares * 16)
                walk_rows(w, q + r * (2 * D), dout + r * (2 * D), stat + r * 8, n_rows_of, k_rows_of, c, quad);
        }
    }
    if constexpr (F::WGMMA && HAS_WGMMA) group_end<D>(w.dk[0], w.dv[0]);
    if (!F::WGMMA && shares > 1) join_sums<F>(w, ring, group, groups, share, shares, lane, [] { __syncthreads(); });
    if (share > 0 || keys <= 0) return;

    if (a.parts > 1) {
        int     key0 = j.at + group * F::WARP_KEYS;
        float  *to = a.part + (((int64_t)part * a.n_keys + j.k0 + key0) * a.G + g) * 2 * a.D;
        int64_t step = (int64_t)16 * a.G * 2 * a.D;
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            store_part<F>(a, to + mt * step, w.dk[mt], a.scale, keys - 16 * mt, lane);
            store_part<F>(a, to + mt * step + a.D, w.dv[mt], 1.f, keys - 16 * mt, lane);
        }
        return;
    }
    __syncwarp(); /* without a turn of the loop no barrier has come since these rows were read as operands */
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) {
        stage_rows<D>(k_tile + mt * (32 * D), w.dk[mt], a.scale, a.scale, lane);
        stage_rows<D>(v_tile + mt * (32 * D), w.dv[mt], 1.f, 1.f, lane);
    }
    __syncwarp();
    int key0 = j.at + group * F::WARP_KEYS;
    store_keys<F>(k_tile, a, j, key0, keys, a.dk + g * a.D, a.k_bytes, lane);
    store_keys<F>(v_tile, a, j, key0, keys, a.dv + g * a.D, a.v_bytes, lane);
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS)
    segment_dkv_kernel(const __grid_constant__ segment_problem<bf16> a) {
    /* Blocks that run at the same time share a part of the rows. */
    int            g = blockIdx.x % a.G, tile = blockIdx.x / a.G % a.n_jobs, part = blockIdx.x / a.G / a.n_jobs;
    const attn_job j = a.job[tile];
    if (j.segment >= 0) dkv_tile<F>(a, j, g, part);
}

/* The same where few blocks take what tiles there are. */
template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS)
    segment_dkv_rest_kernel(const __grid_constant__ segment_problem<bf16> a) {
    for (int at = blockIdx.x; at < a.n_jobs * a.G; at += gridDim.x) {
        int            tile = at / a.G;
        const attn_job j = a.job[tile];
        if (j.segment < 0) return;
        dkv_tile<F>(a, j, at - tile * a.G, 0);
        __syncthreads();
    }
}

template <class F> static void launch_dkv_shape(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    auto kernel = segment_dkv_kernel<F>;
    if constexpr (F::REST)
        if (p->windows) kernel = segment_dkv_rest_kernel<F>;
    p->job = segment_key_jobs(c, a, F::KEYS, &p->n_jobs, !p->windows);
    segment_parts(c, p, a->q->dim[0], F::KEYS);
    int64_t blocks = (int64_t)p->n_jobs * p->G * p->parts;
    CHECK(blocks < (int64_t)1 << 31, "attn_segment_bwd: %lld blocks", (long long)blocks);
    allow_shared(c, kernel, F::BYTES, "attn_segment_bwd");
    kernel<<<tile_blocks(c, p->windows, blocks, F::BLOCKS), F::THREADS, F::BYTES, stream_of(c)>>>(*p);
    LAUNCHED(c);
    segment_add_parts(c, *p);
}

template <int D, int MT> static void launch_dkv(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    if (p->wide)
        launch_dkv_shape<dkv_shape<D, MT, true>>(c, p, a);
    else
        launch_dkv_shape<dkv_shape<D, MT, false>>(c, p, a);
}

void segment_dkv(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    bool groups = by_warpgroups(c, *p, a->q->dim[0]);
    if (groups && p->D <= 32) return launch_dkv_shape<dkv_shape<32, 1, true, true>>(c, p, a);
    if (groups) return launch_dkv_shape<dkv_shape<64, 1, true, true>>(c, p, a);
    if (p->D <= 16)
        launch_dkv<16, 2>(c, p, a);
    else if (p->D <= 32)
        launch_dkv<32, 2>(c, p, a);
    else if (p->D <= 64)
        launch_dkv<64, 1>(c, p, a);
    else
        launch_dkv<128, 1>(c, p, a);
}
