/* Scores of 16 queries x 32 compression blocks, summed over a group's heads, by one warp.
 *
 * An mma tile has 16 queries of ONE head as its rows, so that the sum over heads is an addition of tiles, register by
 * register. Its columns are dealt out such that a lane has eight compression blocks in a row: tile j, column n is block
 * 8(n/2) + 2j + n%2 of the step, and lane 4*row + quad holds blocks 8quad + k of queries `row` and `row + 8`.
 *
 * The exponentials are the cost, 16 of a lane per head: the special function unit does one for a warp in 8 cycles. So
 * products of the next head run under them, tile by tile, also from one step to the next. */
#pragma once
#include <math.h>

#include "kernels/cuda/dev/topk_view.cuh"

template <int GROUPS> struct topk_scorer {
    const bf16   *ck;   /* the lane's key of tile 0 in step 0 */
    const char   *rows; /* operands A of the lane, heads outermost */
    const float2 *lse;  /* of rows `row` and `row + 8`, negative, in powers of two */
    int           D, quad, key, heads;
    int64_t       ck_stride;
    float         scale2;
    float         s0[4][4];     /* products of head 0 */
    uint4         y[4][GROUPS]; /* operand B: the lane's chunk of its key in tile j */

    /* An even number: two heads are in flight. */
    __host__ __device__ static constexpr int heads_of(int hs) { return (hs + 1) & ~1; }
    __host__ __device__ static constexpr int bytes(int hs) {
        return heads_of(hs) * (GROUPS * 1024 + (int)(8 * sizeof(float2)));
    }

    __device__ __forceinline__ topk_scorer(const topk_view &v, const query_tile &t, int g, char *room, int lane)
        : ck((const bf16 *)v.ck + g * v.D), rows(room + lane * 16), D(v.D), quad(lane % 4), heads(heads_of(v.hs)),
          ck_stride((int64_t)v.G * v.D), scale2(v.scale * 1.4426950408889634f) {
        int row = lane / 4;
        key = row / 2 * 8 + row % 2;
        float2       *l = (float2 *)(room + heads * GROUPS * 1024) + row;
        const bool    ok0 = row < t.n, ok1 = row + 8 < t.n;
        const int64_t n0 = (t.n0 + (ok0 ? row : 0)) * v.H + g * v.hs,
                      n1 = (t.n0 + (ok1 ? row + 8 : 0)) * v.H + g * v.hs;
        lse = l;
        for (int h = 0; h < heads; h++) {
            bool is = h < v.hs;
            for (int i = 0; i < GROUPS; i++) {
                row_operand a;
                int         d = 32 * i + 8 * quad;
                bool        in = is && d < D;
                const bf16 *x = (const bf16 *)v.q + (in ? h * D + d : 0);
                a.load(x + n0 * D, in && ok0, x + n1 * D, in && ok1);
#pragma unroll
                for (int s = 0; s < 2; s++)
                    *(uint4 *)(room + ((h * GROUPS + i) * 2 + s) * 512 + lane * 16) =
                        make_uint4(a.step[s][0], a.step[s][1], a.step[s][2], a.step[s][3]);
            }
            /* probability 0 where there is no head or no query */
            if (quad == 0)
                l[h * 8] = make_float2(is && ok0 ? v.lse[n0 + h] * -1.4426950408889634f : -INFINITY,
                                       is && ok1 ? v.lse[n1 + h] * -1.4426950408889634f : -INFINITY);
        }
        __syncwarp();
    }

    /* Keys of the step at c0; zeros from c1 on. */
    __device__ __forceinline__ void load_keys(int c0, int c1, uint4 (&to)[4][GROUPS]) const {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int         c = c0 + key + 2 * j;
            const bf16 *x = ck + (c < c1 ? c : 0) * ck_stride;
#pragma unroll
            for (int i = 0; i < GROUPS; i++) to[j][i] = row_chunk(x, i, quad, D, c < c1);
        }
    }

    /* next = products of head `to`, while sum += exponentials of head `from`, whose products are in s. */
    __device__ __forceinline__ void advance(int to, float (&next)[4][4], int from, const float (&s)[4][4],
                                            float (&sum)[2][8]) const {
        row_operand  a[GROUPS];
        const float2 l = lse[from * 8];
#pragma unroll
        for (int i = 0; i < GROUPS; i++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint4 x = *(const uint4 *)(rows + ((to * GROUPS + i) * 2 + k) * 512);
                a[i].step[k][0] = x.x, a[i].step[k][1] = x.y, a[i].step[k][2] = x.z, a[i].step[k][3] = x.w;
            }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            next[j][0] = next[j][1] = next[j][2] = next[j][3] = 0;
#pragma unroll
            for (int i = 0; i < GROUPS; i++) mma_chunks(next[j], a[i], y[j][i]);
#pragma unroll
            for (int e = 0; e < 4; e++)
                sum[e / 2][2 * j + e % 2] += exp2_fast(fmaf(s[j][e], scale2, e < 2 ? l.x : l.y));
        }
    }

    /* Before the first step. */
    __device__ __forceinline__ void start(int c0, int c1) {
        float none[2][8] = {}, zero[4][4] = {};
        load_keys(c0, c1, y);
        advance(0, s0, 0, zero, none);
    }

    /* The step at c0; sum[half][k]: block 8quad + k of query row + 8half. Those past c1 are anything. */
    __device__ __forceinline__ void step(int c0, int c1, float (&sum)[2][8]) {
        constexpr bool EARLY = GROUPS < 4; /* registers for the keys of two steps */
        float          s1[4][4];
        uint4          y1[4][GROUPS];
        if (EARLY) load_keys(c0 + TOPK_COLS, c1, y1);
#pragma unroll
        for (int k = 0; k < 8; k++) sum[0][k] = sum[1][k] = 0;
        int h = 0;
#pragma unroll 1
        for (; h + 2 < heads; h += 2) {
            advance(h + 1, s1, h, s0, sum);
            advance(h + 2, s0, h + 1, s1, sum);
        }
        advance(h + 1, s1, h, s0, sum);
        if (!EARLY) load_keys(c0 + TOPK_COLS, c1, y1);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < GROUPS; i++) y[j][i] = y1[j][i];
        advance(0, s0, h + 1, s1, sum);
    }
};
