/* y = x + gate[b] h and its backward (ops/gate_residual.h). The gate is loaded once per run of rows of a sample. */
#include "kernels/cuda/dev/row_pass.cuh"

template <class T, int V_> struct gate_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        float gate[V];
    };
    struct in {
        pack<T, V> x, h;
    };
    const T *x, *h, *gate;
    T       *y;
    int64_t  C;

    __device__ void begin(int b, int64_t col, column &k) const { load_vec<T, V>(gate + b * C + col, k.gate); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * C + col);
        r.h = load_raw<T, V>(h + n * C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = to_float(r.x.v[i]) + k.gate[i] * to_float(r.h.v[i]);
        store_vec<T, V>(y + n * C + col, v);
    }
};

template <class T> struct plain_forward {
    const T *x, *h;
    T       *y;

    template <int V> __device__ void at(int64_t i) const {
        float v[V], w[V];
        load_vec<T, V>(x + i, v);
        load_vec<T, V>(h + i, w);
#pragma unroll
        for (int j = 0; j < V; j++) v[j] += w[j];
        store_vec<T, V>(y + i, v);
    }
};

/* dh = gate dy;  dgate = sum dy h, with SUMS. */
template <class T, int V_, bool SUMS> struct gate_backward {
    static constexpr int V = V_, Q = SUMS ? 1 : 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        float gate[V];
    };
    struct in {
        pack<T, V> dy, h;
    };
    const T *dy, *h, *gate;
    T       *dh;
    int64_t  C;

    __device__ void begin(int b, int64_t col, column &k) const { load_vec<T, V>(gate + b * C + col, k.gate); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.dy = load_raw<T, V>(dy + n * C + col);
        if (SUMS) r.h = load_raw<T, V>(h + n * C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&sum)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            float d = to_float(r.dy.v[i]);
            v[i] = k.gate[i] * d;
            if (SUMS) sum[0][i] += d * to_float(r.h.v[i]);
        }
        store_vec<T, V>(dh + n * C + col, v);
    }
};

template <class T> struct gate_gradient {
    T      *dgate;
    int64_t C;

    __device__ void operator()(int b, int64_t col, const double (&sum)[1]) const {
        dgate[b * C + col] = from_float<T>((float)sum[0]);
    }
};

template <class T> static void forward(ctx *c, const gate_residual_args *a) {
    int64_t  N = a->x->dim[0], C = a->x->dim[1];
    const T *x = ptr<const T>(a->x), *h = ptr<const T>(a->h), *gate = ptr<const T>(a->gate);
    T       *y = ptr<T>(a->y);
    if (gate)
        BY_WIDTH(T, wide_rows<T>(C, x, h, gate, y), V, gate_forward<T, V> f = {x, h, gate, y, C};
                 row_pass(c, f, N, C, a->first));
    else
        BY_WIDTH(T, aligned16(x, h, y), V, plain_forward<T> f = {x, h, y}; flat_pass<V>(c, N * C, f));
}

template <class T> static void backward(ctx *c, const gate_residual_args *a) {
    int64_t  N = a->dy->dim[0], C = a->dy->dim[1];
    const T *dy = ptr<const T>(a->dy), *h = ptr<const T>(a->h), *gate = ptr<const T>(a->gate);
    T       *dh = ptr<T>(a->dh);
    if (!gate) {
        if (N * C > 0 && dh != dy)
            CUDA_DO(cudaMemcpyAsync(dh, dy, sizeof(T) * (size_t)(N * C), cudaMemcpyDeviceToDevice, stream_of(c)));
    } else if (!tensor_given(a->dgate)) {
        BY_WIDTH(T, wide_rows<T>(C, dy, gate, dh), V, gate_backward<T, V, false> f = {dy, h, gate, dh, C};
                 row_pass(c, f, N, C, a->first));
    } else {
        row_chunks       k;
        float           *partial;
        gate_gradient<T> e = {ptr<T>(a->dgate), C};
        BY_WIDTH(T, wide_rows<T>(C, dy, h, gate, dh), V, gate_backward<T, V, true> f = {dy, h, gate, dh, C};
                 row_pass(c, f, N, C, a->first, &k, &partial));
        column_sums<1>(c, k, C, partial, e);
    }
}

extern "C" void gate_residual_fwd_cuda(ctx *c, const gate_residual_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void gate_residual_bwd_cuda(ctx *c, const gate_residual_args *a) {
    BY_ACT(a->dy->dt, T, backward<T>(c, a));
}
