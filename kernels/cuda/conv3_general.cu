/* conv3 in plain f32 arithmetic for any widths, dtypes and levels. A block has the neighbour rows of its rows in a
 * table; rows and weights go through shared memory 16 terms at a time. The sums of 16 terms are added up in double: in
 * f32 a row's 27 C terms, one behind the other, lose more than one rounding of the result. */
#include "kernels/cuda/dev/conv_parts.cuh"

namespace {

enum { THREADS = 256, ROWS = 64, COLS = 32, TERMS = 16 };

/* Thread (ty,tx): rows ty, ty+32; columns tx, tx+8, tx+16, tx+24. */
__device__ __forceinline__ void add_terms(const float (*left)[ROWS + 1], const float (*right)[COLS], int ty, int tx,
                                          double (&sum)[2][4]) {
    float part[2][4] = {};
#pragma unroll
    for (int t = 0; t < TERMS; t++) {
        float x[2], y[4];
#pragma unroll
        for (int i = 0; i < 2; i++) x[i] = left[t][ty + 32 * i];
#pragma unroll
        for (int j = 0; j < 4; j++) y[j] = right[t][tx + 8 * j];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) part[i][j] += x[i] * y[j];
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] += (double)part[i][j];
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Blocks: x = rows, y = columns. */
template <class T> __global__ void __launch_bounds__(THREADS) general_rows_kernel(const conv_sum a) {
    __shared__ int32_t near[27 * ROWS];
    __shared__ float   left[TERMS][ROWS + 1], right[TERMS][COLS];
    const T           *x = (const T *)a.x, *w = (const T *)a.w;
    int64_t            row0 = (int64_t)blockIdx.x * ROWS, col0 = (int64_t)blockIdx.y * COLS;
    int                tid = threadIdx.x, tx = tid % 8, ty = tid / 8;
    double             sum[2][4] = {};
    for (int i = tid; i < 27 * ROWS; i += THREADS) {
        int64_t row = row0 + i % ROWS;
        near[i] = row < a.g.n_rows ? conv_neighbor(&a.g, conv_row_code(&a.g, row), i / ROWS) : -1;
    }
    __syncthreads();
    for (int k = 0; k < 27; k++)
        for (int64_t c0 = 0; c0 < a.Cin; c0 += TERMS) {
#pragma unroll
            for (int j = 0; j < ROWS * TERMS / THREADS; j++) {
                int     t = tid % TERMS, r = tid / TERMS + j * (THREADS / TERMS);
                int32_t n = near[k * ROWS + r];
                left[t][r] = n >= 0 && c0 + t < a.Cin ? to_float(x[n * a.Cin + c0 + t]) : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < COLS * TERMS / THREADS; j++) {
                int o = tid % COLS, t = tid / COLS + j * (THREADS / COLS);
                right[t][o] = c0 + t < a.Cin && col0 + o < a.Cout
                                  ? to_float(w[k * a.k_step + (c0 + t) * a.ci_step + (col0 + o) * a.co_step])
                                  : 0.0f;
            }
            __syncthreads();
            add_terms(left, right, ty, tx, sum);
            __syncthreads();
        }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int64_t row = row0 + ty + 32 * i, col = col0 + tx + 8 * j;
            if (row >= a.g.n_rows || col >= a.Cout) continue;
            float v = (float)(sum[i][j] + (a.bias ? (double)a.bias[col] : 0.0));
            if (a.act != ACT_NONE) {
                ((T *)a.pre)[row * a.Cout + col] = from_float<T>(v);
                v = act_value<ACT_SILU, T>(v);
            }
            ((T *)a.y)[row * a.Cout + col] = from_float<T>(v);
        }
}

/* ---- dw ---------------------------------------------------------------------------------------------------------- */

/* dw as a (27*I, O) matrix: line m is offset m/I, channel m%I. A block makes ROWS lines and COLS columns of it over one
 * part of the rows. Blocks: x = lines, y = columns, z = parts. partial [part][27*I][O]. */
