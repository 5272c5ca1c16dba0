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

/* Where a step leads, for each offset and cell of a tile of at most 64: the cell there, and above it in which of the
 * tile's neighbours. A warp reads 64 steps of an offset without conflicts. */
enum { STEP_BITS = 6, STEP_CELLS = 1 << STEP_BITS, STEPS = 27 * STEP_CELLS, STEP_BYTES = 4096 /* whole patterns */ };
__device__ __forceinline__ void step_table(const conv_grid &g, uint16_t *step) {
    for (int i = threadIdx.x; i < STEPS; i += blockDim.x) {
        int t, to = conv_cell_at(&g, i % STEP_CELLS & ((1 << g.shift) - 1), i / STEP_CELLS, &t);
        step[i] = (uint16_t)(t << STEP_BITS | to);
    }
}

/* At offset[i] of the row with code[i]: the cell's tile, or -1, also where the code is -1, and its place in a tile. */
template <int N>
__device__ __forceinline__ void neighbor_cells(const conv_grid &g, const uint16_t *step, const int32_t (&code)[N],
                                               const int (&offset)[N], int32_t (&tile)[N], int (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = step[offset[i] * STEP_CELLS + (code[i] & (STEP_CELLS - 1))];
#pragma unroll
    for (int i = 0; i < N; i++) {
        tile[i] = code[i] < 0 ? -1 : __ldg(g.nb + ((code[i] >> 9) * 27 + (to[i] >> STEP_BITS)));
        to[i] &= STEP_CELLS - 1;
    }
}

/* near[i] = row of the neighbour at offset[i] of the row with code[i], or -1, also where the code is -1 (conv_neighbor,
 * many at a time: each step of all of them waits for memory once). Masks of one word. */
template <int N>
__device__ __forceinline__ void neighbors(const conv_grid &g, const uint16_t *step, const int32_t (&code)[N],
                                          const int (&offset)[N], int32_t (&near)[N]) {
    int32_t tile[N];
    int     to[N];
    neighbor_cells(g, step, code, offset, tile, to);
    if (!g.mask) {
#pragma unroll
        for (int i = 0; i < N; i++) near[i] = tile[i] < 0 ? -1 : (tile[i] << g.shift) + to[i];
        return;
    }
    uint64_t word[N];
    int32_t  first[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        word[i] = __ldg(g.mask + max(tile[i], 0));
        first[i] = __ldg(g.first + max(tile[i], 0));
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint64_t up_to = word[i] << (STEP_CELLS - 1 - to[i]); /* the cell's bit is the highest one left */
        near[i] = tile[i] >= 0 && (int64_t)up_to < 0 ? first[i] + __popcll(up_to) - 1 : -1;
    }
}

/* Searches for the neighbours of N rows' cells, in three steps that each need what the one before asked of memory:
 * called in the order rows, words, tiles a search goes on while the next ones are on their way. */
template <int N> struct neighbor_search {
    int32_t  tile[N], first[N];
    int      to[N], to_word[N]; /* -1: no tile */
    uint64_t word[N];

    /* At offset[i] of the row with code[i], or of no row where it is -1. */
    __device__ __forceinline__ void tiles(const conv_grid &g, const uint16_t *step, const int32_t (&code)[N],
                                          const int (&offset)[N]) {
        neighbor_cells(g, step, code, offset, tile, to);
    }
    __device__ __forceinline__ void words(const conv_grid &g) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            to_word[i] = tile[i] < 0 ? -1 : to[i];
            if (g.mask) {
                word[i] = __ldg(g.mask + max(tile[i], 0));
                first[i] = __ldg(g.first + max(tile[i], 0));
            } else
                first[i] = (tile[i] << g.shift) + to[i];
        }
    }
    /* The rows, or -1. */
    __device__ __forceinline__ void rows(const conv_grid &g, int32_t (&near)[N]) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (g.mask) {
                const uint64_t up_to = word[i] << (STEP_CELLS - 1 - (to_word[i] & (STEP_CELLS - 1)));
                near[i] = to_word[i] >= 0 && (int64_t)up_to < 0 ? first[i] + __popcll(up_to) - 1 : -1;
            } else
                near[i] = to_word[i] < 0 ? -1 : first[i];
        }
    }
};

/* Levels whose rows can be found so: codes, and rows of the level below, of 31 bits, tiles of at most 64 cells. */
static inline bool wide_level(const ctx *c, const conv_grid *g) {
    return c->cuda->major == 9 && c->cuda->shared_limit >= BLOCK_BYTES && g->shift <= STEP_BITS &&
           g->n_tiles < 1 << 22 && g->n_rows < INT32_MAX / 8 - 512;
}

} // namespace
