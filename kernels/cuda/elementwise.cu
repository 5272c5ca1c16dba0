/* The small helpers of ops/elementwise.h but the table and the gather: one read and one write of memory each. */
#include "kernels/cuda/dev/row_pass.cuh"

/* ---- add, zero, copy ------------------------------------------------------------------------------------------ */

template <class T> struct add_to {
    const T *x;
    T       *y;

    template <int V> __device__ void at(int64_t i) const {
        float v[V], w[V];
        load_vec<T, V>(x + i, v);
        load_vec<T, V>(y + i, w);
#pragma unroll
        for (int j = 0; j < V; j++) w[j] += v[j];
        store_vec<T, V>(y + i, w);
    }
};

template <class X, class Y> struct cast_array {
    const X *x;
    Y       *y;

    template <int V> __device__ void at(int64_t i) const {
        float v[V];
        load_vec<X, V>(x + i, v);
        store_vec<Y, V>(y + i, v);
    }
};

template <class X, class Y> static void cast_pass(ctx *c, const xy_args *a) {
    cast_array<X, Y> f = {ptr<const X>(a->x), ptr<Y>(a->y)};
    BY_WIDTH(bf16, aligned16(f.x, f.y), V, flat_pass<V>(c, tensor_count(a->x), f));
}

extern "C" void add_fwd_cuda(ctx *c, const xy_args *a) {
    CHECK(a->x->dt == a->y->dt, "add: x is %s, y %s", dtype_name(a->x->dt), dtype_name(a->y->dt));
    BY_ACT(a->y->dt, T, add_to<T> f = {ptr<const T>(a->x), ptr<T>(a->y)};
           BY_WIDTH(T, aligned16(f.x, f.y), V, flat_pass<V>(c, tensor_count(a->x), f)));
}

extern "C" void zero_fwd_cuda(ctx *c, const xy_args *a) {
    if (tensor_bytes(a->y) > 0) CUDA_DO(cudaMemsetAsync(a->y->data, 0, tensor_bytes(a->y), stream_of(c)));
}

extern "C" void copy_fwd_cuda(ctx *c, const xy_args *a) {
    if (a->x->dt == a->y->dt) {
        if (tensor_bytes(a->x) > 0 && a->x->data != a->y->data)
            CUDA_DO(
                cudaMemcpyAsync(a->y->data, a->x->data, tensor_bytes(a->x), cudaMemcpyDeviceToDevice, stream_of(c)));
    } else if (a->x->dt == DT_BF16) {
        cast_pass<bf16, float>(c, a);
    } else {
        cast_pass<float, bf16>(c, a);
    }
}

/* ---- split_cols, merge_cols ----------------------------------------------------------------------------------- */

template <class T> struct column_parts {
    T      *whole, *part[6];
    int64_t C, start[7]; /* part p has columns start[p] .. start[p+1]-1 */
    int     n;
};

template <class T> static column_parts<T> columns_of(const tensor *x, const tensor *const *part, int n, bool *wide) {
    column_parts<T> k = {};
    k.whole = ptr<T>(x);
    k.C = x->dim[1];
    k.n = n;
    *wide = wide_rows<T>(k.C, k.whole);
    for (int p = 0; p < n; p++) {
        k.part[p] = ptr<T>(part[p]);
        k.start[p + 1] = k.start[p] + part[p]->dim[1];
        *wide = *wide && wide_rows<T>(part[p]->dim[1], k.part[p]);
    }
    return k;
}

template <class T, int V_, bool MERGE> struct move_columns {
    static constexpr int V = V_, Q = 0, UNROLL = 4;
    typedef float        sum_t;
    struct column {
        T      *part; /* of row 0 */
        int64_t width;
    };
    struct in {
        pack<T, V> x;
    };
    column_parts<T> k;

    __device__ void begin(int, int64_t col, column &at) const {
        int p = 0;
#pragma unroll
        for (int i = 1; i < 6; i++)
            if (i < k.n && col >= k.start[i]) p = i;
                /* A constant index for each, so that the table stays out of local memory. */
#pragma unroll
        for (int i = 0; i < 6; i++)
            if (i == p) {
                at.part = k.part[i] + (col - k.start[i]);
                at.width = k.start[i + 1] - k.start[i];
            }
    }
    __device__ void load(int64_t n, int64_t col, const column &at, in &r) const {
        r.x = load_raw<T, V>(MERGE ? at.part + n * at.width : k.whole + n * k.C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &at, const in &r, float (&)[1][V]) const {
        store_raw<T, V>(MERGE ? k.whole + n * k.C + col : at.part + n * at.width, r.x);
    }
};

template <class T, bool MERGE> static void move_pass(ctx *c, const tensor *x, const tensor *const *part, int n) {
    bool            wide;
    column_parts<T> k = columns_of<T>(x, part, n, &wide);
    BY_WIDTH(T, wide, V, move_columns<T, V, MERGE> f = {k}; row_pass(c, f, x->dim[0], k.C, NULL));
}

extern "C" void split_cols_fwd_cuda(ctx *c, const split_cols_args *a) {
    BY_ACT(a->x->dt, T, move_pass<T, false>(c, a->x, (const tensor *const *)a->part, a->n_parts));
}
extern "C" void merge_cols_fwd_cuda(ctx *c, const merge_cols_args *a) {
    BY_ACT(a->x->dt, T, move_pass<T, true>(c, a->x, a->part, a->n_parts));
}

/* ---- embed_ape ------------------------------------------------------------------------------------------------ */

/* Half turns per unit of a coordinate; 0 in the columns that stay free. */
static __global__ void ape_frequency_kernel(double *frequency, int C) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, F = C / 6;
    if (i < C) frequency[i] = i < 6 * F ? pow(10000.0, -(double)(i % F) / F) / 3.14159265358979323846 : 0;
}

