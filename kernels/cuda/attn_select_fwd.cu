/* attn_select forward on tensor cores (dev/select_walk.cuh: who does what), and the packing of keys and values.
 *
 * Two forms of softmax, as in attn_segment_fwd.cu. Bounded: by the lengths of its queries and of all keys no score of a
 * warp exceeds BOUND, so that 2^score needs no maximum. Else the softmax keeps a maximum that may lag behind the true
 * one, as long as no sum of a step's probabilities, relative to it, is above LARGEST: sums are larger then, and as
 * exact, and a tile is rarely rescaled. */
#include <math.h>

#include "kernels/cuda/dev/select_walk.cuh"

namespace {

#define LARGEST 1024.0f
#define BOUND 60.0f    /* of scores as powers of two, in the bounded form */
#define NOTHING -1e30f /* maximum of no scores; not infinite, as keys that are not there have scores of -infinity */

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* As operand of P V (k = keys, n = channels), the chunks of a lane for tile columns j = 2*half and 2*half + 1 of a
 * group are {keys 2quad.., keys 2quad+8.. of column j, the same of j + 1}. Column c of j stands for channel
 * 8*(c/2) + 2j + c%2, so that a lane ends up with eight channels in a row. */
__device__ __forceinline__ uint4 value_chunk(const bf16 *v, int64_t stride, int n_keys, int channels, int half,
                                             int lane) {
    int      quad = lane % 4, d0 = 8 * (lane / 8) + lane / 4 % 2;
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int      d = d0 + 2 * (2 * half + i / 2), key = 2 * quad + 8 * (i % 2);
        uint32_t lo = 0, hi = 0;
        if (d < channels) {
            if (key < n_keys) lo = __bfloat16_as_ushort(v[key * stride + d]);
            if (key + 1 < n_keys) hi = __bfloat16_as_ushort(v[(key + 1) * stride + d]);
        }
        word[i] = hi << 16 | lo;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* A warp per tile of a key head. Leaves the largest squared length of a key, too. */
__global__ void __launch_bounds__(256)
    pack_kernel(const select_view a, const select_packed p, int groups, bool by_key) {
    int64_t tile = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int     lane = threadIdx.x % 32, g = blockIdx.y, lo = 0, hi = a.NB;
    if (tile >= p.n_tiles) return;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (select_tile_of(a.first[mid], mid) <= tile)
            lo = mid;
        else
            hi = mid;
    }
    int key0 = a.first[lo] + 16 * (int)(tile - select_tile_of(a.first[lo], lo)), n_keys = a.first[lo + 1] - key0;
    if (n_keys <= 0) return; /* room that the block does not need */
    int64_t     stride = (int64_t)a.G * a.D;
    const bf16 *k = (const bf16 *)a.k + key0 * stride + g * a.D, *v = (const bf16 *)a.v + key0 * stride + g * a.D;
    uint4      *to = p.kv + (g * p.n_tiles + tile) * groups * 128 + lane;
    float       square[2] = {0, 0};
    for (int i = 0; i < groups; i++)
#pragma unroll
        for (int half = 0; half < 2; half++, to += 32) {
            int   key = lane / 4 + 8 * half;
            bool  ok = key < n_keys;
            uint4 x = row_chunk(k + (ok ? key : 0) * stride, i, lane % 4, a.D, ok);
            to[0] = x;
            square[half] += word_square(x.x) + word_square(x.y) + word_square(x.z) + word_square(x.w);
            to[groups * 64] = by_key ? row_chunk(v + (ok ? key : 0) * stride, i, lane % 4, a.D, ok)
                                     : value_chunk(v + 32 * i, stride, n_keys, a.D - 32 * i, half, lane);
        }
    float most = warp_max(fmaxf(quad_sum(square[0]), quad_sum(square[1])));
    int  *so_far = (int *)&p.square[g]; /* floats that are not negative compare like integers */
    if (lane == 0 && __float_as_int(most) > *(volatile int *)so_far) atomicMax(so_far, __float_as_int(most));
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* One query tile's state. Columns 2j, 2j+1 of a lane's row are channels 8quad + 2j + {0,1} of each group. */
template <int GROUPS> struct fwd_rows {
    row_operand q[GROUPS];
    float       out[4 * GROUPS][4], max[2], sum[2]; /* max: running form, of scores as powers of two; else 0 */

    __device__ __forceinline__ void start(const select_view &a, const query_tile &t, int row, int quad) {
        load_heads<GROUPS>(q, a.q, a, t, row, quad);
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) out[j][e] = 0;
        sum[0] = sum[1] = 0;
    }
    /* Largest squared length of the lane's two rows. */
    __device__ __forceinline__ float square() const {
        float x[2] = {0, 0};
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                uint32_t y = q[c].step[i / 4][i % 4];
                x[i % 2] += word_square(y);
            }
        return fmaxf(quad_sum(x[0]), quad_sum(x[1]));
    }
    /* s: scores as powers of two; bias: of the lane's keys, 0 or (no key) -infinity. */
    __device__ __forceinline__ void score(float (&s)[2][4], const uint4 (&k)[GROUPS][2], const float (&bias)[4],
                                          float scale2) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            mma_bf16(s[half], q[0].step[0], k[0][half].x, k[0][half].y, 0.f, 0.f, 0.f, 0.f);
            mma_bf16(s[half], q[0].step[1], k[0][half].z, k[0][half].w);
#pragma unroll
            for (int c = 1; c < GROUPS; c++) mma_chunks(s[half], q[c], k[c][half]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[half][e] = fmaf(s[half][e], scale2, bias[2 * half + e % 2]);
    }
    /* p: 2^(s - max) as operand A; t: their sums. */
    template <bool BOUNDED>
    __device__ __forceinline__ void weigh(uint32_t (&p)[4], float (&t)[2], const float (&s)[2][4]) const {
        float x[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++) x[half][e] = exp2_fast(BOUNDED ? s[half][e] : s[half][e] - max[e / 2]);
        t[0] = (x[0][0] + x[0][1]) + (x[1][0] + x[1][1]);
        t[1] = (x[0][2] + x[0][3]) + (x[1][2] + x[1][3]);
        p[0] = pack_bf16(x[0][0], x[0][1]), p[1] = pack_bf16(x[0][2], x[0][3]);
        p[2] = pack_bf16(x[1][0], x[1][1]), p[3] = pack_bf16(x[1][2], x[1][3]);
    }
    __device__ __forceinline__ void raise(const float (&s)[2][4]) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
            float next = fmaxf(max[r], quad_max(top)), keep = exp2_fast(max[r] - next);
            max[r] = next;
            sum[r] *= keep;
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++) {
                out[j][2 * r] *= keep;
                out[j][2 * r + 1] *= keep;
            }
        }
    }
    __device__ __forceinline__ void add(const uint32_t (&p)[4], const float (&t)[2], const uint4 (&v)[GROUPS][2]) {
        sum[0] += t[0];
        sum[1] += t[1];
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                mma_bf16(out[4 * c + 2 * half], p, v[c][half].x, v[c][half].y);
                mma_bf16(out[4 * c + 2 * half + 1], p, v[c][half].z, v[c][half].w);
            }
    }
    __device__ __forceinline__ void write(const select_view &a, const query_tile &t, int row, int quad) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = quad_sum(sum[r]), inv = total == 0 ? 0 : 1 / total;
            if (row + 8 * r >= t.n_heads) continue;
            int64_t at = t.n * a.H + t.head + row + 8 * r;
            if (quad == 0) a.lse[at] = total == 0 ? -INFINITY : (max[r] + log2f(total)) * LN_2;
