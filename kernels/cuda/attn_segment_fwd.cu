/* Attention inside segments, forward, bf16: a block has a tile of rows of one key head and walks over the keys of the
 * segment. Scores, softmax and the sum of values stay in registers; K and V pass through a ring in shared memory.
 * Long segments on Hopper whose keys fit into shared memory go to attn_segment_held.cu. */
#include "kernels/cuda/attn_segment_fwd.cuh"

template <int D_, int WARPS_, int MT_, bool WIDE_, bool WGMMA_ = false> struct fwd_shape {
    static constexpr bool WIDE = WIDE_, WGMMA = WGMMA_;
    static constexpr int  D = D_, WARPS = WARPS_, MT = MT_; /* a warp has MT tiles of 16 rows */
    static constexpr int  THREADS = 32 * WARPS, WARP_ROWS = 16 * MT, ROWS = WARPS * WARP_ROWS;
    static constexpr int  KEYS = WGMMA ? 128 : 64, STEP = 64; /* of a tile; of a warpgroup's products */
    static constexpr int  STAGES = D > 64 ? 2 : 3, AHEAD = STAGES - 1;
    static constexpr int  TILE = KEYS * D * 2, STAGE = 2 * TILE; /* bytes: K, then V */
    static constexpr int  BYTES = ROWS * D * 2 + STAGES * STAGE;
    /* Blocks on a multiprocessor: registers for 16 warps at D <= 32 (128 each), for 12 at 64 (168), for 8 above. */
    static constexpr int  BLOCKS = (D <= 32 ? 16 : D <= 64 ? 12 : 8) / WARPS;
};

/* Weights of the bounded form; keys from n on get 0. */
template <class F, int NT, bool CUT>
__device__ __forceinline__ void weigh_bounded(fwd_rows<F> &w, float (&s)[F::MT][NT][4], float c, int n, int quad) {
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = exp2_fast(s[mt][nt][i] * c);
                if (CUT && nt * 8 + quad * 2 + i % 2 >= n) p = 0;
                w.sum[mt][i / 2] += p;
                s[mt][nt][i] = p;
            }
}

/* One tile of keys, of which n are there. The bounded form runs one group of 16 keys' scores ahead of its exponentials,
 * so that tensor cores and the exponential unit have work at the same time. */
template <class F>
__device__ __forceinline__ void walk_bounded(fwd_rows<F> &w, const fwd_offsets<F> &off, uint32_t k_tile, float c, int n,
                                             int quad) {
    uint32_t v_tile = k_tile + F::TILE;
    if (n == F::KEYS) {
        float s[2][F::MT][2][4];
        scores<F, 2>(s[0], w, off, k_tile);
#pragma unroll
        for (int i = 0; i < F::KEYS / 16; i++) {
            if (i + 1 < F::KEYS / 16) scores<F, 2>(s[(i + 1) % 2], w, off, k_tile + (i + 1) * (32 * F::D));
            weigh_bounded<F, 2, false>(w, s[i % 2], c, 16, quad);
            add_values<F, 2>(w, s[i % 2], off, v_tile + i * (32 * F::D));
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i * 16 < n; i++) {
        float s[F::MT][2][4];
        scores<F, 2>(s, w, off, k_tile + i * (32 * F::D));
        weigh_bounded<F, 2, true>(w, s, c, n - i * 16, quad);
        add_values<F, 2>(w, s, off, v_tile + i * (32 * F::D));
    }
}

/* STEP keys of the bounded form in a warpgroup: scores, their weights, the sum of values. */
template <class F>
__device__ __forceinline__ void group_scores(float (&s)[F::STEP / 8][4], const fwd_rows<F> &w, uint64_t k, int key) {
    wgmma_begin();
    group_product<F::D>(s, w.q[0], k, key);
    wgmma_commit();
}
template <class F, bool CUT>
__device__ __forceinline__ void group_weigh(fwd_rows<F> &w, float (&s)[F::STEP / 8][4], uint32_t (&p)[F::STEP / 16][4],
                                            float c, int n, int quad) {
    pin(s);
#pragma unroll
    for (int nt = 0; nt < F::STEP / 8; nt++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float y = exp2_fast(s[nt][i] * c);
            if (CUT && nt * 8 + quad * 2 + i % 2 >= n) y = 0;
            w.sum[0][i / 2] += y;
            s[nt][i] = y;
        }
        p[nt / 2][nt % 2 * 2] = pack_bf16(s[nt][0], s[nt][1]);
        p[nt / 2][nt % 2 * 2 + 1] = pack_bf16(s[nt][2], s[nt][3]);
    }
}
template <class F>
__device__ __forceinline__ void group_values(fwd_rows<F> &w, uint32_t (&p)[F::STEP / 16][4], uint64_t v, int key) {
    pin(p);
    wgmma_begin();
    group_sum<F::D>(w.o[0], p, v, key);
    wgmma_commit();
}

