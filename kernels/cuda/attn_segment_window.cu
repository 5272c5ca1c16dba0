/* Attention inside segments, backward, bf16, for windows (attn_segment.cuh): dq, dk and dv by one kernel, so that q,
 * dout and out pass once and S and dP are made once.
 *
 * A team of warps has one window and key head. A warp has 32 of the keys as rows of its products, and their dk and dv
 * in registers; windows of few keys have several warps with the same keys, which share the rows and add up at the end.
 * The rows (query, head) come through shared memory, 16 a warp of the team at a time:
 *   S^T = K q^T, dP^T = V dout^T - delta, P = 2^(c S - lse), dS = P dP, dv += P^T dout, dk += dS^T q;
 * dS goes to shared memory, and when all keys' are there, a warp sums up dq = dS K of 16 rows.
 * delta = <dout, out> comes from the threads that loaded the two rows, or from the caller with lse.
 *
 * A multiprocessor has one block of 12 warps that stays. They are one team while there are windows of more keys than
 * six warps have, then two. Teams take windows as they come, large ones first; what they write does not depend on it.
 */
#include "kernels/cuda/attn_segment.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;

/* Jobs are windows and key heads, window by window. */
typedef struct {
    int32_t ticket[2], end[2]; /* of the large windows' jobs, and of the others', which come behind them */
} window_plan;

struct alignas(16) window_place {
    int32_t q0, queries, k0, keys; /* keys 0: no more windows */
};

struct window_list {
    window_place *place; /* windows by size, large ones first */
    window_plan  *plan;
};

template <int WARPS_, int KEYS_> struct window_shape {
    static constexpr int D = 32, WARPS = WARPS_, THREADS = 32 * WARPS, MT = 2, WARP_KEYS = 16 * MT;
    static constexpr int KEYS = KEYS_;                                     /* of a window, at most */
    static constexpr int ROWS = 16 * WARPS;                                /* of a stage */
    static constexpr int PASS = THREADS / (D / 8);                         /* rows that one load of all brings */
    static constexpr int OWN = (KEYS + PASS - 1) / PASS * PASS * D * 2;    /* bytes of K or V */
    static constexpr int TILE = ROWS * D * 2, STAGE = 3 * TILE + ROWS * 8; /* q, dout, out; lse log2 e; -delta */
    static constexpr int LSE = 3 * TILE, DELTA = LSE + ROWS * 4;
    static constexpr int DS_ROW = ROWS * 2 + 16, DS = KEYS * DS_ROW;          /* dS of a key, of all; no conflicts */
    static constexpr int SUMS = 2 * MT * (D / 8) * 4;                         /* of a lane */
    static constexpr int V = OWN, RING = 2 * OWN, DS_AT = RING + 2 * STAGE;   /* K is the first */
    static constexpr int Q_ROW = DS_AT + DS, K_ROW = Q_ROW + 4 * WINDOW_MOST; /* rows of the tensors */
    static constexpr int DESK = K_ROW + 4 * WINDOW_MOST, BYTES = DESK + 128;
    static_assert(KEYS <= WARPS * WARP_KEYS, "a warp for 32 keys");
    static_assert((WARPS - 1) * SUMS * 128 <= 2 * STAGE + DS, "room for the sums of all warps but one");
    static_assert(OWN % 128 == 0 && STAGE % 128 == 0 && BYTES % 128 == 0, "tiles start with the permutation");
};
typedef window_shape<12, WINDOW_MOST> large_window;
typedef window_shape<6, 192>          small_window;
static constexpr int                  WINDOW_THREADS = 32 * 12;
static constexpr int                  WINDOW_BYTES =
    large_window::BYTES > 2 * small_window::BYTES ? large_window::BYTES : 2 * small_window::BYTES;

/* ---- the order of windows ---------------------------------------------------------------------------------------- */

static constexpr int SORT_THREADS = 1024;

