/* Attention inside segments, backward of long segments on Hopper, bf16, heads of 32 columns: dq, dk and dv by one
 * kernel. Each score is exponentiated once and takes part in five products; dq and dkv by kernels of their own need
 * seven products and two exponentials.
 *
 * A block has a key head and a part of a segment's rows, and takes the keys in chunks of up to KEYS. Three warpgroups
 * have up to two tiles of 64 keys each, k and v in registers, where dk and dv of the chunk add up over all rows:
 *   S = K Q^T, P = 2^(c S - lse), dP = V dout^T, dS = P (dP - delta), dv += P dout, dk += dS q.
 * dS goes to shared memory as well, where the products dq = dS K of a tile of rows take it, over all keys of the chunk:
 * by one warpgroup, in turn, behind its own share of the next tile. From chunk to chunk dq waits in one of two forms
 * (attn_segment_fused.cuh); the last chunk adds its own and writes the result. So every sum has one order, whoever is
 * first.
 *
 *   tile of rows                        0  1  2  3
 *   buffer of dS, warpgroup that has dq 0  1  2  0 ...
 *
 * Warpgroups meet only at barriers that count arrivals and may be a tile apart. Registers bound the form (168, up to
 * 144 of them in products): what all threads know lies in shared memory, and dP of a step waits for the sums of the
 * step before, whose P and dS leave their registers to it. The compiler must not warn of wgmma being serialised
 * (-Xptxas -v: C7510 to C7520, but for C7519), which costs a quarter. */
#include "kernels/cuda/attn_segment_fused.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;

struct fused_keys {
    uint32_t k[2][4], v[2][4];
    float    dk[4][4], dv[4][4];
};

/* Starts the copies of a tile of rows: a chunk of q and of dout by each of 256 threads, stat by 64 others. Rows that
 * are not there are zeros and add nothing. */
__device__ __forceinline__ void load_rows(const segment_problem<bf16> &a, uint32_t shared, int tile) {
    typedef fused F;
    int           t = threadIdx.x;
    if (t >= 256 + F::ROWS) return;
    uint32_t stage = shared + F::RING_AT + tile % F::STAGES * F::STAGE;
    int      r = OF_BLOCK(row0) + tile * F::ROWS + (t < 256 ? t / 4 : t - 256), end = OF_BLOCK(end);
    bool     there = r < end;
    r = min(r, end - 1);
    int query = divide(r, a.by_hs), h = blockIdx.x % a.G * a.hs + r - query * a.hs, n = OF_BLOCK(q0) + query;
    if (t < 256) {
        int      col = h * F::D + t % 4 * 8;
        uint32_t to = stage + tile_chunk<F::D>(t / 4, t % 4);
        cp_async_16(to, row_at(a.q, n, a.q_bytes) + col, there ? 16 : 0);
        cp_async_16(to + F::TILE, row_at(a.dout, n, a.o_bytes) + col, there ? 16 : 0);
    } else
        cp_async_8(stage + 2 * F::TILE + (t - 256) * 8, a.stat + (int64_t)n * a.H + h, there ? 8 : 0);
}

/* P of the scores, which stays in s as well. st: {lse, delta} of two rows. */
__device__ __forceinline__ void step_weights(float (&s)[4][4], uint32_t (&p)[2][4], const float4 (&st)[4], float c) {
#pragma unroll
    for (int nt = 0; nt < 4; nt++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[nt][e] = exp2_fast(s[nt][e] * c - (e % 2 ? st[nt].z : st[nt].x));
        p[nt / 2][nt % 2 * 2] = pack_bf16(s[nt][0], s[nt][1]);
        p[nt / 2][nt % 2 * 2 + 1] = pack_bf16(s[nt][2], s[nt][3]);
    }
}

