/* Attention inside segments, forward of long segments on Hopper, bf16, heads of up to 32 columns: a block holds all
 * keys and values of a key head in shared memory, and its warpgroups take tiles of 64 rows each, one after the other,
 * without a barrier between them. So one's products run under another's exponentials, which are what bounds the form.
 *
 * A turn is a tile of rows for each warpgroup. Turns of all segments and key heads are one row of turns, of which each
 * block has an equal part: of one key head or two as a rule, whose keys it brings when it comes to them.
 *
 *   (segment 0, key head 0)    (segment 0, key head 1)   ...
 *   |  block 0   |   block 1     |   block 2    |
 *
 * Registers bound the number of warpgroups (five of 96 a thread), so q is read from shared memory by the products, and
 * what all threads know lies there. The compiler must not warn of wgmma being serialised (-Xptxas -v: C7510 to C7520).
 *
 * Segments of more keys than a block holds take them in chunks, which it brings anew for each turn; that is slower than
 * attn_segment_fwd.cu, where all such segments go if they are the rule. */
#include "kernels/cuda/attn_segment_fwd.cuh"

struct held {
    static constexpr int D = 32, GROUPS = 5, WARPS = 4 * GROUPS, THREADS = 32 * WARPS;
    static constexpr int MT = 1, WARP_ROWS = 16, ROWS = 64;     /* of a warp, of a warpgroup */
    static constexpr int KEYS = 64;                             /* of a tile */
    static constexpr int TILES = 23, CHUNK = TILES * KEYS;      /* keys that a block holds */
    static constexpr int TILE = KEYS * D * 2, STAGE = 2 * TILE; /* bytes: K, then V */
    static constexpr int OWN = WARP_ROWS * D * 2;               /* a warp's q */
    static constexpr int Q_AT = TILES * STAGE, Q = WARPS * OWN; /* in two places, in turn */
    static constexpr int PLACE_AT = Q_AT + 2 * Q;
    static constexpr int BYTES = PLACE_AT + 64;
};

/* The chunk of keys from `from` on, when all are done with the one before; behind it all see it. Rows past the last key
 * are zeros. */
__device__ __forceinline__ void hold_keys(const segment_problem<bf16> &a, const attn_job &j, int g, uint32_t shared,
                                          int from) {
    tile_loader<held::D, held::KEYS, held::THREADS, true> move(thread_anew(), a.D);
    int                                                   n = min(j.keys - from, held::CHUNK), col = g * a.D + move.col;
    __syncthreads();
#pragma unroll 4
    for (int at = 0; at < n; at += held::KEYS, shared += held::STAGE) {
        bool there = at + move.row < n;
        int  row = key_row_at(a, j, from + (there ? at + move.row : 0));
        move.load(shared, 0, row_at(a.k, row, a.k_bytes) + col, there && move.brings());
        move.load(shared + held::TILE, 0, row_at(a.v, row, a.v_bytes) + col, there && move.brings());
    }
    cp_async_commit();
    cp_async_wait<0>();
    shared_for_wgmma();
    __syncthreads();
}

/* What all threads of the block know: turns, each a tile of rows for each warpgroup, of a segment and key head. */
struct held_place {
    attn_job j;
    int      g, first, n;     /* n turns from turn `first` of the segment on */
    int      at, end;         /* the block's turns that are left, counted over all segments and key heads */
    int      segment, before; /* and turns before this segment */

    /* Turns of a segment for one key head. */
    static __device__ __forceinline__ int turns_of(const segment_problem<bf16> &a, int s) {
        constexpr int ROWS = held::GROUPS * held::ROWS;
        return ((a.q_first[s + 1] - a.q_first[s]) * a.hs + ROWS - 1) / ROWS;
    }
    __device__ __forceinline__ void begin(const segment_problem<bf16> &a) {
        int64_t all = 0;
        for (int s = 0; s < a.S; s++) all += turns_of(a, s) * a.G;
        at = (int)(all * blockIdx.x / gridDim.x), end = (int)(all * (blockIdx.x + 1) / gridDim.x);
        segment = before = 0;
    }
    /* The next segment and key head, if there are turns left. */
    __device__ __forceinline__ void next(const segment_problem<bf16> &a) {
        n = 0;
        if (at == end) return;
        int turns = turns_of(a, segment);
        for (; at >= before + turns * a.G; turns = turns_of(a, ++segment)) before += turns * a.G;
        g = (at - before) / turns, first = at - before - g * turns, n = min(turns - first, end - at);
        at += n;
        j.q0 = a.q_first[segment], j.rows = (a.q_first[segment + 1] - j.q0) * a.hs;
        j.k0 = a.k_first[segment], j.keys = a.k_first[segment + 1] - j.k0;
    }
};
static_assert(sizeof(held_place) <= 64, "its room");

