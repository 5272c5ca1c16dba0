/* Attention inside segments, backward, bf16, first half: dq by tiles of rows, walking over keys as forward does.
 *   P = 2^(scale log2 e <q,k> - lse log2 e),  dP = <dout, v>,  dS = P (dP - delta),  dq = scale sum dS k,
 * delta = <dout, out>. What a row needs, lse log2 e and delta, is left in `stat` for the second half, if the caller did
 * not give it. */
#include "kernels/cuda/attn_segment.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;

template <int D_, int MT_, bool WIDE_, bool WGMMA_ = false> struct dq_shape {
    static constexpr bool WIDE = WIDE_, WGMMA = WGMMA_;
    static constexpr bool REST = D_ == 32 && WIDE && !WGMMA; /* segments that are no windows are left to it */
    static constexpr int  D = D_, MT = MT_;                  /* a warp has MT tiles of 16 rows */
    static constexpr int  WARPS = WGMMA ? 8 : 4, THREADS = 32 * WARPS, WARP_ROWS = 16 * MT, ROWS = WARPS * WARP_ROWS;
    static constexpr int  KEYS = WGMMA ? 128 : 64, STEP = 32; /* of a tile; of a warpgroup's products */
    static constexpr int  STAGES = WGMMA ? 4 : D > 64 ? 2 : 3;
    static constexpr int  AHEAD = WGMMA ? 2 : STAGES - 1; /* stages on their way; sums that run read the one before */
    static constexpr int  TILE = KEYS * D * 2, STAGE = 2 * TILE; /* bytes: K, then V */
    static constexpr int  OWN = ROWS * D * 2;                    /* bytes of the rows' q or dout */
    static constexpr int  BYTES = 2 * OWN + STAGES * STAGE;
    /* 128 or 255 registers by warpgroups, 168 or 255 without. */
    static constexpr int  BLOCKS = WGMMA ? (D <= 32 ? 2 : 1) : D <= 32 ? 3 : 2;
    static_assert(OWN <= STAGE, "out waits in the stage of the ring that is filled last");
};

/* What a warp knows of its rows. Row lane/4 + 8*half + 16*mt has index [mt][half]. */
template <class F> struct dq_rows {
    uint32_t q[F::MT][F::D / 16][4], dout[F::MT][F::D / 16][4];
    float    dq[F::MT][F::D / 8][4];
    float    lse[F::MT][2], delta[F::MT][2]; /* lse times log2 e */
};

/* lse log2 e and <dout, out> of the warp's rows, also for `stat`. The products go through the tensor cores in the order
 * in which dP's do: where one key is alone, out = v, and dS = P (dP - delta) is 0, not a rounding. Of the products of
 * all rows with all rows only the diagonal is of use; row r's lies in lane 4r + r/2. */
