/* attn_select, backward for the queries on tensor cores (dev/select_walk.cuh: who does what):
 *   S = Q K^T, dP = dout V^T, P = exp(scale S - lse), dS = P (dP - delta), dq = scale * sum of dS K. */
#include "kernels/cuda/dev/select_walk.cuh"

namespace {

#define DEEP -100.0f /* lse from here on: 2^-lse is a number that zeros make 0 */

template <int GROUPS> struct dq_rows {
    row_operand q[GROUPS], dout[GROUPS];
    float       dq[4 * GROUPS][4], lse[2], delta[4]; /* delta: negated, as a product's sums start from it */

    /* dq that is added to comes nearer, and is loaded at the end: as the start of the sums it would take registers from
     * k and v in all loops. */
    __device__ __forceinline__ void start(const select_view &a, const query_tile &t, int row, int quad) {
        const int64_t at = t.n * a.H + t.head + row;
        load_heads<GROUPS>(dout, a.dout, a, t, row, quad);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const bool   ok = row + 8 * r < t.n_heads;
            const float2 stat = ok ? __ldg(a.stat + at + 8 * r) : make_float2(0, 0);
            lse[r] = stat.x;
            /* Four values that the compiler does not know to be two: an operand that stays. Of two it would make
             * copies for every product, eight of a step's 111 instructions. */
            delta[2 * r] = __shfl_xor_sync(ALL_LANES, stat.y, 0);
            delta[2 * r + 1] = __shfl_xor_sync(ALL_LANES, stat.y, 0);
            if (a.dq_add && ok && quad % 2 == 0)
#pragma unroll
                for (int d = 8 * quad; d < 32 * GROUPS; d += 32)
                    if (d < a.D)
                        asm volatile("prefetch.global.L2 [%0];\n" ::"l"((const bf16 *)a.dq + (at + 8 * r) * a.D + d));
        }
        load_heads<GROUPS>(q, a.q, a, t, row, quad);
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) dq[j][e] = 0;
    }
    /* Padding must not make NaN: where lse is too small for that, keys past the end need a mask. */
    __device__ __forceinline__ bool is_deep() const {
        return (lse[0] < DEEP && lse[0] != -INFINITY) || (lse[1] < DEEP && lse[1] != -INFINITY);
    }
    /* dp: dP - delta */
    __device__ __forceinline__ void score(float (&s)[2][4], float (&dp)[2][4], const uint4 (&k)[GROUPS][2],
                                          const uint4 (&v)[GROUPS][2]) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            mma_bf16(s[half], q[0].step[0], k[0][half].x, k[0][half].y, 0.f, 0.f, 0.f, 0.f);
            mma_bf16(dp[half], dout[0].step[0], v[0][half].x, v[0][half].y, delta[0], delta[1], delta[2], delta[3]);
            mma_bf16(s[half], q[0].step[1], k[0][half].z, k[0][half].w);
            mma_bf16(dp[half], dout[0].step[1], v[0][half].z, v[0][half].w);
#pragma unroll
            for (int c = 1; c < GROUPS; c++) {
                mma_chunks(s[half], q[c], k[c][half]);
                mma_chunks(dp[half], dout[c], v[c][half]);
            }
        }
    }
    /* dS / scale as operand A */
    template <bool MASK>
    __device__ __forceinline__ void differentiate(uint32_t (&a)[4], const float (&s)[2][4], const float (&dp)[2][4],
                                                  int n_keys, int quad, float scale2) const {
        float ds[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++) ds[half][e] = exp2_fast(fmaf(s[half][e], scale2, -lse[e / 2])) * dp[half][e];
        if (MASK) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (8 * (e / 4) + 2 * quad + e % 2 >= n_keys) ds[e / 4][e % 4] = 0;
        }
        a[0] = pack_bf16(ds[0][0], ds[0][1]), a[1] = pack_bf16(ds[0][2], ds[0][3]);
        a[2] = pack_bf16(ds[1][0], ds[1][1]), a[3] = pack_bf16(ds[1][2], ds[1][3]);
    }
    __device__ __forceinline__ void write(const select_view &a, const query_tile &t, int row, int quad) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (row + 8 * r >= t.n_heads) continue;
            uint32_t *to = (uint32_t *)((bf16 *)a.dq + (t.n * a.H + t.head + row + 8 * r) * a.D + 2 * quad);
            uint32_t  before[4 * GROUPS];
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++) before[j] = a.dq_add && 8 * j < a.D ? to[4 * j] : 0;
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++)
                if (8 * j < a.D)
                    to[4 * j] = pack_bf16(fmaf(dq[j][2 * r], a.scale, bf16_lo(before[j])),
                                          fmaf(dq[j][2 * r + 1], a.scale, bf16_hi(before[j])));
        }
    }
};

