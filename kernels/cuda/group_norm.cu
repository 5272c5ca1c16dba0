/* Sparse GroupNorm with optional SiLU (ops/group_norm.h). A sample has up to 55 million rows of 32 channels, so nothing
 * is kept from pass to pass: forward reads x twice, backward x and dy twice.
 *
 * The sums of x and x^2 are taken in double throughout (the square of an f32 is exact there), so that the variance
 * keeps its digits however far the mean is from zero and however many rows there are. In backward the sums per sample
 * and channel are  P = sum dz xhat,  S = sum dz  with dz = dy act'(z):  dgamma += sum_b P,  dbeta += sum_b S, and dx =
 * rstd (gamma dz - m0 - xhat m1),  m0, m1 = means over the group of gamma S and gamma P. */
#include "kernels/cuda/dev/act.cuh"
#include "kernels/cuda/dev/row_pass.cuh"

struct group_params {
    const float *gamma, *beta, *mean, *rstd; /* (C), (C), (B,groups) */
    int          C, groups, width;           /* width: channels of a group */
};

static group_params params_of(const group_norm_args *a) {
    int          C = (int)a->x->dim[1];
    group_params p = {ptr<const float>(a->gamma),
                      ptr<const float>(a->beta),
                      ptr<const float>(a->mean),
                      ptr<const float>(a->rstd),
                      C,
                      a->groups,
                      C / a->groups};
    return p;
}

/* ---- forward -------------------------------------------------------------------------------------------------- */

template <class T, int V_> struct group_squares {
    static constexpr int V = V_, Q = 2, UNROLL = 4;
    typedef double       sum_t;
    struct column {};
    struct in {
        pack<T, V> x;
    };
    const T *x;
    int64_t  C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &x_in) const {
        x_in.x = load_raw<T, V>(x + n * C + col);
    }
    __device__ void use(int64_t, int64_t, const column &, const in &x_in, double (&sum)[2][V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) {
            double v = (double)to_float(x_in.x.v[i]);
            sum[0][i] += v;
            sum[1][i] = fma(v, v, sum[1][i]);
        }
    }
};

/* sums (B,2,C) of x and x^2 -> mean, rstd (B,groups) */
static __global__ void group_statistics_kernel(const double *sums, const int32_t *first, int B, group_params p,
                                               double eps, float *mean, float *rstd) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, b = i / p.groups, g = i % p.groups;
    if (i >= (int64_t)B * p.groups) return;
    double count = (double)(first[b + 1] - first[b]) * p.width, s1 = 0, s2 = 0;
    for (int j = 0; j < p.width; j++) {
        s1 += sums[(b * 2) * p.C + g * p.width + j];
        s2 += sums[(b * 2 + 1) * p.C + g * p.width + j];
    }
    double m = count > 0 ? s1 / count : 0, var = count > 0 ? (s2 - s1 * m) / count : 0;
    mean[i] = (float)m;
    rstd[i] = count > 0 ? (float)(1 / sqrt((var < 0 ? 0 : var) + eps)) : 0.0f;
}