/* Windows by their number of keys, most first; those alike as they come. One block. */
__global__ void __launch_bounds__(SORT_THREADS)
    sort_windows_kernel(const int32_t *q_first, const int32_t *k_first, int S, int G, const window_list list) {
    __shared__ __align__(16) int32_t place[WINDOW_MOST]; /* windows of 1, 2 .. keys; then where the next of them goes */
    for (int i = threadIdx.x; i < WINDOW_MOST; i += SORT_THREADS) place[i] = 0;
    __syncthreads();
    for (int s = threadIdx.x; s < S; s += SORT_THREADS) {
        int n = window_keys(q_first, k_first, s);
        if (n > 0) atomicAdd(place + n - 1, 1);
    }
    __syncthreads();
    if (threadIdx.x < 32) { /* a lane adds up a run of sizes, which begins with a vector: nobody else reads its words */
        constexpr int RUN = WINDOW_MOST / 32;
        int           lane = threadIdx.x, most = WINDOW_MOST - lane * RUN;
        int32_t       mine = 0;
        for (int i = 0; i < RUN; i++) mine += place[most - i - 1];
        int32_t upto = mine;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            int32_t x = __shfl_up_sync(0xffffffffu, upto, o);
            if (lane >= o) upto += x;
        }
        int32_t at = upto - mine;
        for (int i = 0; i < RUN; i++) {
            int32_t n = place[most - i - 1];
            if (most - i == small_window::KEYS) list.plan->ticket[1] = list.plan->end[0] = at * G;
            place[most - i - 1] = at;
            at += n;
        }
        if (lane == 31) list.plan->ticket[0] = 0, list.plan->end[1] = at * G;
    }
    __syncthreads();
    for (int s = threadIdx.x; s < S; s += SORT_THREADS) {
        int n = window_keys(q_first, k_first, s);
        if (n == 0) continue;
        window_place w = {q_first[s], q_first[s + 1] - q_first[s], k_first[s], n};
        list.place[atomicAdd(place + n - 1, 1)] = w;
    }
}

/* ---- one window -------------------------------------------------------------------------------------------------- */

struct window_job {
    window_place at;
    int          g;
};

/* A team's part of shared memory, and what it works on, which lies there. All this follows from threadIdx.x, which is
 * asked for anew each time: with the sums, a thread has no registers to keep it over the loops. */
template <class F> struct window_team {
    int         thread, id;
    uint32_t    room;
    window_job *job; /* the window that the team has, and the one that it takes next */

    __device__ __forceinline__ window_team() {
        extern __shared__ __align__(1024) unsigned char segment_shared[];
        int                                             x;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
        id = F::THREADS == WINDOW_THREADS || x < F::THREADS ? 0 : 1;
        asm volatile("" : "+r"(id));
        thread = x - id * F::THREADS;
        room = smem_addr(segment_shared) + id * F::BYTES;
        job = (window_job *)(segment_shared + id * F::BYTES + F::DESK);
    }
    __device__ __forceinline__ int         warp() const { return thread / 32; }
    __device__ __forceinline__ int         lane() const { return thread % 32; }
    __device__ __forceinline__ int         rows(int hs) const { return job->at.queries * hs; }
    /* Rows from turn * ROWS on lie there. */
    __device__ __forceinline__ uint32_t    stage(int turn) const { return room + F::RING + turn % 2 * F::STAGE; }
    static __device__ __forceinline__ void meet() { barrier_sync<F::THREADS>(1 + window_team().id); }
};

__device__ __forceinline__ int shared_int(uint32_t from) {
    uint32_t x;
    shared_load(from, x);
    return (int)x;
}

/* Rows of a turn, if it has some, to its stage; those past the end become zeros, which add nothing. */
template <class F> __device__ __forceinline__ void load_rows(const segment_problem<bf16> &a, int turn) {
    const window_team<F> t;
    const int            at = turn * F::ROWS;
    const uint32_t       stage = t.stage(turn);
    if (at >= t.rows(a.hs)) return;
    tile_loader<F::D, F::ROWS, F::THREADS, true> move(t.thread, a.D);
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        int  r = at + move.row_of(i), query = divide(r, a.by_hs), h = t.job->g * a.hs + r - query * a.hs;
        bool there = query < t.job->at.queries;
        int  n = shared_int(t.room + F::Q_ROW + (there ? query : 0) * 4), col = (there ? h : 0) * a.D + move.col;
        move.load(stage, i, row_at(a.q, n, a.q_bytes) + col, there && move.brings());
        move.load(stage + F::TILE, i, row_at(a.dout, n, a.o_bytes) + col, there && move.brings());
        uint32_t lse = stage + F::LSE + move.row_of(i) * 4;
        int64_t  from = (int64_t)n * a.H + (there ? h : 0);
        if (!a.given) move.load(stage + 2 * F::TILE, i, row_at(a.out, n, a.o_bytes) + col, there && move.brings());
        if (move.chunk == 0) {
            cp_async_4(lse, a.given ? &a.given[from].x : a.lse + from, there ? 4 : 0);
            if (a.given) cp_async_4(lse + F::DELTA - F::LSE, &a.given[from].y, there ? 4 : 0);
        }
    }
    cp_async_commit();
}

