/* attn_select, backward for the keys in bf16, where warpgroups (attn_select_groups.cu) do not serve: an item of work is
 * KEYS keys of a block and a part of its list. Its rows - (query, head), 64 or 128 at a time - pass through shared
 * memory for all warps; a warp has 16*TILES keys as rows of its products S = K Q^T, dP = V dout^T, P = exp(scale S -
 * lse), dS = P (dP - delta), dV += P dout, dK += dS Q and their dK, dV in registers. Warps without keys of their own
 * (small blocks) share the rows of the others. */
#include <math.h>

#include "kernels/cuda/dev/select_keys.cuh"

namespace {

enum { ADD_BLOCKS = 8 /* of a list */ };

/* ---- dk and dv -------------------------------------------------------------------------------------------------- */

template <int GROUPS_> struct dkv_shape {
    enum {
        GROUPS = GROUPS_,
        TILES = GROUPS == 1 ? 2 : 1, /* of 16 keys, a warp's */
        WARPS = 4,
        THREADS = 32 * WARPS,
        KEYS = 16 * TILES * WARPS,
        ROWS = GROUPS == 1 ? 128 : 64,
        COPIES = 4 * ROWS / THREADS, /* rows of a stage that a thread copies from */
        STAGES = 3,
        OPERAND = GROUPS * ROWS * 64, /* bytes of q or dout */
        STAGE = 2 * OPERAND + ROWS * (int)sizeof(float2),
        SHARED = STAGES * STAGE,
        BLOCKS = GROUPS > 2 ? 1 : 4 - GROUPS /* on a multiprocessor: registers */
    };
};

/* A warp's keys: operands, and sums of dK / scale and dV. */
template <int GROUPS> struct key_rows {
    typedef dkv_shape<GROUPS> F;
    row_operand               k[F::TILES][GROUPS], v[F::TILES][GROUPS];
    float                     dk[F::TILES][4 * GROUPS][4], dv[F::TILES][4 * GROUPS][4];

    /* Packed tiles `tile` .. of this warp, as far as there are n_tiles of them. */
    __device__ __forceinline__ void load(const select_packed &p, int g, int tile, int n_tiles, int lane) {
#pragma unroll
        for (int m = 0; m < F::TILES; m++) {
            const uint4 *at = p.kv + (g * p.n_tiles + tile + m) * (GROUPS * 128) + lane;
            const bool   ok = m < n_tiles;
#pragma unroll
            for (int c = 0; c < GROUPS; c++) {
                k[m][c].load(at + c * 64, ok, at + c * 64 + 32, ok);
                v[m][c].load(at + (GROUPS + c) * 64, ok, at + (GROUPS + c) * 64 + 32, ok);
            }
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) dk[m][j][e] = dv[m][j][e] = 0;
        }
    }

    /* Rows 16*i .. 16*i+15 of a stage. */
    __device__ __forceinline__ void add(uint32_t stage, int i, int lane, float scale2) {
        const int      row = lane / 4, quad = lane % 4;
        const uint32_t q_at = stage + i * 1024, dout_at = q_at + F::OPERAND;
        uint4          q[GROUPS][2], dout[GROUPS][2];
        float4         stat[2]; /* of rows 2quad and 2quad+1 of each half */
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int c = 0; c < GROUPS; c++) {
                uint32_t at = c * (F::ROWS * 64) + tile_chunk<32>(8 * half + row, quad);
                shared_load(q_at + at, q[c][half]);
                shared_load(dout_at + at, dout[c][half]);
            }
            shared_load(stage + 2 * F::OPERAND + (16 * i + 8 * half + 2 * quad) * (int)sizeof(float2), stat[half]);
        }
        uint32_t a_p[F::TILES][4], a_ds[F::TILES][4];
