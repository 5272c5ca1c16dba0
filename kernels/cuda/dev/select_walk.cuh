/* Query tiles and their way over the selected blocks: what forward and backward for the queries of attn_select share.
 *
 * A query tile is 16 heads of one query: all of a group, or a part of them, filled up with zeros. A warp has TILES
 * neighbouring ones and walks over the blocks that any of them selected in ascending order, so that keys which
 * neighbours share are loaded once; whether a tile takes part in a block is the same for all lanes. Warps do not meet:
 * operands come from the packed keys (select_attn.cuh) straight into registers, each one loaded again as soon as it has
 * been used, and what other warps of the block loaded a little earlier is in L1. A block of threads has runs of
 * neighbouring query tiles, which its warps take as they come. */
#pragma once
#include <limits.h>

#include <type_traits>

#include "kernels/cuda/dev/select_attn.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* The blocks that any of TILES query tiles selected, ascending, in shared memory of the warp. A lane has an entry of
 * each list, and finds its place among the entries of all. Lists of more than 32 entries take several turns. */
struct union_entry {
    int tile, n_keys, mask, pad;
};
template <int TILES> struct block_union {
    union_entry entry[32 * TILES];
    int         id[TILES][32]; /* the lists' next entries without gaps, INT_MAX behind them */

    /* Number of entries of list q below `block`; steps: a power of two, at least half their number. */
    __device__ __forceinline__ int below(int q, int block, int steps) const {
        int n = 0;
        for (; steps; steps /= 2)
            if (id[q][n + steps - 1] < block) n += steps;
        return n + (id[q][n] < block);
    }

    /* list[q]: row of a.block; at[q]: its first entry that is left, a.K when there is none; moves on. Returns the
     * number of blocks, possibly none. */
    __device__ __forceinline__ int next(const select_view &a, const int (&list)[TILES], int (&at)[TILES]) {
        const int      lane = threadIdx.x % 32, steps = a.K > 16 ? 16 : a.K > 8 ? 8 : a.K > 4 ? 4 : 2;
        const uint32_t before_me = (1u << lane) - 1;
        int            mine[TILES], last = INT_MAX; /* last: block up to which all lists are here */
        __syncwarp();
#pragma unroll
        for (int q = 0; q < TILES; q++) {
            mine[q] = at[q] + lane < a.K ? a.block[(int64_t)list[q] * a.K + at[q] + lane] : -1;
            uint32_t there = __ballot_sync(ALL_LANES, mine[q] >= 0);
            id[q][lane] = INT_MAX;
            __syncwarp();
            if (mine[q] >= 0) id[q][__popc(there & before_me)] = mine[q];
            __syncwarp();
            if (at[q] + 32 < a.K && there) last = min(last, id[q][__popc(there) - 1]);
        }
#pragma unroll
        for (int q = 0; q < TILES; q++) {
            uint32_t later = __ballot_sync(ALL_LANES, mine[q] > last);
            at[q] = min(a.K, at[q] + (later ? __ffs(later) - 1 : 32));
        }
        int      first[TILES], size[TILES], place[TILES][TILES], mask[TILES], n = 0;
        uint32_t leaders[TILES]; /* of equal entries, the one in the first list */
#pragma unroll
        for (int q = 0; q < TILES; q++) {
            const int  b = id[q][lane];
            const bool there = b != INT_MAX && b <= last;
            first[q] = there ? __ldg(a.first + b) : 0;
            size[q] = there ? __ldg(a.first + b + 1) - first[q] : 0;
            bool leads = size[q] > 0;
            mask[q] = 1 << q;
#pragma unroll
            for (int p = 0; p < TILES; p++) {
                if (p == q) continue;
                const int to = below(p, b, steps);
                place[q][p] = to;
                if (to < 32 && id[p][to] == b) {
                    mask[q] |= 1 << p;
                    if (p < q) leads = false;
                }
            }
            leaders[q] = __ballot_sync(ALL_LANES, leads);
        }
#pragma unroll
        for (int q = 0; q < TILES; q++) {
            int to = __popc(leaders[q] & before_me);
#pragma unroll
            for (int p = 0; p < TILES; p++)
                if (p != q) to += __popc(leaders[p] & (place[q][p] < 32 ? (1u << place[q][p]) - 1 : ALL_LANES));
            if (leaders[q] >> lane & 1)
                entry[to] = union_entry{select_tile_of(first[q], id[q][lane]), size[q], mask[q], 0};
            n += __popc(leaders[q]);
        }
        __syncwarp();
        return n;
    }
};
/* Before `next` is called, with other loads between: brings the lists nearer. */
template <int TILES> __device__ __forceinline__ void prefetch_lists(const select_view &a, const int (&list)[TILES]) {
#pragma unroll
    for (int q = 0; q < TILES; q++) asm volatile("prefetch.global.L2 [%0];\n" ::"l"(a.block + (int64_t)list[q] * a.K));
}
template <int TILES> __device__ __forceinline__ bool lists_end(const select_view &a, const int (&at)[TILES]) {
    bool end = true;
#pragma unroll
    for (int q = 0; q < TILES; q++) end &= at[q] >= a.K;
    return end;
}

