/* Shared by the files of attn_segment: what a kernel gets, and the jobs that the device cuts segments into.
 *
 * Segment sizes are device data, so the host launches as many blocks as there can be tiles, and a table that is made on
 * the device says which tile a block has (attn_segment_jobs.cu); blocks without one leave at once.
 *   Rows of a segment are its pairs (query, head of one key head), head fastest: row r is query r / hs, head g*hs + r %
 * hs, so that the heads that share keys fill one tile. Keys of a segment are its key rows. */
#pragma once
#include "kernels/cuda/dev/attn_loader.cuh"
#include "kernels/cuda/dev/wgmma.cuh"
#include "kernels/cuda/state.h"

/* A tile: `at` is its first row (or key) inside the segment, whose queries start at q0 and keys at k0 of the orders. */
typedef struct alignas(16) attn_job {
    int32_t segment; /* -1: no tile */
    int32_t at, q0, rows, k0, keys, pad[2];
} attn_job;

template <class T> struct segment_problem {
    const T        *q, *k, *v, *dout;
    T              *out, *dq, *dk, *dv;
    float          *lse;
    int64_t         qs, ks, vs;
    const int32_t  *q_order, *k_order, *q_first, *k_first; /* orders NULL: the identity */
    float           scale;
    int             H, G, hs, D, S;
    int64_t         n_keys; /* positions that k_order (or the identity) has */
    divisor         by_hs;
    bool            wide;                               /* all rows allow accesses of 16 bytes */
    uint32_t        q_bytes, k_bytes, v_bytes, o_bytes; /* between rows: of q and dq; k, dk; v, dv; out, dout */
    const attn_job *job;
    int             n_jobs;
    const uint32_t *key_bound; /* (G): bits of the largest |k|^2 */
    /* backward */
    bool            windows; /* segments that are windows (below) are done; the rest are few, if there are any */
    bool            dq_add;
    float           unscale; /* 1/scale */
    const float2   *given;   /* (N,H): the caller's stat, or NULL */
    float2         *stat;    /* (N,H): what dq found out for dk, dv: lse and delta (bf16: `given`, or the same of it) */
    int             parts;   /* the rows of every segment are cut into so many parts for dk, dv ... */
    float          *part;    /* ... whose sums are (parts, n_keys, G, 2, D) if there are several */
};

typedef struct {
    int n, h;
} query_row;

/* The tensor row and head of row r of the job's segment. */
template <class T>
__device__ __forceinline__ query_row query_row_at(const segment_problem<T> &a, const attn_job &j, int g, int r) {
    int i = divide(r, a.by_hs), at = j.q0 + i;
    return query_row{a.q_order ? __ldg(a.q_order + at) : at, g * a.hs + r - i * a.hs};
}
template <class T> __device__ __forceinline__ int key_row_at(const segment_problem<T> &a, const attn_job &j, int i) {
    return a.k_order ? __ldg(a.k_order + j.k0 + i) : j.k0 + i;
}

/* A warp moves the first n_rows (<= ROWS, none if below 1) of the segment's rows from row0 on between a tensor and a
 * tile of its own. The segment has at least one row. Rows that are not there become zeros. */
template <int D, int ROWS, bool WIDE>
__device__ __forceinline__ void load_query_rows(uint32_t tile, const segment_problem<bf16> &a, const attn_job &j, int g,
                                                int row0, int n_rows, const bf16 *src, uint32_t bytes) {
    tile_loader<D, ROWS, 32, WIDE> move(threadIdx.x % 32, a.D);
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        bool      there = move.row_of(i) < n_rows;
        query_row at = query_row_at(a, j, g, there ? row0 + move.row_of(i) : 0);
        move.load(tile, i, row_at(src, at.n, bytes) + at.h * a.D + move.col, there && move.brings());
    }
}
template <int D, int ROWS, bool WIDE>
__device__ __forceinline__ void store_query_rows(uint32_t tile, const segment_problem<bf16> &a, const attn_job &j,
                                                 int g, int row0, int n_rows, bf16 *dst, uint32_t bytes,
                                                 bool add = false) {
    tile_loader<D, ROWS, 32, WIDE> move(threadIdx.x % 32, a.D);
#pragma unroll
    for (int i = 0; i < move.COUNT; i++) {
        if (move.row_of(i) >= n_rows) break;
        query_row at = query_row_at(a, j, g, row0 + move.row_of(i));
        store_chunk<WIDE>(row_at(dst, at.n, bytes) + at.h * a.D, tile + move.to(i), move.chunk, a.D, add);
    }
}