#pragma unroll
        for (int m = 0; m < F::TILES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float p[4] = {0, 0, 0, 0}, ds[4] = {stat[half].y, stat[half].w, stat[half].y, stat[half].w};
#pragma unroll
                for (int c = 0; c < GROUPS; c++) {
                    mma_chunks(p, k[m][c], q[c][half]);
                    mma_chunks(ds, v[m][c], dout[c][half]);
                }
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    p[e] = exp2_fast(fmaf(p[e], scale2, -(e % 2 ? stat[half].z : stat[half].x)));
                    ds[e] *= p[e];
                }
                a_p[m][2 * half] = pack_bf16(p[0], p[1]);
                a_p[m][2 * half + 1] = pack_bf16(p[2], p[3]);
                a_ds[m][2 * half] = pack_bf16(ds[0], ds[1]);
                a_ds[m][2 * half + 1] = pack_bf16(ds[2], ds[3]);
            }
        /* matrices: rows 0-7, 8-15 of a chunk, then of the next */
        const uint32_t half_at = lane / 8 % 2 * 512;
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                uint32_t at = c * (F::ROWS * 64) + half_at + tile_chunk<32>(lane % 8, j + lane / 16), b[4];
                ldmatrix_x4_trans(b, dout_at + at);
#pragma unroll
                for (int m = 0; m < F::TILES; m++) {
                    mma_bf16(dv[m][4 * c + j], a_p[m], b[0], b[1]);
                    mma_bf16(dv[m][4 * c + j + 1], a_p[m], b[2], b[3]);
                }
                ldmatrix_x4_trans(b, q_at + at);
#pragma unroll
                for (int m = 0; m < F::TILES; m++) {
                    mma_bf16(dk[m][4 * c + j], a_ds[m], b[0], b[1]);
                    mma_bf16(dk[m][4 * c + j + 1], a_ds[m], b[2], b[3]);
                }
            }
    }

    /* The sums as float4 of lanes, to and from shared memory (room of one warp: SUMS float4). */
    enum { SUMS = F::TILES * 4 * GROUPS * 2 * 32 };
    __device__ __forceinline__ void put(float4 *room, int lane) const {
#pragma unroll
        for (int m = 0; m < F::TILES; m++)
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++) {
                float4 *to = room + (m * 4 * GROUPS + j) * 64 + lane;
                to[0] = make_float4(dk[m][j][0], dk[m][j][1], dk[m][j][2], dk[m][j][3]);
                to[32] = make_float4(dv[m][j][0], dv[m][j][1], dv[m][j][2], dv[m][j][3]);
            }
    }
    __device__ __forceinline__ void add_from(const float4 *room, int lane) {
#pragma unroll
        for (int m = 0; m < F::TILES; m++)
#pragma unroll
            for (int j = 0; j < 4 * GROUPS; j++) {
                const float4 *from = room + (m * 4 * GROUPS + j) * 64 + lane;
                float4        x = from[0], y = from[32];
                dk[m][j][0] += x.x, dk[m][j][1] += x.y, dk[m][j][2] += x.z, dk[m][j][3] += x.w;
                dv[m][j][0] += y.x, dv[m][j][1] += y.y, dv[m][j][2] += y.z, dv[m][j][3] += y.w;
            }
    }
};

template <int GROUPS, bool ALL>
__global__ void __launch_bounds__(dkv_shape<GROUPS>::THREADS, dkv_shape<GROUPS>::BLOCKS)
    dkv_kernel(const select_view a, const dkv_tables t) {
    typedef dkv_shape<GROUPS> F;
    extern __shared__ __align__(16) char shared[];
    __shared__ dkv_item                  item;
    const int                            warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float                          scale2 = a.scale * 1.4426950408889634f;
    while (take_item(t, &item)) {
        const int           g = item.list / a.NB, key0 = item.key;
        select_rows<F, ALL> rows(a, t.lists.query + item.query, g, item.n_queries, smem_addr(shared));

        /* Which keys, and which of the stage's groups of 16 rows, are this warp's. */
        const int n_tiles = (min((int)F::KEYS, item.size - key0) + 15) / 16,
                  warps_used = (n_tiles + F::TILES - 1) / F::TILES;
        const int key_warps = warps_used == 1 ? 1 : warps_used == 2 ? 2 : 4, share = warp / key_warps;
        const int n_shares = F::WARPS / key_warps, my_tile = warp % key_warps * F::TILES;

        for (int s = 0; s < F::STAGES - 1; s++) rows.load(s);
        key_rows<GROUPS> keys;
        keys.load(t.packed, g, select_tile_of(item.first, item.list - g * a.NB) + key0 / 16 + my_tile,
                  n_tiles - my_tile, lane);
        for (uint32_t s = 0; s < rows.n_stages; s++) {
            cp_async_wait<F::STAGES - 2>();
            __syncthreads();
            rows.load(s + F::STAGES - 1);
            if (my_tile >= n_tiles) continue;
            for (int i = share; i < F::ROWS / 16 && s * F::ROWS + 16 * i < rows.n_rows; i += n_shares)
                keys.add(rows.at(s), i, lane, scale2);
        }
        cp_async_wait<0>();
        __syncthreads();
        if (n_shares > 1) {
            static_assert((F::WARPS - 1) * key_rows<GROUPS>::SUMS * 16 <= F::SHARED, "room for the warps' sums");
            float4 *sums = (float4 *)shared;
            if (share > 0) keys.put(sums + (warp - key_warps) * key_rows<GROUPS>::SUMS, lane);
            __syncthreads();
            if (share == 0)
                for (int w = warp + key_warps; w < F::WARPS; w += key_warps)
                    keys.add_from(sums + (w - key_warps) * key_rows<GROUPS>::SUMS, lane);
        }
        if (share > 0) continue;

#pragma unroll
        for (int m = 0; m < F::TILES; m++)
            write_keys<GROUPS>(a, t, item, key0 + (my_tile + m) * 16, keys.dk[m], keys.dv[m], lane);
    }
}

