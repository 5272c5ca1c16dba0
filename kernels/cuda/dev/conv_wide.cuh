/* What the kernels of conv3 for wide layers on Hopper share (conv3_wide.cu, conv3_wide_dw.cu). */
#pragma once
#include "kernels/cuda/dev/conv_parts.cuh"
#include "kernels/cuda/dev/conv_up.cuh"
#include "kernels/cuda/dev/mbarrier.cuh"
#include "kernels/cuda/dev/wgmma_wide.cuh"

namespace {

/* A tile in shared memory is 64 values by rows of 128 bytes. A slice is 64 deep. */
enum { DEEP = 64, ROW = DEEP * 2, TILE = 64 * ROW, GROUP = 128, BLOCK_BYTES = 227 * 1024 };

/* A place in a ring, and how often it has been gone round. */
template <int N> struct ring_place {
    int                             at = 0, turn = 0;
    __device__ __forceinline__ void next() {
        if (++at == N) {
            at = 0;
            turn ^= 1;
        }
    }
};

/* The stages of a ring as a group that multiplies takes them, one ahead of the products: `before` is the one that is
 * still being multiplied, or -1. */
template <int N> struct ring_reader {
    ring_place<N> stage;
    int           before = -1;

    /* Waits for the stage; if it is not there yet, `before` is given back first: its place is needed. */
    template <class B> __device__ __forceinline__ void wait(const B &block) {
        if (before >= 0 && !mbarrier_ended(block.full(stage.at), stage.turn)) {
            wgmma_wait<0>();
            mbarrier_arrive_warp(block.free(before));
            before = -1;
        }
        mbarrier_wait(block.full(stage.at), stage.turn);
    }
    /* Its products have been issued: those before are waited for, and their stage is given back. */
    template <class B> __device__ __forceinline__ void next(const B &block) {
        wgmma_commit();
        if (before >= 0) {
            wgmma_wait<1>();
            mbarrier_arrive_warp(block.free(before));
        }
        before = stage.at;
        stage.next();
    }
};

/* near[i] = row of the neighbour at offset[i] of the row with code[i], or -1, also where the code is -1 (conv_neighbor,
 * many at a time: each step of all of them waits for memory once). Masks of one word. */
template <int N>
__device__ __forceinline__ void neighbors(const conv_grid &g, const int32_t *code, const int (&offset)[N],
                                          int32_t (&near)[N]) {
    int32_t tile[N];
    int     to[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        int t;
        to[i] = conv_cell_at(&g, code[i] & 511, offset[i], &t);
        tile[i] = code[i] < 0 ? -1 : g.nb[(code[i] >> 9) * 27 + t];
    }
    if (!g.mask) {
#pragma unroll
        for (int i = 0; i < N; i++) near[i] = tile[i] < 0 ? -1 : (tile[i] << g.shift) + to[i];
        return;
    }
    uint64_t word[N];
    int32_t  first[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        word[i] = tile[i] < 0 ? 0 : g.mask[tile[i]];
        first[i] = tile[i] < 0 ? 0 : g.first[tile[i]];
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        near[i] = word[i] >> to[i] & 1 ? first[i] + __popcll(word[i] & (((uint64_t)1 << to[i]) - 1)) : -1;
}

/* Levels whose rows can be found so: codes, and rows of the level below, of 31 bits, masks of one word. */
static inline bool wide_level(const ctx *c, const conv_grid *g) {
    return c->cuda->major == 9 && c->cuda->shared_limit >= BLOCK_BYTES && (!g->mask || g->words == 1) &&
           g->n_tiles < 1 << 22 && g->n_rows < INT32_MAX / 8 - 512;
}

} // namespace
