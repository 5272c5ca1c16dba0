/* The lift, norm and pooling of voxels (ops/lift_pool.h), in passes over parents that read v and write or read what is
 * pooled. With x = v - centre, centre the sample's mean as a float (the mean of x is `rest`),
 *
 *     xhat = rstd (w x + off),   off = w centre + b - mean(u) of the group,   z = scale x + shift
 *
 * so that the statistics of u are those of v, and backward is one pass for four sums a channel: of dz and dz x, and of
 * the skip's gradient and that times x. All else follows from them in double. */
#include "kernels/cuda/dev/act.cuh"
#include "kernels/cuda/dev/row_pass.cuh"

namespace {

enum { MEMBERS = 8 }; /* of a parent, loaded ahead; further ones are read one by one */

struct lift_params {
    const int32_t *first, *pool_first;
    const double  *moments;
    const float   *b, *gamma, *beta;
    int            C, width; /* width: channels of a group */
    int64_t        B, P;
    double         eps;
    bool           add_one;
};

lift_params params_of(const lift_pool_args *a) {
    int         C = (int)a->w->dim[0];
    lift_params p = {ptr<const int32_t>(a->first),
                     ptr<const int32_t>(a->pool_first),
                     ptr<const double>(a->moments),
                     ptr<const float>(a->b),
                     ptr<const float>(a->gamma),
                     ptr<const float>(a->beta),
                     C,
                     C / a->groups,
                     a->first->dim[0] - 1,
                     a->pool_first->dim[0] - 1,
                     a->eps,
                     a->add_one};
    return p;
}

template <class R> __device__ __forceinline__ R pool_share(const lift_params &p, int members) {
    return members == 0 ? R(0) : R(1) / (R)(members + (p.add_one ? 1 : 0));
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

template <class T> struct value_squares {
    static constexpr int V = 1, Q = 2, UNROLL = 8;
    typedef double       sum_t;
    struct column {};
    struct in {
        T v;
    };
    const T *v;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t, const column &, in &r) const { r.v = v[n]; }
    __device__ void use(int64_t, int64_t, const column &, const in &r, double (&sum)[2][1]) const {
        double x = (double)to_float(r.v);
        sum[0][0] += x;
        sum[1][0] = fma(x, x, sum[1][0]);
    }
};

struct moments_end {
    const int32_t *first;
    double        *moments;

    __device__ void operator()(int b, int64_t, const double (&sum)[2]) const {
        double n = first[b + 1] - first[b], mean = n > 0 ? sum[0] / n : 0;
        double var = n > 0 ? (sum[1] - sum[0] * mean) / n : 0;
        moments[2 * b] = mean;
        moments[2 * b + 1] = var < 0 ? 0 : var; /* not fmax: it would turn a NaN into 0 */
    }
};

__device__ __forceinline__ float centre_of(const lift_params &p, int64_t b) {
    return (float)p.moments[2 * b];
}

/* rstd and off of a sample's channel. */
template <class T> struct norm_column {
    double rstd, off;

    __device__ norm_column(const lift_params &p, const T *w, int64_t b, int col) {
        const int    c0 = col / p.width * p.width;
        const double mean = p.moments[2 * b];
        double       u = 0, var = 0;
        for (int i = c0; i < c0 + p.width; i++) u += (double)to_float(w[i]) * mean + (double)p.b[i];
        u /= p.width;
        for (int i = c0; i < c0 + p.width; i++) {
            double wi = (double)to_float(w[i]), d = wi * mean + (double)p.b[i] - u;
            var += wi * wi * p.moments[2 * b + 1] + d * d;
        }
        rstd = 1 / sqrt(var / p.width + p.eps);
        off = (double)to_float(w[col]) * (double)centre_of(p, b) + (double)p.b[col] - u;
    }
};

/* table (B,2,C): scale, shift. */
template <class T>
__global__ void __launch_bounds__(128) lift_columns_kernel(lift_params p, const T *w, double *table) {
    int64_t i = (int64_t)blockIdx.x * 128 + threadIdx.x, b = i / p.C;
    int     col = (int)(i % p.C);
    if (b >= p.B) return;
    norm_column<T> k(p, w, b, col);
    table[2 * b * p.C + col] = (double)to_float(w[col]) * k.rstd * (double)p.gamma[col];
    table[(2 * b + 1) * p.C + col] = k.off * k.rstd * (double)p.gamma[col] + (double)p.beta[col];
}

template <class T> double *columns_of(ctx *c, const lift_params &p, const T *w) {
    double *table = (double *)arena_alloc(&c->scratch, sizeof(double) * 2 * (size_t)(p.B * p.C));
    lift_columns_kernel<T><<<(unsigned)ceil_div(p.B * p.C, 128), 128, 0, stream_of(c)>>>(p, w, table);
    LAUNCHED(c);
    return table;
}

/* ---- passes over parents ----------------------------------------------------------------------------------------- */

/* What both share: the columns of a sample, and the members of a parent. */
template <class T, int V> struct lift_column {
    typedef typename row_sum<T>::type real;
    real                              scale[V], shift[V], centre;

    __device__ __forceinline__ void load(const lift_params &p, const double *table, int b, int64_t col) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            scale[i] = (real)table[2 * (int64_t)b * p.C + col + i];
            shift[i] = (real)table[(2 * (int64_t)b + 1) * p.C + col + i];
        }
        centre = (real)centre_of(p, b);
    }
};
template <class T> struct lift_members {
    int   lo, n;
    float v[MEMBERS];

    __device__ __forceinline__ void load(const lift_params &p, const T *values, int64_t parent) {
        lo = p.pool_first[parent];
        n = p.pool_first[parent + 1] - lo;
#pragma unroll
        for (int j = 0; j < MEMBERS; j++) v[j] = j < n ? to_float(values[lo + j]) : 0.0f;
    }
    template <class F> __device__ __forceinline__ void each(const T *values, const F &f) const {
#pragma unroll
        for (int j = 0; j < MEMBERS; j++)
            if (j < n) f(v[j]);
        for (int j = MEMBERS; j < n; j++) f(to_float(values[lo + j]));
    }
};

