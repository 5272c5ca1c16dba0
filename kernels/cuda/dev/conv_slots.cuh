/* Tiles of 4^3 cells copied to shared memory with what is around them, by a table of slots (the layout is in
 * conv_index.cuh): 32 channels a slot, or two planes of 32. The levels are dense. */
#pragma once
#include "kernels/cuda/dev/conv_gather.cuh"
#include "kernels/cuda/dev/mbarrier.cuh"
#include "kernels/cuda/dev/wgmma.cuh"

namespace {

enum { SIDE = 4, CELLS = SIDE * SIDE * SIDE, SLOTS = 6 * 6 * 6, HALO = SLOTS * 64, GROUP = 128 };
enum { SLOT_TABLE = 256 }; /* for load_slots */

/* A barrier of the threads of one warpgroup. */
__device__ __forceinline__ void group_barrier(int group) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(group + 1), "n"((int)GROUP) : "memory");
}

/* c += a b, or c = a b, b: rows 16*step .. of a matrix of N columns in shared memory. */
template <bool SET = false, int NT>
__device__ __forceinline__ void matrix_sum(float (&c)[NT][4], const uint32_t (&a)[4], uint32_t b, int step, int lane) {
    constexpr int N = NT * 8;
    if (SET)
#pragma unroll
        for (int i = 0; i < NT * 4 && !HAS_WGMMA; i++) c[i / 4][i % 4] = 0.0f;
    if constexpr (HAS_WGMMA && SET)
        wgmma_set<true>(c, a, b_rows_k<N>(wgmma_tile<N>(b), 16 * step));
    else if constexpr (HAS_WGMMA)
        wgmma_add<true>(c, a, b_rows_k<N>(wgmma_tile<N>(b), 16 * step));
    else
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            uint32_t two[4];
            ldmatrix_x4_trans(two, b + tile_chunk<N>(step * 16 + lane % 16, n * 2 + lane / 16));
            mma_bf16(c[2 * n], a, two[0], two[1]);
            mma_bf16(c[2 * n + 1], a, two[2], two[3]);
        }
}

/* What a slot around a tile holds, in one word: the tile it is of (0 to 26), the cell of it, and where its first 16
 * bytes go. */
__device__ __forceinline__ uint32_t slot_word(int t, int cell, int at) {
    return (uint32_t)(t | cell << 5 | at >> 4 << 14);
}

__device__ __forceinline__ void parent_slots(uint32_t *slot) {
    for (int i = threadIdx.x; i < SLOT_TABLE; i += blockDim.x) {
        const int s = i < SLOTS ? i : SLOTS - 1;
        int       t, cell, twist = halo_source<SIDE>(s, &t, &cell);
        slot[i] = slot_word(t, cell, s * 64 | twist << 4);
    }
}

/* The neighbour of a tile that this lane knows; -1: none. Rows of a dense tile are those of its number. */
struct near_tile {
    int32_t tile;

    __device__ __forceinline__ near_tile(const conv_grid &g, int64_t of) {
        int lane = threadIdx.x % 32;
        tile = lane < 27 && of < g.n_tiles ? __ldg(g.nb + of * 27 + lane) : -1;
    }
};

/* CHUNKS times 16 bytes of each of N slots, from `channel` on, by THREADS threads in whole warps; rows of x are `width`
 * channels, a tile `cells` cells. The fifth chunk and what follows go to the next plane. What a thread looks up for
 * AT_ONCE copies it looks up first: a copy behind its own look-ups waits for shared memory and the other lanes. The
 * table is as long as the threads' last look-ups reach. */
template <int THREADS, int CHUNKS, int N, int AT_ONCE = 8>
__device__ __forceinline__ void load_slots(const bf16 *x, int width, int cells, int channel, const near_tile &near,
                                           const uint32_t *slot, uint32_t to, int thread) {
    static_assert(THREADS % CHUNKS == 0, "a thread copies the same chunk of each slot");
    constexpr int  COPIES = (N * CHUNKS + THREADS - 1) / THREADS;
    const int      chunk = thread % CHUNKS;
    const char    *from = reinterpret_cast<const char *>(x + channel + chunk * 8);
    const uint32_t plane = to + chunk / 4 * HALO, turn = chunk % 4 << 4;
#pragma unroll
    for (int first = 0; first < COPIES; first += AT_ONCE) {
        uint32_t word[AT_ONCE];
        int32_t  tile[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE && first + i < COPIES; i++)
            word[i] = slot[thread / CHUNKS + (first + i) * (THREADS / CHUNKS)];
#pragma unroll
        for (int i = 0; i < AT_ONCE && first + i < COPIES; i++)
            tile[i] = __shfl_sync(0xffffffffu, near.tile, word[i] & 31);
#pragma unroll
        for (int i = 0; i < AT_ONCE && first + i < COPIES; i++)
            if ((first + i + 1) * THREADS <= N * CHUNKS || thread + (first + i) * THREADS < N * CHUNKS)
                copy_of_row(plane + ((word[i] >> 14 << 4) ^ turn), from, tile[i] * cells + (int)(word[i] >> 5 & 511),
                            width * 2); /* below 0 if there is no tile */
    }
}

/* Barriers of N places for tiles that a warpgroup copies: one is there, or nobody reads it any more. */
template <int N> struct tile_bars {
    uint32_t at;

    __device__ __forceinline__ uint32_t full(int place) const { return at + place * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t free(int place) const { return at + (N + place) * MBARRIER_BYTES; }
    /* By one thread: who reads a place says so by `readers` warps. */
    __device__ __forceinline__ void     init(int readers) const {
            for (int i = 0; i < N; i++) {
                mbarrier_init(full(i), GROUP);
                mbarrier_init_warps(free(i), readers);
        }
    }
};

/* So many matrices of K x N, for the products; ends with a barrier. */
template <int THREADS, int K, int N>
__device__ __forceinline__ void load_weights(const bf16 *w, int matrices, uint32_t to) {
    for (int i = threadIdx.x; i < matrices * K * (N / 8); i += THREADS) {
        int row = i / (N / 8);
        cp_async_16(to + row / K * (K * N * 2) + tile_chunk<N>(row % K, i % (N / 8)), w + i * 8, 16);
    }
    cp_async_commit();
    cp_async_wait<0>();
    shared_for_wgmma();
    __syncthreads();
}

} // namespace
