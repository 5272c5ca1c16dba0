/* Attention inside segments, backward of long segments on Hopper, bf16, heads of 32 columns: dq, dk and dv by one
 * kernel. Each score is exponentiated once and takes part in five products; dq and dkv by kernels of their own need
 * seven products and two exponentials.
 *
 * A block has a key head and a part of a segment's rows, and takes the keys in chunks of up to KEYS. Three warpgroups
 * have up to two tiles of 64 keys each, k and v in registers, where dk and dv of the chunk add up over all rows:
 *   S = K Q^T, P = 2^(c S - lse), dP = V dout^T, dS = P (dP - delta), dv += P dout, dk += dS q.
 * dS goes to shared memory as well, where the products dq = dS K of a tile of rows take it, over all keys of the chunk:
 * by one warpgroup, in turn, behind its own share of the next tile. Every sum has one order, whoever is first.
 *
 * What takes scratch: dq from chunk to chunk, in 20 bits, 16 of them where the result will be (waiting_dq), of a slab
 * of the rows at a time (fused_waiting); dk and dv in f32 of each pair of blocks with neighbouring parts, a cluster.
 *
 *   tile of rows                        0  1  2  3
 *   buffer of dS, warpgroup that has dq 0  1  2  0 ...
 *
 * Warpgroups meet only at barriers that count arrivals and may be a tile apart. Registers bound the form (168, up to
 * 144 of them in products): what all threads know lies in shared memory, and dP of a step waits for the sums of the
 * step before, whose P and dS leave their registers to it. The compiler must not warn of wgmma being serialised
 * (-Xptxas -v: C7510 to C7520, but for C7519), which costs a quarter. */
#include "kernels/cuda/attn_segment_fused.cuh"
#include "kernels/cuda/dev/cluster.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;

struct fused_keys {
    uint32_t k[2][4], v[2][4];
    float    dk[4][4], dv[4][4];
};

/* Starts the copies of a tile of rows: a chunk of q and of dout by each of 256 threads, stat by 64 others. Rows that
 * are not there are zeros and add nothing. */
__device__ __forceinline__ void load_rows(const segment_problem<bf16> &a, uint32_t shared, int tile) {
    typedef fused F;
    int           t = thread_anew();
    if (t >= 256 + F::ROWS) return;
    uint32_t stage = shared + F::RING_AT + tile % F::STAGES * F::STAGE;
    int      r = OF_BLOCK(row0) + tile * F::ROWS + (t < 256 ? t / 4 : t - 256), end = OF_BLOCK(end);
    bool     there = r < end;
    r = min(r, end - 1);
    int query = divide(r, a.by_hs), h = OF_BLOCK(h0) + r - query * a.hs, n = OF_BLOCK(q0) + query;
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

__device__ __forceinline__ void prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
}

/* Where the 64 bytes of dq of row r of the segment are. */
__device__ __forceinline__ bf16 *dq_row(const segment_problem<bf16> &a, uint32_t shared, int r) {
    int query = divide(r, a.by_hs), h = OF_BLOCK(h0) + r - query * a.hs;
    return row_at(a.dq, OF_BLOCK(q0) + query, a.q_bytes) + h * fused::D;
}

/* Places of the thread's waiting_dq of a tile. */
struct waiting_places {
    int    row, left; /* the first one, and how many there are from it on */
    uint2 *low;

    __device__ __forceinline__ waiting_places(const segment_problem<bf16> &a, uint32_t shared, int tile) {
        int thread = thread_anew();
        row = OF_BLOCK(row0) + tile * fused::ROWS + thread % 128 / 32 * 16 + thread % 32 / 4;
        left = OF_BLOCK(end) - row;
        asm volatile("ld.shared.b64 %0, [%1];\n"
                     : "=l"(low)
                     : "r"(shared + fused::BLOCK_AT + (uint32_t)offsetof(fused_block, low))
                     : "memory");
        low += (int64_t)(tile - OF_BLOCK(first)) * a.G * fused::WAITING + thread % 128;
    }
    __device__ __forceinline__ uint4 *high(const segment_problem<bf16> &a, uint32_t shared, int i) const {
        return reinterpret_cast<uint4 *>(dq_row(a, shared, row + 8 * i)) + threadIdx.x % 4;
    }
};

