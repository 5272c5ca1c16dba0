/* What conv3_gather.cu and conv3_up.cu share. */
#pragma once
#include "kernels/cuda/dev/conv_parts.cuh"
#include "kernels/cuda/dev/conv_up.cuh"
#include "kernels/cuda/dev/mma.cuh"

namespace {

/* ---- rows -------------------------------------------------------------------------------------------------------- */

struct conv_rows_args {
    conv_grid    g;
    const bf16  *x, *w; /* w: [matrix][Kp][Np], zero outside (Cin,Cout) */
    const float *bias;
    bf16        *pre, *y;
    int          Cin, Cout, Kp, Np;
    bool         silu;
};

/* w in the kernel's order: the 27 matrices, or the 64 of dev/conv_up.cuh. */
template <bool UP>
__global__ void __launch_bounds__(256)
    gather_weights_kernel(const conv_sum a, int Kp, int Np, int64_t count, bf16 *out) {
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    int64_t     n = at % Np, i = at / Np % Kp;
    int         m = (int)(at / Np / Kp);
    const bf16 *w = (const bf16 *)a.w + i * a.ci_step + n * a.co_step;
    float       sum = 0.0f;
    if (i < a.Cin && n < a.Cout) {
        if (!UP)
            sum = to_float(w[m * a.k_step]);
        else
            for (int k = 0; k < 27; k++)
                if (up_parent(m / UP_PARENTS, k) == m % UP_PARENTS) sum += to_float(w[k * a.k_step]);
    }
    out[at] = __float2bfloat16_rn(sum);
}

/* Arguments of a kernel with so many weights, which it gets in its order. */
template <bool UP = false> static inline conv_rows_args gather_rows_of(ctx *c, const conv_sum *a, int Kp, int Np) {
    int64_t count = (int64_t)(UP ? (int)UP_MATRICES : 27) * Kp * Np;
    bf16   *w = (bf16 *)arena_alloc(&c->scratch, sizeof(bf16) * (size_t)count);
    gather_weights_kernel<UP><<<(unsigned)ceil_div(count, 256), 256, 0, stream_of(c)>>>(*a, Kp, Np, count, w);
    LAUNCHED(c);
    conv_rows_args r = {};
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.w = w;
    r.bias = a->bias;
    r.pre = (bf16 *)a->pre;
    r.y = (bf16 *)a->y;
    r.Cin = (int)a->Cin;
    r.Cout = (int)a->Cout;
    r.Kp = Kp;
    r.Np = Np;
    r.silu = a->act == ACT_SILU;
    return r;
}

/* near[k * ROWS + i]: the neighbour of row row0 + i at offset k, or -1. */
template <int ROWS, int THREADS>
__device__ __forceinline__ void gather_neighbors(const conv_rows_args &a, int64_t row0, int32_t *near) {
    for (int i = threadIdx.x; i < 27 * ROWS; i += THREADS) {
        int64_t row = row0 + i % ROWS;
        near[i] = row < a.g.n_rows ? conv_neighbor(&a.g, conv_row_code(&a.g, row), i / ROWS) : -1;
    }
}

/* Rows of 2 * BN bytes, PITCH apart in shared memory, to columns n0 .. of pre and y. */
template <int ROWS, int BN, int PITCH, int THREADS>
__device__ __forceinline__ void gather_write(const conv_rows_args &a, const unsigned char *room, int64_t row0, int n0) {
    for (int at = threadIdx.x; at < ROWS * (BN / 8); at += THREADS) {
        int     r = at / (BN / 8), c = at % (BN / 8);
        int64_t row = row0 + r;
        if (row >= a.g.n_rows || n0 + c * 8 >= a.Cout) continue;
        const uint4 v = *reinterpret_cast<const uint4 *>(room + r * PITCH + c * 16);
        conv_store(a.silu, a.pre, a.y, row * a.Cout + n0 + c * 8, v);
    }
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

struct conv_dw_args {
    conv_grid   g;
    const bf16 *x, *d;
    float      *partial; /* [part][27*I][O] */
    int         I, O, table_rows;
    int64_t     part_rows;
};

static inline conv_dw_args gather_dw_of(ctx *c, const conv_dw *a, int64_t parts, int64_t step_rows) {
    conv_dw_args r = {};
    r.g = a->g;
    r.x = (const bf16 *)a->x;
    r.d = (const bf16 *)a->d;
    r.I = (int)a->I;
    r.O = (int)a->O;
    r.part_rows = ceil_div(ceil_div(a->g.n_rows, parts), step_rows) * step_rows;
    parts = ceil_div(a->g.n_rows, r.part_rows);
    r.partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * 27 * a->I * a->O));
    return r;
}

} // namespace
