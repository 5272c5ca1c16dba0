/* Products of any shape, alignment and layout in plain f32 arithmetic: what the library does not do. 64 x 64 outputs a
 * block, 4 x 4 a thread, 16 terms at a time through shared memory. Sums over many rows (weight gradients) are cut into
 * parts, which are added in order. */
#include "kernels/cuda/dev/matmul_parts.cuh"

namespace {

enum { TILE = 64, TERMS = 16, GENERAL_THREADS = 256, PART_TERMS = 2048 };

struct general_kernel_args {
    int64_t      rows, cols, k, a_row, a_k, b_k, b_col, ldd, part_k;
    const float *bias;
    bool         add;
};

/* room[t][r] = p[r * step + t * k_step] for TILE r and TERMS t, zero outside (n, k). Neighbouring threads read
 * neighbouring elements whichever step is 1. */
template <class T>
__device__ __forceinline__ void load_tile(const T *p, int64_t r0, int64_t n, int64_t step, int64_t k0, int64_t k_end,
                                          int64_t k_step, float (*room)[TILE + 1]) {
#pragma unroll
    for (int j = 0; j < TILE * TERMS / GENERAL_THREADS; j++) {
        int at = threadIdx.x + j * GENERAL_THREADS;
        int r = k_step == 1 ? at / TERMS : at % TILE, t = k_step == 1 ? at % TERMS : at / TILE;
        room[t][r] = r0 + r < n && k0 + t < k_end ? to_float(p[(r0 + r) * step + (k0 + t) * k_step]) : 0.0f;
    }
}

/* partial: NULL, or [part][rows][cols]. Blocks: x = row tiles, y = column tiles, z = parts of k. */
template <class T, class D>
__global__ void __launch_bounds__(GENERAL_THREADS) general_kernel(const general_kernel_args g, const T *__restrict__ a,
                                                                  const T *__restrict__ b, D *d, float *partial) {
    __shared__ float left[TERMS][TILE + 1], right[TERMS][TILE + 1];
    int64_t          r0 = (int64_t)blockIdx.x * TILE, c0 = (int64_t)blockIdx.y * TILE;
    int64_t          k0 = blockIdx.z * g.part_k, k_end = k0 + g.part_k < g.k ? k0 + g.part_k : g.k;
    int              tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float            sum[4][4] = {};
    for (int64_t k = k0; k < k_end; k += TERMS) {
        load_tile(a, r0, g.rows, g.a_row, k, k_end, g.a_k, left);
        load_tile(b, c0, g.cols, g.b_col, k, k_end, g.b_k, right);
        __syncthreads();
#pragma unroll
        for (int t = 0; t < TERMS; t++) {
            float x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = left[t][ty + 16 * i];
                y[i] = right[t][tx + 16 * i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int64_t r = r0 + ty + 16 * i, col = c0 + tx + 16 * j;
            if (r >= g.rows || col >= g.cols) continue;
            float v = sum[i][j];
            if (partial) {
                partial[(blockIdx.z * g.rows + r) * g.cols + col] = v;
                continue;
            }
            if (g.bias) v += g.bias[col];
            if (g.add) v += to_float(d[r * g.ldd + col]);
            d[r * g.ldd + col] = from_float<D>(v);
        }
}

template <class T, class D> void general_as(ctx *c, const general_product *p) {
    int64_t row_tiles = ceil_div(p->rows, TILE), col_tiles = ceil_div(p->cols, TILE), parts = 1;
    CHECK(row_tiles <= INT32_MAX && col_tiles <= 65535, "product of (%lld,%lld)", (long long)p->rows,
          (long long)p->cols);
    if (p->add && p->out == DT_F32 && p->ldd == p->cols) { /* a weight gradient: few outputs, long sums */
        int64_t most = DW_PARTIAL_BYTES / ((int64_t)sizeof(float) * p->rows * p->cols);
        int64_t fill = ceil_div(4 * (int64_t)c->cuda->multiprocessors, row_tiles * col_tiles);
        parts = ceil_div(p->k, PART_TERMS);
        if (parts > fill) parts = fill;
        if (parts > most) parts = most;
        if (parts < 1) parts = 1;
    }
    int64_t part_k = ceil_div(ceil_div(p->k, parts), TERMS) * TERMS;
    parts = ceil_div(p->k, part_k);
    general_kernel_args g = {p->rows,  p->cols, p->k,   p->a_row, p->a_k, p->b_k,
                             p->b_col, p->ldd,  part_k, p->bias,  p->add};
    size_t              mark = arena_mark(&c->scratch);
    float              *partial = NULL;
    if (parts > 1) partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * p->rows * p->cols));
    general_kernel<T, D>
        <<<dim3((unsigned)row_tiles, (unsigned)col_tiles, (unsigned)parts), GENERAL_THREADS, 0, stream_of(c)>>>(
            g, (const T *)p->a, (const T *)p->b, (D *)p->d, partial);
    LAUNCHED(c);
    if (partial) partials_add(c, (float *)p->d, partial, parts, p->rows * p->cols);
    arena_reset(&c->scratch, mark);
}

} // namespace

void general_run(ctx *c, const general_product *p) {
    if (p->rows == 0 || p->cols == 0) return;
    CHECK(p->k > 0, "product over %lld terms", (long long)p->k);
    if (p->in == DT_F32)
        general_as<float, float>(c, p);
    else if (p->out == DT_F32)
        general_as<bf16, float>(c, p);
    else
        general_as<bf16, bf16>(c, p);
}