#pragma unroll
            for (int c = 0; c < GROUPS; c++) {
                if (32 * c + 8 * quad >= a.D) continue;
                float x[8];
#pragma unroll
                for (int e = 0; e < 8; e++) x[e] = out[4 * c + e / 2][2 * r + e % 2] * inv;
                store_pack<bf16, 8>((bf16 *)a.out + at * a.D + 32 * c + 8 * quad, x);
            }
        }
    }
};

template <int SET, bool BOUNDED, int GROUPS, int TILES>
__device__ __forceinline__ void weigh_set(fwd_rows<GROUPS> (&rows)[TILES], uint32_t (&p)[TILES][4],
                                          float (&t)[TILES][2], const float (&s)[TILES][2][4]) {
    bool behind;
    do {
        behind = false;
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) {
                rows[i].template weigh<BOUNDED>(p[i], t[i], s[i]);
                behind |= t[i][0] > LARGEST || t[i][1] > LARGEST;
            }
        behind = !BOUNDED && __any_sync(ALL_LANES, behind);
        if (behind)
#pragma unroll
            for (int i = 0; i < TILES; i++)
                if (SET >> i & 1) rows[i].raise(s[i]);
    } while (behind);
}

/* The keys of a block for the query tiles of SET, from packed tile `from` on, whose keys and values are in k and v;
 * leaves those of `next` there. */
template <int SET, bool BOUNDED, int GROUPS, int TILES>
__device__ __forceinline__ void fwd_block(fwd_rows<GROUPS> (&rows)[TILES], uint4 (&k)[GROUPS][2], uint4 (&v)[GROUPS][2],
                                          const uint4 *from, const uint4 *next, int n_keys, int quad, float scale2) {
    float bias[4] = {0, 0, 0, 0};
    for (;;) {
        float    s[TILES][2][4], t[TILES][2];
        uint32_t p[TILES][4];
        if (n_keys < 16) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (8 * (e / 2) + 2 * quad + e % 2 >= n_keys) bias[e] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) rows[i].score(s[i], k, bias, scale2);
        from = n_keys > 16 ? from + GROUPS * 128 : next;
        load_chunks<GROUPS>(k, from);
        weigh_set<SET, BOUNDED>(rows, p, t, s);
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) rows[i].add(p[i], t[i], v);
        load_chunks<GROUPS>(v, from + GROUPS * 64);
        n_keys -= 16;
        if (n_keys <= 0) break;
    }
}

