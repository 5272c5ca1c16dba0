/* Passes around the products of linear and conv3: the gradient before the activation with its column sums, the
 * activation behind a product, sums of partial results. */
#include "kernels/cuda/dev/matmul_parts.cuh"
#include "kernels/cuda/dev/row_pass.cuh"

namespace { /* the passes' names are of this file only */

/* ---- d = dy act'(pre) -------------------------------------------------------------------------------------------- */

template <class T, class D, int WIDTH> struct dact_pass {
    static constexpr int V = WIDTH, Q = 1, UNROLL = 4;
    typedef float        sum_t;

    act_kind act;
    const T *dy, *pre;
    D       *d;
    int64_t  C;

    struct column {};
    struct in {
        pack<T, V> dy, pre;
    };
    __device__ __forceinline__ void begin(int, int64_t, column &) const {}
    __device__ __forceinline__ void load(int64_t n, int64_t col, const column &, in &x) const {
        x.dy = load_raw<T, V>(dy + n * C + col);
        if (act != ACT_NONE) x.pre = load_raw<T, V>(pre + n * C + col);
    }
    __device__ __forceinline__ void use(int64_t n, int64_t col, const column &, const in &x, float (&sum)[1][V]) const {
        float v[V], p[V];
        unpack<T, V>(x.dy, v);
        if (act != ACT_NONE) {
            unpack<T, V>(x.pre, p);
            act_times_slopes<T, V>(act, p, v);
        }
        if (d) store_vec<D, V>(d + n * C + col, v);
#pragma unroll
        for (int i = 0; i < V; i++) sum[0][i] += v[i];
    }
};

struct add_column {
    float          *out;
    __device__ void operator()(int, int64_t col, const double (&sum)[1]) const { out[col] += (float)sum[0]; }
};

template <class T, class D, int V> void dact_as(ctx *c, const dact_args *a) {
    dact_pass<T, D, V> f = {a->act, (const T *)a->dy, (const T *)a->pre, (D *)a->d, a->width};
    row_chunks         chunks;
    float             *partial;
    row_pass(c, f, a->rows, a->width, NULL, &chunks, &partial);
    if (a->db) column_sums<1>(c, chunks, a->width, partial, add_column{a->db});
}

} // namespace

void dact_run(ctx *c, const dact_args *a) {
    if (a->rows == 0 || a->width == 0 || (!a->d && !a->db)) return;
    size_t      mark = arena_mark(&c->scratch);
    const void *pre = a->act == ACT_NONE ? NULL : a->pre;
    if (a->dt == DT_BF16)
        BY_WIDTH(bf16, (wide_rows<bf16>(a->width, a->dy, pre, a->d)), V, (dact_as<bf16, bf16, V>(c, a)));
    else if (a->d && a->d_dt == DT_BF16)
        BY_WIDTH(float, (wide_rows<float>(a->width, a->dy, pre, a->d)), V, (dact_as<float, bf16, V>(c, a)));
    else
        BY_WIDTH(float, (wide_rows<float>(a->width, a->dy, pre, a->d)), V, (dact_as<float, float, V>(c, a)));
    arena_reset(&c->scratch, mark);
}

enum { FEW_PARTS = 8 };

/* A thread per V columns. */
template <int V>
static __global__ void __launch_bounds__(256)
    few_partials_kernel(float *out, const float *partial, int n_parts, int64_t count) {
    int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * V;
    if (at >= count) return;
    double sum[V] = {};
#pragma unroll 4
    for (int p = 0; p < n_parts; p++) {
        float v[V];
        load_vec<float, V>(partial + p * count + at, v);
#pragma unroll
        for (int i = 0; i < V; i++) sum[i] += (double)v[i];
    }
    float v[V];
    load_vec<float, V>(out + at, v);
#pragma unroll
    for (int i = 0; i < V; i++) v[i] = (float)((double)v[i] + sum[i]);
    store_vec<float, V>(out + at, v);
}

void partials_add(ctx *c, float *out, const float *partial, int64_t n_parts, int64_t count) {
    if (n_parts <= FEW_PARTS && count > 0) {
        if (count % 4 == 0 && aligned16(out, partial))
            few_partials_kernel<4>
                <<<(unsigned)ceil_div(count, 1024), 256, 0, stream_of(c)>>>(out, partial, (int)n_parts, count);
        else
            few_partials_kernel<1>
                <<<(unsigned)ceil_div(count, 256), 256, 0, stream_of(c)>>>(out, partial, (int)n_parts, count);
        LAUNCHED(c);
        return;
    }
    row_chunks k = {.n_rows = n_parts, .per_chunk = 1, .first = NULL, .n_chunks = (int)n_parts, .n_samples = 1};
    column_sums<1>(c, k, count, partial, add_column{out});
}

/* ---- activation behind a product --------------------------------------------------------------------------------- */

namespace {

template <class T> struct act_rows_pass {
    act_kind     act;
    const float *bias;
    T           *pre, *y;
    int64_t      width;

    template <int V> __device__ void at(int64_t i) const {
        T    *from = act == ACT_NONE ? y : pre;
        float v[V];
        load_vec<T, V>(from + i, v);
        if (bias) {
            int64_t col = i % width;
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] += bias[col];
                if (++col == width) col = 0;
            }
            if (act != ACT_NONE) store_vec<T, V>(pre + i, v);
        }
        act_values<T, V>(act, v);
        store_vec<T, V>(y + i, v);
    }
};

} // namespace

void act_rows_run(ctx *c, act_kind act, const float *bias, void *pre, void *y, dtype dt, int64_t rows, int64_t width) {
    if (act == ACT_NONE && !bias) return;
    if (act == ACT_NONE) pre = NULL;
    BY_ACT(dt, T, act_rows_pass<T> f = {act, bias, (T *)pre, (T *)y, width};
           BY_WIDTH(T, aligned16(pre, y), V, flat_pass<V>(c, rows * width, f)));
}

/* ---- bias -------------------------------------------------------------------------------------------------------- */

namespace {

template <class T> struct bias_pass {
    const float                     *from;
    T                               *to;
    template <int V> __device__ void at(int64_t i) const {
#pragma unroll
        for (int j = 0; j < V; j++) to[i + j] = from_float<T>(from[i + j]);
    }
};

} // namespace

void *bias_copy(ctx *c, const float *bias, int64_t n, dtype dt) {
    void *out = arena_alloc(&c->scratch, (size_t)n * dtype_size(dt));
    BY_ACT(dt, T, bias_pass<T> f; f.from = bias; f.to = (T *)out; flat_pass<1>(c, n, f));
    return out;
}
