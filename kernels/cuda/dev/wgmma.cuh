/* Products of a warpgroup (four consecutive warps, the first at a multiple of four) on Hopper's tensor cores: wgmma
 * m64nNk16, bf16 in, f32 sums. A comes from registers, B from a tile in shared memory.
 *
 * Warp w of the group has rows 16w to 16w+15 of A and C, and holds them as mma.sync would (dev/mma.cuh), so fragments
 * serve both. The tiles of dev/mma.cuh are laid out as the hardware wants them: rows of D*2 bytes, 16-byte chunks
 * permuted by the 32-, 64- or 128-byte pattern, if they start at a multiple of eight rows (16*D bytes).
 *
 * Products run behind the program: between wgmma_begin and wgmma_wait nobody may touch their registers, and whoever
 * wrote the tile (cp.async too) says shared_for_wgmma before the barrier that shows it to the others. Elsewhere than on
 * sm_90a the products are empty, and HAS_WGMMA says so. */
#pragma once
#include "kernels/cuda/dev/mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define IF_WGMMA(...) __VA_ARGS__
static constexpr bool HAS_WGMMA = true;
#else
#define IF_WGMMA(...)
static constexpr bool HAS_WGMMA = false;
#endif

__device__ __forceinline__ void shared_for_wgmma() {
    IF_WGMMA(asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");)
}
__device__ __forceinline__ void wgmma_begin() {
    IF_WGMMA(asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");)
}
__device__ __forceinline__ void wgmma_commit() {
    IF_WGMMA(asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");)
}
/* Waits until at most N committed groups are unfinished. */
template <int N> __device__ __forceinline__ void wgmma_wait() {
    IF_WGMMA(asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");)
}
/* The compiler must not move accesses of x over this place. */
template <int N> __device__ __forceinline__ void pin(float (&x)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) asm volatile("" : "+f"(x[i][e])::"memory");
}
__device__ __forceinline__ void pin(uint32_t (&x)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+r"(x[e])::"memory");
}
template <int N> __device__ __forceinline__ void pin(uint32_t (&x)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) asm volatile("" : "+r"(x[i][e])::"memory");
}

/* B is part of a tile of D columns. Either the tile's rows, from `row` on, are the product's n and 16 columns its k
 * (b_rows_n), or 16 rows from `row` on are its k and all D columns its n (b_rows_k). */
template <int D> __device__ __forceinline__ uint64_t wgmma_tile(uint32_t addr) {
    static_assert(D == 16 || D == 32 || D == 64, "one row is a line of the permutation");
    constexpr uint32_t PATTERN = D == 64 ? 1 : D == 32 ? 2 : 3, EIGHT_ROWS = 8 * D * 2;
    return (uint64_t)(PATTERN << 30 | EIGHT_ROWS >> 4) << 32 | (1u << 16 | (addr & 0x3ffff) >> 4);
}
template <int D> __device__ __forceinline__ uint64_t b_rows_n(uint64_t tile, int row, int step) {
    return tile + (uint32_t)(row * (D * 2) + step * 32) / 16;
}
template <int D> __device__ __forceinline__ uint64_t b_rows_k(uint64_t tile, int row) {
    return tile + (uint32_t)(row * (D * 2)) / 16;
}

/* c = A B, or c += A B. ROWS_K: B's tile has rows of k. */
template <bool ROWS_K> __device__ __forceinline__ void wgmma_set(float (&c)[4][4], const uint32_t (&a)[4], uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 0, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15}, "
                          "{%16, %17, %18, %19}, %20, add, 1, 1, %21; }\n"
                          : "=f"(c[0][0]), "=f"(c[0][1]), "=f"(c[0][2]), "=f"(c[0][3]), "=f"(c[1][0]), "=f"(c[1][1]),
                            "=f"(c[1][2]), "=f"(c[1][3]), "=f"(c[2][0]), "=f"(c[2][1]), "=f"(c[2][2]), "=f"(c[2][3]),
                            "=f"(c[3][0]), "=f"(c[3][1]), "=f"(c[3][2]), "=f"(c[3][3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ROWS_K));)
}
template <bool ROWS_K> __device__ __forceinline__ void wgmma_add(float (&c)[4][4], const uint32_t (&a)[4], uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15}, "
                          "{%16, %17, %18, %19}, %20, add, 1, 1, %21; }\n"
                          : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                            "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
                            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ROWS_K));)
}
template <bool ROWS_K> __device__ __forceinline__ void wgmma_set(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
    IF_WGMMA(
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
            "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "{%32, %33, %34, %35}, %36, add, 1, 1, %37; }\n"
            : "=f"(c[0][0]), "=f"(c[0][1]), "=f"(c[0][2]), "=f"(c[0][3]), "=f"(c[1][0]), "=f"(c[1][1]), "=f"(c[1][2]),
              "=f"(c[1][3]), "=f"(c[2][0]), "=f"(c[2][1]), "=f"(c[2][2]), "=f"(c[2][3]), "=f"(c[3][0]), "=f"(c[3][1]),
              "=f"(c[3][2]), "=f"(c[3][3]), "=f"(c[4][0]), "=f"(c[4][1]), "=f"(c[4][2]), "=f"(c[4][3]), "=f"(c[5][0]),
              "=f"(c[5][1]), "=f"(c[5][2]), "=f"(c[5][3]), "=f"(c[6][0]), "=f"(c[6][1]), "=f"(c[6][2]), "=f"(c[6][3]),
              "=f"(c[7][0]), "=f"(c[7][1]), "=f"(c[7][2]), "=f"(c[7][3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ROWS_K));)
}
template <bool ROWS_K> __device__ __forceinline__ void wgmma_add(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
    IF_WGMMA(
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
            "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "{%32, %33, %34, %35}, %36, add, 1, 1, %37; }\n"
            : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
              "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
              "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
              "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
              "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ROWS_K));)
}

