/* Attention's backward for the keys by a warpgroup (dev/wgmma.cuh): its 64 keys are the rows of
 *   S = K Q^T, dP = V dout^T, P = 2^(c S - lse), dS = P (dP - delta), dv += P dout, dk += dS q
 * over rows (query, head) that lie in shared memory: a tile of q, one of dout, and of each row the pair
 * {lse log2 e, -delta}. A row that is not there is zeros (or lse = +inf) and adds nothing. */
#pragma once
#include "kernels/cuda/dev/wgmma.cuh"

/* What s = K Q^T and dp = V dout^T, which run, are for, of 8*NT rows from `row` on. The sums of dv and dk are left
 * running: they read the tiles until the next wgmma_wait<0>. */
template <int D, int NT>
__device__ __forceinline__ void group_rows_add(float (&s)[NT][4], float (&dp)[NT][4], float (&dk)[D / 8][4],
                                               float (&dv)[D / 8][4], uint64_t q, uint64_t dout, uint32_t stat, int row,
                                               float c, int quad) {
    uint32_t p[NT / 2][4], ds[NT / 2][4];
    wgmma_wait<0>();
    pin(s);
    pin(dp);
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
        float4 st; /* of rows 2quad, 2quad+1 */
        shared_load(stat + (row + nt * 8 + quad * 2) * 8, st);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[nt][e] = exp2_fast(s[nt][e] * c - (e % 2 ? st.z : st.x));
            dp[nt][e] = s[nt][e] * (dp[nt][e] + (e % 2 ? st.w : st.y));
        }
        p[nt / 2][nt % 2 * 2] = pack_bf16(s[nt][0], s[nt][1]);
        p[nt / 2][nt % 2 * 2 + 1] = pack_bf16(s[nt][2], s[nt][3]);
        ds[nt / 2][nt % 2 * 2] = pack_bf16(dp[nt][0], dp[nt][1]);
        ds[nt / 2][nt % 2 * 2 + 1] = pack_bf16(dp[nt][2], dp[nt][3]);
    }
    pin(p);
    pin(ds);
    wgmma_begin();
    group_sum<D>(dv, p, dout, row);
    group_sum<D>(dk, ds, q, row);
    wgmma_commit();
}

/* ROWS rows, STEP at a time. meanwhile() runs under the first products. The last sums are left running, so the place of
 * the tiles may be filled again only when all warps have waited for a step of the next ones. */
template <int D, int STEP, int ROWS, class M>
__device__ __forceinline__ void group_tile(const uint32_t (&k)[D / 16][4], const uint32_t (&v)[D / 16][4],
                                           float (&dk)[D / 8][4], float (&dv)[D / 8][4], uint32_t q_tile,
                                           uint32_t dout_tile, uint32_t stat, float c, int quad, const M &meanwhile) {
    uint64_t q = wgmma_tile<D>(q_tile), dout = wgmma_tile<D>(dout_tile);
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
        float s[STEP / 8][4], dp[STEP / 8][4];
        group_products<D>(s, k, q, dp, v, dout, i);
        if (i == 0) meanwhile();
        group_rows_add<D>(s, dp, dk, dv, q, dout, stat, i, c, quad);
    }
}

template <int D> __device__ __forceinline__ void group_end(float (&dk)[D / 8][4], float (&dv)[D / 8][4]) {
    wgmma_wait<0>();
    pin(dk);
    pin(dv);
}