template <class T, int V_, int A> struct group_apply {
    static constexpr int V = V_, Q = 0, UNROLL = 4;
    typedef float        sum_t;
    struct column {
        float mean[V], scale[V], beta[V];
    };
    struct in {
        pack<T, V> x;
    };
    const T     *x;
    T           *y;
    group_params p;

    __device__ void begin(int b, int64_t col, column &k) const {
        load_vec<float, V>(p.gamma + col, k.scale);
        load_vec<float, V>(p.beta + col, k.beta);
#pragma unroll
        for (int i = 0; i < V; i++) {
            int64_t g = (int64_t)b * p.groups + ((int)col + i) / p.width;
            k.mean[i] = p.mean[g];
            k.scale[i] *= p.rstd[g];
        }
    }
    __device__ void load(int64_t n, int64_t col, const column &, in &x_in) const {
        x_in.x = load_raw<T, V>(x + n * p.C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &x_in, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = act_value<A, T>((to_float(x_in.x.v[i]) - k.mean[i]) * k.scale[i] + k.beta[i]);
        store_vec<T, V>(y + n * p.C + col, v);
    }
};

template <class T> static void forward(ctx *c, const group_norm_args *a) {
    int64_t      N = a->x->dim[0], C = a->x->dim[1], B = a->first->dim[0] - 1;
    group_params p = params_of(a);
    const T     *x = ptr<const T>(a->x);
    T           *y = ptr<T>(a->y);
    bool         wide = wide_rows<T>(C, x, y, p.gamma, p.beta);
    row_chunks   k;
    double      *partial, *sums = (double *)arena_alloc(&c->scratch, sizeof(double) * 2 * (size_t)(B * C));
    if (B == 0) return;

    BY_WIDTH(T, wide, V, group_squares<T, V> f = {x, C}; row_pass(c, f, N, C, a->first, &k, &partial));
    keep_sums<2> keep = {sums, C};
    column_sums<2>(c, k, C, partial, keep);
    group_statistics_kernel<<<(unsigned)ceil_div(B * p.groups, 64), 64, 0, stream_of(c)>>>(
        sums, ptr<const int32_t>(a->first), (int)B, p, a->eps, ptr<float>(a->mean), ptr<float>(a->rstd));
    LAUNCHED(c);
    if (a->act == ACT_SILU)
        BY_WIDTH(T, wide, V, group_apply<T, V, ACT_SILU> f = {x, y, p}; row_pass(c, f, N, C, a->first));
    else
        BY_WIDTH(T, wide, V, group_apply<T, V, ACT_NONE> f = {x, y, p}; row_pass(c, f, N, C, a->first));
}

/* ---- backward ------------------------------------------------------------------------------------------------- */

/* What both passes share: xhat and dz of a row. */
template <class T, int V> struct group_column {
    float mean[V], rstd[V], gamma[V], beta[V];

    __device__ __forceinline__ void load(const group_params &p, int b, int64_t col) {
        load_vec<float, V>(p.gamma + col, gamma);
        load_vec<float, V>(p.beta + col, beta);
#pragma unroll
        for (int i = 0; i < V; i++) {
            int64_t g = (int64_t)b * p.groups + ((int)col + i) / p.width;
            mean[i] = p.mean[g];
            rstd[i] = p.rstd[g];
        }
    }
    template <int A> __device__ __forceinline__ void at(int i, T x, T dy, float *xhat, float *dz) const {
        *xhat = (to_float(x) - mean[i]) * rstd[i];
        *dz = to_float(dy) * act_slope<A, T>(*xhat * gamma[i] + beta[i]);
    }
};

template <class T, int V_, int A> struct group_gradient_sums {
    static constexpr int              V = V_, Q = 2, UNROLL = 2;
    typedef typename row_sum<T>::type sum_t;
    typedef group_column<T, V_>       column;
    struct in {
        pack<T, V> x, dy;
    };
    const T     *x, *dy;
    group_params p;

    __device__ void begin(int b, int64_t col, column &k) const { k.load(p, b, col); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * p.C + col);
        r.dy = load_raw<T, V>(dy + n * p.C + col);
    }
    __device__ void use(int64_t, int64_t, const column &k, const in &r, sum_t (&sum)[2][V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) {
            float xhat, dz;
            k.template at<A>(i, r.x.v[i], r.dy.v[i], &xhat, &dz);
            sum[0][i] += (sum_t)dz * xhat;
            sum[1][i] += dz;
        }
    }
};

/* sums (B,2,C) of dz xhat and dz -> means (B,groups,2): m0, m1. A sample without rows is read by nobody. */
static __global__ void group_means_kernel(const double *sums, const int32_t *first, int B, group_params p,
                                          float *means) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, b = i / p.groups, g = i % p.groups;
    if (i >= (int64_t)B * p.groups) return;
    double count = (double)(first[b + 1] - first[b]) * p.width, m0 = 0, m1 = 0;
    for (int j = 0; j < p.width; j++) {
        int64_t col = g * p.width + j;
        m1 += p.gamma[col] * sums[(b * 2) * p.C + col];
        m0 += p.gamma[col] * sums[(b * 2 + 1) * p.C + col];
    }
    means[2 * i] = (float)(m0 / count);
    means[2 * i + 1] = (float)(m1 / count);
}

