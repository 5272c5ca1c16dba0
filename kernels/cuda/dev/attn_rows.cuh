/* Rows of attention tensors to tiles in shared memory and back (dev/mma.cuh: layout of a tile).
 * A row is d values of one head; tiles have D >= d columns, the rest is zero. WIDE: addresses and d allow 16-byte
 * accesses; otherwise single elements move. */
#pragma once
#include "kernels/cuda/dev/common.cuh"
#include "kernels/cuda/dev/mma.cuh"

/* Division of n < 2^31 by a number known on the host: with 2^(L-1) < d <= 2^L, q = n * ceil(2^(31+L) / d) >> (31+L). */
typedef struct {
    uint32_t d, magic, shift;
} divisor;

static inline divisor divisor_of(uint32_t d) {
    uint32_t bits = 0;
    while ((1u << bits) < d) bits++;
    if (d <= 1) return divisor{1, 0, 0};
    return divisor{d, (uint32_t)(((1ull << (31 + bits)) + d - 1) / d), bits - 1};
}
__device__ __forceinline__ int divide(int n, const divisor &v) {
    return v.d == 1 ? n : (int)(__umulhi((uint32_t)n, v.magic) >> v.shift);
}

static inline bool is_wide(const void *p, int64_t stride, int64_t d) {
    return (uintptr_t)p % 16 == 0 && stride % 8 == 0 && d % 8 == 0;
}

/* One chunk (8 values) from `from` on, of which n are there (WIDE: all, if any); zeros when !ok. `from` is an address
 * of the tensor in any case. Wide chunks arrive with the caller's cp.async group, others at once. */
template <bool WIDE> __device__ __forceinline__ void load_chunk(uint32_t dst, const bf16 *from, int n, bool ok) {
    if (WIDE)
        cp_async_16(dst, from, ok ? 16 : 0);
    else {
#pragma unroll 1
        for (int e = 0; e < 8; e++) {
            uint16_t x = 0;
            if (ok && e < n) x = __ldg((const unsigned short *)from + e);
            shared_store(dst + 2 * e, x);
        }
    }
}

/* Sums of two values and two. */
__device__ __forceinline__ uint32_t add_words(uint32_t x, uint32_t y) {
    return pack_bf16(bf16_lo(x) + bf16_lo(y), bf16_hi(x) + bf16_hi(y));
}

/* One chunk of a tile to the row that starts at `row`; add: to what is there. */
template <bool WIDE>
__device__ __forceinline__ void store_chunk(bf16 *row, uint32_t src, int chunk, int d, bool add = false) {
    if (chunk * 8 >= d) return;
    uint4 x;
    shared_load(src, x);
    if (WIDE) {
        uint4 *to = reinterpret_cast<uint4 *>(row + chunk * 8);
        if (add) {
            uint4 y = *to;
            x = uint4{add_words(x.x, y.x), add_words(x.y, y.y), add_words(x.z, y.z), add_words(x.w, y.w)};
        }
        *to = x;
    } else {
        const uint32_t word[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 8; e++) {
            if (chunk * 8 + e >= d) break;
            uint16_t *to = reinterpret_cast<uint16_t *>(row) + chunk * 8 + e;
            uint32_t  one = word[e / 2] >> (e % 2 * 16) & 0xffff;
            *to = (uint16_t)(add ? add_words(one, *to) : one);
        }
    }
}

/* Row n of a tensor whose rows are `bytes` apart. */
__device__ __forceinline__ const bf16 *row_at(const bf16 *p, int n, uint32_t bytes) {
    return reinterpret_cast<const bf16 *>(reinterpret_cast<const char *>(p) + (uint64_t)(uint32_t)n * bytes);
}
__device__ __forceinline__ bf16 *row_at(bf16 *p, int n, uint32_t bytes) {
    return reinterpret_cast<bf16 *>(reinterpret_cast<char *>(p) + (uint64_t)(uint32_t)n * bytes);
}

/* ---- addresses of 8x8 matrices ----------------------------------------------------------------------------------- */

/* This lane's offset for ldmatrix_x4 on 16 rows and the 16 columns at 16*step: matrices in the order
 *   row_first  (rows 0-7, left) (rows 8-15, left) (rows 0-7, right) (rows 8-15, right):  A operand; .trans: B, k = rows
 *   !row_first (rows 0-7, left) (rows 0-7, right) (rows 8-15, left) (rows 8-15, right):  B operand, n = rows
 * Sixteen rows further is 32*D bytes further. */
template <int D> __device__ __forceinline__ uint32_t matrix_offset(int lane, int step, bool row_first) {
    int i = lane / 8, row_bit = row_first ? i & 1 : i >> 1, col_bit = row_first ? i >> 1 : i & 1;
    return tile_chunk<D>(row_bit * 8 + lane % 8, step * 2 + col_bit);
}

/* C tiles (16 rows, D columns, times `scale0` for row lane/4, `scale1` for lane/4 + 8) as bf16 to 16 rows at dst. */
template <int D>
__device__ __forceinline__ void stage_rows(uint32_t dst, const float (&acc)[D / 8][4], float scale0, float scale1,
                                           int lane) {
#pragma unroll
    for (int dt = 0; dt < D / 8; dt++) {
        uint32_t at = dst + tile_chunk<D>(lane / 4, dt) + lane % 4 * 4;
        shared_store(at, pack_bf16(acc[dt][0] * scale0, acc[dt][1] * scale0));
        shared_store(at + 16 * D, pack_bf16(acc[dt][2] * scale1, acc[dt][3] * scale1));
    }
}

/* dk and dv of warps that had the same keys but other rows, added up in the order of the warps by the first of them.
 * `room`: one slot of SUMS floats a lane for each warp that gives; `meet`: a barrier of all warps. */
template <class F, class W, class M>
__device__ __forceinline__ void join_sums(W &w, uint32_t room, int group, int n_groups, int share, int shares, int lane,
                                          M meet) {
    meet();
    if (share > 0 && share < shares) {
        uint32_t to = room + ((share - 1) * n_groups + group) * (F::SUMS * 128) + lane * 4;
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int dt = 0; dt < F::D / 8; dt++)
#pragma unroll
                for (int e = 0; e < 4; e++, to += 256) {
                    shared_store(to, w.dk[mt][dt][e]);
                    shared_store(to + 128, w.dv[mt][dt][e]);
                }
    }
    meet();
    if (share > 0) return;
    for (int s = 1; s < shares; s++) {
        uint32_t from = room + ((s - 1) * n_groups + group) * (F::SUMS * 128) + lane * 4;
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int dt = 0; dt < F::D / 8; dt++)
#pragma unroll
                for (int e = 0; e < 4; e++, from += 256) {
                    float x, y;
                    shared_load(from, x);
                    shared_load(from + 128, y);
                    w.dk[mt][dt][e] += x;
                    w.dv[mt][dt][e] += y;
                }
    }
}
