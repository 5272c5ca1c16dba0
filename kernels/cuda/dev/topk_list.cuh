/* The 4E best blocks of one query, in the registers of the four lanes that share it: lane `quad` has the ranks
 * E*quad .. E*quad + E-1, best first. Blocks come in ascending order, so that of equal scores the one that is there
 * already stays ahead and numbers are never compared. */
#pragma once
#include <math.h>

#include "kernels/cuda/dev/topk_view.cuh"

template <int E> struct best_list {
    float    s[E];
    uint32_t id[E];
    float    least; /* a score has to be above it; the same in the four lanes */

    static constexpr uint32_t UNUSED = UINT32_MAX; /* no block yet: after all others, also by number */

    /* Room for K: the ranks before them are taken for good. Without a query nothing passes. */
    __device__ __forceinline__ void clear(int K, int quad, bool query) {
#pragma unroll
        for (int k = 0; k < E; k++) {
            s[k] = E * quad + k < 4 * E - K ? INFINITY : -1.0f;
            id[k] = UNUSED;
        }
        least = query ? -1.0f : INFINITY;
    }

    /* Whole warp. A score of -1 or less changes nothing. */
    __device__ __forceinline__ void insert(float score, uint32_t block, int quad) {
        float    left = __shfl_up_sync(ALL_LANES, s[E - 1], 1, 4);
        uint32_t left_id = __shfl_up_sync(ALL_LANES, id[E - 1], 1, 4);
        if (quad == 0) left = INFINITY;
#pragma unroll
        for (int k = E - 1; k >= 0; k--) {
            float    before = k ? s[k - 1] : left;
            uint32_t before_id = k ? id[k - 1] : left_id;
            id[k] = score > before ? before_id : score > s[k] ? block : id[k];
            s[k] = fmaxf(s[k], fminf(before, score));
        }
        float last = __shfl_sync(ALL_LANES, s[E - 1], 3, 4);
        least = least == INFINITY ? least : last;
    }

    /* Its K slots of the output: blocks in ascending order, then -1. Whole warp; nothing is written when !query. */
    __device__ __forceinline__ void write(int32_t *out, int K, int quad, bool query) const {
        int rank[E] = {};
#pragma unroll
        for (int from = 0; from < 4; from++)
#pragma unroll
            for (int i = 0; i < E; i++) {
                uint32_t other = __shfl_sync(ALL_LANES, id[i], from, 4);
#pragma unroll
                for (int k = 0; k < E; k++) rank[k] += other < id[k];
            }
#pragma unroll
        for (int k = 0; k < E; k++) {
            int place = E * quad + k - (4 * E - K);
            if (!query || place < 0) continue;
            bool used = id[k] != UNUSED;
            out[used ? rank[k] : place] = used ? (int32_t)id[k] : -1;
        }
    }
};