/* lse of a warp's 16 rows of a turn becomes lse log2 e, and -delta comes beside it; products as in find_stat of
 * attn_segment_dq.cu. What it makes of rows that are not there is of no use. */
template <class F> __device__ __forceinline__ void find_stat(const segment_problem<bf16> &a, int turn) {
    if (a.given) return;
    const window_team<F> t;
    const int            lane = t.lane();
    const uint32_t       stage = t.stage(turn);
    const uint32_t       dout = stage + F::TILE + t.warp() * (32 * F::D), lse_at = stage + F::LSE + t.warp() * 64;
    const uint32_t n_rows_of = matrix_offset<F::D>(lane, 0, false), k_rows_of = matrix_offset<F::D>(lane, 0, true);
    float          x[2][4];
#pragma unroll
    for (int step = 0; step < 2; step++) {
        uint32_t d[4], o[4];
        ldmatrix_x4(d, dout + (k_rows_of ^ (step * 32)));
        ldmatrix_x4(o, dout + F::TILE + (n_rows_of ^ (step * 32)));
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (step == 0)
                mma_bf16(x[i], d, o[2 * i], o[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
            else
                mma_bf16(x[i], d, o[2 * i], o[2 * i + 1]);
    }
    int r = lane / 4; /* the diagonal's values of rows r and r + 8 are in one lane */
    if (lane % 4 != r / 2) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t at = lse_at + (r + 8 * half) * 4;
        float    lse;
        shared_load(at, lse);
        shared_store(at, lse * LOG2_E);
        shared_store(at + F::DELTA - F::LSE, -(r % 2 ? x[half][2 * half + 1] : x[half][2 * half]));
    }
}

/* A warp's keys: operands, and the sums. */
struct window_sums {
    uint32_t k[2][2][4], v[2][2][4];
    float    dk[2][4][4], dv[2][4][4];
};

/* What 16 rows add to dk and dv of MT times 16 keys; their dS to `ds`, the place of the lane's key.
 * n: keys of the warp, of which those from n on must not reach dq. */
template <class F, int MT>
__device__ __forceinline__ void add_rows(window_sums &w, uint32_t q, uint32_t dout, uint32_t lse_at, uint32_t ds,
                                         uint32_t n_rows_of, uint32_t k_rows_of, float c, int n, int lane) {
    float    s[MT][2][4], dp[MT][2][4];
    uint32_t qn[2][4], on[2][4], qk[2][4], ok[2][4]; /* q and dout with rows as a product's n, and as its k */
    float2   lse[2], delta[2][2]; /* of rows 2quad, 2quad+1; -delta twice, as a product's sums start from it: loaded,
                                   * since   it would be copied for every product */
#pragma unroll
    for (int step = 0; step < 2; step++) {
        ldmatrix_x4(qn[step], q + (n_rows_of ^ (step * 32)));
        ldmatrix_x4(on[step], dout + (n_rows_of ^ (step * 32)));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t at = lse_at + (i * 8 + lane % 4 * 2) * 4;
        shared_load(at, lse[i]);
        shared_load(at + F::DELTA - F::LSE, delta[i][0]);
        shared_load(at + F::DELTA - F::LSE, delta[i][1]);
    }
#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            mma_bf16(s[mt][i], w.k[mt][0], qn[0][2 * i], qn[0][2 * i + 1], 0.f, 0.f, 0.f, 0.f);
            mma_bf16(dp[mt][i], w.v[mt][0], on[0][2 * i], on[0][2 * i + 1], delta[i][0].x, delta[i][0].y, delta[i][1].x,
                     delta[i][1].y);
            mma_bf16(s[mt][i], w.k[mt][1], qn[1][2 * i], qn[1][2 * i + 1]);
            mma_bf16(dp[mt][i], w.v[mt][1], on[1][2 * i], on[1][2 * i + 1]);
        }
#pragma unroll
    for (int step = 0; step < 2; step++) {
        ldmatrix_x4_trans(ok[step], dout + (k_rows_of ^ (step * 32)));
        ldmatrix_x4_trans(qk[step], q + (k_rows_of ^ (step * 32)));
    }
    /* The products of the first keys run under the exponentials of the next. */
#pragma unroll
    for (int mt = 0; mt < MT; mt++) {
        uint32_t p[4], d[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[mt][i][e] = exp2_fast(fmaf(s[mt][i][e], c, -(e % 2 ? lse[i].y : lse[i].x)));
                dp[mt][i][e] *= s[mt][i][e];
            }
            p[2 * i] = pack_bf16(s[mt][i][0], s[mt][i][1]);
            p[2 * i + 1] = pack_bf16(s[mt][i][2], s[mt][i][3]);
            d[2 * i] = pack_bf16(dp[mt][i][0], dp[mt][i][1]);
            d[2 * i + 1] = pack_bf16(dp[mt][i][2], dp[mt][i][3]);
        }
#pragma unroll
        for (int step = 0; step < 2; step++) {
            mma_bf16(w.dv[mt][2 * step], p, ok[step][0], ok[step][1]);
            mma_bf16(w.dv[mt][2 * step + 1], p, ok[step][2], ok[step][3]);
            mma_bf16(w.dk[mt][2 * step], d, qk[step][0], qk[step][1]);
            mma_bf16(w.dk[mt][2 * step + 1], d, qk[step][2], qk[step][3]);
        }
        if (n < 16 * MT) { /* where there is no key, 2^-lse may be infinite */
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (16 * mt + i % 2 * 8 + lane / 4 >= n) d[i] = 0;
        }
        stmatrix_x4(ds + 16 * mt * F::DS_ROW, d);
    }
}