/* c = A B, or c += A B, with both in shared memory in tiles with rows of k, A's of 64 columns. */
__device__ __forceinline__ void wgmma_set_shared(float (&c)[4][4], uint64_t a, uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 0, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15}, %16, %17, add, 1, 1, 1, 1; }\n"
                          : "=f"(c[0][0]), "=f"(c[0][1]), "=f"(c[0][2]), "=f"(c[0][3]), "=f"(c[1][0]), "=f"(c[1][1]),
                            "=f"(c[1][2]), "=f"(c[1][3]), "=f"(c[2][0]), "=f"(c[2][1]), "=f"(c[2][2]), "=f"(c[2][3]),
                            "=f"(c[3][0]), "=f"(c[3][1]), "=f"(c[3][2]), "=f"(c[3][3])
                          : "l"(a), "l"(b));)
}
__device__ __forceinline__ void wgmma_add_shared(float (&c)[4][4], uint64_t a, uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15}, %16, %17, add, 1, 1, 1, 1; }\n"
                          : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                            "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
                            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
                          : "l"(a), "l"(b));)
}

/* The same with tiles whose rows are m and n. */
__device__ __forceinline__ void wgmma_set_rows(float (&c)[8][4], uint64_t a, uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 0, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
                          "%27, %28, %29, %30, %31}, %32, %33, add, 1, 1, 0, 0; }\n"
                          : "=f"(c[0][0]), "=f"(c[0][1]), "=f"(c[0][2]), "=f"(c[0][3]), "=f"(c[1][0]), "=f"(c[1][1]),
                            "=f"(c[1][2]), "=f"(c[1][3]), "=f"(c[2][0]), "=f"(c[2][1]), "=f"(c[2][2]), "=f"(c[2][3]),
                            "=f"(c[3][0]), "=f"(c[3][1]), "=f"(c[3][2]), "=f"(c[3][3]), "=f"(c[4][0]), "=f"(c[4][1]),
                            "=f"(c[4][2]), "=f"(c[4][3]), "=f"(c[5][0]), "=f"(c[5][1]), "=f"(c[5][2]), "=f"(c[5][3]),
                            "=f"(c[6][0]), "=f"(c[6][1]), "=f"(c[6][2]), "=f"(c[6][3]), "=f"(c[7][0]), "=f"(c[7][1]),
                            "=f"(c[7][2]), "=f"(c[7][3])
                          : "l"(a), "l"(b));)
}
__device__ __forceinline__ void wgmma_add_rows(float (&c)[8][4], uint64_t a, uint64_t b) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
                          "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
                          "%27, %28, %29, %30, %31}, %32, %33, add, 1, 1, 0, 0; }\n"
                          : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                            "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
                            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
                            "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
                            "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
                            "+f"(c[7][2]), "+f"(c[7][3])
                          : "l"(a), "l"(b));)
}

/* c = A B for n = 8*NT rows of B's tile from `row` on, k = D. */
template <int D, int NT>
__device__ __forceinline__ void group_product(float (&c)[NT][4], const uint32_t (&a)[D / 16][4], uint64_t tile,
                                              int row) {
#pragma unroll
    for (int step = 0; step < D / 16; step++)
        if (step == 0)
            wgmma_set<false>(c, a[step], b_rows_n<D>(tile, row, step));
        else
            wgmma_add<false>(c, a[step], b_rows_n<D>(tile, row, step));
}
/* c += A B for k = 16*KT rows of B's tile from `row` on, n = D. */
template <int D, int KT>
__device__ __forceinline__ void group_sum(float (&c)[D / 8][4], const uint32_t (&a)[KT][4], uint64_t tile, int row) {
#pragma unroll
    for (int i = 0; i < KT; i++) wgmma_add<true>(c, a[i], b_rows_k<D>(tile, row + 16 * i));
}
/* Starts c0 = A0 B0 and c1 = A1 B1 for n = 8*NT rows of both B's tiles from `row` on. */
template <int D, int NT>
__device__ __forceinline__ void group_products(float (&c0)[NT][4], const uint32_t (&a0)[D / 16][4], uint64_t tile0,
                                               float (&c1)[NT][4], const uint32_t (&a1)[D / 16][4], uint64_t tile1,
                                               int row) {
    wgmma_begin();
    group_product<D>(c0, a0, tile0, row);
    group_product<D>(c1, a1, tile1, row);
    wgmma_commit();
}