/* dS from P in s, to ds and to shared memory; of keys that are not there 0, whatever P is. `cut`: there are such. */
__device__ __forceinline__ void step_ds(const float (&s)[4][4], float (&dp)[4][4], uint32_t (&ds)[2][4],
                                        const float4 (&st)[4], uint32_t ds_at, bool cut, int m, uint32_t shared) {
#pragma unroll
    for (int nt = 0; nt < 4; nt++) {
#pragma unroll
        for (int e = 0; e < 4; e++) dp[nt][e] = s[nt][e] * (dp[nt][e] + (e % 2 ? st[nt].w : st[nt].y));
        ds[nt / 2][nt % 2 * 2] = pack_bf16(dp[nt][0], dp[nt][1]);
        ds[nt / 2][nt % 2 * 2 + 1] = pack_bf16(dp[nt][2], dp[nt][3]);
    }
    if (cut) {
        int left = OF_BLOCK(n_keys) - 64 * ((int)threadIdx.x / 128 + fused::GROUPS * m);
        int key = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (key + i % 2 * 8 >= left) ds[0][i] = ds[1][i] = 0;
    }
    stmatrix_x4(ds_at, ds[0]);
    stmatrix_x4(ds_at ^ 32, ds[1]);
}

/* dq of a tile of rows by one warpgroup, when all have left their dS of it in `buffer`. */
template <class FORM>
__device__ __forceinline__ void tile_dq(const segment_problem<bf16> &a, uint32_t shared, int tile, int buffer,
                                        int parity) {
    typedef fused          F;
    fused_bars             bars = {shared + F::BARS_AT};
    bool                   first = OF_BLOCK(first_chunk), last = OF_BLOCK(last_chunk);
    int                    key_tiles = OF_BLOCK(key_tiles);
    float                  even[4][4], odd[4][4];
    typename FORM::waiting dq;
    dq.fetch(a, shared, tile, first);
    mbarrier_wait(bars.ds_full(buffer), parity);

    uint64_t ds = wgmma_tile<64>(shared + buffer * F::DS), k = wgmma_tile<F::D>(shared + F::K_AT);
    wgmma_begin();
    wgmma_set_shared(even, ds, k);
    wgmma_set_shared(odd, b_rows_k<64>(ds, 16), b_rows_k<F::D>(k, 16));
    wgmma_add_shared(even, b_rows_k<64>(ds, 32), b_rows_k<F::D>(k, 32));
    wgmma_add_shared(odd, b_rows_k<64>(ds, 48), b_rows_k<F::D>(k, 48));
#pragma unroll 1
    for (int t = 1; t < key_tiles; t++) {
        ds = b_rows_k<64>(ds, 64), k = b_rows_k<F::D>(k, 64);
#pragma unroll
        for (int i = 0; i < 64; i += 32) {
            wgmma_add_shared(even, b_rows_k<64>(ds, i), b_rows_k<F::D>(k, i));
            wgmma_add_shared(odd, b_rows_k<64>(ds, i + 16), b_rows_k<F::D>(k, i + 16));
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(even);
    pin(odd);
    mbarrier_arrive_warp(bars.ds_free(buffer));
    dq.finish(a, shared, tile, even, odd, first, last);
    if (!last) return;
    int      lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t out_tile = shared + F::OUT_AT + warp * (32 * F::D);
    attn_job j;
    j.q0 = OF_BLOCK(q0);
    int row0 = OF_BLOCK(row0) + tile * F::ROWS + warp % 4 * 16;
    __syncwarp();
    stage_rows<F::D>(out_tile, even, a.scale, a.scale, lane);
    __syncwarp();
    store_query_rows<F::D, 16, true>(out_tile, a, j, blockIdx.x % a.G, row0, OF_BLOCK(end) - row0, a.dq, a.q_bytes);
}

/* Where a warpgroup is: tile of rows, buffer of dS and its phase. */
struct fused_place {
    int                             tile, buffer, parity;
    __device__ __forceinline__ int  buffer_before() const { return buffer == 0 ? fused::BUFFERS - 1 : buffer - 1; }
    __device__ __forceinline__ int  parity_before() const { return parity ^ (buffer == 0); }
    __device__ __forceinline__ void next() {
        tile++;
        if (++buffer == fused::BUFFERS) buffer = 0, parity ^= 1;
    }
};

template <int N> __device__ __forceinline__ void pin_sums(fused_keys (&w)[fused::MT]) {
#pragma unroll
    for (int m = 0; m < N; m++) pin(w[m].dk), pin(w[m].dv);
}

/* S of the 32 rows from `row` on, to be committed. */
__device__ __forceinline__ void start_scores(float (&s)[4][4], const fused_keys &w, uint64_t q, int row) {
    wgmma_set<false>(s, w.k[0], b_rows_n<fused::D>(q, row, 0));
    wgmma_add<false>(s, w.k[1], b_rows_n<fused::D>(q, row, 1));
}

/* All tiles of rows for N tiles of the warpgroup's keys. cut: bits of tiles with keys that are not there; ds_at: this
 * lane's place in dS of tile 0, buffer 0; stat_at: in stat of stage 0. */
template <class FORM, int N>
__device__ __forceinline__ void walk_rows(const segment_problem<bf16> &a, uint32_t shared, int group,
                                          fused_keys (&w)[fused::MT], fused_place &at, int cut, uint32_t ds_at,
                                          uint32_t stat_at, float c) {
    typedef fused F;
    fused_bars    bars = {shared + F::BARS_AT};
    int           first = OF_BLOCK(first), past = OF_BLOCK(past);
#pragma unroll 1
    for (; at.tile < past; at.next()) {
        int      tile = at.tile;
        uint32_t q_at = shared + F::RING_AT + tile % F::STAGES * F::STAGE;
        uint64_t q = wgmma_tile<F::D>(q_at), dout = wgmma_tile<F::D>(q_at + F::TILE);
        uint32_t stat = stat_at + tile % F::STAGES * F::STAGE, ds_tile = ds_at + at.buffer * F::DS;
        bool     my_turn = at.buffer_before() == group; /* to do dq of the tile before */
        float    s[4][4];
        mbarrier_wait(bars.rows_full(tile), tile / F::STAGES & 1);
        mbarrier_wait(bars.ds_free(at.buffer), at.parity ^ 1);
        wgmma_begin();
        start_scores(s, w[0], q, 0);
        wgmma_commit();
        /* Under the products. The fence is for the copies that have come, and for dS of the tile before. */
        cp_async_wait<0>();
        shared_for_wgmma();
        __syncwarp();
        if (arrives_for_warp()) {
            if (tile + 1 < past) mbarrier_arrive(bars.rows_full(tile + 1));
            if (tile > first) mbarrier_arrive(bars.ds_full(at.buffer_before()));
        }
#pragma unroll
        for (int x = 0; x < 2 * N; x++) {
            int      row = x / N * F::STEP, m = x % N;
            float    dp[4][4];
            float4   st[4];
            uint32_t p[2][4], ds[2][4];
            if (x == 1 && tile + F::AHEAD < past) {
                mbarrier_wait(bars.rows_free(tile + F::AHEAD), ((tile + F::AHEAD) / F::STAGES & 1) ^ 1);
                load_rows(a, shared, tile + F::AHEAD);
                cp_async_commit();
            }
#pragma unroll
            for (int nt = 0; nt < 4; nt++) shared_load(stat + (row + nt * 8) * 8, st[nt]);
            wgmma_wait<0>();
            pin(s);
            pin_sums<N>(w);
            wgmma_begin();
            wgmma_set<false>(dp, w[m].v[0], b_rows_n<F::D>(dout, row, 0));
            wgmma_add<false>(dp, w[m].v[1], b_rows_n<F::D>(dout, row, 1));
            wgmma_commit();
            step_weights(s, p, st, c);
            wgmma_wait<0>();
            pin(dp);
            step_ds(s, dp, ds, st, (ds_tile + m * F::GROUPS * F::DS_TILE) ^ (row * 2), cut >> m & 1, m, shared);
            pin(p);
            pin(ds);
            wgmma_begin();
            wgmma_add<true>(w[m].dv, p[0], b_rows_k<F::D>(dout, row));
            wgmma_add<true>(w[m].dk, ds[0], b_rows_k<F::D>(q, row));
            wgmma_add<true>(w[m].dv, p[1], b_rows_k<F::D>(dout, row + 16));
            wgmma_add<true>(w[m].dk, ds[1], b_rows_k<F::D>(q, row + 16));
            if (x + 1 < 2 * N) start_scores(s, w[(x + 1) % N], q, (x + 1) / N * F::STEP);
            wgmma_commit();
        }
        wgmma_wait<0>();
        pin_sums<N>(w);
        mbarrier_arrive_warp(bars.rows_free(tile));
        if (my_turn && tile > first) tile_dq<FORM>(a, shared, tile - 1, at.buffer_before(), at.parity_before());
    }
    if (past > first) {
        shared_for_wgmma();
        mbarrier_arrive_warp(bars.ds_full(at.buffer_before()));
        if (at.buffer_before() == group) tile_dq<FORM>(a, shared, past - 1, at.buffer_before(), at.parity_before());
    }
}

/* The block's chunk number `turn`, slab by slab: k in its place, v in that of dS; false when there is none. */
template <class FORM>
__device__ __forceinline__ bool begin_chunk(const segment_problem<bf16> &a, uint32_t shared, fused_block *block,
                                            const FORM &form, int turn, int tile) {
    typedef fused  F;
    int            g = blockIdx.x % a.G, item = blockIdx.x / a.G % a.n_jobs, part = blockIdx.x / a.G / a.n_jobs;
    const attn_job j = a.job[item];
    int            key_tiles = (j.keys + 63) / 64, chunks = (key_tiles + F::MT * F::GROUPS - 1) / (F::MT * F::GROUPS);
    int            slab = 0, chunk = turn;
    if constexpr (FORM::SLABS) {
        slab = turn / chunks, chunk = turn - slab * chunks;
        if (slab == form.slabs) return false;
    } else if (chunk == chunks)
        return false;
    int t0 = key_tiles * chunk / chunks, tiles = key_tiles * (chunk + 1) / chunks - t0;
    int key0 = t0 * 64, n_keys = min(j.keys - key0, tiles * 64);
    if (threadIdx.x == 0) {
        int64_t n_tiles = (j.rows + F::ROWS - 1) / F::ROWS;
        int     begin = (int)(n_tiles * part / a.parts), past = (int)(n_tiles * (part + 1) / a.parts);
        int64_t place = form.place((int64_t)j.q0 * a.hs / F::ROWS + j.segment + begin, j.segment * a.parts + part);
        if constexpr (FORM::SLABS) {
            int n = past - begin;
            past = begin + n * (slab + 1) / form.slabs;
            begin += n * slab / form.slabs;
            block->slab = slab;
        }
        block->q0 = j.q0;
        block->row0 = (begin - tile) * F::ROWS;
        block->end = min(j.rows, past * F::ROWS);
        block->first = tile;
        block->past = tile + past - begin;
        block->key_tiles = tiles;
        block->n_keys = n_keys;
        block->key0 = j.k0 + key0;
        block->first_chunk = chunk == 0;
        block->last_chunk = chunk == chunks - 1;
        block->waiting = form.scratch + (place * a.G + g) * FORM::WORDS;
    }
    tile_loader<F::D, F::KEYS, F::THREADS, true> move(threadIdx.x, F::D);
    int                                          col = g * F::D + move.col;
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        bool there = move.row_of(i) < n_keys;
        int  row = j.k0 + (there ? key0 + move.row_of(i) : 0);
        move.load(shared + F::K_AT, i, row_at(a.k, row, a.k_bytes) + col, there);
        move.load(shared, i, row_at(a.v, row, a.v_bytes) + col, there);
    }
    cp_async_commit();
    return true;
}

/* dk and dv of the chunk's keys from this block's rows, which add up from slab to slab. */
template <class FORM>
__device__ __forceinline__ void store_sums(const segment_problem<bf16> &a, uint32_t shared, int group,
                                           const fused_keys (&w)[fused::MT]) {
    typedef fused F;
    int           lane = threadIdx.x % 32, g = blockIdx.x % a.G, part = blockIdx.x / a.G / a.n_jobs;
    int           key0 = OF_BLOCK(key0), n_keys = OF_BLOCK(n_keys);
    bool          more = FORM::SLABS && OF_BLOCK(slab) > 0;
#pragma unroll
    for (int m = 0; m < F::MT; m++) {
        int key = 64 * (group + F::GROUPS * m) + threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++, key += 8) {
            if (key >= n_keys) break;
            float *to = a.part + (((int64_t)part * a.n_keys + key0 + key) * a.G + g) * 2 * F::D + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *dk = w[m].dk[i] + 2 * half, *dv = w[m].dv[i] + 2 * half;
                float2      *sum_dk = reinterpret_cast<float2 *>(to + i * 8);
                float2      *sum_dv = reinterpret_cast<float2 *>(to + F::D + i * 8);
                float2       x = {dk[0] * a.scale, dk[1] * a.scale}, y = {dv[0], dv[1]};
                if (FORM::SLABS && more) {
                    x.x += sum_dk->x, x.y += sum_dk->y;
                    y.x += sum_dv->x, y.y += sum_dv->y;
                }
                *sum_dk = x;
                *sum_dv = y;
            }
        }
    }
}

