/* Per-head RMS norm (ops/rms_norm.h):  y = x s/len gamma, s = sqrt(D).
 * Where a head is a power of two of 16-byte pieces (D 8, 16, 32 .. 256 in bf16), a thread owns V columns and the lanes
 * of a head, neighbours in a warp, add up by shuffles: x is read once. Other widths take a warp per head. */
#include "kernels/cuda/dev/row_pass.cuh"

#define SHORTEST 1e-12f /* below it len is this constant; NaN is not below anything */

struct rms_heads {
    int64_t C; /* H*D */
    int     D, lanes;
    float   s;
};

/* Sum over the lanes of a head; rows differ from head to head of a warp, so each has its own mask. */
__device__ __forceinline__ float head_sum(float x, int lanes) {
    int      lane = (threadIdx.y * blockDim.x + threadIdx.x) % 32;
    unsigned mask = (0xffffffffu >> (32 - lanes)) << (lane / lanes * lanes);
    for (int o = lanes / 2; o > 0; o /= 2) x += __shfl_xor_sync(mask, x, o);
    return x;
}

template <class T, int V_> struct rms_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        float gamma[V];
    };
    struct in {
        pack<T, V> x;
    };
    const T     *x;
    const float *gamma;
    T           *y;
    rms_heads    h;

    __device__ void begin(int, int64_t col, column &k) const { load_vec<float, V>(gamma + col, k.gamma); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * h.C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        float v[V], sum = 0;
        unpack<T, V>(r.x, v);
#pragma unroll
        for (int i = 0; i < V; i++) sum += v[i] * v[i];
        float len = sqrtf(head_sum(sum, h.lanes));
        float f = h.s / (len < SHORTEST ? SHORTEST : len);
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = v[i] * f * k.gamma[i];
        store_vec<T, V>(y + n * h.C + col, v);
    }
};

/* dx = s/len (gamma dy - x/len <x/len, gamma dy>), the second part only while len depends on x; dgamma = sum x/len s
 * dy. */
template <class T, int V_> struct rms_backward {
    static constexpr int V = V_, Q = 1, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        float gamma[V];
    };
    struct in {
        pack<T, V> x, dy;
    };
    const T     *x, *dy;
    const float *gamma;
    T           *dx;
    rms_heads    h;

    __device__ void begin(int, int64_t col, column &k) const { load_vec<float, V>(gamma + col, k.gamma); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * h.C + col);
        r.dy = load_raw<T, V>(dy + n * h.C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&sum)[1][V]) const {
        float v[V], g[V], square = 0, dot = 0;
        unpack<T, V>(r.x, v);
        unpack<T, V>(r.dy, g);
#pragma unroll
        for (int i = 0; i < V; i++) {
            square += v[i] * v[i];
            dot += v[i] * (k.gamma[i] * g[i]);
        }
        float len = sqrtf(head_sum(square, h.lanes));
        bool  fixed = len < SHORTEST;
        float inv = 1.0f / (fixed ? SHORTEST : len);
        dot = head_sum(dot, h.lanes) * inv;
        if (fixed) dot = 0;
#pragma unroll
        for (int i = 0; i < V; i++) {
            float unit = v[i] * inv;
            sum[0][i] += unit * g[i];
            v[i] = h.s * inv * (k.gamma[i] * g[i] - unit * dot);
        }
        store_vec<T, V>(dx + n * h.C + col, v);
    }
};

/* ---- any D ---------------------------------------------------------------------------------------------------- */

enum { HEAD_WARPS = 8 };

/* Row n*H + h per warp: y, or dx and 1/len. */
template <class T>
__global__ void __launch_bounds__(32 * HEAD_WARPS)
    rms_any_kernel(int64_t rows, int H, rms_heads h, const T *x, const float *gamma, const T *dy, T *out,
                   float *inverse) {
    int     lane = threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * HEAD_WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    gamma += row % H * h.D;
    x += row * h.D;
    out += row * h.D;
    float square = 0, dot = 0;
    for (int d = lane; d < h.D; d += 32) square += to_float(x[d]) * to_float(x[d]);
    float len = sqrtf(warp_sum(square));
    bool  fixed = len < SHORTEST;
    if (fixed) len = SHORTEST;
    if (inverse && lane == 0) inverse[row] = 1.0f / len;
    /* gamma dy is rounded once for both places, and x/len is a true quotient: one column gives exactly 0. */
    auto gamma_dy = [&](int d) { return __fmul_rn(gamma[d], to_float(dy[row * h.D + d])); };
    if (dy && !fixed)
        for (int d = lane; d < h.D; d += 32) dot += to_float(x[d]) / len * gamma_dy(d);
    dot = warp_sum(dot);
    for (int d = lane; d < h.D; d += 32) {
        float unit = to_float(x[d]) / len;
        out[d] = from_float<T>(dy ? h.s / len * (gamma_dy(d) - unit * dot) : unit * h.s * gamma[d]);
    }
}