/* Warpgroup and lane are asked for anew in each part: with the sums, a thread has no registers to keep them over the
 * loop over keys. */
struct held_thread {
    int lane, warp;

    __device__ __forceinline__ held_thread() {
        int id = thread_anew();
        lane = id % 32, warp = id / 32;
    }

    __device__ __forceinline__ int group() const { return __shfl_sync(0xffffffffu, warp / 4, 0); }

    /* q of the warp, of its warpgroup, in turn `turn`. */
    __device__ __forceinline__ uint32_t own(uint32_t shared, int turn) const {
        return shared + held::Q_AT + turn % 2 * held::Q + warp * held::OWN;
    }
    __device__ __forceinline__ uint32_t of_group(uint32_t shared, int turn) const {
        return shared + held::Q_AT + turn % 2 * held::Q + group() * (4 * held::OWN);
    }

    /* Turn `turn` of the warp: its first row of the segment, and whether there is a tile for its warpgroup. */
    __device__ __forceinline__ int row0(const held_place &at, int turn) const {
        return (at.first + turn) * (held::GROUPS * held::ROWS) + warp * held::WARP_ROWS;
    }

    __device__ __forceinline__ bool has(const held_place &at, int turn) const {
        return turn < at.n && ((at.first + turn) * held::GROUPS + group()) * held::ROWS < at.j.rows;
    }
};

/* Tiles as the products take them (wgmma_tile), less their upper half, which is the same for all. */
__device__ __forceinline__ uint32_t held_tile(uint32_t addr) {
    return (uint32_t)wgmma_tile<held::D>(addr);
}
__device__ __forceinline__ uint64_t held_part(uint32_t tile, int bytes) {
    return wgmma_tile<held::D>(0) >> 32 << 32 | (tile + bytes / 16);
}

/* Starts s = <q, k>; o += p v for the values of `tile`. */
__device__ __forceinline__ void held_scores(float (&s)[8][4], uint32_t q, uint32_t tile) {
    wgmma_set_rows(s, held_part(q, 0), held_part(tile, 0));
    wgmma_add_rows(s, held_part(q, 32), held_part(tile, 32));
    wgmma_commit();
}
__device__ __forceinline__ void held_values(fwd_rows<held> &w, const uint32_t (&p)[4][4], uint32_t tile) {
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma_add<true>(w.o[0], p[i], held_part(tile, held::TILE + i * (16 * held::D * 2)));
    wgmma_commit();
}

/* 2^(s c) to 2.7e-6 for |s c| < 2^21, without the exponential unit: 2^f by a polynomial, f = s c less its nearest
 * integer, which lies in the last bits of t. */
__device__ __forceinline__ float exp2_fma(float s, float c) {
    float t = fmaf(s, c, 12582912.f), f = fmaf(s, c, 12582912.f - t);
    float y = fmaf(f, fmaf(f, fmaf(f, fmaf(f, 9.56051e-3f, 5.591704e-2f), 0.24024981f), 0.69312197f), 0.99999919f);
    return __uint_as_float(__float_as_uint(y) + (__float_as_uint(t) << 23));
}

/* Weights of 16 keys, in place; CUT: of keys from n on 0. The exponential unit is what bounds the form, so others make
 * one weight of eight. */
template <bool CUT>
__device__ __forceinline__ void held_weigh(fwd_rows<held> &w, float (&s)[8][4], int pair, float c, int n, int quad) {
#pragma unroll
    for (int nt = 2 * pair; nt < 2 * pair + 2; nt++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float y = nt % 2 == 0 && i == 0 ? exp2_fma(s[nt][i], c) : exp2_fast(s[nt][i] * c);
            if (CUT && nt * 8 + quad * 2 + i % 2 >= n) y = 0;
            w.sum[0][i / 2] += y;
            s[nt][i] = y;
        }
}
__device__ __forceinline__ void held_round(uint32_t (&p)[4][4], const float (&s)[8][4]) {
#pragma unroll
    for (int nt = 0; nt < 8; nt++) {
        p[nt / 2][nt % 2 * 2] = pack_bf16(s[nt][0], s[nt][1]);
        p[nt / 2][nt % 2 * 2 + 1] = pack_bf16(s[nt][2], s[nt][3]);
    }
}