/* dk and dv of a list that has no part or several: the sum of none or all. A thread has four columns of a key row. */
__global__ void __launch_bounds__(256) add_parts_kernel(const select_view a, const dkv_tables t) {
    const int list = blockIdx.x, g = list / a.NB, b = list - g * a.NB, first = a.first[b], packs = a.D / 4;
    const int parts = parts_of(t.lists.first[list + 1] - t.lists.first[list], t.plan->part);
    if (parts == 1) return;
    const int64_t n = (int64_t)(a.first[b + 1] - first) * packs, row = 2 * a.D, part = n / packs * row;
    for (int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; i < n; i += gridDim.y * blockDim.x) {
        const int64_t key = i / packs;
        const int     column = (int)(i - key * packs) * 4;
        float         dk[4] = {0, 0, 0, 0}, dv[4] = {0, 0, 0, 0};
        const float  *sum = t.sums + (t.sum_first[list] + key) * row + column;
        for (int p = 0; p < parts; p++, sum += part) {
            float x[4], y[4];
            load_pack<float, 4>(sum, x);
            load_pack<float, 4>(sum + a.D, y);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                dk[e] += x[e];
                dv[e] += y[e];
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) dk[e] *= a.scale;
        int64_t at = ((first + key) * a.G + g) * a.D + column;
        store_pack<bf16, 4>((bf16 *)a.dk + at, dk);
        store_pack<bf16, 4>((bf16 *)a.dv + at, dv);
    }
}

template <int GROUPS> void launch_dkv(ctx *c, const select_view &a, dkv_tables &t) {
    typedef dkv_shape<GROUPS> F;
    const int                 n_slots = c->cuda->multiprocessors * F::BLOCKS;
    select_make_plan(c, a, &t, F::KEYS, n_slots);
    auto kernel = a.hs == 16 ? dkv_kernel<GROUPS, true> : dkv_kernel<GROUPS, false>;
    allow_shared_bytes(c, kernel, F::SHARED, "attn_select");
    kernel<<<n_slots, F::THREADS, F::SHARED, stream_of(c)>>>(a, t);
    LAUNCHED(c);
}

} // namespace

bool select_dkv_wants_packed(const ctx *c, const select_view &a) {
    return a.D > 32 || c->cuda->major != 9;
}

void select_tiles_dkv(ctx *c, const select_view &a, const select_packed &p, const select_lists &lists) {
    dkv_tables t = {};
    t.lists = lists;
    t.packed = p;
    switch (select_groups(a.D)) {
    case 1:
        if (select_dkv_wants_packed(c, a)) {
            launch_dkv<1>(c, a, t);
        } else {
            select_make_plan(c, a, &t, SELECT_GROUP_KEYS, select_group_slots(c));
            select_group_dkv(c, a, t);
        }
        break;
    case 2:
        launch_dkv<2>(c, a, t);
        break;
    default:
        launch_dkv<4>(c, a, t);
    }
    add_parts_kernel<<<dim3((unsigned)lists.n, ADD_BLOCKS), 256, 0, stream_of(c)>>>(a, t);
    LAUNCHED(c);
}