/* walk_bounded with products of a warpgroup: scores run one step ahead, the sums of values up to one behind. */
template <class F>
__device__ __forceinline__ void group_bounded(fwd_rows<F> &w, uint32_t k_tile, float c, int n, int quad) {
    uint64_t k = wgmma_tile<F::D>(k_tile), v = wgmma_tile<F::D>(k_tile + F::TILE);
    if (n == F::KEYS) {
        constexpr int COUNT = F::KEYS / F::STEP;
        float         s[2][F::STEP / 8][4];
        uint32_t      p[2][F::STEP / 16][4];
        group_scores(s[0], w, k, 0);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (i + 1 < COUNT) {
                group_scores(s[(i + 1) % 2], w, k, (i + 1) * F::STEP);
                if (i > 0)
                    wgmma_wait<2>(); /* the sums of the step before may go on */
                else
                    wgmma_wait<1>();
            } else {
                wgmma_wait<1>();
            }
            group_weigh<F, false>(w, s[i % 2], p[i % 2], c, F::STEP, quad);
            group_values(w, p[i % 2], v, i * F::STEP);
        }
        wgmma_wait<0>();
        pin(w.o[0]);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < n; i += F::STEP) {
        float    s[F::STEP / 8][4];
        uint32_t p[F::STEP / 16][4];
        group_scores(s, w, k, i);
        wgmma_wait<0>();
        group_weigh<F, true>(w, s, p, c, n - i, quad);
        group_values(w, p, v, i);
        wgmma_wait<0>();
        pin(w.o[0]);
    }
}

