/* SSA's gated sum of three branches (ops/branch_gate.h). Backward is a warp per row: do_i leaves while <o_i, dout> adds
 * up. */
#include "kernels/cuda/dev/act.cuh"
#include "kernels/cuda/dev/row_pass.cuh"

template <class T, int V_> struct branch_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> o[3];
        T          z[3];
    };
    const T *o[3], *z;
    T       *out;
    int64_t  W;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
#pragma unroll
        for (int j = 0; j < 3; j++) {
            r.o[j] = load_raw<T, V>(o[j] + n * W + col);
            r.z[j] = z[n * 3 + j];
        }
    }
    __device__ void use(int64_t n, int64_t col, const column &, const in &r, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = 0;
#pragma unroll
        for (int j = 0; j < 3; j++) {
            float w = sigmoid<T>(to_float(r.z[j]));
#pragma unroll
            for (int i = 0; i < V; i++) v[i] += w * to_float(r.o[j].v[i]);
        }
        store_vec<T, V>(out + n * W + col, v);
    }
};

enum { ROW_WARPS = 8 };

template <class T> struct branch_rows {
    const T *o[3], *z, *dout;
    T       *d[3], *dz;
    int64_t  N, W;
};

template <class T, int V>
__global__ void __launch_bounds__(32 * ROW_WARPS) branch_gate_bwd_kernel(const branch_rows<T> r) {
    int     lane = threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (n >= r.N) return;
    float w[3], dot[3] = {0, 0, 0};
#pragma unroll
    for (int j = 0; j < 3; j++) w[j] = sigmoid<T>(to_float(r.z[n * 3 + j]));
#pragma unroll 1
    for (int64_t col = lane * V; col < r.W; col += 32 * V) {
        int64_t    at = n * r.W + col;
        pack<T, V> o[3], g = load_raw<T, V>(r.dout + at);
#pragma unroll
        for (int j = 0; j < 3; j++) o[j] = load_raw<T, V>(r.o[j] + at);
#pragma unroll
        for (int j = 0; j < 3; j++) {
            float v[V];
#pragma unroll
            for (int i = 0; i < V; i++) {
                float d = to_float(g.v[i]);
                dot[j] += to_float(o[j].v[i]) * d;
                v[i] = w[j] * d;
            }
            store_vec<T, V>(r.d[j] + at, v);
        }
    }
#pragma unroll
    for (int j = 0; j < 3; j++) {
        float sum = warp_sum(dot[j]);
        if (lane == j) r.dz[n * 3 + j] = from_float<T>(w[j] * (1.0f - w[j]) * sum);
    }
}

template <class T> static void forward(ctx *c, const branch_gate_args *a) {
    int64_t  N = a->z->dim[0], W = a->o[0]->dim[1] * a->o[0]->dim[2];
    const T *o0 = ptr<const T>(a->o[0]), *o1 = ptr<const T>(a->o[1]), *o2 = ptr<const T>(a->o[2]);
    T       *out = ptr<T>(a->out);
    BY_WIDTH(T, wide_rows<T>(W, o0, o1, o2, out), V,
             branch_forward<T, V> f = {{o0, o1, o2}, ptr<const T>(a->z), out, W};
             row_pass(c, f, N, W, NULL));
}

template <class T> static void backward(ctx *c, const branch_gate_args *a) {
    branch_rows<T> r = {};
    bool           wide = true;
    r.N = a->z->dim[0];
    r.W = a->o[0]->dim[1] * a->o[0]->dim[2];
    r.z = ptr<const T>(a->z);
    r.dz = ptr<T>(a->dz);
    r.dout = ptr<const T>(a->dout);
    for (int j = 0; j < 3; j++) {
        r.o[j] = ptr<const T>(a->o[j]);
        r.d[j] = ptr<T>(a->do_[j]);
        wide = wide && wide_rows<T>(r.W, r.o[j], r.d[j], r.dout);
    }
    if (r.N == 0) return;
    BY_WIDTH(T, wide, V,
             branch_gate_bwd_kernel<T, V><<<(unsigned)ceil_div(r.N, ROW_WARPS), 32 * ROW_WARPS, 0, stream_of(c)>>>(r));
    LAUNCHED(c);
}

extern "C" void branch_gate_fwd_cuda(ctx *c, const branch_gate_args *a) {
    BY_ACT(a->z->dt, T, forward<T>(c, a));
}
extern "C" void branch_gate_bwd_cuda(ctx *c, const branch_gate_args *a) {
    BY_ACT(a->z->dt, T, backward<T>(c, a));
}
