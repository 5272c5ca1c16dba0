/* How the threads of a block or the lanes of a warp share out a tile: thread t has chunk t % (D/8) of every
 * PASS-th row. */
#pragma once
#include "kernels/cuda/dev/attn_rows.cuh"

template <int D, int ROWS, int THREADS, bool WIDE> struct tile_loader {
    static constexpr int CHUNKS = D / 8;
    static constexpr int PASS = THREADS / CHUNKS;               /* rows at a time */
    static constexpr int COUNT = PASS < ROWS ? ROWS / PASS : 1; /* times */
    static_assert(PASS >= ROWS || ROWS % PASS == 0, "the last pass is full");

    int row, chunk, col, n_cols; /* of the first pass; col: of the thread's values, n_cols: how many a row of d has */

    __device__ __forceinline__ tile_loader(int thread, int d)
        : row(thread / CHUNKS), chunk(thread % CHUNKS), col(chunk * 8 < d ? chunk * 8 : 0), n_cols(d - chunk * 8) {}
    __device__ __forceinline__ int      row_of(int i) const { return row + i * PASS; }
    /* This thread has values to bring, beside zeros. */
    __device__ __forceinline__ bool     brings() const { return n_cols > 0 && row < ROWS; }
    __device__ __forceinline__ uint32_t to(int i) const {
        /* Rows are permuted with a period of 8. */
        return PASS % 8 ? tile_chunk<D>(row_of(i), chunk) : tile_chunk<D>(row, chunk) + i * (PASS * D * 2);
    }
    /* Column `col` of a row at `from` (some address of the tensor when !ok: zeros) to row_of(i) of the tile at dst. */
    __device__ __forceinline__ void load(uint32_t dst, int i, const bf16 *from, bool ok) const {
        if (PASS <= ROWS || row < ROWS) load_chunk<WIDE>(dst + to(i), from, n_cols, ok);
    }
};