/* dq of a tile of rows by one warpgroup, when all have left their dS of it in `buffer`. */
__device__ __forceinline__ void tile_dq(const segment_problem<bf16> &a, uint32_t shared, int tile, int buffer,
                                        int parity) {
    typedef fused F;
    fused_bars    bars = {shared + F::BARS_AT};
    bool          first = OF_BLOCK(first_chunk), last = OF_BLOCK(last_chunk);
    int           key_tiles = OF_BLOCK(key_tiles);
    float         even[4][4], odd[4][4];
    waiting_dq    sum = {};
    if (!first) {
        waiting_places at(a, shared, tile);
        uint2          bits = *at.low;
        sum.low[0] = bits.x, sum.low[1] = bits.y;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * i < at.left) sum.high[i] = *at.high(a, shared, i);
        /* Those that this warpgroup needs next. */
        int next = OF_BLOCK(row0) + (tile + F::GROUPS) * F::ROWS + thread_anew() % 128;
        if (threadIdx.x % 128 < F::ROWS && next < OF_BLOCK(end)) prefetch_l2(dq_row(a, shared, next));
        if (threadIdx.x % 16 == 0 && tile + F::GROUPS < OF_BLOCK(past))
            prefetch_l2(at.low + (int64_t)F::GROUPS * a.G * F::WAITING);
    }
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
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) even[i][e] += odd[i][e];
    if (!first) sum.add_to(even);
    if (!last) {
        waiting_places at(a, shared, tile);
        sum.pack(even);
        *at.low = uint2{sum.low[0], sum.low[1]};
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * i < at.left) *at.high(a, shared, i) = sum.high[i];
        return;
    }
    int      lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t out_tile = shared + F::OUT_AT + warp * (32 * F::D);
    attn_job j;
    j.q0 = OF_BLOCK(q0);
    int row0 = OF_BLOCK(row0) + tile * F::ROWS + warp % 4 * 16;
    __syncwarp();
    stage_rows<F::D>(out_tile, even, a.scale, a.scale, lane);
    __syncwarp();
    store_query_rows<F::D, 16, true>(out_tile, a, j, OF_BLOCK(g), row0, OF_BLOCK(end) - row0, a.dq, a.q_bytes);
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
template <int N>
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
        if (threadIdx.x % 32 == 0) {
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
        if (my_turn && tile > first) tile_dq(a, shared, tile - 1, at.buffer_before(), at.parity_before());
    }
}

