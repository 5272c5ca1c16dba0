/* attn_select forward on tensor cores (dev/select_walk.cuh: who does what), and the packing of keys and values.
 *
 * The softmax keeps a maximum that may lag behind the true one, as long as no probability, relative to it, is above
 * LARGEST: sums are larger then, and as exact, and a tile is rarely rescaled. */
#include <math.h>

#include "kernels/cuda/dev/select_walk.cuh"

namespace {

enum { WARPS = 8, QUERY_TILES = 64 }; /* of a block of threads */
#define LARGEST 1024.0f
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

/* A warp per tile of a key head. */
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
    for (int i = 0; i < groups; i++)
#pragma unroll
        for (int half = 0; half < 2; half++, to += 32) {
            int  key = lane / 4 + 8 * half;
            bool ok = key < n_keys;
            to[0] = row_chunk(k + (ok ? key : 0) * stride, i, lane % 4, a.D, ok);
            to[groups * 64] = by_key ? row_chunk(v + (ok ? key : 0) * stride, i, lane % 4, a.D, ok)
                                     : value_chunk(v + 32 * i, stride, n_keys, a.D - 32 * i, half, lane);
        }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* One query tile's state. Columns 2j, 2j+1 of a lane's row are channels 8quad + 2j + {0,1} of each group. */
template <int GROUPS> struct fwd_rows {
    row_operand q[GROUPS];
    float       out[4 * GROUPS][4], max[2], sum[2]; /* max: of scores as powers of two */

    __device__ __forceinline__ void start(const select_view &a, const query_tile &t, int row, int quad) {
        load_heads<GROUPS>(q, a.q, a, t, row, quad);
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) out[j][e] = 0;
        max[0] = max[1] = NOTHING;
        sum[0] = sum[1] = 0;
    }
    __device__ __forceinline__ void score(float (&s)[2][4], const uint4 (&k)[GROUPS][2]) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[half][e] = 0;
#pragma unroll
            for (int c = 0; c < GROUPS; c++) mma_chunks(s[half], q[c], k[c][half]);
        }
    }
    /* p: probabilities over 2^max as operand A; t: their sums. True if max is too far behind. */
    __device__ __forceinline__ bool probabilities(uint32_t (&p)[4], float (&t)[2], const float (&s)[2][4],
                                                  float scale2) const {
        float x[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++) x[half][e] = exp2_fast(fmaf(s[half][e], scale2, -max[e / 2]));
        t[0] = (x[0][0] + x[0][1]) + (x[1][0] + x[1][1]);
        t[1] = (x[0][2] + x[0][3]) + (x[1][2] + x[1][3]);
        p[0] = pack_bf16(x[0][0], x[0][1]), p[1] = pack_bf16(x[0][2], x[0][3]);
        p[2] = pack_bf16(x[1][0], x[1][1]), p[3] = pack_bf16(x[1][2], x[1][3]);
        return t[0] > LARGEST || t[1] > LARGEST;
    }
    __device__ __forceinline__ void raise(const float (&s)[2][4], float scale2) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
            float next = fmaxf(max[r], quad_max(top) * scale2), keep = exp2_fast(max[r] - next);
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

/* A step for the query tiles of SET, whose keys and values are in k and v; leaves the next step's there. */
template <int SET, int GROUPS, int TILES>
__device__ __forceinline__ void fwd_step(fwd_rows<GROUPS> (&rows)[TILES], uint4 (&k)[GROUPS][2], uint4 (&v)[GROUPS][2],
                                         const uint4 *next, int n_keys, bool more, int quad, float scale2) {
    float    s[TILES][2][4], t[TILES][2];
    uint32_t p[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++)
        if (SET >> i & 1) rows[i].score(s[i], k);
    if (more) load_chunks<GROUPS>(k, next);
    if (n_keys < 16) {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (8 * (e / 4) + 2 * quad + e % 2 >= n_keys) {
#pragma unroll
                for (int i = 0; i < TILES; i++) s[i][e / 4][e % 4] = -INFINITY;
            }
    }
    for (;;) {
        bool behind = false;
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) behind |= rows[i].probabilities(p[i], t[i], s[i], scale2);
        if (!__any_sync(ALL_LANES, behind)) break;
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (SET >> i & 1) rows[i].raise(s[i], scale2);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++)
        if (SET >> i & 1) rows[i].add(p[i], t[i], v);
    if (more) load_chunks<GROUPS>(v, next + GROUPS * 64);
}