static __global__ void group_params_kernel(const double *sums, int B, int C, float *dgamma, float *dbeta) {
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= C) return;
    double g = 0, s = 0;
    for (int64_t b = 0; b < B; b++) {
        g += sums[(b * 2) * C + col];
        s += sums[(b * 2 + 1) * C + col];
    }
    dgamma[col] = (float)(dgamma[col] + g);
    dbeta[col] = (float)(dbeta[col] + s);
}

template <class T, int V_, int A> struct group_dx {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        group_column<T, V_> k;
        float               m0[V], m1[V];
    };
    struct in {
        pack<T, V> x, dy;
    };
    const T     *x, *dy;
    T           *dx;
    const float *means;
    group_params p;

    __device__ void begin(int b, int64_t col, column &k) const {
        k.k.load(p, b, col);
#pragma unroll
        for (int i = 0; i < V; i++) {
            int64_t g = (int64_t)b * p.groups + ((int)col + i) / p.width;
            k.m0[i] = means[2 * g];
            k.m1[i] = means[2 * g + 1];
        }
    }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * p.C + col);
        r.dy = load_raw<T, V>(dy + n * p.C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        float out[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            float xhat, dz;
            k.k.template at<A>(i, r.x.v[i], r.dy.v[i], &xhat, &dz);
            out[i] = k.k.rstd[i] * (dz * k.k.gamma[i] - k.m0[i] - xhat * k.m1[i]);
        }
        store_vec<T, V>(dx + n * p.C + col, out);
    }
};

template <class T, int A> static void backward(ctx *c, const group_norm_args *a) {
    int64_t                    N = a->x->dim[0], C = a->x->dim[1], B = a->first->dim[0] - 1;
    group_params               p = params_of(a);
    const T                   *x = ptr<const T>(a->x), *dy = ptr<const T>(a->dy);
    T                         *dx = ptr<T>(a->dx);
    bool                       wide = wide_rows<T>(C, x, dy, dx, p.gamma, p.beta);
    row_chunks                 k;
    float                     *means = (float *)arena_alloc(&c->scratch, sizeof(float) * 2 * (size_t)(B * p.groups));
    typename row_sum<T>::type *partial;
    double                    *sums = (double *)arena_alloc(&c->scratch, sizeof(double) * 2 * (size_t)(B * C));
    if (N == 0) return;

    BY_WIDTH(T, wide, V, group_gradient_sums<T, V, A> f = {x, dy, p}; row_pass(c, f, N, C, a->first, &k, &partial));
    keep_sums<2> keep = {sums, C};
    column_sums<2>(c, k, C, partial, keep);
    group_means_kernel<<<(unsigned)ceil_div(B * p.groups, 64), 64, 0, stream_of(c)>>>(
        sums, ptr<const int32_t>(a->first), (int)B, p, means);
    LAUNCHED(c);
    if (tensor_given(a->dgamma)) {
        group_params_kernel<<<(unsigned)ceil_div(C, 128), 128, 0, stream_of(c)>>>(
            sums, (int)B, (int)C, ptr<float>(a->dgamma), ptr<float>(a->dbeta));
        LAUNCHED(c);
    }
    BY_WIDTH(T, wide, V, group_dx<T, V, A> f = {x, dy, dx, means, p}; row_pass(c, f, N, C, a->first));
}

extern "C" void group_norm_fwd_cuda(ctx *c, const group_norm_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void group_norm_bwd_cuda(ctx *c, const group_norm_args *a) {
    if (a->act == ACT_SILU)
        BY_ACT(a->x->dt, T, backward<T, ACT_SILU>(c, a));
    else
        BY_ACT(a->x->dt, T, backward<T, ACT_NONE>(c, a));
}