/* All blocks of the query tiles whose lists are rows list[] of a.block, from entries at[] on. */
template <bool BOUNDED, int GROUPS, int TILES>
__device__ __forceinline__ void fwd_walk(fwd_rows<GROUPS> (&rows)[TILES], const select_view &a,
                                         const int (&list)[TILES], int (&at)[TILES], block_union<TILES> &blocks,
                                         const uint4 *kv, int quad, float scale2) {
    uint4 k[GROUPS][2], v[GROUPS][2];
#pragma unroll
    for (int i = 0; i < TILES; i++) rows[i].max[0] = rows[i].max[1] = BOUNDED ? 0 : NOTHING;
    walk_blocks<GROUPS, TILES>(
        a, list, at, blocks, kv, k, v, [&](auto set, const uint4 *from, const uint4 *next, int n_keys) {
            fwd_block<decltype(set)::value, BOUNDED, GROUPS, TILES>(rows, k, v, from, next, n_keys, quad, scale2);
        });
}

/* Blocks of threads as large as the registers of a multiprocessor allow, for D <= 32: their warps' queries are
 * neighbours, and what one of them has loaded the others find in L1. */
template <int GROUPS> struct fwd_shape {
    enum { TILES = GROUPS == 1 ? 2 : 1, WARPS = GROUPS == 1 ? 16 : 8, BLOCKS = GROUPS == 2 ? 2 : 1, RUN = 32 };
};

template <int GROUPS>
__global__ void __launch_bounds__(32 * fwd_shape<GROUPS>::WARPS, fwd_shape<GROUPS>::BLOCKS)
    fwd_kernel(const select_view a, const select_packed packed, int of_head) {
    typedef fwd_shape<GROUPS> F;
    __shared__ tile_queue     queue;
    __shared__ block_union<F::TILES> unions[F::WARPS];
    const int                        lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
    const float                      scale2 = a.scale * LOG2_E;
    if (threadIdx.x == 0) queue.start();
    __syncthreads();
    for (int g, index; queue.take(a, of_head, F::RUN, packed.ticket, F::TILES, &g, &index);) {
        const uint4           *kv = packed.kv + g * packed.n_tiles * (GROUPS * 128) + lane;
        block_union<F::TILES> &blocks = unions[threadIdx.x / 32];
        fwd_rows<GROUPS>       rows[F::TILES];
        int                    list[F::TILES], at[F::TILES];
        float                  square = 0;
#pragma unroll
        for (int i = 0; i < F::TILES; i++) {
            query_tile t = tile_at(a, g, index + i);
            list[i] = (int)(g * a.N + t.n);
            at[i] = t.exists ? 0 : a.K;
            rows[i].start(a, t, row, quad);
            square = fmaxf(square, rows[i].square());
        }
        if (__all_sync(ALL_LANES, sqrtf(square * packed.square[g]) * scale2 <= BOUND))
            fwd_walk<true>(rows, a, list, at, blocks, kv, quad, scale2);
        else
            fwd_walk<false>(rows, a, list, at, blocks, kv, quad, scale2);
#pragma unroll
        for (int i = 0; i < F::TILES; i++) rows[i].write(a, tile_at(a, g, index + i), row, quad);
    }
}

template <int GROUPS> void launch_fwd(ctx *c, const select_view &a, const select_packed &p) {
    typedef fwd_shape<GROUPS> F;
    fwd_kernel<GROUPS>
        <<<c->cuda->multiprocessors * F::BLOCKS, 32 * F::WARPS, 0, stream_of(c)>>>(a, p, tiles_of_head(a, F::RUN));
    LAUNCHED(c);
}

} // namespace

select_packed select_pack(ctx *c, const select_view &a, bool by_key) {
    int           groups = select_groups(a.D), warps = 8;
    select_packed p = {};
    p.n_tiles = select_n_tiles(a);
    size_t    bytes = (size_t)(a.G * p.n_tiles * groups * 128) * sizeof *p.kv;
    uintptr_t room = (uintptr_t)arena_alloc(&c->scratch, bytes + 64);
    p.kv = (uint4 *)((room + 127) / 128 * 128); /* warps read whole lines */
    p.square = (float *)arena_alloc(&c->scratch, (size_t)(a.G + 1) * sizeof(float));
    p.ticket = (int *)(p.square + a.G);
    CUDA_DO(cudaMemsetAsync(p.square, 0, (size_t)(a.G + 1) * sizeof(float), stream_of(c)));
    pack_kernel<<<dim3((unsigned)ceil_div(p.n_tiles, warps), (unsigned)a.G), 32 * warps, 0, stream_of(c)>>>(
        a, p, groups, by_key);
    LAUNCHED(c);
    return p;
}

void select_tiles_fwd(ctx *c, const select_view &a) {
    select_packed p = select_pack(c, a, false);
    switch (select_groups(a.D)) {
    case 1:
        launch_fwd<1>(c, a, p);
        break;
    case 2:
        launch_fwd<2>(c, a, p);
        break;
    default:
        launch_fwd<4>(c, a, p);
    }
}