/* A chunk of n keys for a warpgroup's rows, the last tile first, as it may be cut. The next scores are made before the
 * values of a tile, whose products then run under the next exponentials. */
__device__ __forceinline__ void group_held(fwd_rows<held> &w, uint32_t q, uint32_t shared, float c, int n) {
    typedef held F;
    float        s[8][4];
    uint32_t     p[4][4], tile = held_tile(shared), last = (n - 1) / F::KEYS, end = tile + last * (F::STAGE / 16);
    n -= last * F::KEYS;
    wgmma_begin();
    held_scores(s, q, end);
    wgmma_wait<0>();
    pin(s);
    int quad = held_thread().lane % 4;
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        if (16 * pair + 16 <= n) {
            held_weigh<false>(w, s, pair, c, n, quad);
        } else if (16 * pair < n) {
            held_weigh<true>(w, s, pair, c, n, quad);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) s[2 * pair + i / 4][i % 4] = 0;
        }
    }
    held_round(p, s);
    uint32_t behind = end;
#pragma unroll 1
    for (; tile != end; tile += F::STAGE / 16) {
        pin(p);
        wgmma_begin();
        held_scores(s, q, tile);
        held_values(w, p, behind);
        wgmma_wait<1>();
        pin(s);
#pragma unroll
        for (int pair = 0; pair < 4; pair++) held_weigh<false>(w, s, pair, c, n, quad);
        wgmma_wait<0>();
        pin(w.o[0]);
        pin(s);
        held_round(p, s);
        behind = tile;
    }
    pin(p);
    wgmma_begin();
    held_values(w, p, behind);
    wgmma_wait<0>();
    pin(w.o[0]);
}

/* Starts the copy of the warp's rows in its turn. */
__device__ __forceinline__ void bring_rows(const segment_problem<bf16> &a, const held_place &at, uint32_t shared,
                                           int turn) {
    held_thread me;
    int         row0 = me.row0(at, turn);
    if (me.has(at, turn))
        load_query_rows<held::D, held::WARP_ROWS, true>(me.own(shared, turn), a, at.j, at.g, row0, at.j.rows - row0,
                                                        a.q, a.q_bytes);
    cp_async_commit();
}

/* The warp's rows are there, the next ones come. Returns whether the bounded form serves its warpgroup. With few
 * keys, the rounded weights should be exact where a key is alone: the running form makes the largest 1. */
__device__ __forceinline__ bool begin_rows(fwd_rows<held> &w, const segment_problem<bf16> &a, const held_place &at,
                                           uint32_t shared, int turn) {
    held_thread me;
    float       c = a.scale * LOG2_E;
    cp_async_wait<0>();
    shared_for_wgmma();
    __syncwarp();
    take_rows(w, a, me.own(shared, turn), me.lane);
    /* The barrier also says that the rows of the turn before have been read. */
    bool bounded = barrier_and<128>(1 + me.group(), c * c * largest_norm(w) * __uint_as_float(a.key_bound[at.g]) <=
                                                        BOUND_LOG2 * BOUND_LOG2);
    /* A vote: the compiler sees that warps do not part here. */
    bounded = __all_sync(0xffffffffu, bounded && at.j.keys > 2 * held::KEYS);
    bring_rows(a, at, shared, turn + 1);
    if (!bounded) begin_running(w);
    return bounded;
}