/* Angles are large (a coordinate times its frequency), so they are reduced in double, to [-1/2, 1/2] half turns; the
 * sine of what is left is an f32 one. cos(a) = sin(a + a quarter turn). */
template <class T, int V_> struct ape_rows {
    static constexpr int V = V_, Q = 0, UNROLL = 1;
    typedef float        sum_t;
    struct column {
        double   frequency[V];
        unsigned axis, cosine; /* 2 bits, 1 bit per column */
    };
    struct in {
        pack<T, V> x;
        int        coord[3];
    };
    const T       *x;
    const int32_t *coord;
    const double  *frequency;
    T             *y;
    double         factor;
    int            C;

    __device__ void begin(int, int64_t col, column &k) const {
        int F = C / 6;
        k.axis = k.cosine = 0;
#pragma unroll
        for (int i = 0; i < V; i++) {
            int at = (int)col + i;
            k.frequency[i] = frequency[at];
            if (at >= 6 * F) continue;
            k.axis |= (unsigned)(at / (2 * F)) << (2 * i);
            k.cosine |= (unsigned)(at % (2 * F) >= F) << i;
        }
    }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * C + col);
#pragma unroll
        for (int j = 0; j < 3; j++) r.coord[j] = coord[n * 3 + j];
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            unsigned axis = k.axis >> (2 * i) & 3;
            int      p = axis == 0 ? r.coord[0] : axis == 1 ? r.coord[1] : r.coord[2];
            double   t = (double)p * factor * k.frequency[i];
            if (k.cosine >> i & 1) t += 0.5;
            t -= 2 * rint(t * 0.5);
            if (t > 0.5) t = 1 - t;
            if (t < -0.5) t = -1 - t;
            v[i] = to_float(r.x.v[i]) + sinpif((float)t);
        }
        store_vec<T, V>(y + n * C + col, v);
    }
};

template <class T> static void ape_pass(ctx *c, const embed_ape_args *a) {
    int64_t  N = a->x->dim[0], C = a->x->dim[1];
    double  *frequency = (double *)arena_alloc(&c->scratch, sizeof(double) * (size_t)C);
    const T *x = ptr<const T>(a->x);
    T       *y = ptr<T>(a->y);
    if (N * C == 0) return;
    ape_frequency_kernel<<<(unsigned)ceil_div(C, 128), 128, 0, stream_of(c)>>>(frequency, (int)C);
    LAUNCHED(c);
    BY_WIDTH(T, wide_rows<T>(C, x, y), V,
             ape_rows<T, V> f = {x, ptr<const int32_t>(a->coord), frequency, y, a->factor, (int)C};
             row_pass(c, f, N, C, NULL));
}

extern "C" void embed_ape_fwd_cuda(ctx *c, const embed_ape_args *a) {
    BY_ACT(a->x->dt, T, ape_pass<T>(c, a));
}

/* ---- embed_time ----------------------------------------------------------------------------------------------- */

template <class T> __global__ void embed_time_kernel(const float *t, T *y, int64_t count, int64_t D) {
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, i = at % D, half = D / 2;
    if (at >= count) return;
    double angle = t[at / D] * pow(10000.0, -(double)(i % half) / (double)half);
    y[at] = from_float<T>((float)(i < half ? cos(angle) : sin(angle)));
}

extern "C" void embed_time_fwd_cuda(ctx *c, const embed_time_args *a) {
    int64_t count = tensor_count(a->y), D = a->y->dim[1];
    if (count == 0) return;
    BY_ACT(a->y->dt, T,
           embed_time_kernel<T>
           <<<(unsigned)ceil_div(count, 128), 128, 0, stream_of(c)>>>(ptr<const float>(a->t), ptr<T>(a->y), count, D));
    LAUNCHED(c);
}