/* dq of a warp's 16 rows of a turn over all keys: to the rows' place in the stage, and from there to the tensor. */
template <class F> __device__ __forceinline__ void add_keys(const segment_problem<bf16> &a, int turn) {
    const window_team<F> t;
    const int            lane = t.lane(), row0 = turn * F::ROWS + t.warp() * 16, n_keys = t.job->at.keys;
    const uint32_t       k_rows_of = t.room + matrix_offset<F::D>(lane, 0, true);
    const uint32_t       tile = t.stage(turn) + t.warp() * (32 * F::D);
    uint32_t             ds = t.room + F::DS_AT + t.warp() * 32;
    float                dq[4][4];
    if (row0 >= t.rows(a.hs)) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) dq[i][e] = 0;
    ds += (lane / 16 * 8 + lane % 8) * F::DS_ROW + lane / 8 % 2 * 16; /* matrices by rows, then by keys; transposed */
#pragma unroll 2
    for (int key = 0; key < n_keys; key += 16) {
        uint32_t x[4], b[2][4];
        ldmatrix_x4_trans(x, ds + key * F::DS_ROW);
#pragma unroll
        for (int step = 0; step < 2; step++) ldmatrix_x4_trans(b[step], (k_rows_of ^ (step * 32)) + key * (2 * F::D));
#pragma unroll
        for (int step = 0; step < 2; step++) {
            mma_bf16(dq[2 * step], x, b[step][0], b[step][1]);
            mma_bf16(dq[2 * step + 1], x, b[step][2], b[step][3]);
        }
    }
    stage_rows<F::D>(tile, dq, a.scale, a.scale, lane);
    __syncwarp();
    tile_loader<F::D, 16, 32, true> move(lane, a.D);
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        int r = row0 + move.row_of(i), query = divide(r, a.by_hs), h = t.job->g * a.hs + r - query * a.hs;
        if (query >= t.job->at.queries) break;
        int n = shared_int(t.room + F::Q_ROW + query * 4);
        store_chunk<true>(row_at(a.dq, n, a.q_bytes) + h * a.D, tile + move.to(i), move.chunk, a.D, a.dq_add);
    }
}

/* One sum of the warp's keys, through `tile`, which is its own, to the tensor; their rows of it at k_row. */
template <class F>
__device__ __forceinline__ void store_sums(uint32_t tile, const float (&sum)[2][4][4], float scale, uint32_t k_row,
                                           int keys, bf16 *dst, uint32_t bytes, int d, int lane) {
    tile_loader<F::D, F::WARP_KEYS, 32, true> move(lane, d);
    __syncwarp();
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) stage_rows<F::D>(tile + mt * (32 * F::D), sum[mt], scale, scale, lane);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        int r = move.row_of(i);
        if (r < keys)
            store_chunk<true>(row_at(dst, shared_int(k_row + r * 4), bytes), tile + move.to(i), move.chunk, d);
    }
}