template <class F>
__device__ __forceinline__ void find_stat(dq_rows<F> &w, const segment_problem<bf16> &a, const attn_job &j, int g,
                                          int row0, int n_rows, uint32_t out, const uint32_t (&n_rows_of)[F::D / 16]) {
    int lane = threadIdx.x % 32, r = lane / 4, quad = lane % 4, mine = 8 * quad + r; /* the row that this lane writes */
    float delta = 0, lse = 0; /* of that row; where there is none, dout = 0 makes dS = 0 */
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) {
        float x[2][4];
#pragma unroll
        for (int step = 0; step < F::D / 16; step++) {
            uint32_t b[4];
            ldmatrix_x4(b, out + mt * (32 * F::D) + n_rows_of[step]);
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (step == 0)
                    mma_bf16(x[i], w.dout[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                else
                    mma_bf16(x[i], w.dout[mt][step], b[2 * i], b[2 * i + 1]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float own = r % 2 ? x[half][2 * half + 1] : x[half][2 * half];
            w.delta[mt][half] = __shfl_sync(0xffffffffu, own, r * 4 + r / 2);
            if (quad == 2 * mt + half) delta = w.delta[mt][half];
        }
    }
    if (quad < 2 * F::MT && mine < n_rows) {
        query_row at = query_row_at(a, j, g, row0 + mine);
        int64_t   to = (int64_t)at.n * a.H + at.h;
        lse = a.lse[to] * LOG2_E;
        a.stat[to] = float2{lse, -delta};
    }
#pragma unroll
    for (int i = 0; i < 2 * F::MT; i++) w.lse[i / 2][i % 2] = __shfl_sync(0xffffffffu, lse, lane - quad + i);
}

/* dq += dS k for 16 keys, of which n are there if CUT; the keys lie at `k`, their values at `v`. */
template <class F, bool CUT>
__device__ __forceinline__ void walk_keys(dq_rows<F> &w, uint32_t k, uint32_t v, const uint32_t (&n_rows_of)[F::D / 16],
                                          const uint32_t (&k_rows_of)[F::D / 16], float c, int n, int quad) {
    float s[F::MT][2][4], dp[F::MT][2][4];
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4(b, k + n_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (step == 0)
                    mma_bf16(s[mt][i], w.q[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                else
                    mma_bf16(s[mt][i], w.q[mt][step], b[2 * i], b[2 * i + 1]);
    }
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4(b, v + n_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (step == 0)
                    mma_bf16(dp[mt][i], w.dout[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                else
                    mma_bf16(dp[mt][i], w.dout[mt][step], b[2 * i], b[2 * i + 1]);
    }
    uint32_t ds[F::MT][4];
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int nt = 0; nt < 2; nt++) {
            float x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = exp2_fast(s[mt][nt][i] * c - w.lse[mt][i / 2]) * (dp[mt][nt][i] - w.delta[mt][i / 2]);
                if (CUT && nt * 8 + quad * 2 + i % 2 >= n) x[i] = 0;
            }
            ds[mt][2 * nt] = pack_bf16(x[0], x[1]);
            ds[mt][2 * nt + 1] = pack_bf16(x[2], x[3]);
        }
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, k + k_rows_of[step]);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            mma_bf16(w.dq[mt][2 * step], ds[mt], b[0], b[1]);
            mma_bf16(w.dq[mt][2 * step + 1], ds[mt], b[2], b[3]);
        }
    }
}

/* The same for STEP keys from `key` on by a warpgroup. meanwhile() runs under the first products, and the sum of dq is
 * left running: it reads the tile until the next wgmma_wait<0>. */
template <class F, bool CUT, class M>
__device__ __forceinline__ void group_keys(dq_rows<F> &w, uint64_t k, uint64_t v, int key, float c, int n, int quad,
                                           const M &meanwhile) {
    float    s[F::STEP / 8][4], dp[F::STEP / 8][4];
    uint32_t ds[F::STEP / 16][4];
    group_products<F::D>(s, w.q[0], k, dp, w.dout[0], v, key);
    meanwhile();
    wgmma_wait<0>();
    pin(s);
    pin(dp);
#pragma unroll
    for (int nt = 0; nt < F::STEP / 8; nt++) {
        float x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[i] = exp2_fast(s[nt][i] * c - w.lse[0][i / 2]) * (dp[nt][i] - w.delta[0][i / 2]);
            if (CUT && nt * 8 + quad * 2 + i % 2 >= n) x[i] = 0;
        }
        ds[nt / 2][nt % 2 * 2] = pack_bf16(x[0], x[1]);
        ds[nt / 2][nt % 2 * 2 + 1] = pack_bf16(x[2], x[3]);
    }
    pin(ds);
    wgmma_begin();
    group_sum<F::D>(w.dq[0], ds, k, key);
    wgmma_commit();
}