/* Which rows of the tensors a query tile is: heads head .. head + n_heads - 1 of query n. */
struct query_tile {
    int64_t n;
    int     head, n_heads;
    bool    exists;
};
__device__ __forceinline__ query_tile tile_at(const select_view &a, int g, int index) {
    const int  parts = (a.hs + 15) / 16, n = parts == 1 ? index : index / parts, head = (index - n * parts) * 16;
    query_tile t;
    t.exists = n < a.N;
    t.n = t.exists ? n : 0;
    t.head = g * a.hs + head;
    t.n_heads = t.exists ? min(16, (g + 1) * a.hs - t.head) : 0;
    return t;
}
/* Operand A of a query tile. */
template <int GROUPS>
__device__ __forceinline__ void load_heads(row_operand (&x)[GROUPS], const void *from, const select_view &a,
                                           const query_tile &t, int row, int quad) {
    const bf16 *p = (const bf16 *)from + (t.n * a.H + t.head) * a.D;
    bool        ok0 = row < t.n_heads, ok1 = row + 8 < t.n_heads;
#pragma unroll
    for (int i = 0; i < GROUPS; i++)
        x[i].load(p + row * a.D + 32 * i + 8 * quad, ok0 && 32 * i + 8 * quad < a.D,
                  p + (row + 8) * a.D + 32 * i + 8 * quad, ok1 && 32 * i + 8 * quad < a.D);
}
template <int GROUPS> __device__ __forceinline__ void load_chunks(uint4 (&x)[GROUPS][2], const uint4 *p) {
#pragma unroll
    for (int i = 0; i < GROUPS; i++) {
        x[i][0] = __ldg(p + i * 64);
        x[i][1] = __ldg(p + i * 64 + 32);
    }
}

/* All blocks of the query tiles whose lists are rows list[] of a.block, from entries at[] on: for each one
 * visit(SET, from, next, n_keys), SET a constant with bit i for query tile i. `from`: the lane's chunk of the block's
 * first packed tile, which lies in k and v; visit leaves there what `next` points to. */
template <int GROUPS, int TILES, class F>
__device__ __forceinline__ void walk_blocks(const select_view  &a, const int (&list)[TILES], int (&at)[TILES],
                                            block_union<TILES> &blocks, const uint4 *kv, uint4 (&k)[GROUPS][2],
                                            uint4 (&v)[GROUPS][2], const F          &visit) {
    typedef std::integral_constant<int, 1>                  first;
    typedef std::integral_constant<int, TILES == 1 ? 1 : 2> second;
    typedef std::integral_constant<int, TILES == 1 ? 1 : 3> both;
    do {
        const int n = blocks.next(a, list, at);
        if (n == 0) continue;
        union_entry  e = blocks.entry[0];
        const uint4 *from = kv + (int64_t)e.tile * (GROUPS * 128);
        load_chunks<GROUPS>(k, from);
        load_chunks<GROUPS>(v, from + GROUPS * 64);
        for (int i = 1; i <= n; i++) {
            const union_entry after = blocks.entry[i < n ? i : 0];
            const uint4      *next = kv + (int64_t)after.tile * (GROUPS * 128);
            if (TILES == 1 || e.mask == 1)
                visit(first(), from, next, e.n_keys);
            else if (e.mask == 2)
                visit(second(), from, next, e.n_keys);
            else
                visit(both(), from, next, e.n_keys);
            e = after;
            from = next;
        }
    } while (!lists_end(a, at));
}

/* Query tiles of a key head, filled up to whole runs. */
static inline int tiles_of_head(const select_view &a, int run) {
    return (int)(ceil_div(a.N * ceil_div(a.hs, 16), run) * run);
}

/* Hands out the query tiles of all key heads: a block of threads takes a run of neighbours, its warps a few of them at
 * a time, and nobody waits for the end of a run. In shared memory. */
struct tile_queue {
    int lock, next, end; /* the run's tiles next .. end-1 are not taken yet; touched by atomics only */

    /* By one thread, before the others see it. */
    __device__ __forceinline__ void start() { lock = next = end = 0; }
    /* The next `tiles` tiles, from `index` of key head g on; false: all are taken. *ticket: runs that are taken. */
    __device__ __forceinline__ bool take(const select_view &a, int of_head, int run, int *ticket, int tiles, int *g,
                                         int *index) {
        int i = 0;
        if (threadIdx.x % 32 == 0) {
            while (atomicCAS(&lock, 0, 1)) {
            }
            __threadfence_block();
            i = atomicAdd(&next, tiles);
            if (i == atomicAdd(&end, 0)) {
                i = atomicAdd(ticket, 1) * run;
                atomicExch(&next, i + tiles);
                atomicExch(&end, i + run);
            }
            __threadfence_block();
            atomicExch(&lock, 0);
        }
        i = __shfl_sync(ALL_LANES, i, 0);
        *g = i / of_head;
        *index = i - *g * of_head;
        return *g < a.G;
    }
};