/* out and lse of the warp's n_rows rows: a lane has 8 columns of two rows. */
__device__ __forceinline__ void write_held(const fwd_rows<held> &w, const segment_problem<bf16> &a,
                                           const held_place &at, int row0, int n_rows, int lane) {
    int    quad = lane % 4;
    float  sum = 0, most = 0;
    float *lse = NULL;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float    all = quad_sum(w.sum[0][half]), inverse = at.j.keys ? __fdividef(1.f, all) : 0;
        uint32_t v[4];
        int      r = lane / 4 + 8 * half;
#pragma unroll
        for (int dt = 0; dt < 4; dt++)
            v[dt] = pack_bf16(w.o[0][dt][2 * half] * inverse, w.o[0][dt][2 * half + 1] * inverse);
        turn_quad(v, lane);
        if (r >= n_rows) continue;
        query_row to = query_row_at(a, at.j, at.g, row0 + r);
        if (quad * 8 < a.D)
            *reinterpret_cast<uint4 *>(row_at(a.out, to.n, a.o_bytes) + to.h * a.D + quad * 8) =
                make_uint4(v[0], v[1], v[2], v[3]);
        if (quad == half) sum = all, most = w.max[0][half], lse = a.lse + (int64_t)to.n * a.H + to.h;
    }
    if (lse) *lse = at.j.keys ? most * fabsf(a.scale) + logf(sum) : -INFINITY;
}

/* All turns of the block's place. */
__device__ __forceinline__ void held_rows(const segment_problem<bf16> &a, const held_place &at, uint32_t shared) {
    typedef held F;
    bring_rows(a, at, shared, 0);
    if (at.j.keys > 0) hold_keys(a, at.j, at.g, shared, 0);
#pragma unroll 1
    for (int turn = 0; turn < at.n; turn++) {
        fwd_rows<F> w;
        bool        bounded = held_thread().has(at, turn) && begin_rows(w, a, at, shared, turn);
#pragma unroll 1
        for (int from = 0; from < at.j.keys; from += F::CHUNK) {
            if (at.j.keys > F::CHUNK && (turn > 0 || from > 0)) hold_keys(a, at.j, at.g, shared, from);
            if (!held_thread().has(at, turn)) continue;
            int keys = min(at.j.keys - from, F::CHUNK);
            if (bounded) {
                group_held(w, held_tile(held_thread().of_group(shared, turn)), shared, a.scale * LOG2_E, keys);
                continue;
            }
            held_thread          me;
            const fwd_offsets<F> off = key_offsets<F>(me.lane);
            take_query(w, a, me.own(shared, turn), me.lane);
#pragma unroll 1
            for (int i = 0; i < keys; i += F::KEYS)
                walk_running(w, off, shared + i / F::KEYS * F::STAGE, fabsf(a.scale) * LOG2_E, min(keys - i, F::KEYS),
                             me.lane % 4);
        }
        held_thread me;
        int         row0 = me.row0(at, turn), n_rows = min(at.j.rows - row0, F::WARP_ROWS);
        if (me.has(at, turn)) write_held(w, a, at, row0, n_rows, me.lane);
    }
}

__global__ void __launch_bounds__(held::THREADS, 1)
    segment_held_kernel(const __grid_constant__ segment_problem<bf16> a) {
    if constexpr (HAS_WGMMA) {
        extern __shared__ __align__(1024) unsigned char segment_shared[];
        uint32_t                                        shared = smem_addr(segment_shared);
        held_place &place = *reinterpret_cast<held_place *>(segment_shared + held::PLACE_AT);
        if (threadIdx.x == 0) place.begin(a);
#pragma unroll 1
        for (;;) {
            /* racecheck names reads of `place` by warpgroups that had no tile and waited here while others met at
             * barriers of their own. It is wrong: all threads pass both barriers in each turn, and `place` is written
             * between them only. */
            __syncthreads();
            if (threadIdx.x == 0) place.next(a);
            __syncthreads();
            if (place.n == 0) break;
            held_rows(a, place, shared);
        }
    }
}

bool segment_held(ctx *c, segment_problem<bf16> *p, int64_t n_queries) {
    int64_t rows = n_queries * p->hs, tiles = (rows / held::ROWS + p->S) * p->G;
    if (!by_warpgroups(c, *p, n_queries) || p->D > held::D || p->n_keys > held::CHUNK * (int64_t)p->S) return false;
    if (rows >= (int64_t)1 << 30 || tiles >= (int64_t)1 << 31)
        return false; /* the other form says that it is too much */
    allow_shared(c, segment_held_kernel, held::BYTES, "attn_segment_fwd");
    segment_held_kernel<<<(unsigned)c->cuda->multiprocessors, held::THREADS, held::BYTES, stream_of(c)>>>(*p);
    LAUNCHED(c);
    return true;
}