template <class T> struct rms_gamma_sums {
    static constexpr int V = 1, Q = 1, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        int head;
    };
    struct in {
        float x, dy, inverse;
    };
    const T     *x, *dy;
    const float *inverse;
    int64_t      H, C;
    int          D;

    __device__ void begin(int, int64_t col, column &k) const { k.head = (int)col / D; }
    __device__ void load(int64_t n, int64_t col, const column &k, in &r) const {
        r.x = to_float(x[n * C + col]);
        r.dy = to_float(dy[n * C + col]);
        r.inverse = inverse[n * H + k.head];
    }
    __device__ void use(int64_t, int64_t, const column &, const in &r, float (&sum)[1][1]) const {
        sum[0][0] += r.x * r.inverse * r.dy;
    }
};

struct rms_gamma_gradient {
    float *dgamma;
    double s;

    __device__ void operator()(int, int64_t col, const double (&sum)[1]) const {
        dgamma[col] = (float)(dgamma[col] + s * sum[0]);
    }
};

/* ---- entries -------------------------------------------------------------------------------------------------- */

static rms_heads shape_of(const tensor *x, int V) {
    rms_heads h = {x->dim[1] * x->dim[2], (int)x->dim[2], (int)(x->dim[2] / V), (float)sqrt((double)x->dim[2])};
    return h;
}

/* The lanes of a head must not be torn between warps or blocks. */
static bool heads_fit(const rms_heads &h, int V) {
    return h.D % V == 0 && h.lanes >= 1 && h.lanes <= 32 && (h.lanes & (h.lanes - 1)) == 0 &&
           pass_width(h.C / V) % h.lanes == 0;
}

template <class T> static void forward(ctx *c, const rms_norm_args *a) {
    constexpr int V = 16 / (int)sizeof(T);
    rms_heads     h = shape_of(a->x, V);
    int64_t       rows = a->x->dim[0] * a->x->dim[1];
    const T      *x = ptr<const T>(a->x);
    const float  *gamma = ptr<const float>(a->gamma);
    T            *y = ptr<T>(a->y);
    if (rows == 0 || h.D == 0) return;
    if (wide_rows<T>(h.C, x, y, gamma) && heads_fit(h, V)) {
        rms_forward<T, V> f = {x, gamma, y, h};
        row_pass(c, f, a->x->dim[0], h.C, NULL);
        return;
    }
    rms_any_kernel<T><<<(unsigned)ceil_div(rows, HEAD_WARPS), 32 * HEAD_WARPS, 0, stream_of(c)>>>(
        rows, (int)a->x->dim[1], h, x, gamma, (const T *)NULL, y, (float *)NULL);
    LAUNCHED(c);
}

template <class T> static void backward(ctx *c, const rms_norm_args *a) {
    constexpr int      V = 16 / (int)sizeof(T);
    rms_heads          h = shape_of(a->x, V);
    int64_t            N = a->x->dim[0], H = a->x->dim[1], rows = N * H;
    const T           *x = ptr<const T>(a->x), *dy = ptr<const T>(a->dy);
    const float       *gamma = ptr<const float>(a->gamma);
    T                 *dx = ptr<T>(a->dx);
    rms_gamma_gradient e = {ptr<float>(a->dgamma), h.s};
    row_chunks         k;
    float             *partial;
    if (rows == 0 || h.D == 0) return;
    if (wide_rows<T>(h.C, x, dy, dx, gamma) && heads_fit(h, V)) {
        rms_backward<T, V> f = {x, dy, gamma, dx, h};
        row_pass(c, f, N, h.C, NULL, &k, &partial);
        if (e.dgamma) column_sums<1>(c, k, h.C, partial, e);
        return;
    }
    float            *inverse = (float *)arena_alloc(&c->scratch, sizeof(float) * (size_t)rows);
    rms_gamma_sums<T> f = {x, dy, inverse, H, h.C, h.D};
    rms_any_kernel<T><<<(unsigned)ceil_div(rows, HEAD_WARPS), 32 * HEAD_WARPS, 0, stream_of(c)>>>(
        rows, (int)H, h, x, gamma, dy, dx, inverse);
    LAUNCHED(c);
    if (!e.dgamma) return;
    row_pass(c, f, N, h.C, NULL, &k, &partial);
    column_sums<1>(c, k, h.C, partial, e);
}

extern "C" void rms_norm_fwd_cuda(ctx *c, const rms_norm_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void rms_norm_bwd_cuda(ctx *c, const rms_norm_args *a) {
    BY_ACT(a->x->dt, T, backward<T>(c, a));
}
