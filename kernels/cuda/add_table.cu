/* y = x + table[index[n]] and the gradient of the table (ops/elementwise.h).
 *
 * Backward sums the rows of each index in a fixed order: the indices are the samples of a row pass over `order`. */
#include "kernels/cuda/dev/row_pass.cuh"

template <class T, int V_> struct table_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> x;
        float      add[V];
    };
    const T       *x;
    const float   *table;
    const int32_t *index;
    T             *y;
    int64_t        C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * C + col);
        load_vec<float, V>(table + index[n] * C + col, r.add);
    }
    __device__ void use(int64_t n, int64_t col, const column &, const in &r, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = to_float(r.x.v[i]) + r.add[i];
        store_vec<T, V>(y + n * C + col, v);
    }
};

template <class T, int V_> struct ordered_sums {
    static constexpr int V = V_, Q = 1, UNROLL = 4;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> dy;
    };
    const T       *dy;
    const int32_t *order;
    int64_t        C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.dy = load_raw<T, V>(dy + order[n] * C + col);
    }
    __device__ void use(int64_t, int64_t, const column &, const in &r, float (&sum)[1][V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) sum[0][i] += to_float(r.dy.v[i]);
    }
};

struct table_gradient {
    float  *dtable;
    int64_t C;

    __device__ void operator()(int k, int64_t col, const double (&sum)[1]) const {
        dtable[k * C + col] = (float)(dtable[k * C + col] + sum[0]);
    }
};

template <class T> static void forward(ctx *c, const add_table_args *a) {
    int64_t      N = a->x->dim[0], C = a->x->dim[1];
    const T     *x = ptr<const T>(a->x);
    const float *table = ptr<const float>(a->table);
    T           *y = ptr<T>(a->y);
    BY_WIDTH(T, wide_rows<T>(C, x, table, y), V, table_forward<T, V> f = {x, table, ptr<const int32_t>(a->index), y, C};
             row_pass(c, f, N, C, NULL));
}

template <class T> static void backward(ctx *c, const add_table_args *a) {
    int64_t        N = a->dy->dim[0], C = a->dy->dim[1];
    const T       *dy = ptr<const T>(a->dy);
    table_gradient e = {ptr<float>(a->dtable), C};
    row_chunks     k;
    float         *partial;
    if (N * C == 0) return;
    BY_WIDTH(T, wide_rows<T>(C, dy), V, ordered_sums<T, V> f = {dy, ptr<const int32_t>(a->order), C};
             row_pass(c, f, N, C, a->first, &k, &partial));
    column_sums<1>(c, k, C, partial, e);
}

extern "C" void add_table_fwd_cuda(ctx *c, const add_table_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void add_table_bwd_cuda(ctx *c, const add_table_args *a) {
    BY_ACT(a->dy->dt, T, backward<T>(c, a));
}
