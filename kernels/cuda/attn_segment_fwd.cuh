/* What the forward kernels of attn_segment share: scores, weights and the sum of values of a warp's rows.
 *
 * Two forms of softmax. Bounded: Cauchy-Schwarz says |scale <q,k>| log2 e <= 60 for the rows and all keys. Then 2^s
 * needs no maximum, as float and bf16 hold every value and every sum, and nothing depends on the keys before; this is
 * the usual case. Running: the maximum so far is taken out, and what was summed is scaled when it grows. */
#pragma once
#include "kernels/cuda/attn_segment.cuh"

static constexpr float LOG2_E = 1.4426950408889634f;
static constexpr float BOUND_LOG2 = 60.f; /* sums of 2^20 keys and values up to 2^40 stay below 2^127 */

/* What a warp knows of its rows. Row lane/4 + 8*half + 16*mt has index [mt][half]. */
template <class F> struct fwd_rows {
    uint32_t q[F::MT][F::D / 16][4];
    float    o[F::MT][F::D / 8][4]; /* sum of weights times values */
    float    sum[F::MT][2];         /* of this lane's weights */
    float    max[F::MT][2];         /* running form: of the scores so far */
};

template <class F> struct fwd_offsets { uint32_t k[F::D / 16], v[F::D / 16]; };

/* s = <q, k> for the 8*NT keys that lie at k_tile. */
template <class F, int NT>
__device__ __forceinline__ void scores(float (&s)[F::MT][NT][4], const fwd_rows<F> &w, const fwd_offsets<F> &off,
                                       uint32_t k_tile) {
#pragma unroll
    for (int pair = 0; pair < NT / 2; pair++)
#pragma unroll
        for (int step = 0; step < F::D / 16; step++) {
            uint32_t b[4];
            ldmatrix_x4(b, k_tile + pair * (32 * F::D) + off.k[step]);
#pragma unroll
            for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float(&c)[4] = s[mt][2 * pair + i];
                    if (step == 0)
                        mma_bf16(c, w.q[mt][step], b[2 * i], b[2 * i + 1], 0.f, 0.f, 0.f, 0.f);
                    else
                        mma_bf16(c, w.q[mt][step], b[2 * i], b[2 * i + 1]);
                }
        }
}

/* o += p v, p = the weights in s, rounded. */
template <class F, int NT>
__device__ __forceinline__ void add_values(fwd_rows<F> &w, const float (&s)[F::MT][NT][4], const fwd_offsets<F> &off,
                                           uint32_t v_tile) {
#pragma unroll
    for (int pair = 0; pair < NT / 2; pair++) {
        uint32_t p[F::MT][4];
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[mt][i] = pack_bf16(s[mt][2 * pair + i / 2][i % 2 * 2], s[mt][2 * pair + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int step = 0; step < F::D / 16; step++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, v_tile + pair * (32 * F::D) + off.v[step]);
#pragma unroll
            for (int mt = 0; mt < F::MT; mt++) {
                mma_bf16(w.o[mt][2 * step], p[mt], b[0], b[1]);
                mma_bf16(w.o[mt][2 * step + 1], p[mt], b[2], b[3]);
            }
        }
    }
}

template <class F, int NT, bool CUT>
__device__ __forceinline__ void weigh_running(fwd_rows<F> &w, float (&s)[F::MT][NT][4], float c, int n, int quad) {
    float most[F::MT][2];
    bool  grew = false;
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float m = w.max[mt][half];
#pragma unroll
            for (int nt = 0; nt < NT; nt++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &x = s[mt][nt][2 * half + i];
                    if (CUT && nt * 8 + quad * 2 + i >= n) x = -INFINITY;
                    m = fmaxf(m, x);
                }
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
            most[mt][half] = m;
            grew |= m > w.max[mt][half];
        }
    if (__any_sync(0xffffffffu, grew)) {
#pragma unroll
        for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float shrink = exp2_fast((w.max[mt][half] - most[mt][half]) * c);
                w.sum[mt][half] *= shrink;
                w.max[mt][half] = most[mt][half];
#pragma unroll
                for (int dt = 0; dt < F::D / 8; dt++) {
                    w.o[mt][dt][2 * half] *= shrink;
                    w.o[mt][dt][2 * half + 1] *= shrink;
                }
            }
    }
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float mc = w.max[mt][half] * c;
#pragma unroll
            for (int nt = 0; nt < NT; nt++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float p = exp2_fast(s[mt][nt][2 * half + i] * c - mc);
                    if (CUT && nt * 8 + quad * 2 + i >= n) p = 0; /* NaN when c is 0 */
                    w.sum[mt][half] += p;
                    s[mt][nt][2 * half + i] = p;
                }
        }
}