template <class FORM>
__global__ void __launch_bounds__(fused::THREADS, 1)
    segment_fused_kernel(const __grid_constant__ segment_problem<bf16> a, const __grid_constant__ FORM form) {
    if constexpr (HAS_WGMMA) {
        typedef fused     F;
        extern __shared__ __align__(1024) unsigned char segment_shared[];
        uint32_t                                        shared = smem_addr(segment_shared);
        fused_block *block = reinterpret_cast<fused_block *>(segment_shared + F::BLOCK_AT);
        fused_bars   bars = {shared + F::BARS_AT};
        int          group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
        fused_place  at = {0, 0, 0};
        if (a.job[blockIdx.x / a.G % a.n_jobs].segment < 0) return;
        if (threadIdx.x == 0)
            for (int i = 0; i < F::STAGES; i++) {
                mbarrier_init_warps(bars.rows_full(i), F::WARPS);
                mbarrier_init_warps(bars.rows_free(i), F::WARPS);
                if (i >= F::BUFFERS) continue;
                mbarrier_init_warps(bars.ds_full(i), F::WARPS);
                mbarrier_init_warps(bars.ds_free(i), 4);
            }
#pragma unroll 1
        for (int turn = 0; begin_chunk(a, shared, block, form, turn, at.tile); turn++) {
            fused_keys w[F::MT];
            int        lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, cut = 0;
            cp_async_wait<0>();
            shared_for_wgmma();
            __syncthreads();
            int n_keys = OF_BLOCK(n_keys), first = OF_BLOCK(first), past = OF_BLOCK(past);
#pragma unroll
            for (int m = 0; m < F::MT; m++) {
                int      tile = group + F::GROUPS * m;
                uint32_t from = shared + tile * F::KEY_TILE + warp * (32 * F::D);
                if (n_keys < 64 * (tile + 1)) cut |= 1 << m;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    ldmatrix_x4(w[m].k[i], from + F::K_AT + matrix_offset<F::D>(lane, i, true));
                    ldmatrix_x4(w[m].v[i], from + matrix_offset<F::D>(lane, i, true));
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) w[m].dk[i][e] = w[m].dv[i][e] = 0;
            }
#pragma unroll
            for (int t = 0; t < F::AHEAD; t++) {
                if (first + t < past) {
                    mbarrier_wait(bars.rows_free(first + t), ((first + t) / F::STAGES & 1) ^ 1);
                    load_rows(a, shared, first + t);
                }
                cp_async_commit();
            }
            cp_async_wait<F::AHEAD - 1>();
            shared_for_wgmma();
            if (first < past) mbarrier_arrive_warp(bars.rows_full(first));
            __syncthreads(); /* the values' place is dS's */
            /* stmatrix: row lane % 16 of the warp's keys, chunk lane / 16 */
            uint32_t ds_at =
                shared + group * F::DS_TILE + (warp * 16 + lane % 16) * (F::ROWS * 2) + ((lane / 16 ^ lane % 8) << 4);
            uint32_t stat_at = shared + F::RING_AT + 2 * F::TILE + lane % 4 * 16;
            if (n_keys > 64 * (group + F::GROUPS))
                walk_rows<FORM, F::MT>(a, shared, group, w, at, cut, ds_at, stat_at, a.scale * LOG2_E);
            else
                walk_rows<FORM, 1>(a, shared, group, w, at, cut, ds_at, stat_at, a.scale * LOG2_E);
            store_sums<FORM>(a, shared, group, w);
            __syncthreads();
        }
    }
}