/* threadIdx.x, asked for anew so that nothing that follows from it is kept in registers over a loop. */
__device__ __forceinline__ int thread_anew() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* Where the stage of a ring that is used next begins. */
template <class F> __device__ __forceinline__ int next_stage(int at) {
    return at == (F::STAGES - 1) * F::STAGE ? 0 : at + F::STAGE;
}

/* The keys of a segment on their way through shared memory: tiles of F::KEYS keys and values in a ring of F::STAGES,
 * F::AHEAD of which are on their way (STAGES - 1, or fewer where products that run still read the tile before). load()
 * once for each tile, also past the last one (`more` is false then); each is one cp.async group of the thread.
 * The rows' numbers are fetched a tile ahead, since they may come from an order list. */
template <class F> struct key_ring {
    typedef tile_loader<F::D, F::KEYS, F::THREADS, F::WIDE> loader;
    const segment_problem<bf16>                            &a;
    const bf16                                             *k, *v;
    loader                                                  move;
    uint32_t                                                ring;
    int from, to;            /* offsets of the stages that are read and filled next */
    int at, last, left;      /* this thread's first row, the last row, rows from at on */
    int next[loader::COUNT]; /* rows to load next; beyond the last one, that one */

    __device__ __forceinline__ key_ring(const segment_problem<bf16> &a, const attn_job &j, int g, uint32_t ring)
        : a(a), move(threadIdx.x, a.D), ring(ring), from(0), to(0), at(j.k0 + move.row), last(j.k0 + j.keys - 1),
          left(move.brings() ? j.keys - move.row : 0) {
        k = a.k + g * a.D + move.col;
        v = a.v + g * a.D + move.col;
        if (j.keys > 0) find();
    }
    __device__ __forceinline__ void find() {
#pragma unroll
        for (int i = 0; i < loader::COUNT; i++) next[i] = min(at + i * loader::PASS, last);
        if (a.k_order) {
#pragma unroll
            for (int i = 0; i < loader::COUNT; i++) next[i] = __ldg(a.k_order + next[i]);
        }
    }
    __device__ __forceinline__ void load(bool more) {
        if (more) {
#pragma unroll
            for (int i = 0; i < loader::COUNT; i++) {
                bool there = i * loader::PASS < left;
                move.load(ring + to, i, row_at(k, next[i], a.k_bytes), there);
                move.load(ring + to + F::TILE, i, row_at(v, next[i], a.v_bytes), there);
            }
            at += F::KEYS;
            left -= F::KEYS;
            find();
        }
        to = next_stage<F>(to);
        cp_async_commit();
    }
    __device__ __forceinline__ void begin(int keys) {
#pragma unroll
        for (int t = 0; t < F::AHEAD; t++) load(keys > t * F::KEYS);
    }
    /* For each tile: wait() until it is there, follow() starts the load into the place that is free then (`keys` are
     * left from the tile on), take() says where it is: keys, and values F::TILE bytes further. */
    __device__ __forceinline__ void wait() {
        cp_async_wait<F::AHEAD - 1>();
        if (F::WGMMA) shared_for_wgmma();
        __syncthreads(); /* the tile is there for all, and all are done with the one whose place is next */
    }
    __device__ __forceinline__ void follow(int keys) {
        load(keys > F::AHEAD * F::KEYS);
    }
    __device__ __forceinline__ uint32_t take() {
        uint32_t tile = ring + from;
        from = next_stage<F>(from);
        return tile;
    }
};