/* The keys of a block, as fwd_block. dq += dS K wants K with keys as the contraction: a tile goes to shared memory
 * (`room`, of this warp) and is read back transposed. */
template <int SET, bool MASK, int GROUPS, int TILES>
__device__ __forceinline__ void dq_block(dq_rows<GROUPS> (&rows)[TILES], uint4 (&k)[GROUPS][2], uint4 (&v)[GROUPS][2],
                                         const uint4 *from, const uint4 *next, int n_keys, char *room, int lane,
                                         float scale2) {
    const int      row = lane / 4, quad = lane % 4;
    /* matrices: keys 0-7, 8-15 of a chunk of channels, then of the next */
    const uint32_t read = smem_addr(room) + lane / 8 % 2 * 512;
    for (;;) {
        __syncwarp(); /* the last tile has been read */
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *(uint4 *)(room + c * 1024 + half * 512 + tile_chunk<32>(row, quad)) = k[c][half];
        float    s[TILES][2][4], dp[TILES][2][4];
        uint32_t ds[TILES][4];
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) rows[i].score(s[i], dp[i], k, v);
        from = n_keys > 16 ? from + GROUPS * 128 : next;
        load_chunks<GROUPS>(k, from);
        load_chunks<GROUPS>(v, from + GROUPS * 64);
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) rows[i].template differentiate<MASK>(ds[i], s[i], dp[i], n_keys, quad, scale2);
        __syncwarp();
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, read + c * 1024 + tile_chunk<32>(lane % 8, j + lane / 16));
#pragma unroll
                for (int i = 0; i < TILES; i++)
                    if (SET >> i & 1) {
                        mma_bf16(rows[i].dq[4 * c + j], ds[i], b[0], b[1]);
                        mma_bf16(rows[i].dq[4 * c + j + 1], ds[i], b[2], b[3]);
                    }
            }
        n_keys -= 16;
        if (n_keys <= 0) break;
    }
}

/* As fwd_walk. */
template <bool MASK, int GROUPS, int TILES>
__device__ __forceinline__ void dq_walk(dq_rows<GROUPS> (&rows)[TILES], const select_view &a, const int (&list)[TILES],
                                        int (&at)[TILES], block_union<TILES> &blocks, const uint4 *kv, char *room,
                                        int lane, float scale2) {
    uint4 k[GROUPS][2], v[GROUPS][2];
    walk_blocks<GROUPS, TILES>(
        a, list, at, blocks, kv, k, v, [&](auto set, const uint4 *from, const uint4 *next, int n_keys) {
            dq_block<decltype(set)::value, MASK, GROUPS, TILES>(rows, k, v, from, next, n_keys, room, lane, scale2);
        });
}

/* stat of what forward wrote: {lse log2 e, -<dout, out>}; `lanes` lanes (a power of two) share a row. */
__global__ void __launch_bounds__(256) stat_kernel(const select_view a, int64_t n_rows, int lanes) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, row = i / lanes;
    const int     d = (int)(i % lanes) * 8;
    float         x[8] = {}, y[8] = {}, sum = 0;
    if (row < n_rows && d < a.D) {
        load_pack<bf16, 8>((const bf16 *)a.o + row * a.D + d, x);
        load_pack<bf16, 8>((const bf16 *)a.dout + row * a.D + d, y);
    }