template <int GROUPS, int TILES>
__global__ void __launch_bounds__(32 * WARPS, GROUPS == 1 ? 2 : 1)
    fwd_kernel(const select_view a, const select_packed packed) {
    __shared__ int         ticket;
    __shared__ block_entry entries[WARPS][32 * TILES];
    const int              lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4, g = blockIdx.y;
    const uint4           *kv = packed.kv + g * packed.n_tiles * (GROUPS * 128) + lane;
    const float            scale2 = a.scale * LOG2_E;
    if (threadIdx.x == 0) ticket = 0;
    __syncthreads();
    for (int index; take_tiles(&ticket, TILES, QUERY_TILES, lane, &index);) {
        block_walk<TILES> walk(a, entries[threadIdx.x / 32]);
        fwd_rows<GROUPS>  rows[TILES];
        uint4             k[GROUPS][2], v[GROUPS][2];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            query_tile t = tile_at(a, g, index + i);
            walk.start(i, g, t.n, t.exists);
            rows[i].start(a, t, row, quad);
        }
        key_step next;
        bool     more = walk.next_block(next);
        if (more) {
            const uint4 *from = kv + (int64_t)next.tile * (GROUPS * 128);
            load_chunks<GROUPS>(k, from);
            load_chunks<GROUPS>(v, from + GROUPS * 64);
        }
        while (more) {
            const int      n_keys = next.n_keys;
            const uint32_t mask = next.mask;
            more = walk.advance(next);
            const uint4 *from = kv + (int64_t)next.tile * (GROUPS * 128);
            if (TILES == 1 || mask == 1)
                fwd_step<1, GROUPS, TILES>(rows, k, v, from, n_keys, more, quad, scale2);
            else if (mask == 2)
                fwd_step<TILES == 1 ? 1 : 2, GROUPS, TILES>(rows, k, v, from, n_keys, more, quad, scale2);
            else
                fwd_step<TILES == 1 ? 1 : 3, GROUPS, TILES>(rows, k, v, from, n_keys, more, quad, scale2);
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) rows[i].write(a, tile_at(a, g, index + i), row, quad);
    }
}

} // namespace

select_packed select_pack(ctx *c, const select_view &a, bool by_key) {
    int           groups = select_groups(a.D), warps = 8;
    select_packed p = {};
    p.n_tiles = select_n_tiles(a);
    size_t    bytes = (size_t)(a.G * p.n_tiles * groups * 128) * sizeof *p.kv;
    uintptr_t room = (uintptr_t)arena_alloc(&c->scratch, bytes + 64);
    p.kv = (uint4 *)((room + 127) / 128 * 128); /* warps read whole lines */
    pack_kernel<<<dim3((unsigned)ceil_div(p.n_tiles, warps), (unsigned)a.G), 32 * warps, 0, stream_of(c)>>>(
        a, p, groups, by_key);
    LAUNCHED(c);
    return p;
}

void select_tiles_fwd(ctx *c, const select_view &a) {
    select_packed p = select_pack(c, a, false);
    dim3          grid = query_grid(a, QUERY_TILES);
    switch (select_groups(a.D)) {
    case 1:
        fwd_kernel<1, 2><<<grid, 32 * WARPS, 0, stream_of(c)>>>(a, p);
        break;
    case 2:
        fwd_kernel<2, 1><<<grid, 32 * WARPS, 0, stream_of(c)>>>(a, p);
        break;
    default:
        fwd_kernel<4, 1><<<grid, 32 * WARPS, 0, stream_of(c)>>>(a, p);
    }
    LAUNCHED(c);
}