/* The block's chunk number `turn`, slab by slab: k in its place, v in that of dS; false when there is none. */
__device__ __forceinline__ bool begin_chunk(const segment_problem<bf16> &a, uint32_t shared, fused_block *block,
                                            const fused_waiting &waiting, int turn, int tile) {
    typedef fused  F;
    int            rank = block_anew() % F::PAIR, at = block_anew() / F::PAIR, g = at % a.G;
    int            item = at / a.G % a.n_jobs, sum = at / a.G / a.n_jobs, part = sum * F::PAIR + rank;
    const attn_job j = a.job[item];
    int            key_tiles = (j.keys + 63) / 64, chunks = (key_tiles + F::MT * F::GROUPS - 1) / (F::MT * F::GROUPS);
    int            slab = turn / chunks, chunk = turn - slab * chunks;
    if (slab == waiting.slabs) return false;
    int t0 = key_tiles * chunk / chunks, tiles = key_tiles * (chunk + 1) / chunks - t0;
    int key0 = t0 * 64, n_keys = min(j.keys - key0, tiles * 64);
    if (threadIdx.x == 0) {
        int64_t n_tiles = (j.rows + F::ROWS - 1) / F::ROWS;
        int     parts = a.parts * F::PAIR;
        int     begin = (int)(n_tiles * part / parts), past = (int)(n_tiles * (part + 1) / parts);
        int64_t place = waiting.place((int64_t)j.q0 * a.hs / F::ROWS + j.segment + begin, j.segment * parts + part);
        int     from = begin + (past - begin) * slab / waiting.slabs;
        past = begin + (past - begin) * (slab + 1) / waiting.slabs;
        *block = {g,
                  j.q0,
                  g * a.hs,
                  (from - tile) * F::ROWS,
                  min(j.rows, past * F::ROWS),
                  tile,
                  tile + past - from,
                  tiles,
                  n_keys,
                  j.k0 + key0,
                  chunk == 0,
                  chunk == chunks - 1,
                  sum,
                  slab > 0,
                  waiting.low + (place * a.G + g) * F::WAITING};
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

/* dk and dv of the chunk's keys from the pair's rows, added to those of the slabs before: the second block brings its
 * own to the place of dS of the first one. */
__device__ __forceinline__ void store_sums(const segment_problem<bf16> &a, uint32_t shared, int group,
                                           fused_keys (&w)[fused::MT]) {
    typedef fused F;
    bool          second = block_anew() % F::PAIR;
    uint32_t      room = shared + thread_anew() * 16;
    cluster_sync(); /* all are done with dS */
    if (second) {
        room = cluster_place(room, 0);
#pragma unroll
        for (int i = 0; i < 8 * F::MT; i++) {
            const float(&x)[4] = i % 8 < 4 ? w[i / 8].dk[i % 4] : w[i / 8].dv[i % 4];
            cluster_store(room + i * (16 * F::THREADS), float4{x[0], x[1], x[2], x[3]});
        }
    }
    cluster_sync();
    if (second) return;
#pragma unroll
    for (int i = 0; i < 8 * F::MT; i++) {
        float(&x)[4] = i % 8 < 4 ? w[i / 8].dk[i % 4] : w[i / 8].dv[i % 4];
        float4 y;
        shared_load(room + i * (16 * F::THREADS), y);
        x[0] += y.x, x[1] += y.y, x[2] += y.z, x[3] += y.w;
    }
    int  lane = threadIdx.x % 32, g = OF_BLOCK(g), key0 = OF_BLOCK(key0), n_keys = OF_BLOCK(n_keys);
    bool more = OF_BLOCK(more);
#pragma unroll
    for (int m = 0; m < F::MT; m++) {
        int key = 64 * (group + F::GROUPS * m) + threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++, key += 8) {
            if (key >= n_keys) break;
            float *to = a.part + (((int64_t)OF_BLOCK(sum) * a.n_keys + key0 + key) * a.G + g) * 2 * F::D + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *dk = w[m].dk[i] + 2 * half, *dv = w[m].dv[i] + 2 * half;
                float2      *sum_dk = reinterpret_cast<float2 *>(to + i * 8);
                float2      *sum_dv = reinterpret_cast<float2 *>(to + F::D + i * 8);
                float2       x = more ? *sum_dk : float2{0, 0}, y = more ? *sum_dv : float2{0, 0};
                *sum_dk = float2{x.x + dk[0] * a.scale, x.y + dk[1] * a.scale};
                *sum_dv = float2{y.x + dv[0], y.y + dv[1]};
            }
        }
    }
}

__global__ void __launch_bounds__(fused::THREADS, 1)
    segment_fused_kernel(const __grid_constant__ segment_problem<bf16> a,
                         const __grid_constant__ fused_waiting         waiting) {
    if constexpr (HAS_WGMMA) {
        typedef fused     F;
        extern __shared__ __align__(1024) unsigned char segment_shared[];
        uint32_t                                        shared = smem_addr(segment_shared);
        fused_block *block = reinterpret_cast<fused_block *>(segment_shared + F::BLOCK_AT);
        fused_bars   bars = {shared + F::BARS_AT};
        int          group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
        fused_place  at = {0, 0, 0};
        if (a.job[blockIdx.x / F::PAIR / a.G % a.n_jobs].segment < 0) return;
        if (threadIdx.x == 0)
            for (int i = 0; i < F::STAGES; i++) {
                mbarrier_init(bars.rows_full(i), F::WARPS);
                mbarrier_init(bars.rows_free(i), F::WARPS);
                if (i >= F::BUFFERS) continue;
                mbarrier_init(bars.ds_full(i), F::WARPS);
                mbarrier_init(bars.ds_free(i), 4);
            }
#pragma unroll 1
        for (int turn = 0; begin_chunk(a, shared, block, waiting, turn, at.tile); turn++) {
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
                walk_rows<F::MT>(a, shared, group, w, at, cut, ds_at, stat_at, a.scale * LOG2_E);
            else
                walk_rows<1>(a, shared, group, w, at, cut, ds_at, stat_at, a.scale * LOG2_E);
            if (first < past) {
                shared_for_wgmma();
                mbarrier_arrive_warp(bars.ds_full(at.buffer_before()));
                if (at.buffer_before() == group) tile_dq(a, shared, past - 1, at.buffer_before(), at.parity_before());
            }
            store_sums(a, shared, group, w);
            __syncthreads();
        }
    }
}