/* Parts of each segment's rows that take the fewest waves of blocks; a part costs as many rows again as its start does.
 */
static int row_parts(const ctx *c, const segment_problem<bf16> &p, int64_t n_queries) {
    static const int64_t START = 128, LEAST = 512;
    int64_t              blocks = (int64_t)p.S * p.G, rows = n_queries * p.hs / p.S, best = 2, least = INT64_MAX;
    for (int64_t parts = 2; parts == 2 || rows / parts >= LEAST; parts++) {
        int64_t cost = ceil_div(blocks * parts, c->cuda->multiprocessors) * (rows / parts + START);
        if (cost < least) best = parts, least = cost;
    }
    return (int)best;
}

/* Where products by warpgroups serve, for heads of 32 in rows that lie one after the other. */
static bool serves(const ctx *c, const segment_problem<bf16> &p, int64_t n_queries) {
    return p.S > 0 && by_warpgroups(c, p, n_queries) && p.D == fused::D && !p.q_order && !p.k_order &&
           !(p.dq_add && p.scale == 0);
}

/* What the arena of scratch has left of `most` bytes. */
static size_t room_left(const ctx *c, size_t most) {
    size_t size = c->scratch.size < most ? c->scratch.size : most;
    return size > c->scratch.used ? size - c->scratch.used : 0;
}

