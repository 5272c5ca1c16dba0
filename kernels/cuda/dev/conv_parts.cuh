/* What the ways of conv3 share. Forward and dx are one sum over neighbours,
 *
 *     y[p] = act(bias + sum_k x[p + d(k)] w_k),
 *
 * as p + d(k) = r <=> p = r + d(26-k): dx is the sum of dpre with the offsets mirrored and each matrix transposed. */
#pragma once
#include "kernels/cuda/dev/conv_index.cuh"
#include "kernels/cuda/dev/matmul_parts.cuh"

typedef struct {
    conv_grid    g;
    dtype        dt; /* of x, w, pre, y */
    int64_t      Cin, Cout;
    const void  *x, *w;
    int64_t      k_step, ci_step, co_step; /* w_k (i,o) is element k*k_step + i*ci_step + o*co_step of w */
    const float *bias;                     /* NULL: none */
    act_kind     act;                      /* ACT_NONE or ACT_SILU */
    void        *pre, *y;
} conv_sum;

/* dw (27,I,O) += sum_p x[p + d(k)]^T d[p] */
typedef struct {
    conv_grid   g;
    dtype       dt; /* of x, d */
    int64_t     I, O;
    const void *x, *d;
    float      *dw;
    float      *db; /* += column sums of d, by a way that says so (conv_up_makes_db); NULL: not wanted */
} conv_dw;

/* Plain arithmetic, everything (conv3_general.cu). */
void conv_general_rows(ctx *c, const conv_sum *a);
void conv_general_dw(ctx *c, const conv_dw *a);
/* Tensor cores, bf16 in multiples of 8 channels on 16 bytes, any level (conv3_gather.cu). */
void conv_gather_rows(ctx *c, const conv_sum *a);
void conv_gather_dw(ctx *c, const conv_dw *a);
/* The same on Hopper, for 32 or multiples of 64 channels in and multiples of 32 out (conv3_wide.cu), dw for multiples
 * of 32 in and of 64 out (conv3_wide_dw.cu), masks of one word. False: not such a layer. */
bool conv_wide_rows(ctx *c, const conv_sum *a);
bool conv_wide_dw(ctx *c, const conv_dw *a);
/* The same between 32 and 64 channels at dense side 4 (conv3_tile.cu). False: not such a layer. */
bool conv_tile_rows(ctx *c, const conv_sum *a);
bool conv_tile_dw(ctx *c, const conv_dw *a);
/* Between a dense level and the one above it (ops/conv3.h, `up`; dev/conv_up.cuh) on Hopper: channels in multiples of
 * 64 (conv3_wide.cu, conv3_wide_dw.cu), 32 channels between sides 4 and 8 (conv3_up.cu, conv3_up_dw.cu). g is the level
 * above. conv_*_children: y is of the children, x of the parents; conv_*_parents: the reverse, dx of it; conv_*_dw: x
 * of the parents, d of the children. Weights as k, Cin, Cout of the forward and of its transpose, not mirrored. False:
 * not such channels. */
bool conv_wide_children(ctx *c, const conv_sum *a);
bool conv_wide_parents(ctx *c, const conv_sum *a);
bool conv_wide_up_dw(ctx *c, const conv_dw *a);
bool conv_up_children(ctx *c, const conv_sum *a);
bool conv_up_parents(ctx *c, const conv_sum *a);
bool conv_up_dw(ctx *c, const conv_dw *a);
bool conv_up_makes_db(const ctx *c, const conv_dw *a); /* conv_up_dw serves and adds to db */
/* dw += its share of the gradients of the 64 matrices, partial [part][64][I][O] (conv3_up_dw.cu). */
void conv_up_fold(ctx *c, const conv_dw *a, const float *partial, int64_t parts);
/* The same as conv_gather for dense levels with a side above 1 (conv3_halo.cu). False: this GPU has too little shared
 * memory. */
bool conv_halo_rows(ctx *c, const conv_sum *a);
bool conv_halo_dw(ctx *c, const conv_dw *a);

/* Parts into which the rows of a weight gradient are cut: enough to fill the GPU with `blocks` blocks a part, each of
 * at least `least` units of work, and no more than their sums (bytes each) may take. */
static inline int64_t conv_dw_parts(const ctx *c, int64_t units, int64_t least, int64_t blocks, int64_t waves,
                                    int64_t part_bytes) {
    int64_t parts = ceil_div(waves * c->cuda->multiprocessors, blocks), most = ceil_div(units, least);
    if (parts > most) parts = most;
    if (parts > DW_PARTIAL_BYTES / part_bytes) parts = DW_PARTIAL_BYTES / part_bytes;
    return parts < 1 ? 1 : parts;
}

/* A kernel that takes more shared memory than the 48 kB every block may have. */
template <class K> static inline void conv_allow_shared(K kernel, size_t bytes) {
    CUDA_DO(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

/* Eight values at `to` of pre and y, or of y alone. */
__device__ __forceinline__ void conv_store(bool silu, bf16 *pre, bf16 *y, int64_t to, const uint4 &v) {
    if (!silu) {
        *reinterpret_cast<uint4 *>(y + to) = v;
        return;
    }
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
    float          f[8];
    *reinterpret_cast<uint4 *>(pre + to) = v;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(word[i] << 16);
        f[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
    act_values<bf16, 8>(ACT_SILU, f);
    store_vec<bf16, 8>(y + to, f);
}