/* Orders, keys, values and the first rows of the team's next window to shared memory. */
template <class F>
__device__ __forceinline__ void begin_window(const segment_problem<bf16> &a, const window_list &list) {
    const window_team<F> t;
    const bool           leads = t.thread == F::THREADS - 1; /* of the warp that has least to do */
    const window_place   at = t.job[1].at;
    for (int i = t.thread; i < WINDOW_MOST; i += F::THREADS) {
        if (i < at.queries)
            shared_store(t.room + F::Q_ROW + i * 4, (uint32_t)(a.q_order ? __ldg(a.q_order + at.q0 + i) : at.q0 + i));
        if (i < at.keys)
            shared_store(t.room + F::K_ROW + i * 4, (uint32_t)(a.k_order ? __ldg(a.k_order + at.k0 + i) : at.k0 + i));
    }
    if (leads) t.job[0] = t.job[1];
    t.meet();
    load_rows<F>(a, 0);
    tile_loader<F::D, F::OWN / (2 * F::D), F::THREADS, true> move(t.thread, a.D);
    const int                                                col = t.job->g * a.D + move.col;
#pragma unroll 1
    for (int i = 0; i < move.COUNT; i++) {
        bool there = move.row_of(i) < at.keys;
        int  row = shared_int(t.room + F::K_ROW + (there ? move.row_of(i) : 0) * 4);
        move.load(t.room, i, row_at(a.k, row, a.k_bytes) + col, there && move.brings());
        move.load(t.room + F::V, i, row_at(a.v, row, a.v_bytes) + col, there && move.brings());
    }
    cp_async_commit();
}

/* A warp's part in a window: keys of `group`, which `shares` warps have, of whose rows it has the `share`-th. */
struct window_part {
    int group, share, shares, keys;

    template <class F> static __device__ __forceinline__ window_part of(const window_team<F> &t) {
        int n = t.job->at.keys, groups = (n + F::WARP_KEYS - 1) / F::WARP_KEYS, share = t.warp() / groups;
        int group = t.warp() - share * groups;
        return {group, share, F::WARPS / groups, n - group * F::WARP_KEYS};
    }
};

/* The products of a turn's rows with the warp's keys. */
template <class F> __device__ __forceinline__ void add_stage(window_sums &w, int turn, const segment_problem<bf16> &a) {
    const window_team<F> t;
    const window_part    part = window_part::of(t);
    const int            lane = t.lane(), tiles = min((t.rows(a.hs) - turn * F::ROWS + 15) / 16, F::WARPS);
    const uint32_t       stage = t.stage(turn);
    if (part.share >= part.shares) return;
    const float    c = a.scale * LOG2_E;
    const uint32_t n_rows_of = matrix_offset<F::D>(lane, 0, false), k_rows_of = matrix_offset<F::D>(lane, 0, true);
    const uint32_t ds = t.room + F::DS_AT + (part.group * F::WARP_KEYS + lane % 16) * F::DS_ROW + lane / 16 * 16;
#pragma unroll 1
    for (int i = part.share; i < tiles; i += part.shares) {
        uint32_t q = stage + i * (32 * F::D), lse = stage + F::LSE + i * 64;
        if (part.keys > 16)
            add_rows<F, 2>(w, q, q + F::TILE, lse, ds + i * 32, n_rows_of, k_rows_of, c, part.keys, lane);
        else
            add_rows<F, 1>(w, q, q + F::TILE, lse, ds + i * 32, n_rows_of, k_rows_of, c, part.keys, lane);
    }
}

/* The sums of a warp at the start: operands from shared memory, zeros. */
template <class F> __device__ __forceinline__ void begin_sums(window_sums &w) {
    const window_team<F> t;
    const uint32_t       from =
        t.room + window_part::of(t).group * (F::WARP_KEYS * 2 * F::D) + matrix_offset<F::D>(t.lane(), 0, true);
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) {
#pragma unroll
        for (int step = 0; step < 2; step++) {
            ldmatrix_x4(w.k[mt][step], (from ^ (step * 32)) + mt * (32 * F::D));
            ldmatrix_x4(w.v[mt][step], (from ^ (step * 32)) + mt * (32 * F::D) + F::V);
        }
#pragma unroll
        for (int dt = 0; dt < F::D / 8; dt++)
#pragma unroll
            for (int e = 0; e < 4; e++) w.dk[mt][dt][e] = w.dv[mt][dt][e] = 0;
    }
}