/* The same from the caller. */
template <class F>
__device__ __forceinline__ void take_stat(dq_rows<F> &w, const segment_problem<bf16> &a, const attn_job &j, int g,
                                          int row0, int n_rows) {
#pragma unroll
    for (int i = 0; i < 2 * F::MT; i++) {
        int    r = threadIdx.x % 32 / 4 + 8 * i;
        float2 stat = {0, 0};
        if (r < n_rows) {
            query_row at = query_row_at(a, j, g, row0 + r);
            stat = a.given[(int64_t)at.n * a.H + at.h];
        }
        w.lse[i / 2][i % 2] = stat.x, w.delta[i / 2][i % 2] = -stat.y;
    }
}

/* One tile of keys, of which n are there. */
template <class F, class M>
__device__ __forceinline__ void group_tile(dq_rows<F> &w, uint32_t k_tile, float c, int n, int quad,
                                           const M &meanwhile) {
    uint64_t k = wgmma_tile<F::D>(k_tile), v = wgmma_tile<F::D>(k_tile + F::TILE);
    auto     nothing = [] {};
    if (n == F::KEYS) {
        group_keys<F, false>(w, k, v, 0, c, F::STEP, quad, meanwhile);
#pragma unroll
        for (int i = F::STEP; i < F::KEYS; i += F::STEP) group_keys<F, false>(w, k, v, i, c, F::STEP, quad, nothing);
    } else {
        int i = 0;
#pragma unroll 1
        for (; i + F::STEP <= n; i += F::STEP) group_keys<F, false>(w, k, v, i, c, F::STEP, quad, nothing);
        if (i < n) group_keys<F, true>(w, k, v, i, c, n - i, quad, nothing);
    }
}

template <class F> __device__ __forceinline__ void dq_tile(const segment_problem<bf16> &a, const attn_job &j, int g) {
    constexpr int     D = F::D;
    extern __shared__ __align__(1024) unsigned char segment_shared[];
    int                                             warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane % 4;
    int      row0 = j.at + warp * F::WARP_ROWS, n_rows = min(j.rows - row0, F::WARP_ROWS); /* n_rows <= 0: none */
    uint32_t q_tile = smem_addr(segment_shared) + warp * (F::WARP_ROWS * D * 2), dout_tile = q_tile + F::OWN;
    uint32_t ring = smem_addr(segment_shared) + 2 * F::OWN;
    uint32_t out_tile = ring + (F::STAGES - 1) * F::STAGE + warp * (F::WARP_ROWS * D * 2);

    load_query_rows<D, F::WARP_ROWS, F::WIDE>(q_tile, a, j, g, row0, n_rows, a.q, a.q_bytes);
    load_query_rows<D, F::WARP_ROWS, F::WIDE>(dout_tile, a, j, g, row0, n_rows, a.dout, a.o_bytes);
    if (!a.given) load_query_rows<D, F::WARP_ROWS, F::WIDE>(out_tile, a, j, g, row0, n_rows, a.out, a.o_bytes);
    cp_async_commit();
    key_ring<F> keys(a, j, g, ring);
    keys.begin(j.keys);

    cp_async_wait<F::AHEAD>();
    __syncwarp();
    dq_rows<F> w;
    uint32_t   n_rows_of[D / 16], k_rows_of[D / 16]; /* ldmatrix where the tile's rows are a product's n, or its k */
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        n_rows_of[step] = matrix_offset<D>(lane, step, false);
        k_rows_of[step] = matrix_offset<D>(lane, step, true);
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++) {
            ldmatrix_x4(w.q[mt][step], q_tile + mt * (32 * D) + k_rows_of[step]);
            ldmatrix_x4(w.dout[mt][step], dout_tile + mt * (32 * D) + k_rows_of[step]);
        }
    }
    if (a.given)
        take_stat(w, a, j, g, row0, n_rows);
    else
        find_stat(w, a, j, g, row0, n_rows, out_tile, n_rows_of);
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int dt = 0; dt < D / 8; dt++)
#pragma unroll
            for (int i = 0; i < 4; i++) w.dq[mt][dt][i] = 0;

    float c = a.scale * LOG2_E;
    for (int left = j.keys; left > 0; left -= F::KEYS) {
        keys.wait();
        uint32_t k = keys.take(), v = k + F::TILE;
        if constexpr (F::WGMMA && HAS_WGMMA) {
            group_tile(w, k, c, min(left, F::KEYS), quad, [&] { keys.follow(left); });
            continue;
        }
        keys.follow(left);
        if (n_rows <= 0) continue;
        if (left >= F::KEYS) {
#pragma unroll
            for (int i = 0; i < F::KEYS / 16; i++)
                walk_keys<F, false>(w, k + i * (32 * D), v + i * (32 * D), n_rows_of, k_rows_of, c, 16, quad);
        } else {
#pragma unroll 1
            for (int i = 0; i * 16 < left; i++)
                walk_keys<F, true>(w, k + i * (32 * D), v + i * (32 * D), n_rows_of, k_rows_of, c, left - i * 16, quad);
        }
    }
    if constexpr (F::WGMMA && HAS_WGMMA) {
        wgmma_wait<0>();
        pin(w.dq[0]);
    }
    if (n_rows <= 0) return;
    __syncwarp(); /* without a turn of the loop no barrier has come since these rows were read as operands */
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) stage_rows<D>(q_tile + mt * (32 * D), w.dq[mt], a.scale, a.scale, lane);
    __syncwarp();
    store_query_rows<D, F::WARP_ROWS, F::WIDE>(q_tile, a, j, g, row0, n_rows, a.dq, a.q_bytes, a.dq_add);
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS)
    segment_dq_kernel(const __grid_constant__ segment_problem<bf16> a) {
    int            tile = blockIdx.x / a.G;
    const attn_job j = a.job[tile];
    if (j.segment >= 0) dq_tile<F>(a, j, blockIdx.x - tile * a.G);
}

