/* Shared by the two forms of attn_select's backward for the keys (attn_select_keys.cu: mma.sync, attn_select_groups.cu:
 * wgmma): the plan of who does what, the rows' way through shared memory, the write-out. */
#pragma once
#include "kernels/cuda/dev/select_attn.cuh"

__device__ __forceinline__ int parts_of(int length, int part) {
    return (length + part - 1) / part;
}

/* Keys key, key + 1, .. of a list's block against one of n_parts parts of the list. */
struct __align__(16) dkv_item {
    int32_t list, part, n_parts, key;
    int32_t query, n_queries; /* the part's place in the lists' queries */
    int32_t first, size;      /* of the block */
};
struct dkv_plan {
    int32_t part, n_items, ticket; /* part: queries; ticket: items that are taken */
};
struct dkv_tables {
    dkv_plan     *plan;
    dkv_item     *item;
    int32_t      *sum_first; /* (n_lists): rows of `sums` before a list's */
    float        *sums;      /* rows (2,D): dk / scale and dv of part p, key k at sum_first + p*size + k */
    select_lists  lists;
    select_packed packed;
};

/* The next item, for all threads of the block, in shared memory until the next call; false: all are taken. */
__device__ __forceinline__ bool take_item(const dkv_tables &t, dkv_item *taken) {
    __syncthreads(); /* the last item is done with shared memory */
    if (threadIdx.x == 0) {
        const int i = atomicAdd(&t.plan->ticket, 1);
        if (i < t.plan->n_items)
            *taken = t.item[i];
        else
            taken->list = -1;
    }
    __syncthreads();
    return taken->list >= 0;
}

/* The rows of an item on their way through shared memory, STAGES stages of q, dout and stat of ROWS rows: load(s) for
 * every stage in turn, one cp.async group each. A thread has a 16-byte chunk of COPIES rows and, some, a row's stat.
 * The queries of these rows are read one stage ahead, and used only then: nobody waits for them. ALL: a group has 16
 * heads (below). */
template <class F, bool ALL> struct select_rows {
    const select_view &a;
    const int32_t     *query;
    uint32_t           hs, head, n_rows, n_stages, next[F::COPIES], next_stat, ring;

    __device__ __forceinline__ select_rows(const select_view &a, const int32_t *query, int g, int n_queries,
                                           uint32_t ring)
        : a(a), query(query), hs(a.hs), head(g * hs), n_rows(n_queries * hs),
          n_stages((n_rows + F::ROWS - 1) / F::ROWS), ring(ring) {
        find(0);
    }
    __device__ __forceinline__ uint32_t at(uint32_t s) const { return ring + s % F::STAGES * F::STAGE; }
    __device__ __forceinline__ uint32_t row_at(uint32_t s, int i) const {
        return s * F::ROWS + threadIdx.x / 4 + F::THREADS / 4 * i;
    }
    __device__ __forceinline__ uint32_t stat_at(uint32_t s) const { return s * F::ROWS + threadIdx.x % F::ROWS; }

    /* Query of row r of the item; any for a row past the end. */
    __device__ __forceinline__ uint32_t query_of(uint32_t r) const { return __ldg(query + min(r, n_rows - 1) / hs); }
    /* Row r of the tensors. */
    __device__ __forceinline__ uint32_t row_of(uint32_t query, uint32_t r) const { return query * a.H + head + r % hs; }

    __device__ __forceinline__ void find(uint32_t s) {
#pragma unroll
        for (int i = 0; i < F::COPIES; i++) next[i] = query_of(row_at(s, i));
        next_stat = query_of(stat_at(s));
    }
    __device__ __forceinline__ void load(uint32_t s) {
        if (s < n_stages) {
            const int chunk = threadIdx.x % 4;
#pragma unroll
            for (int i = 0; i < F::COPIES; i++) {
                const uint32_t r = row_at(s, i);
                const bf16    *q = (const bf16 *)a.q + (uint64_t)row_of(next[i], r) * a.D + 8 * chunk;
                const bf16    *dout = (const bf16 *)a.dout + (q - (const bf16 *)a.q);
#pragma unroll
                for (int c = 0; c < F::GROUPS; c++) {
                    const int bytes = r < n_rows && 32 * c + 8 * chunk < a.D ? 16 : 0;
                    uint32_t  to =
                        at(s) + c * (F::ROWS * 64) + tile_chunk<32>(threadIdx.x / 4 + F::THREADS / 4 * i, chunk);
                    cp_async_16(to, bytes ? q + 32 * c : (const bf16 *)a.q, bytes);
                    cp_async_16(to + F::OPERAND, bytes ? dout + 32 * c : (const bf16 *)a.dout, bytes);
                }
            }
            if (threadIdx.x < F::ROWS) {
                uint32_t to = at(s) + 2 * F::OPERAND + threadIdx.x * (int)sizeof(float2);
                if (stat_at(s) < n_rows)
                    cp_async_8(to, a.stat + row_of(next_stat, stat_at(s)), 8);
                else
                    shared_store(to, make_float2(INFINITY, 0)); /* P = 0 */
            }
            find(s + 1);
        }
        cp_async_commit();
    }
};

