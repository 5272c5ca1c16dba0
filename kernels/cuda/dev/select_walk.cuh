/* Query tiles and their way over the selected blocks: what forward and backward for the queries of attn_select share.
 *
 * A query tile is 16 heads of one query: all of a group, or a part of them, filled up with zeros. A warp has TILES
 * neighbouring ones and walks over the blocks that any of them selected in ascending order, so that keys which
 * neighbours share are loaded once; whether a tile takes part in a block is the same for all lanes. Warps do not meet:
 * operands come from the packed keys (select_attn.cuh) straight into registers, each one loaded again as soon as it has
 * been used, and what other warps of the block loaded a little earlier is in L1. A block of threads has neighbouring
 * query tiles, which its warps take as they come. */
#pragma once
#include <limits.h>

#include "kernels/cuda/dev/select_attn.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* A step: 16 keys (fewer at a block's end) at packed tile `tile` for the query tiles in `mask`. */
struct key_step {
    int      tile, n_keys; /* keys from here to the block's end */
    uint32_t mask;
};

/* Merges the ascending block lists of TILES query tiles, 32 entries of each at a time in shared memory of the warp. */
struct block_entry {
    int id, tile, size, pad;
};
template <int TILES> struct block_walk {
    const select_view &a;
    block_entry       *entry;                    /* (TILES,32) */
    int                list[TILES], base[TILES]; /* row of a.block, and its first place that is not in `entry` */
    int                head[TILES];              /* block of the first entry that is left */
    uint32_t           left[TILES];

    __device__ __forceinline__ block_walk(const select_view &a, block_entry *entry) : a(a), entry(entry) {}

    __device__ __forceinline__ void fill(int q) {
        const int32_t *from = a.block + (int64_t)list[q] * a.K;
        const int      lane = threadIdx.x % 32;
        do {
            int b = base[q] + lane < a.K ? from[base[q] + lane] : -1, f0 = b < 0 ? 0 : a.first[b];
            int size = b < 0 ? 0 : a.first[b + 1] - f0;
            __syncwarp();
            entry[32 * q + lane] = block_entry{b, select_tile_of(f0, b), size, 0};
            left[q] = __ballot_sync(ALL_LANES, size > 0);
            base[q] += 32;
        } while (!left[q] && base[q] < a.K);
        __syncwarp();
        find_head(q);
    }
    __device__ __forceinline__ void find_head(int q) {
        head[q] = left[q] ? entry[32 * q + __ffs(left[q]) - 1].id : INT_MAX;
    }

    __device__ __forceinline__ void start(int q, int g, int64_t n, bool exists) {
        list[q] = (int)(g * a.N + n);
        base[q] = exists ? 0 : a.K;
        fill(q);
    }

    /* The next block; false when there is none. */
    __device__ __forceinline__ bool next_block(key_step &s) {
        int b = head[0];
#pragma unroll
        for (int q = 1; q < TILES; q++) b = min(b, head[q]);
        if (b == INT_MAX) return false;
        s.mask = 0;
#pragma unroll
        for (int q = 0; q < TILES; q++)
            if (head[q] == b) {
                block_entry e = entry[32 * q + __ffs(left[q]) - 1];
                s.tile = e.tile;
                s.n_keys = e.size;
                s.mask |= 1u << q;
                left[q] &= left[q] - 1;
                if (!left[q] && base[q] < a.K)
                    fill(q);
                else
                    find_head(q);
            }
        return true;
    }
    __device__ __forceinline__ bool advance(key_step &s) {
        s.tile++;
        s.n_keys -= 16;
        return s.n_keys > 0 || next_block(s);
    }
};

/* Which rows of the tensors a query tile is: heads head .. head + n_heads - 1 of query n. */
struct query_tile {
    int64_t n;
    int     head, n_heads;
    bool    exists;
};
__device__ __forceinline__ query_tile tile_at(const select_view &a, int g, int index) {
    int        parts = (a.hs + 15) / 16;
    query_tile t;
    t.exists = index < a.N * parts;
    t.n = t.exists ? index / parts : 0;
    t.head = g * a.hs + index % parts * 16;
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

/* The next `tiles` of the block's n_tiles query tiles, for this warp; false when all are taken. */
__device__ __forceinline__ bool take_tiles(int *ticket, int tiles, int n_tiles, int lane, int *index) {
    int i = 0;
    if (lane == 0) i = atomicAdd(ticket, tiles);
    i = __shfl_sync(ALL_LANES, i, 0);
    *index = blockIdx.x * n_tiles + i;
    return i < n_tiles;
}

/* Blocks of threads with `tiles` query tiles each, for every key head. */
static inline dim3 query_grid(const select_view &a, int tiles) {
    return dim3((unsigned)ceil_div(a.N * ceil_div(a.hs, 16), tiles), (unsigned)a.G);
}
