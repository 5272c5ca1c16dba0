/* Tensor-core products of one warp, and the copies that feed them: mma.sync m16n8k16 (bf16 in, f32 sums), ldmatrix,
 * cp.async, and the layout of tiles in shared memory. sm_80 and later.
 *
 * Who holds what (lane = 4*row + quad):
 *   A (16x16)  a[0] = A[row][2quad..], a[1] = A[row+8][2quad..], a[2] = A[row][2quad+8..], a[3] = A[row+8][2quad+8..]
 *   B (16x8)   b[0] = B[2quad..][row], b[1] = B[2quad+8..][row]           (".." : two consecutive values, low half
 * first) C (16x8)   c[0..1] = C[row][2quad..], c[2..3] = C[row+8][2quad..] So two neighbouring C tiles (16x16), rounded
 * to bf16, are an A operand as they lie: a = {c0[0..1], c0[2..3], c1[0..1], c1[2..3]}. One 8x8 matrix of ldmatrix gives
 * lane the two values at [row][2quad..]; with .trans those at [2quad..][row]. */
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t smem_addr(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- copies to shared memory ------------------------------------------------------------------------------------- */

/* 16 bytes; the first `bytes` (0 or 16) come from src, the rest is zero. Both aligned to 16; src must be a valid
 * address even when nothing is read. */
__device__ __forceinline__ void cp_async_16(uint32_t dst, const void *src, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_4(uint32_t dst, const void *src, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_8(uint32_t dst, const void *src, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/* Waits until at most N of this thread's committed groups are unfinished; a barrier then shows them to the block. */
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* A barrier of its own for THREADS threads of the block (whole warps), beside that of __syncthreads: id 1 to 15. */
template <int THREADS> __device__ __forceinline__ void barrier_sync(int id) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "n"(THREADS) : "memory");
}

/* The same, and whether x holds in all of them. */
template <int THREADS> __device__ __forceinline__ bool barrier_and(int id, bool x) {
    int all;
    asm volatile("{ .reg .pred one, every; setp.ne.b32 one, %3, 0;\n"
                 "bar.red.and.pred every, %1, %2, one; selp.b32 %0, 1, 0, every; }\n"
                 : "=r"(all)
                 : "r"(id), "n"(THREADS), "r"((int)x)
                 : "memory");
    return all != 0;
}

/* Plain accesses by the same addresses. */
__device__ __forceinline__ void shared_store(uint32_t dst, uint16_t x) {
    asm volatile("st.shared.b16 [%0], %1;\n" ::"r"(dst), "h"(x) : "memory");
}
__device__ __forceinline__ void shared_store(uint32_t dst, uint32_t x) {
    asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(dst), "r"(x) : "memory");
}
__device__ __forceinline__ void shared_store(uint32_t dst, float x) {
    asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(dst), "f"(x) : "memory");
}
__device__ __forceinline__ void shared_store(uint32_t dst, float2 x) {
    asm volatile("st.shared.v2.f32 [%0], {%1,%2};\n" ::"r"(dst), "f"(x.x), "f"(x.y) : "memory");
}
__device__ __forceinline__ void shared_store(uint32_t dst, float4 x) {
    asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};\n" ::"r"(dst), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
                 : "memory");
}
__device__ __forceinline__ void shared_load(uint32_t src, uint32_t &x) {
    asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(x) : "r"(src) : "memory");
}
__device__ __forceinline__ void shared_load(uint32_t src, float &x) {
    asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(x) : "r"(src) : "memory");
}
__device__ __forceinline__ void shared_load(uint32_t src, float2 &x) {
    asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];\n" : "=f"(x.x), "=f"(x.y) : "r"(src) : "memory");
}
__device__ __forceinline__ void shared_load(uint32_t src, float4 &x) {
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];\n"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(src)
                 : "memory");
}
__device__ __forceinline__ void shared_load(uint32_t src, uint4 &x) {
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(src)
                 : "memory");
}

/* ---- fragments --------------------------------------------------------------------------------------------------- */

/* Four 8x8 matrices; lanes 8i..8i+7 give the addresses of the rows (16 bytes each) of matrix i, which lands in r[i]. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(addr)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(addr)
                 : "memory");
}

/* The other way: four 8x8 matrices, r[i] of all lanes to the rows whose addresses lanes 8i..8i+7 give. From sm_90 on.
 */
__device__ __forceinline__ void stmatrix_x4(uint32_t addr, const uint32_t (&r)[4]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(addr), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
#endif
}

/* An 8x8 matrix, one register of each lane, turned: lane 4r+q holds [r][2q..], then [2q..][r] of it. */
__device__ __forceinline__ uint32_t turn_matrix(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
    return y;
}

/* v[i] of lane 4r+j becomes v[j] of lane 4r+i. */
__device__ __forceinline__ void turn_quad(uint32_t (&v)[4], int lane) {
#pragma unroll
    for (int d = 1; d <= 2; d *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!(i & d)) {
                bool     high = lane & d;
                uint32_t other = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i | d], d);
                if (high)
                    v[i] = other;
                else
                    v[i | d] = other;
            }
}

/* c += A B */
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* d = A B + c */
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float c0,
                                         float c1, float c2, float c3) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};\n"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
}

/* Two floats to bf16, `lo` in the low half. One instruction. */
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
__device__ __forceinline__ float bf16_lo(uint32_t x) {
    return __uint_as_float(x << 16);
}
__device__ __forceinline__ float bf16_hi(uint32_t x) {
    return __uint_as_float(x & 0xffff0000u);
}
/* 2^x in one instruction: relative error about 2^-22, results below 2^-126 are 0. */
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* ---- tiles in shared memory -------------------------------------------------------------------------------------- */

/* A tile is rows of D bf16 (D a power of two, 16 to 128), 16-byte chunks permuted inside 128 bytes so that eight rows
 * at one column (an 8x8 matrix) touch all 32 banks. Rows r and r + 8 are permuted alike. Byte offset of the chunk that
 * holds [row][8*chunk]: */
template <int D> __device__ __forceinline__ uint32_t tile_chunk(int row, int chunk) {
    constexpr int CHUNKS = D / 8;
    constexpr int PER_LINE = CHUNKS >= 8 ? 1 : 8 / CHUNKS; /* rows in 128 bytes */
    constexpr int MASK = CHUNKS >= 8 ? 7 : CHUNKS - 1;
    return (uint32_t)(row * (D * 2) + ((chunk ^ ((row / PER_LINE) & MASK)) << 4));
}