/* The same for groups of 16 heads, with a quarter of the instructions: a query's rows lie together, and a warp brings
 * those of EACH queries of a stage. A lane has a chunk of a query's rows lane/4 and lane/4 + 8. */
template <class F> struct select_rows<F, true> {
    enum { QUERIES = F::ROWS / 16, EACH = QUERIES * 32 / F::THREADS };
    const select_view &a;
    const int32_t     *query;
    uint32_t n_queries, n_rows, n_stages, next[EACH], ring, head, from; /* from: of the lane, in a query's rows */

    __device__ __forceinline__ select_rows(const select_view &a, const int32_t *query, int g, int n_queries,
                                           uint32_t ring)
        : a(a), query(query), n_queries(n_queries), n_rows(n_queries * 16), n_stages((n_rows + F::ROWS - 1) / F::ROWS),
          ring(ring), head(g * 16), from((g * 16 + threadIdx.x % 32 / 4) * a.D + threadIdx.x % 4 * 8) {
        find(0);
    }
    __device__ __forceinline__ uint32_t at(uint32_t s) const { return ring + s % F::STAGES * F::STAGE; }
    __device__ __forceinline__ uint32_t query_at(uint32_t s, int i) const {
        return s * QUERIES + threadIdx.x / 32 * EACH + i;
    }
    __device__ __forceinline__ void find(uint32_t s) {
#pragma unroll
        for (int i = 0; i < EACH; i++) next[i] = __ldg(query + min(query_at(s, i), n_queries - 1));
    }
    __device__ __forceinline__ void load(uint32_t s) {
        if (s < n_stages) {
            const uint32_t lane = threadIdx.x % 32, chunk = lane % 4;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const bool     ok = query_at(s, i) < n_queries;
                const uint32_t rows = (threadIdx.x / 32 * EACH + i) * 16;
                const uint64_t x = (uint64_t)(next[i] * a.H) * a.D + from;
                const bf16    *q = (const bf16 *)a.q + x, *dout = (const bf16 *)a.dout + x;
                const uint32_t to = at(s) + tile_chunk<32>(rows + lane / 4, chunk);
#pragma unroll
                for (int c = 0; c < F::GROUPS; c++) {
                    const int bytes = ok && 32 * c + 8 * chunk < a.D ? 16 : 0;
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const uint32_t there = to + c * (F::ROWS * 64) + half * 512;
                        cp_async_16(there, q + 32 * c + half * 8 * a.D, bytes);
                        cp_async_16(there + F::OPERAND, dout + 32 * c + half * 8 * a.D, bytes);
                    }
                }
                if (lane < 16) {
                    const uint32_t there = at(s) + 2 * F::OPERAND + (rows + lane) * (int)sizeof(float2);
                    if (ok)
                        cp_async_8(there, a.stat + next[i] * a.H + head + lane, 8);
                    else
                        shared_store(there, make_float2(INFINITY, 0)); /* P = 0 */
                }
            }
            find(s + 1);
        }
        cp_async_commit();
    }
};

/* Sums of the 16 keys from `key0` of the item's block on: to dk and dv, or as a part's to t.sums. */
template <int GROUPS>
__device__ __forceinline__ void write_keys(const select_view &a, const dkv_tables &t, const dkv_item &i, int key0,
                                           const float (&dk)[4 * GROUPS][4], const float (&dv)[4 * GROUPS][4],
                                           int lane) {
    const int  g = i.list / a.NB, first = i.first, size = i.size;
    const bool whole = i.n_parts == 1;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int key = key0 + lane / 4 + 8 * r, column = lane % 4 * 2;
        if (key >= size) continue;
        int64_t at = ((int64_t)(first + key) * a.G + g) * a.D + column;
        float  *sum = t.sums + ((int64_t)t.sum_first[i.list] + (int64_t)i.part * size + key) * 2 * a.D + column;
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; j++) {
            if (8 * j >= a.D) continue;
            const float dk0 = dk[j][2 * r], dk1 = dk[j][2 * r + 1], dv0 = dv[j][2 * r], dv1 = dv[j][2 * r + 1];
            if (whole) {
                *(uint32_t *)((bf16 *)a.dk + at + 8 * j) = pack_bf16(dk0 * a.scale, dk1 * a.scale);
                *(uint32_t *)((bf16 *)a.dv + at + 8 * j) = pack_bf16(dv0, dv1);
            } else {
                *(float2 *)(sum + 8 * j) = make_float2(dk0, dk1);
                *(float2 *)(sum + a.D + 8 * j) = make_float2(dv0, dv1);
            }
        }
    }
}

/* attn_select_lists.cu: fills t->plan to t->sums, for t->lists, items of up to `keys` keys, and n_slots blocks of
 * threads that work at a time. */
void select_make_plan(ctx *c, const select_view &a, dkv_tables *t, int keys, int n_slots);

/* attn_select_groups.cu, for heads of at most 32 columns on Hopper; the plan is for items of SELECT_GROUP_KEYS keys,
 * select_group_slots at a time. */
enum { SELECT_GROUP_KEYS = 128 };
int  select_group_slots(const ctx *c);
void select_group_dkv(ctx *c, const select_view &a, const dkv_tables &t);