template <class T, int V_> struct lift_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        lift_column<T, V_> k;
        float              w[V], b[V];
    };
    typedef lift_members<T> in;

    lift_params   p;
    const T      *v, *w;
    const double *table;
    T            *y, *skip;

    __device__ void begin(int b, int64_t col, column &k) const {
        k.k.load(p, table, b, col);
        load_vec<T, V>(w + col, k.w);
        load_vec<float, V>(p.b + col, k.b);
    }
    __device__ void load(int64_t n, int64_t, const column &, in &r) const { r.load(p, v, n); }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        typedef typename row_sum<T>::type real;
        real                              total = 0, sum[V] = {}, share = pool_share<real>(p, r.n);
        float                             out[V];
        r.each(v, [&](float value) {
            const real x = value - k.k.centre;
            total += value;
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += act_value<ACT_SILU, T>((float)(k.k.scale[i] * x + k.k.shift[i]));
        });
#pragma unroll
        for (int i = 0; i < V; i++) out[i] = (float)(sum[i] * share);
        store_vec<T, V>(y + n * p.C + col, out);
#pragma unroll
        for (int i = 0; i < V; i++) out[i] = (float)(share * (total * k.w[i] + (real)r.n * k.b[i]));
        store_vec<T, V>(skip + n * p.C + col, out);
    }
};

/* Sums: dz, dz x, the skip's gradient of all members, and that times x. */
template <class T, int V_> struct lift_gradient_sums {
    static constexpr int              V = V_, Q = 4, UNROLL = 2;
    typedef typename row_sum<T>::type sum_t;
    typedef lift_column<T, V_>        column;
    struct in {
        lift_members<T> m;
        pack<T, V_>     dy, dskip;
    };

    lift_params   p;
    const T      *v, *dy, *dskip;
    const double *table;

    __device__ void begin(int b, int64_t col, column &k) const { k.load(p, table, b, col); }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.m.load(p, v, n);
        r.dy = load_raw<T, V>(dy + n * p.C + col);
        r.dskip = load_raw<T, V>(dskip + n * p.C + col);
    }
    __device__ void use(int64_t, int64_t, const column &k, const in &r, sum_t (&sum)[4][V]) const {
        sum_t total = 0, slope[V] = {}, slope_x[V] = {}, share = pool_share<sum_t>(p, r.m.n);
        r.m.each(v, [&](float value) {
            const sum_t x = value - k.centre;
            total += x;
#pragma unroll
            for (int i = 0; i < V; i++) {
                float s = act_slope<ACT_SILU, T>((float)(k.scale[i] * x + k.shift[i]));
                slope[i] += s;
                slope_x[i] += s * x;
            }
        });
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum_t d = share * to_float(r.dy.v[i]), e = share * to_float(r.dskip.v[i]);
            sum[0][i] += d * slope[i];
            sum[1][i] += d * slope_x[i];
            sum[2][i] += e * (sum_t)r.m.n;
            sum[3][i] += e * total;
        }
    }
};