/* Sums of dk and dv in f32 from so many parts of the rows. */
static size_t part_bytes(const segment_problem<bf16> &p, int64_t parts) {
    return (size_t)(parts / fused::PAIR * p.n_keys * p.G) * 2 * fused::D * sizeof(float);
}

/* Parts of each segment's rows, in pairs, that take the fewest waves of blocks and at most `room` bytes; a part costs
 * as many rows again as its start does. */
static int row_parts(const ctx *c, const segment_problem<bf16> &p, int64_t n_queries, size_t room) {
    static const int64_t START = 128, LEAST = 512;
    const int64_t        PAIR = fused::PAIR;
    int64_t              blocks = (int64_t)p.S * p.G, rows = n_queries * p.hs / p.S, best = PAIR, least = INT64_MAX;
    for (int64_t parts = PAIR; parts == PAIR || (rows / parts >= LEAST && part_bytes(p, parts) <= room);
         parts += PAIR) {
        int64_t cost = ceil_div(blocks * parts, c->cuda->multiprocessors) * (rows / parts + START);
        if (cost < least) best = parts, least = cost;
    }
    return (int)best;
}

/* Where products by warpgroups serve, for heads of 32 in rows that lie one after the other. */
static bool serves(const ctx *c, const segment_problem<bf16> &p, int64_t n_queries) {
    return p.S > 0 && by_warpgroups(c, p, n_queries) && p.D == fused::D && !p.q_order && !p.k_order;
}

static size_t waiting_bytes(const segment_problem<bf16> &p, const fused_waiting &w, int64_t n_queries, int64_t parts) {
    int64_t tiles = n_queries * p.hs / fused::ROWS + p.S;
    return (size_t)(w.place(tiles, p.S * parts) * p.G) * fused::WAITING * sizeof(uint2);
}

bool segment_fused(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    typedef fused       F;
    static const size_t ROOM = 100000000; /* bytes of scratch; more are worth another slab */
    static const int    MOST_SLABS = 8;
    int64_t             N = a->q->dim[0];
    size_t              sums_room = (size_t)(N * p->H * F::D) * sizeof(bf16) + ((size_t)64 << 20);
    if (!serves(c, *p, N) || part_bytes(*p, F::PAIR) > sums_room) return false; /* or as many keys as queries */
    int64_t       parts = row_parts(c, *p, N, sums_room);
    size_t        bytes = part_bytes(*p, parts) + (size_t)(N * p->H) * sizeof *p->stat;
    fused_waiting waiting = {NULL, 1};
    while (waiting.slabs < MOST_SLABS && bytes + waiting_bytes(*p, waiting, N, parts) > ROOM) waiting.slabs++;
    p->job = segment_key_jobs(c, a, 1 << 30, &p->n_jobs); /* one a segment with keys */
    p->parts = (int)(parts / F::PAIR);
    p->part = (float *)arena_alloc(&c->scratch, part_bytes(*p, parts));
    waiting.low = (uint2 *)arena_alloc(&c->scratch, waiting_bytes(*p, waiting, N, parts));
    segment_find_stat(c, *p, N);
    allow_shared(c, segment_fused_kernel, F::BYTES, "attn_segment_bwd");
    launch_clusters(c, segment_fused_kernel, (int64_t)p->n_jobs * p->G * p->parts, F::PAIR, F::THREADS, F::BYTES, *p,
                    waiting);
    LAUNCHED(c);
    segment_add_parts(c, *p);
    return true;
}
