/* SSA's gated sum of three branches (ops/branch_gate.h). Backward is a warp per row, a few of its lanes per
 * head: one pass over dout and the branches makes what all three attentions need of their rows. */
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
    const T     *o[3], *z, *dout;
    const float *lse[3];
    float2      *stat[3];
    T           *dz;
    int64_t      N;
    int          H, D, lanes; /* lanes that share a head, a power of two */
};

/* log2 of a sigmoid, for any z. */
__device__ __forceinline__ float log2_sigmoid(float z) {
    const float LOG2_E = 1.4426950408889634f;
    return fminf(z, 0.f) * LOG2_E - log2f(1.f + exp2f(-fabsf(z) * LOG2_E));
}

/* What a lane adds to the three products of a head: V columns, or, one by one, all that it has. */
template <class T, int V>
__device__ __forceinline__ void add_products(float (&dot)[3], const branch_rows<T> &r, int64_t at, int lane) {
    if (V > 1 && lane * V >= r.D) return;
#pragma unroll 1
    for (int col = lane * V; col < (V > 1 ? lane * V + 1 : r.D); col += r.lanes) {
        pack<T, V> o[3], g = load_raw<T, V>(r.dout + at + col);
#pragma unroll
        for (int j = 0; j < 3; j++) o[j] = load_raw<T, V>(r.o[j] + at + col);
#pragma unroll
        for (int j = 0; j < 3; j++)
#pragma unroll
            for (int i = 0; i < V; i++) dot[j] += to_float(o[j].v[i]) * to_float(g.v[i]);
    }
}

template <class T, int V>
__global__ void __launch_bounds__(32 * ROW_WARPS) branch_gate_bwd_kernel(const branch_rows<T> r) {
    int     lane = threadIdx.x % 32, mine = lane % r.lanes;
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (n >= r.N) return;
    float log2_w[3], all[3] = {0, 0, 0};
#pragma unroll
    for (int j = 0; j < 3; j++) log2_w[j] = log2_sigmoid(to_float(r.z[n * 3 + j]));
#pragma unroll 2
    for (int h0 = 0; h0 < r.H; h0 += 32 / r.lanes) {
        int     h = h0 + lane / r.lanes;
        bool    there = h < r.H;
        int64_t at = n * r.H + h;
        float   dot[3] = {0, 0, 0}, lse[3];
#pragma unroll
        for (int j = 0; j < 3; j++) lse[j] = there && mine == 0 ? r.lse[j][at] : 0;
        if (there) add_products<T, V>(dot, r, at * r.D, mine);
        for (int o = r.lanes / 2; o > 0; o /= 2)
#pragma unroll
            for (int j = 0; j < 3; j++) dot[j] += __shfl_xor_sync(0xffffffffu, dot[j], o);
        if (!there || mine > 0) continue;
#pragma unroll
        for (int j = 0; j < 3; j++) {
            all[j] += dot[j];
            r.stat[j][at] = float2{lse[j] * 1.4426950408889634f - log2_w[j], -dot[j]};
        }
    }
#pragma unroll
    for (int j = 0; j < 3; j++) {
        float w = sigmoid<T>(to_float(r.z[n * 3 + j])), sum = warp_sum(all[j]);
        if (lane == j) r.dz[n * 3 + j] = from_float<T>(w * (1.0f - w) * sum);
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
    r.N = a->z->dim[0];
    r.H = (int)a->o[0]->dim[1], r.D = (int)a->o[0]->dim[2];
    r.z = ptr<const T>(a->z);
    r.dz = ptr<T>(a->dz);
    r.dout = ptr<const T>(a->dout);
    for (int j = 0; j < 3; j++) {
        r.o[j] = ptr<const T>(a->o[j]);
        r.lse[j] = ptr<const float>(a->lse[j]);
        r.stat[j] = ptr<float2>(a->stat[j]);
    }
    if (r.N == 0) return;
    bool wide = wide_rows<T>(r.D, r.o[0], r.o[1], r.o[2], r.dout) && r.D * sizeof(T) <= 32 * 16;
    BY_WIDTH(T, wide, V, for (r.lanes = 1; r.lanes < 32 && r.lanes * V < r.D;) r.lanes *= 2;
             branch_gate_bwd_kernel<T, V><<<(unsigned)ceil_div(r.N, ROW_WARPS), 32 * ROW_WARPS, 0, stream_of(c)>>>(r));
    LAUNCHED(c);
}

extern "C" void branch_gate_fwd_cuda(ctx *c, const branch_gate_args *a) {
    BY_ACT(a->z->dt, T, forward<T>(c, a));
}
extern "C" void branch_gate_bwd_cuda(ctx *c, const branch_gate_args *a) {
    BY_ACT(a->z->dt, T, backward<T>(c, a));
}