/* ---- what follows from the sums ---------------------------------------------------------------------------------- */

/* sum over a group of gamma dz (0) and gamma dz xhat (1), over its rows and channels: their means. */
template <class T>
__device__ __forceinline__ void gradient_means(const lift_params &p, const T *w, const double *sums, int64_t b, int col,
                                               double (&mean)[2]) {
    const int     c0 = col / p.width * p.width;
    const double *s = sums + b * 4 * p.C, count = (double)(p.first[b + 1] - p.first[b]) * p.width;
    mean[0] = mean[1] = 0;
    for (int i = c0; i < c0 + p.width; i++) {
        norm_column<T> k(p, w, b, i);
        mean[0] += (double)p.gamma[i] * s[i] / count;
        mean[1] += (double)p.gamma[i] * k.rstd * ((double)to_float(w[i]) * s[p.C + i] + k.off * s[i]) / count;
    }
}

struct lift_grads {
    float *dw, *db, *dgamma, *dbeta;
};

/* A thread a channel; sums (B,4,C). */
template <class T>
__global__ void __launch_bounds__(128) lift_params_kernel(lift_params p, const T *w, const double *sums, lift_grads g) {
    int    col = blockIdx.x * 128 + threadIdx.x;
    double dw = 0, db = 0, dgamma = 0, dbeta = 0;
    if (col >= p.C) return;
    for (int64_t b = 0; b < p.B; b++) {
        const double *s = sums + b * 4 * p.C, n = (double)(p.first[b + 1] - p.first[b]), centre = centre_of(p, b);
        const double  rest = p.moments[2 * b] - centre, squares = p.moments[2 * b + 1] + rest * rest;
        const double  wide = (double)to_float(w[col]), gamma = (double)p.gamma[col];
        double        m[2];
        if (n == 0) continue;
        norm_column<T> k(p, w, b, col);
        gradient_means(p, w, sums, b, col, m);
        const double xhat = k.rstd * (wide * rest + k.off),
                     xhat_x = k.rstd * (wide * squares + k.off * rest); /* means */
        const double du = k.rstd * (gamma * s[col] - n * (m[0] + m[1] * xhat)) + s[2 * p.C + col];
        const double du_x = k.rstd * (gamma * s[p.C + col] - n * (m[0] * rest + m[1] * xhat_x)) + s[3 * p.C + col];
        dw += du_x + centre * du;
        db += du;
        dgamma += k.rstd * (wide * s[p.C + col] + k.off * s[col]);
        dbeta += s[col];
    }
    g.dw[col] = (float)(g.dw[col] + dw);
    g.db[col] = (float)(g.db[col] + db);
    g.dgamma[col] = (float)(g.dgamma[col] + dgamma);
    g.dbeta[col] = (float)(g.dbeta[col] + dbeta);
}

/* table (B,6,C) of a channel: w, rstd, off, gamma, and the means of the group. */
template <class T>
__global__ void __launch_bounds__(128)
    value_columns_kernel(lift_params p, const T *w, const double *sums, float *table) {
    int64_t i = (int64_t)blockIdx.x * 128 + threadIdx.x, b = i / p.C;
    int     col = (int)(i % p.C);
    if (b >= p.B || p.first[b + 1] == p.first[b]) return;
    double         m[2];
    norm_column<T> k(p, w, b, col);
    gradient_means(p, w, sums, b, col, m);
    const float line[6] = {to_float(w[col]), (float)k.rstd, (float)k.off, p.gamma[col], (float)m[0], (float)m[1]};
#pragma unroll
    for (int j = 0; j < 6; j++) table[(b * 6 + j) * p.C + col] = line[j];
}