template <class F>
__device__ __forceinline__ void walk_running(fwd_rows<F> &w, const fwd_offsets<F> &off, uint32_t k_tile, float c, int n,
                                             int quad) {
    uint32_t v_tile = k_tile + F::TILE;
#pragma unroll 1
    for (int i = 0; i * 32 < n; i++) {
        float s[F::MT][4][4];
        scores<F, 4>(s, w, off, k_tile + i * (64 * F::D));
        if (n - i * 32 >= 32)
            weigh_running<F, 4, false>(w, s, c, 32, quad);
        else
            weigh_running<F, 4, true>(w, s, c, n - i * 32, quad);
        add_values<F, 4>(w, s, off, v_tile + i * (64 * F::D));
    }
}

/* Sum over the four lanes of a row. */
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Largest |q|^2 of the warp's rows; NaN if there is one (its bits are above all others). */
template <class F> __device__ __forceinline__ float largest_norm(const fwd_rows<F> &w) {
    uint32_t bits = 0;
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = 0;
#pragma unroll
            for (int step = 0; step < F::D / 16; step++)
#pragma unroll
                for (int i = half; i < 4; i += 2) {
                    float lo = bf16_lo(w.q[mt][step][i]), hi = bf16_hi(w.q[mt][step][i]);
                    sum += lo * lo + hi * hi;
                }
            bits = max(bits, __float_as_uint(fabsf(quad_sum(sum))));
        }
#pragma unroll
    for (int o = 4; o < 32; o *= 2) bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, o));
    return __uint_as_float(bits);
}

/* The warp's rows from `own` as operands. */
template <class F>
__device__ __forceinline__ void take_query(fwd_rows<F> &w, const segment_problem<bf16> &a, uint32_t own, int lane) {
    uint32_t sign = a.scale < 0 ? 0x80008000u : 0u; /* the running form wants a factor that is not negative */
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++)
#pragma unroll
        for (int step = 0; step < F::D / 16; step++) {
            ldmatrix_x4(w.q[mt][step], own + mt * (32 * F::D) + matrix_offset<F::D>(lane, step, true));
#pragma unroll
            for (int i = 0; i < 4; i++) w.q[mt][step][i] ^= sign;
        }
}

/* The same, and sums of nothing. */
template <class F>
__device__ __forceinline__ void take_rows(fwd_rows<F> &w, const segment_problem<bf16> &a, uint32_t own, int lane) {
    take_query(w, a, own, lane);
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) {
#pragma unroll
        for (int half = 0; half < 2; half++) w.sum[mt][half] = w.max[mt][half] = 0;
#pragma unroll
        for (int dt = 0; dt < F::D / 8; dt++)
#pragma unroll
            for (int i = 0; i < 4; i++) w.o[mt][dt][i] = 0;
    }
}
template <class F> __device__ __forceinline__ fwd_offsets<F> key_offsets(int lane) {
    fwd_offsets<F> off;
#pragma unroll
    for (int step = 0; step < F::D / 16; step++) {
        off.k[step] = matrix_offset<F::D>(lane, step, false);
        off.v[step] = matrix_offset<F::D>(lane, step, true);
    }
    return off;
}
/* The running form begins: finite, as -inf less itself is NaN. */
template <class F> __device__ __forceinline__ void begin_running(fwd_rows<F> &w) {
#pragma unroll
    for (int mt = 0; mt < F::MT; mt++) w.max[mt][0] = w.max[mt][1] = -3e38f;
}