#pragma unroll
    for (int e = 0; e < 8; e++) sum += x[e] * y[e];
    for (int o = lanes / 2; o > 0; o /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, o);
    if (row < n_rows && d == 0) a.stat[row] = make_float2(a.lse[row] * LOG2_E, -sum);
}

/* One block of threads on a multiprocessor, for D <= 32: as in forward. */
template <int GROUPS> struct dq_shape {
    enum {
        TILES = GROUPS == 1 ? 2 : 1,
        WARPS = GROUPS == 1 ? 12 : 4,
        BLOCKS = GROUPS == 2 ? 2 : 1,
        RUN = GROUPS == 1 ? 32 : 16
    };
};

template <int GROUPS>
__global__ void __launch_bounds__(32 * dq_shape<GROUPS>::WARPS, dq_shape<GROUPS>::BLOCKS)
    dq_kernel(const select_view a, const select_packed packed, int of_head) {
    typedef dq_shape<GROUPS> F;
    __shared__ tile_queue    queue;
    __shared__ block_union<F::TILES> unions[F::WARPS];
    __shared__ uint4                 key_room[F::WARPS][GROUPS * 64];
    const int                        lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
    const float                      scale2 = a.scale * LOG2_E;
    char                            *room = (char *)key_room[threadIdx.x / 32];
    if (threadIdx.x == 0) queue.start();
    __syncthreads();
    for (int g, index; queue.take(a, of_head, F::RUN, packed.ticket, F::TILES, &g, &index);) {
        const uint4           *kv = packed.kv + g * packed.n_tiles * (GROUPS * 128) + lane;
        block_union<F::TILES> &blocks = unions[threadIdx.x / 32];
        dq_rows<GROUPS>        rows[F::TILES];
        int                    list[F::TILES], at[F::TILES];
        bool                   deep = false;
#pragma unroll
        for (int i = 0; i < F::TILES; i++) {
            query_tile t = tile_at(a, g, index + i);
            list[i] = (int)(g * a.N + t.n);
            at[i] = t.exists ? 0 : a.K;
            rows[i].start(a, t, row, quad);
        }
        prefetch_lists(a, list);
#pragma unroll
        for (int i = 0; i < F::TILES; i++) deep |= rows[i].is_deep();
        if (__any_sync(ALL_LANES, deep))
            dq_walk<true>(rows, a, list, at, blocks, kv, room, lane, scale2);
        else
            dq_walk<false>(rows, a, list, at, blocks, kv, room, lane, scale2);
#pragma unroll
        for (int i = 0; i < F::TILES; i++) rows[i].write(a, tile_at(a, g, index + i), row, quad);
    }
}

template <int GROUPS> void launch_dq(ctx *c, const select_view &a, const select_packed &p) {
    typedef dq_shape<GROUPS> F;
    dq_kernel<GROUPS>
        <<<c->cuda->multiprocessors * F::BLOCKS, 32 * F::WARPS, 0, stream_of(c)>>>(a, p, tiles_of_head(a, F::RUN));
    LAUNCHED(c);
}

} // namespace

void select_find_stat(ctx *c, const select_view &a) {
    int lanes = 1;
    while (lanes * 8 < a.D) lanes *= 2;
    stat_kernel<<<(unsigned)ceil_div(a.N * a.H * lanes, 256), 256, 0, stream_of(c)>>>(a, a.N * a.H, lanes);
    LAUNCHED(c);
}

void select_tiles_dq(ctx *c, const select_view &a, const select_packed &p) {
    switch (select_groups(a.D)) {
    case 1:
        launch_dq<1>(c, a, p);
        break;
    case 2:
        launch_dq<2>(c, a, p);
        break;
    default:
        launch_dq<4>(c, a, p);
    }
}