/* out, through the warp's room at `own`, and lse of the warp's n_rows rows. */
template <class F>
__device__ __forceinline__ void write_rows(const fwd_rows<F> &w, const segment_problem<bf16> &a, const attn_job &j,
                                           int g, int row0, int n_rows, uint32_t own, int lane) {
    /* Each of a row's four lanes has its part of the sums. Lane `quad` then writes lse of row 8*quad + lane/4. */
    constexpr int D = F::D;
    int           quad = lane % 4;
    float         sum = 0, most = 0;
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) {
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = quad_sum(w.sum[mt][half]);
            inverse[half] = j.keys ? __fdividef(1.f, all) : 0;
            if (quad == 2 * mt + half) {
                sum = all;
                most = w.max[mt][half];
            }
        }
        stage_rows<D>(own + mt * (32 * D), w.o[mt], inverse[0], inverse[1], lane);
    }
    int r = 8 * quad + lane / 4;
    if (quad < 2 * F::MT && r < n_rows) {
        query_row at = query_row_at(a, j, g, row0 + r);
        a.lse[(int64_t)at.n * a.H + at.h] = j.keys ? most * fabsf(a.scale) + logf(sum) : -INFINITY;
    }
    __syncwarp();
    store_query_rows<D, F::WARP_ROWS, F::WIDE>(own, a, j, g, row0, n_rows, a.out, a.o_bytes);
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS)
    segment_fwd_kernel(const __grid_constant__ segment_problem<bf16> a) {
    constexpr int     D = F::D;
    extern __shared__ __align__(1024) unsigned char segment_shared[];
    int                                             tile = blockIdx.x / a.G, g = blockIdx.x - tile * a.G;
    const attn_job                                  j = a.job[tile];
    if (j.segment < 0) return;
    int      warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane % 4;
    int      row0 = j.at + warp * F::WARP_ROWS, n_rows = min(j.rows - row0, F::WARP_ROWS); /* n_rows <= 0: none */
    uint32_t own = smem_addr(segment_shared) + warp * (F::WARP_ROWS * D * 2);
    uint32_t ring = smem_addr(segment_shared) + F::ROWS * D * 2;

    /* A warp loads its own rows, keeps them as A operands, and puts its result into their place at the end. */
    load_query_rows<D, F::WARP_ROWS, F::WIDE>(own, a, j, g, row0, n_rows, a.q, a.q_bytes);
    cp_async_commit();

    key_ring<F> keys(a, j, g, ring);
    keys.begin(j.keys);

    fwd_rows<F> w;
    cp_async_wait<F::AHEAD>();
    __syncwarp();
    take_rows(w, a, own, lane);
    const fwd_offsets<F> off = key_offsets<F>(lane);
    float                c = fabsf(a.scale) * LOG2_E;
    /* With few keys, the rounded weights should be exact where a key is alone: the running form makes the largest 1. */
    bool bounded = j.keys > F::KEYS && __syncthreads_and(c * c * largest_norm(w) * __uint_as_float(a.key_bound[g]) <=
                                                         BOUND_LOG2 * BOUND_LOG2);
    bounded = __all_sync(0xffffffffu, bounded); /* a vote: the compiler sees that warps do not part here */
    if (bounded) {
        for (int left = j.keys; left > 0; left -= F::KEYS) {
            keys.wait();
            keys.follow(left);
            uint32_t tile = keys.take();
            if constexpr (F::WGMMA && HAS_WGMMA)
                group_bounded(w, tile, c, min(left, F::KEYS), quad);
            else if (n_rows > 0)
                walk_bounded(w, off, tile, c, min(left, F::KEYS), quad);
        }
    } else {
        begin_running(w);
        for (int left = j.keys; left > 0; left -= F::KEYS) {
            keys.wait();
            keys.follow(left);
            uint32_t tile = keys.take();
            if (n_rows > 0) walk_running(w, off, tile, c, min(left, F::KEYS), quad);
        }
    }
    if (n_rows <= 0) return;

    __syncwarp(); /* without a turn of the loop no barrier has come since these rows were read as operands */
    write_rows(w, a, j, g, row0, n_rows, own, lane);
}

template <class F> static void launch_fwd_shape(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    p->job = segment_row_jobs(c, a, F::ROWS, &p->n_jobs);
    allow_shared(c, segment_fwd_kernel<F>, F::BYTES, "attn_segment_fwd");
    segment_fwd_kernel<F><<<(unsigned)p->n_jobs *(unsigned)p->G, F::THREADS, F::BYTES, stream_of(c)>>>(*p);
    LAUNCHED(c);
}

template <int D, int WARPS, int MT>
static void launch_fwd(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    if (p->wide)
        launch_fwd_shape<fwd_shape<D, WARPS, MT, true>>(c, p, a);
    else
        launch_fwd_shape<fwd_shape<D, WARPS, MT, false>>(c, p, a);
}

/* Rows of a warp: 32 where registers allow, since what ldmatrix brings then serves two products, and shared memory is
 * not the limit. Rows of a block: more for long segments, where each K and V tile is read once a block. */
void segment_fwd(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    p->key_bound = segment_key_bound(c, *p, a->k->dim[0]);
    if (segment_held(c, p, a->q->dim[0])) return;
    bool tall = a->q->dim[0] * p->hs >= 4096 * (int64_t)p->S;
    if (by_warpgroups(c, *p, a->q->dim[0]) && p->D <= 32)
        launch_fwd_shape<fwd_shape<32, 8, 1, true, true>>(c, p, a);
    else if (p->D <= 16)
        launch_fwd<16, 4, 2>(c, p, a);
    else if (p->D <= 32 && p->wide && tall)
        launch_fwd_shape<fwd_shape<32, 8, 2, true>>(c, p, a);
    else if (p->D <= 32)
        launch_fwd<32, 4, 2>(c, p, a);
    else if (p->D <= 64)
        launch_fwd<64, 4, 2>(c, p, a);
    else
        launch_fwd<128, 4, 1>(c, p, a);
}