template <class F> __device__ __forceinline__ void end_sums(window_sums &w, const segment_problem<bf16> &a) {
    const window_team<F> t;
    const window_part    part = window_part::of(t);
    if (part.shares > 1)
        join_sums<F>(w, t.room + F::RING, part.group, F::WARPS / part.shares, part.share, part.shares, t.lane(),
                     [] { window_team<F>::meet(); });
    if (part.share > 0) return;
    const uint32_t own = t.room + F::V + part.group * (F::WARP_KEYS * 2 * F::D); /* all have used it */
    const uint32_t k_row = t.room + F::K_ROW + part.group * (F::WARP_KEYS * 4);
    const int      col = t.job->g * a.D;
    store_sums<F>(own, w.dv, 1.f, k_row, part.keys, a.dv + col, a.v_bytes, a.D, t.lane());
    store_sums<F>(own, w.dk, a.scale, k_row, part.keys, a.dk + col, a.k_bytes, a.D, t.lane());
}

template <class F> __device__ __forceinline__ void one_window(const segment_problem<bf16> &a) {
    window_sums w;
    cp_async_wait<0>();
    window_team<F>::meet();
    begin_sums<F>(w);
    find_stat<F>(a, 0);
#pragma unroll 1
    for (int turn = 0;; turn++) {
        window_team<F>::meet(); /* stat is there, and all are done with the stage before and its dS */
        load_rows<F>(a, turn + 1);
        add_stage<F>(w, turn, a);
        cp_async_wait<0>();
        window_team<F>::meet(); /* dS of all keys and the next rows are there, and q has been used */
        find_stat<F>(a, turn + 1);
        add_keys<F>(a, turn);
        if (window_team<F>().rows(a.hs) <= (turn + 1) * F::ROWS) break;
    }
    end_sums<F>(w, a);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

/* The team's next window. One thread. */
template <class F> __device__ __forceinline__ void take_window(const window_list &list, int kind, int G) {
    int        ticket = atomicAdd(list.plan->ticket + kind, 1), at = ticket / G;
    window_job job = {{0, 0, 0, 0}, ticket - at * G};
    if (ticket < list.plan->end[kind]) job.at = list.place[at];
    window_team<F>().job[1] = job;
}

template <class F>
__device__ __forceinline__ void walk_windows(const segment_problem<bf16> &a, const window_list &list, int kind) {
    if (window_team<F>().thread == F::THREADS - 1) take_window<F>(list, kind, a.G);
    for (;;) {
        window_team<F>::meet(); /* all are done with shared memory, and the next window is known */
        if (window_team<F>().job[1].at.keys == 0) return;
        begin_window<F>(a, list);
        if (window_team<F>().thread == F::THREADS - 1) take_window<F>(list, kind, a.G);
        one_window<F>(a);
    }
}

__global__ void __launch_bounds__(WINDOW_THREADS, 1)
    segment_window_kernel(const __grid_constant__ segment_problem<bf16> a, const __grid_constant__ window_list list) {
    walk_windows<large_window>(a, list, 0);
    __syncthreads();
    walk_windows<small_window>(a, list, 1);
}

void segment_windows(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a) {
    int64_t most = (int64_t)WINDOW_MOST * p->S;
    p->windows = c->cuda && c->cuda->major >= 9 && c->cuda->shared_limit >= (size_t)WINDOW_BYTES && p->wide &&
                 p->D > 16 && p->D <= 32 && p->S > 0 && a->q->dim[0] <= most && p->n_keys <= most;
    if (!p->windows) return;
    CHECK((int64_t)p->S * p->G < (int64_t)1 << 30, "attn_segment_bwd: %d segments of %d key heads are too many", p->S,
          p->G);
    window_list list;
    list.place = (window_place *)arena_alloc(&c->scratch, (size_t)p->S * sizeof *list.place);
    list.plan = (window_plan *)arena_alloc(&c->scratch, sizeof *list.plan);
    sort_windows_kernel<<<1, SORT_THREADS, 0, stream_of(c)>>>(ptr<int32_t>(a->q_first), p->k_first, p->S, p->G, list);
    LAUNCHED(c);
    allow_shared(c, segment_window_kernel, WINDOW_BYTES, "attn_segment_bwd");
    segment_window_kernel<<<(unsigned)c->cuda->multiprocessors, WINDOW_THREADS, WINDOW_BYTES, stream_of(c)>>>(*p, list);
    LAUNCHED(c);
}