template <class FORM> static size_t waiting_bytes(const segment_problem<bf16> &p, const FORM &form, int64_t n_queries) {
    int64_t tiles = n_queries * p.hs / fused::ROWS + p.S;
    return (size_t)(form.place(tiles, (int64_t)p.S * p.parts) * p.G) * FORM::WORDS * sizeof(typename FORM::word);
}

template <class FORM> static void launch_fused(ctx *c, const segment_problem<bf16> &p, FORM form, int64_t n_queries) {
    typedef fused F;
    form.scratch = (typename FORM::word *)arena_alloc(&c->scratch, waiting_bytes(p, form, n_queries));
    segment_find_stat(c, p, n_queries);
    allow_shared(c, segment_fused_kernel<FORM>, F::BYTES, "attn_segment_bwd");
    segment_fused_kernel<FORM><<<(unsigned)(p.n_jobs * p.G * p.parts), F::THREADS, F::BYTES, stream_of(c)>>>(p, form);
    LAUNCHED(c);
    segment_add_parts(c, p);
}

bool segment_fused(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    /* Bytes of scratch. The wide form is the faster one by 5 to 9 %: its dq may take 0.4 GB, which covers 97,000 tokens
     * of 32 heads, two samples of R = 1024 or nine of 512. Slabs keep all that the compact form takes below 0.1 GB
     * where they have SLAB_ROWS; a slab more costs each chunk some five tiles' time, so shorter ones are only for an
     * arena that has no more. */
    static const size_t  WIDE_DQ = 400000000, COMPACT_ROOM = 100000000;
    static const int64_t MOST_SLABS = 8, SLAB_ROWS = 4096;
    int64_t              N = a->q->dim[0];
    if (!serves(c, *p, N)) return false;
    int    parts = row_parts(c, *p, N);
    size_t part_bytes = (size_t)(parts * p->n_keys * p->G) * 2 * fused::D * sizeof(float);
    size_t wide_bytes = waiting_bytes(*p, fused_wide{}, N);
    if (part_bytes > 2 * wide_bytes + ((size_t)64 << 20)) return false; /* as many keys as queries: too much memory */
    p->job = segment_key_jobs(c, a, 1 << 30, &p->n_jobs);               /* one a segment with keys */
    p->parts = parts;
    p->part = (float *)arena_alloc(&c->scratch, part_bytes);
    if (wide_bytes <= WIDE_DQ && wide_bytes <= room_left(c, SIZE_MAX)) {
        launch_fused(c, *p, fused_wide{}, N);
        return true;
    }
    fused_compact compact = {NULL, 1};
    for (int64_t rows = N * p->hs / p->S / parts; compact.slabs < MOST_SLABS; compact.slabs++) {
        bool another = (compact.slabs + 1) * SLAB_ROWS <= rows;
        if (waiting_bytes(*p, compact, N) <= room_left(c, another ? COMPACT_ROOM : SIZE_MAX)) break;
    }
    launch_fused(c, *p, compact, N);
    return true;
}
