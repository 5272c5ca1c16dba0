/* attn_select, backward for the keys, by warpgroups (dev/group_rows.cuh): an item of work is up to 128 keys of a block
 * and a part of its list. Each of two warpgroups has 64 of the keys; where there are no more than 64, both have the
 * same ones and half of the rows, and their sums are added up at the end. */
#include "kernels/cuda/dev/group_rows.cuh"
#include "kernels/cuda/dev/select_keys.cuh"

namespace {

struct group_shape {
    enum {
        GROUPS = 1, /* of 32 channels */
        D = 32,
        THREADS = 256,
        ROWS = 256, /* of a stage */
        STEP = 32,  /* of a product */
        COPIES = 4 * ROWS / THREADS,
        STAGES = 3, /* read, still read by sums that run, and one on its way */
        OPERAND = ROWS * D * 2,
        STAGE = 2 * OPERAND + ROWS * (int)sizeof(float2),
        SHARED = STAGES * STAGE,
        BLOCKS = 2 /* on a multiprocessor: registers */
    };
    static_assert(STAGE % (16 * D) == 0, "tiles start with the permutation");
};

/* Operand A of keys `key` .. `key` + 15 of a block, of which n are there, in the order of the channels. */
__device__ __forceinline__ void load_keys(uint32_t (&x)[2][4], const void *from, const select_view &a, int64_t at,
                                          int n, int row, int quad) {
    const int stride = a.G * a.D;
#pragma unroll
    for (int step = 0; step < 2; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int  r = row + i % 2 * 8, d = 16 * step + i / 2 * 8;
            const bool ok = r < n && d < a.D;
            x[step][i] = ok ? __ldg((const uint32_t *)((const bf16 *)from + at + (int64_t)r * stride + d) + quad) : 0;
        }
}

template <bool ALL>
__global__ void __launch_bounds__(group_shape::THREADS, group_shape::BLOCKS)
    dkv_group_kernel(const select_view a, const dkv_tables t) {
    typedef group_shape F;
    extern __shared__ __align__(1024) char group_shared[];
    __shared__ dkv_item                    item;
    const int      warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
    const float    c = a.scale * 1.4426950408889634f;
    const uint32_t ring = smem_addr(group_shared);
    while (take_item(t, &item)) {
        const int           g = item.list / a.NB, n_keys = item.size - item.key;
        select_rows<F, ALL> rows(a, t.lists.query + item.query, g, item.n_queries, ring);
        rows.load(0);

        const bool shared = n_keys <= 64;
        const int  group = __shfl_sync(ALL_LANES, warp / 4, 0), my_key = (shared ? 0 : 64 * group) + warp % 4 * 16;
        uint32_t   k[2][4], v[2][4];
        float      dk[4][4], dv[4][4];
        {
            const int64_t at = ((int64_t)(item.first + item.key + my_key) * a.G + g) * a.D;
            load_keys(k, a.k, a, at, n_keys - my_key, row, quad);
            load_keys(v, a.v, a, at, n_keys - my_key, row, quad);
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) dk[j][e] = dv[j][e] = 0;

        for (uint32_t s = 0; s < rows.n_stages; s++) {
            cp_async_wait<0>();
            shared_for_wgmma();
            __syncthreads();
            const uint32_t q = rows.at(s), dout = q + F::OPERAND, stat = q + 2 * F::OPERAND;
            auto           load = [&] { rows.load(s + 1); };
            if (shared) {
                const uint32_t at = group * (F::ROWS / 2);
                group_tile<F::D, F::STEP, F::ROWS / 2>(k, v, dk, dv, q + at * (F::D * 2), dout + at * (F::D * 2),
                                                       stat + at * 8, c, quad, load);
            } else {
                group_tile<F::D, F::STEP, F::ROWS>(k, v, dk, dv, q, dout, stat, c, quad, load);
            }
        }
        group_end<F::D>(dk, dv);
        cp_async_wait<0>();
        if (shared) {
            float4 *sums = (float4 *)group_shared + threadIdx.x % 128;
            static_assert(8 * 128 * (int)sizeof(float4) <= F::SHARED, "room for a group's sums");
            __syncthreads();
            if (group == 1) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sums[j * 256] = make_float4(dk[j][0], dk[j][1], dk[j][2], dk[j][3]);
                    sums[j * 256 + 128] = make_float4(dv[j][0], dv[j][1], dv[j][2], dv[j][3]);
                }
            }
            __syncthreads();
            if (group == 1) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float4 x = sums[j * 256], y = sums[j * 256 + 128];
                dk[j][0] += x.x, dk[j][1] += x.y, dk[j][2] += x.z, dk[j][3] += x.w;
                dv[j][0] += y.x, dv[j][1] += y.y, dv[j][2] += y.z, dv[j][3] += y.w;
            }
        }
        write_keys<F::GROUPS>(a, t, item, item.key + my_key, dk, dv, lane);
    }
}

} // namespace

int select_group_slots(const ctx *c) {
    return c->cuda->multiprocessors * group_shape::BLOCKS;
}

void select_group_dkv(ctx *c, const select_view &a, const dkv_tables &t) {
    typedef group_shape F;
    auto                kernel = a.hs == 16 ? dkv_group_kernel<true> : dkv_group_kernel<false>;
    allow_shared_bytes(c, kernel, F::SHARED, "attn_select");
    kernel<<<select_group_slots(c), F::THREADS, F::SHARED, stream_of(c)>>>(a, t);
    LAUNCHED(c);
}