template <class T>
__global__ void __launch_bounds__(THREADS) general_dw_kernel(const conv_dw a, int64_t part_rows, float *partial) {
    __shared__ int32_t near[27 * ROWS]; /* [offset of the block][row] */
    __shared__ float   left[TERMS][ROWS + 1], right[TERMS][COLS];
    const T           *x = (const T *)a.x, *d = (const T *)a.d;
    int64_t            lines = 27 * a.I, line0 = (int64_t)blockIdx.x * ROWS, col0 = (int64_t)blockIdx.y * COLS;
    int64_t begin = blockIdx.z * part_rows, end = begin + part_rows < a.g.n_rows ? begin + part_rows : a.g.n_rows;
    int64_t last = line0 + ROWS < lines ? line0 + ROWS : lines;
    int     k0 = (int)(line0 / a.I), n_k = (int)((last - 1) / a.I) - k0 + 1;
    int     tid = threadIdx.x, tx = tid % 8, ty = tid / 8;
    int64_t line = line0 + tid % ROWS; /* that this thread loads */
    int64_t channel = line % a.I;
    const int32_t *of_line = near + (int)(line / a.I - k0) * ROWS;
    double         sum[2][4] = {};
    for (int64_t row0 = begin; row0 < end; row0 += ROWS) {
        for (int i = tid; i < n_k * ROWS; i += THREADS) {
            int64_t row = row0 + i % ROWS;
            near[i] = row < end ? conv_neighbor(&a.g, conv_row_code(&a.g, row), k0 + i / ROWS) : -1;
        }
        __syncthreads();
        for (int r0 = 0; r0 < ROWS; r0 += TERMS) {
#pragma unroll
            for (int j = 0; j < ROWS * TERMS / THREADS; j++) {
                int     t = tid / ROWS + j * (THREADS / ROWS);
                int32_t n = line < lines ? of_line[r0 + t] : -1;
                left[t][tid % ROWS] = n >= 0 ? to_float(x[n * a.I + channel]) : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < COLS * TERMS / THREADS; j++) {
                int     o = tid % COLS, t = tid / COLS + j * (THREADS / COLS);
                int64_t row = row0 + r0 + t;
                right[t][o] = row < end && col0 + o < a.O ? to_float(d[row * a.O + col0 + o]) : 0.0f;
            }
            __syncthreads();
            add_terms(left, right, ty, tx, sum);
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int64_t m = line0 + ty + 32 * i, col = col0 + tx + 8 * j;
            if (m < lines && col < a.O) partial[(blockIdx.z * lines + m) * a.O + col] = (float)sum[i][j];
        }
}

} // namespace

void conv_general_rows(ctx *c, const conv_sum *a) {
    dim3 blocks((unsigned)ceil_div(a->g.n_rows, ROWS), (unsigned)ceil_div(a->Cout, COLS));
    BY_ACT(a->dt, T, general_rows_kernel<T><<<blocks, THREADS, 0, stream_of(c)>>>(*a));
    LAUNCHED(c);
}

void conv_general_dw(ctx *c, const conv_dw *a) {
    int64_t lines = 27 * a->I, count = lines * a->O, x = ceil_div(lines, ROWS), y = ceil_div(a->O, COLS);
    int64_t parts = conv_dw_parts(c, a->g.n_rows, 1024, x * y, 8, (int64_t)sizeof(float) * count);
    int64_t part_rows = ceil_div(ceil_div(a->g.n_rows, parts), ROWS) * ROWS;
    parts = ceil_div(a->g.n_rows, part_rows);
    float *partial = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)(parts * count));
    dim3   blocks((unsigned)x, (unsigned)y, (unsigned)parts);
    BY_ACT(a->dt, T, general_dw_kernel<T><<<blocks, THREADS, 0, stream_of(c)>>>(*a, part_rows, partial));
    LAUNCHED(c);
    partials_add(c, a->dw, partial, parts, count);
}