/* The same where few blocks take what tiles there are. */
template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS)
    segment_dq_rest_kernel(const __grid_constant__ segment_problem<bf16> a) {
    for (int at = blockIdx.x; at < a.n_jobs * a.G; at += gridDim.x) {
        int            tile = at / a.G;
        const attn_job j = a.job[tile];
        if (j.segment < 0) return;
        dq_tile<F>(a, j, at - tile * a.G);
        __syncthreads();
    }
}

template <class F> static void launch_dq_shape(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    auto kernel = segment_dq_kernel<F>;
    if constexpr (F::REST)
        if (p->windows) kernel = segment_dq_rest_kernel<F>;
    p->job = segment_row_jobs(c, a, F::ROWS, &p->n_jobs, !p->windows);
    allow_shared(c, kernel, F::BYTES, "attn_segment_bwd");
    kernel<<<tile_blocks(c, p->windows, (int64_t)p->n_jobs * p->G, F::BLOCKS), F::THREADS, F::BYTES, stream_of(c)>>>(
        *p);
    LAUNCHED(c);
}

template <int D, int MT> static void launch_dq(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    if (p->wide)
        launch_dq_shape<dq_shape<D, MT, true>>(c, p, a);
    else
        launch_dq_shape<dq_shape<D, MT, false>>(c, p, a);
}

void segment_dq(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    bool groups = by_warpgroups(c, *p, a->q->dim[0]);
    if (groups && p->D <= 32) return launch_dq_shape<dq_shape<32, 1, true, true>>(c, p, a);
    if (groups) return launch_dq_shape<dq_shape<64, 1, true, true>>(c, p, a);
    if (p->D <= 16)
        launch_dq<16, 2>(c, p, a);
    else if (p->D <= 32)
        launch_dq<32, 2>(c, p, a);
    else if (p->D <= 64)
        launch_dq<64, 2>(c, p, a);
    else
        launch_dq<128, 1>(c, p, a);
}
