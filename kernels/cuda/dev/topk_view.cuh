/* What the kernels of topk_blocks get, and their tiles of queries (ops/topk_blocks.h). */
#pragma once
#include "kernels/cuda/dev/select_tiles.cuh"

enum { TOPK_ROWS = 16, TOPK_COLS = 32 }; /* queries of a tile, compression blocks of a step */

struct topk_view {
    const void    *q, *ck;
    const float   *lse;
    const int32_t *sample_first, *cmp_first, *slc_first, *slc_cmp;
    int32_t       *block;
    float         *score;
    int64_t        N, wide;
    int            H, G, D, hs, K, B;
    float          scale;
};

struct query_tile {
    int     sample, n;
    int64_t n0;
};

/* The samples are cut into tiles of 16 queries each for itself; what is tile `index` of all? False: there is none. */
__device__ __forceinline__ bool find_tile(const topk_view &v, int index, int lane, query_tile *out) {
    int before = 0;
    for (int s0 = 0; s0 < v.B; s0 += 32) {
        int s = s0 + lane, n = s < v.B ? v.sample_first[s + 1] - v.sample_first[s] : 0;
        int tiles = (n + TOPK_ROWS - 1) / TOPK_ROWS, upto = tiles;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            int x = __shfl_up_sync(ALL_LANES, upto, o);
            if (lane >= o) upto += x;
        }
        uint32_t hit = __ballot_sync(ALL_LANES, index < before + upto);
        if (hit) {
            int l = __ffs(hit) - 1, at = index - before - __shfl_sync(ALL_LANES, upto - tiles, l);
            out->sample = s0 + l;
            out->n0 = (int64_t)v.sample_first[out->sample] + (int64_t)at * TOPK_ROWS;
            out->n = min((int)TOPK_ROWS, (int)(v.sample_first[out->sample + 1] - out->n0));
            return true;
        }
        before += __shfl_sync(ALL_LANES, upto, 31);
    }
    return false;
}

/* topk_loops.cu: float32, and what the form of topk_blocks.cu does not take. */
void topk_loops(ctx *c, const topk_view &v, dtype dt, bool many);
