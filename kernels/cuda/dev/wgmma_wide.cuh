/* Products of a warpgroup with both sides in shared memory, up to 256 columns wide: wgmma m64nNk16, bf16 in, f32 sums
 * (dev/wgmma.cuh has the small ones, and says what must stand around them).
 *
 * A side is tiles of 64 values by eight rows and more, permuted as dev/mma.cuh has it. Either a row of a tile is a row
 * of A (a column of B) and k runs along it, 16 values a product (shared_rows; more than one tile are one below the
 * other); or a row is a k, 16 rows a product, and tiles lie side by side, `apart` bytes (shared_cols, COLS). */
#pragma once
#include "kernels/cuda/dev/wgmma.cuh"

__device__ __forceinline__ uint64_t shared_rows(uint32_t addr, int step) {
    return b_rows_n<64>(wgmma_tile<64>(addr), 0, step);
}
__device__ __forceinline__ uint64_t shared_cols(uint32_t addr, int step, uint32_t apart) {
    return b_rows_k<64>((wgmma_tile<64>(addr) & ~(uint64_t)0x3fff0000) | apart << 12, 16 * step);
}

/* The sums in one asm statement: their numbers there, and eight rows of four as operands. */
#define WIDE_0_63                                                                                                      \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "   \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "   \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WIDE_64_95                                                                                                     \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "   \
    "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WIDE_96_127                                                                                                    \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
    "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WIDE_ROW(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define WIDE_ROWS(i)                                                                                                   \
    WIDE_ROW(i), WIDE_ROW(i + 1), WIDE_ROW(i + 2), WIDE_ROW(i + 3), WIDE_ROW(i + 4), WIDE_ROW(i + 5), WIDE_ROW(i + 6), \
        WIDE_ROW(i + 7)

/* c += A B, or c = A B where add is 0. */
template <bool COLS> __device__ __forceinline__ void wgmma_shared(float (&c)[16][4], uint64_t a, uint64_t b, int add) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, %66, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WIDE_0_63
                          "}, %64, %65, add, 1, 1, %67, %67; }\n"
                          : WIDE_ROWS(0), WIDE_ROWS(8)
                          : "l"(a), "l"(b), "r"(add), "n"((int)COLS));)
}
template <bool COLS> __device__ __forceinline__ void wgmma_shared(float (&c)[24][4], uint64_t a, uint64_t b, int add) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, %98, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" WIDE_0_63 ", " WIDE_64_95
                          "}, %96, %97, add, 1, 1, %99, %99; }\n"
                          : WIDE_ROWS(0), WIDE_ROWS(8), WIDE_ROWS(16)
                          : "l"(a), "l"(b), "r"(add), "n"((int)COLS));)
}
template <bool COLS> __device__ __forceinline__ void wgmma_shared(float (&c)[32][4], uint64_t a, uint64_t b, int add) {
    IF_WGMMA(asm volatile("{ .reg .pred add; setp.ne.b32 add, %130, 0;\n"
                          "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WIDE_0_63 ", " WIDE_64_95
                          ", " WIDE_96_127 "}, %128, %129, add, 1, 1, %131, %131; }\n"
                          : WIDE_ROWS(0), WIDE_ROWS(8), WIDE_ROWS(16), WIDE_ROWS(24)
                          : "l"(a), "l"(b), "r"(add), "n"((int)COLS));)
}

#undef WIDE_0_63
#undef WIDE_64_95
#undef WIDE_96_127
#undef WIDE_ROW
#undef WIDE_ROWS
