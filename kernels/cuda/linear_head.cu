/* The backward of y = tanh(w SiLU(x) + b) with one output, x given before SiLU: the SS-VAE's last layer, over the
 * largest tensor of its decoder. dx, dw and db in one pass, bound by memory; what linear_thin.cu does for any thin
 * layer, with its branches decided. */
#include "kernels/cuda/dev/matmul_parts.cuh"
#include "kernels/cuda/dev/row_pass.cuh"
#include "ops/linear_pre.h"

namespace {

/* Sums: 0 = dw; 1, first column of each thread = db. One row in flight a thread, and more threads: 1.18 ms for
 * 23.5 M x 32 where two rows take 1.32 and four 1.63. */
template <class T, class D, int WIDTH> struct head_pass {
    static constexpr int              V = WIDTH, Q = 2, UNROLL = 1;
    typedef typename row_sum<T>::type sum_t;

    const T *x, *w; /* w: (1,I), or (I,1) */
    const D *pre, *dy;
    T       *dx;
    int64_t  I;

    struct column {
        float w[V];
    };
    struct in {
        pack<T, V> x;
        float      dy, pre;
    };
    __device__ __forceinline__ void begin(int, int64_t col, column &k) const {
#pragma unroll
        for (int j = 0; j < V; j++) k.w[j] = to_float(w[col + j]);
    }
    __device__ __forceinline__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * I + col);
        r.dy = to_float(dy[n]);
        r.pre = to_float(pre[n]);
    }
    __device__ __forceinline__ void use(int64_t n, int64_t col, const column &k, const in &r,
                                        sum_t (&sum)[2][V]) const {
        const float g = r.dy * act_slope<ACT_TANH, T>(r.pre);
        float       v[V], value[V], slope[V];
        unpack<T, V>(r.x, v);
        act_values_and_slopes<ACT_SILU, T, V>(v, value, slope);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum[0][j] += (sum_t)g * value[j];
            v[j] = g * k.w[j] * slope[j];
        }
        sum[1][0] += g;
        store_vec<T, V>(dx + n * I + col, v);
    }
};

struct head_end {
    float *dw, *db; /* db NULL: not wanted */

    __device__ void operator()(int, int64_t i, const double (&sum)[2]) const {
        dw[i] += (float)sum[0];
        if (db && i == 0) db[0] += (float)sum[1];
    }
};

template <class T, class D, int V> void head_bwd_as(ctx *c, const linear_args *a) {
    int64_t            I = a->x->dim[1];
    head_pass<T, D, V> f = {ptr<const T>(a->x),  ptr<const T>(a->w), ptr<const D>(a->pre),
                            ptr<const D>(a->dy), ptr<T>(a->dx),      I};
    row_chunks         chunks;

    typename row_sum<T>::type *partial;
    row_pass(c, f, a->x->dim[0], I, NULL, &chunks, &partial);
    head_end end = {ptr<float>(a->dw), tensor_given(a->db) ? ptr<float>(a->db) : (float *)NULL};
    column_sums<2>(c, chunks, I, partial, end);
}

template <class T, class D> void head_bwd_of(ctx *c, const linear_args *a) {
    BY_WIDTH(T, wide_rows<T>(a->x->dim[1], a->x->data, a->dx->data), V, (head_bwd_as<T, D, V>(c, a)));
}

} // namespace

bool head_bwd(ctx *c, const linear_args *a) {
    if (a->dy->dim[1] != 1 || a->act != ACT_TANH || !linear_x_is_pre(a) || a->in_act != ACT_SILU) return false;
    if (!tensor_given(a->dx) || a->dx_add || !tensor_given(a->dw)) return false;
    if (a->x->dt == DT_F32)
        head_bwd_of<float, float>(c, a);
    else if (a->dy->dt == DT_F32)
        head_bwd_of<bf16, float>(c, a);
    else
        head_bwd_of<bf16, bf16>(c, a);
    return true;
}