/* A window: a segment of 1 to WINDOW_MOST keys and queries. Its number of keys, 0 for other segments. */
enum { WINDOW_MOST = 256 };
__device__ __forceinline__ int window_keys(const int32_t *q_first, const int32_t *k_first, int s) {
    int queries = q_first[s + 1] - q_first[s], keys = k_first[s + 1] - k_first[s];
    return queries > 0 && queries <= WINDOW_MOST && keys <= WINDOW_MOST ? keys : 0;
}

/* attn_segment_jobs.cu. Tables are in scratch. Tiles of `tile` rows (hs a query) or keys, with_windows or without;
 * *n_jobs bounds their number. */
attn_job *segment_row_jobs(ctx *c, const attn_segment_args *a, int tile, int *n_jobs, bool with_windows = true);
attn_job *segment_key_jobs(ctx *c, const attn_segment_args *a, int tile, int *n_jobs, bool with_windows = true);
uint32_t *segment_key_bound(ctx *c, const segment_problem<bf16> &p, int64_t M); /* (G) bits of the largest |k|^2 */
/* Parts to cut the rows of each segment into, for dk and dv by tiles of `tile` keys; and memory for their sums. */
template <class T> void segment_parts(ctx *c, segment_problem<T> *p, int64_t n_queries, int tile);
template <class T> void segment_add_parts(ctx *c, const segment_problem<T> &p); /* their sum to dk, dv */
template <class T> void segment_clear_unnamed(ctx *c, const segment_problem<T> &p, int64_t M);

void segment_find_stat(ctx *c, const segment_problem<bf16> &p, int64_t n_queries); /* for the fused backward */

/* attn_segment_window.cu: dq, dk and dv of all windows, where that kernel serves; says so in p->windows. */
void               segment_windows(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a);
static inline void segment_windows(ctx *, segment_problem<float> *, const attn_segment_args *) {}

/* Forward; backward for the queries, which fills stat; then for the keys. bf16 in attn_segment_fwd, _dq and _dkv.cu,
 * f32 in attn_segment_f32.cu. */
void segment_fwd(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a);
void segment_dq(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a);
void segment_dkv(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a);
void segment_fwd(ctx *c, segment_problem<float> *p, const attn_segment_args *a);
void segment_dq(ctx *c, segment_problem<float> *p, const attn_segment_args *a);
void segment_dkv(ctx *c, segment_problem<float> *p, const attn_segment_args *a);

/* Whether products by warpgroups (dev/wgmma.cuh) serve: on Hopper, where the tiles of 128 rows and keys get full. */
static inline bool by_warpgroups(const ctx *c, const segment_problem<bf16> &p, int64_t n_queries) {
    return !p.windows && c->cuda && c->cuda->major == 9 && p.wide && p.D > 16 && p.D <= 64 &&
           p.n_keys >= 192 * (int64_t)p.S && n_queries * p.hs >= 1024 * (int64_t)p.S;
}

/* Blocks for n tiles: one each, or, where windows are done and few tiles left, as many as run at once (`resident` on a
 * multiprocessor), which look for what there is. */
static inline unsigned tile_blocks(const ctx *c, bool windows, int64_t n, int resident) {
    if (!windows) return (unsigned)n;
    int64_t some = resident * (int64_t)c->cuda->multiprocessors;
    return (unsigned)(some < n ? some : n);
}

/* Forward with all keys in shared memory, if it serves (attn_segment_held.cu). */
bool segment_held(ctx *c, segment_problem<bf16> *p, int64_t n_queries);

/* The whole backward by one kernel, if it serves (attn_segment_fused.cu); false: dq and dkv are to do it. */
bool               segment_fused(ctx *c, segment_problem<bf16> *p, const attn_segment_args *a);
static inline bool segment_fused(ctx *, segment_problem<float> *, const attn_segment_args *) {
    return false;
}

/* Raises the block's limit of shared memory where needed, and says so when the card has less. */
template <class K> static inline void allow_shared(const ctx *c, K kernel, size_t bytes, const char *what) {
    if (bytes <= 48 * 1024) return;
    CHECK(!c->cuda || bytes <= c->cuda->shared_limit, "%s: needs %zu bytes of shared memory, a block has %zu", what,
          bytes, c->cuda->shared_limit);
    CUDA_DO(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
