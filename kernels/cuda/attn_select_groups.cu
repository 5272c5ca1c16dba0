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
        ROWS = 128, /* of a stage */
        STEP = 32,  /* of a product */
        COPIES = 4 * ROWS / THREADS,
        STAGES = 4, /* read, still read by sums that run, and two on their way */
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
    __shared__ int                         taken;
    const int      warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
    const float    c = a.scale * 1.4426950408889634f;
    const uint32_t ring = smem_addr(group_shared);
    for (;;) {
        __syncthreads(); /* the last item is done with shared memory */
        if (threadIdx.x == 0) taken = atomicAdd(&t.plan->ticket, 1);
        __syncthreads();
        const int item = taken;
        if (item >= t.plan->n_items) break;
        const int           list = segment_of(t.item_first, t.lists.n, item), g = list / a.NB, b = list - g * a.NB;
        const int           first = a.first[b], size = a.first[b + 1] - first;
        const int           key_tiles = (size + SELECT_GROUP_KEYS - 1) / SELECT_GROUP_KEYS;
        const int           in_list = item - t.item_first[list], part = in_list / key_tiles;
        const int           key0 = (in_list - part * key_tiles) * SELECT_GROUP_KEYS; /* in the block */
        const int           part_length = t.plan->part;
        const int           query0 = t.lists.first[list] + part * part_length, query1 = t.lists.first[list + 1];
        select_rows<F, ALL> rows(a, t.lists.query + query0, g, min(part_length, query1 - query0), ring);
        rows.load(0);
        rows.load(1);

        const bool shared = size - key0 <= 64;
        const int  group = __shfl_sync(ALL_LANES, warp / 4, 0),
                  my_key = key0 + (shared ? 0 : 64 * group) + warp % 4 * 16;
        uint32_t k[2][4], v[2][4];
        float    dk[4][4], dv[4][4];
        {
            const int64_t at = ((int64_t)(first + my_key) * a.G + g) * a.D;
            load_keys(k, a.k, a, at, size - my_key, row, quad);
            load_keys(v, a.v, a, at, size - my_key, row, quad);
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) dk[j][e] = dv[j][e] = 0;

        for (uint32_t s = 0; s < rows.n_stages; s++) {
            cp_async_wait<1>();
            shared_for_wgmma();
            __syncthreads();
            const uint32_t q = rows.at(s), dout = q + F::OPERAND, stat = q + 2 * F::OPERAND;
            auto           load = [&] { rows.load(s + 2); };
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
        write_keys<F::GROUPS>(a, t, list, part, my_key, dk, dv, lane);
    }
}

} // namespace

void select_group_dkv(ctx *c, const select_view &a, const dkv_tables &t) {
    typedef group_shape F;
    auto                kernel = a.hs == 16 ? dkv_group_kernel<true> : dkv_group_kernel<false>;
    allow_shared_bytes(c, kernel, F::SHARED, "attn_select");
    kernel<<<c->cuda->multiprocessors * F::BLOCKS, F::THREADS, F::SHARED, stream_of(c)>>>(a, t);
    LAUNCHED(c);
}