/* dv = sum over channels of w du; a thread a parent. Training does not ask for it. */
template <class T>
__global__ void __launch_bounds__(128) value_gradient_kernel(lift_params p, const int32_t *pool_sample, const T *v,
                                                             const T *dy, const T *dskip, const float *table, T *dv) {
    int64_t parent = (int64_t)blockIdx.x * 128 + threadIdx.x;
    if (parent >= p.P) return;
    const int b = segment_of(pool_sample, (int)p.B, parent), lo = p.pool_first[parent], hi = p.pool_first[parent + 1];
    const float *k = table + (int64_t)b * 6 * p.C, share = pool_share<float>(p, hi - lo), centre = centre_of(p, b);
    for (int n = lo; n < hi; n++) {
        float x = to_float(v[n]) - centre, sum = 0.0f;
        for (int i = 0; i < p.C; i++) {
            const float w = k[i], rstd = k[p.C + i], gamma = k[3 * p.C + i];
            const float xhat = rstd * (w * x + k[2 * p.C + i]);
            const float dz = share * to_float(dy[parent * p.C + i]) * act_slope<ACT_SILU, T>(xhat * gamma + p.beta[i]);
            const float du = rstd * (dz * gamma - k[4 * p.C + i] - xhat * k[5 * p.C + i]);
            sum += w * (du + share * to_float(dskip[parent * p.C + i]));
        }
        dv[n] = from_float<T>(sum);
    }
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

/* Four columns a thread: eight would take all registers. */
template <class... P> bool in_fours(const lift_params &p, P... pointers) {
    return p.C % 4 == 0 && aligned16(pointers...);
}

template <class T, int V>
void forward_pass(ctx *c, const lift_params &p, const lift_pool_args *a, const double *table) {
    lift_forward<T, V> f = {p, ptr<const T>(a->v), ptr<const T>(a->w), table, ptr<T>(a->y), ptr<T>(a->skip)};
    row_pass(c, f, p.P, p.C, a->pool_sample);
}

template <class T, int V>
void gradient_pass(ctx *c, const lift_params &p, const lift_pool_args *a, const double *table, row_chunks *chunks,
                   typename row_sum<T>::type **partial) {
    lift_gradient_sums<T, V> f = {p, ptr<const T>(a->v), ptr<const T>(a->dy), ptr<const T>(a->dskip), table};
    row_pass(c, f, p.P, p.C, a->pool_sample, chunks, partial);
}

template <class T> void forward(ctx *c, const lift_pool_args *a) {
    lift_params p = params_of(a);
    const T    *v = ptr<const T>(a->v), *w = ptr<const T>(a->w);
    if (p.B == 0) return;
    row_chunks       chunks;
    double          *partial;
    value_squares<T> squares = {v};
    moments_end      end = {p.first, ptr<double>(a->moments)};
    row_pass(c, squares, a->v->dim[0], 1, a->first, &chunks, &partial);
    column_sums<2>(c, chunks, 1, partial, end);
    double *table = columns_of<T>(c, p, w);
    if (in_fours(p, a->y->data, a->skip->data, w, p.b, table))
        forward_pass<T, 4>(c, p, a, table);
    else
        forward_pass<T, 1>(c, p, a, table);
}

template <class T> void backward(ctx *c, const lift_pool_args *a) {
    lift_params p = params_of(a);
    const T    *v = ptr<const T>(a->v), *w = ptr<const T>(a->w), *dy = ptr<const T>(a->dy);
    const T    *dskip = ptr<const T>(a->dskip);
    if (a->v->dim[0] == 0) return;
    row_chunks                 chunks;
    double                    *table = columns_of<T>(c, p, w);
    typename row_sum<T>::type *partial;
    double                    *sums = (double *)arena_alloc(&c->scratch, sizeof(double) * 4 * (size_t)(p.B * p.C));
    if (in_fours(p, dy, dskip, table))
        gradient_pass<T, 4>(c, p, a, table, &chunks, &partial);
    else
        gradient_pass<T, 1>(c, p, a, table, &chunks, &partial);
    keep_sums<4> keep = {sums, p.C};
    column_sums<4>(c, chunks, p.C, partial, keep);
    lift_grads g = {ptr<float>(a->dw), ptr<float>(a->db), ptr<float>(a->dgamma), ptr<float>(a->dbeta)};
    if (tensor_given(a->dw))
        lift_params_kernel<T><<<(unsigned)ceil_div(p.C, 128), 128, 0, stream_of(c)>>>(p, w, sums, g);
    LAUNCHED(c);
    if (!tensor_given(a->dv)) return;
    float *lines = (float *)arena_alloc(&c->scratch, sizeof(float) * 6 * (size_t)(p.B * p.C));
    value_columns_kernel<T><<<(unsigned)ceil_div(p.B * p.C, 128), 128, 0, stream_of(c)>>>(p, w, sums, lines);
    LAUNCHED(c);
    value_gradient_kernel<T><<<(unsigned)ceil_div(p.P, 128), 128, 0, stream_of(c)>>>(
        p, ptr<const int32_t>(a->pool_sample), v, dy, dskip, lines, ptr<T>(a->dv));
    LAUNCHED(c);
}

} // namespace

extern "C" void lift_pool_fwd_cuda(ctx *c, const lift_pool_args *a) {
    BY_ACT(a->v->dt, T, forward<T>(c, a));
}
extern "C" void lift_pool_bwd_cuda(ctx *c, const lift_pool_args *a) {
    BY_ACT(a->v->dt, T, backward<T>(c, a));
}
