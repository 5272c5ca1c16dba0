/* The losses (ops/loss.h): f32 in, sums in double from the first difference on. */
#include "kernels/cuda/dev/row_pass.cuh"
#include "kernels/cuda/dev/total.cuh"

/* ---- sdf_loss ------------------------------------------------------------------------------------------------- */

enum { SDF_IN, SDF_EXT, SDF_SHARP, SDF_CLASSES };

struct sdf_values {
    const float   *pred, *target;
    const uint8_t *sharp; /* NULL: none is */
    int64_t        M;

    /* Bits of the V elements from m on; V divides 8 and m is a multiple of V. */
    template <int V> __device__ __forceinline__ unsigned sharp_bits(int64_t m) const {
        return sharp ? (unsigned)sharp[m / 8] >> (m % 8) : 0u;
    }
};

template <int V>
__device__ __forceinline__ void add_sdf(const sdf_values &s, int64_t m, double (&sum)[3], int (&n)[3]) {
    float p[V], t[V];
    load_vec<float, V>(s.pred + m, p);
    load_vec<float, V>(s.target + m, t);
    unsigned bits = s.sharp_bits<V>(m);
#pragma unroll
    for (int i = 0; i < V; i++) {
        /* a target that is NaN counts as outside */
        double e = (double)p[i] - (double)t[i], e2 = e * e;
        bool   in = fabsf(t[i]) < 1.0f, sharp = in && (bits >> i & 1);
        if (in) sum[SDF_IN] += e2;
        if (!in) sum[SDF_EXT] += e2;
        if (sharp) sum[SDF_SHARP] += e2;
        n[SDF_IN] += in;
        n[SDF_EXT] += !in;
        n[SDF_SHARP] += sharp;
    }
}

/* partial: three sums and three counts */
template <int V> __global__ void __launch_bounds__(TOTAL_THREADS) sdf_loss_kernel(const sdf_values s, double *partial) {
    double  sum[SDF_CLASSES] = {0, 0, 0}, all[2 * SDF_CLASSES];
    int     n[SDF_CLASSES] = {0, 0, 0};
    int64_t m = ((int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x) * V, step = (int64_t)gridDim.x * TOTAL_THREADS * V;
    for (; m + V <= s.M; m += step) add_sdf<V>(s, m, sum, n);
    if (V > 1)
        for (; m < s.M; m++) add_sdf<1>(s, m, sum, n);
#pragma unroll
    for (int k = 0; k < SDF_CLASSES; k++) {
        all[k] = sum[k];
        all[SDF_CLASSES + k] = n[k];
    }
    store_totals<2 * SDF_CLASSES>(all, partial);
}

static sdf_values sdf_values_of(const sdf_loss_args *a) {
    sdf_values s = {ptr<const float>(a->pred), ptr<const float>(a->target), ptr<const uint8_t>(a->sharp),
                    a->pred->dim[0]};
    return s;
}

extern "C" void sdf_loss_fwd_cuda(ctx *c, const sdf_loss_args *a) {
    sdf_values s = sdf_values_of(a);
    int        blocks = total_blocks(c, ceil_div(s.M, 4));
    double    *partial = (double *)arena_alloc(&c->scratch, sizeof(double) * 2 * SDF_CLASSES * (size_t)blocks);
    if (blocks > 0) {
        BY_WIDTH(float, aligned16(s.pred, s.target), V,
                 sdf_loss_kernel<V><<<(unsigned)blocks, TOTAL_THREADS, 0, stream_of(c)>>>(s, partial));
        LAUNCHED(c);
    }
    add_totals(c, partial, blocks, SDF_CLASSES, ptr<double>(a->sums));
    add_totals(c, partial + SDF_CLASSES * (int64_t)blocks, blocks, SDF_CLASSES, ptr<double>(a->counts));
}

struct sdf_gradient {
    sdf_values s;
    float      in, ext, sharp; /* 2 * scale */
    float     *dpred;

    template <int V> __device__ void at(int64_t m) const {
        float p[V], t[V];
        load_vec<float, V>(s.pred + m, p);
        load_vec<float, V>(s.target + m, t);
        unsigned bits = s.sharp_bits<V>(m);
#pragma unroll
        for (int i = 0; i < V; i++) {
            bool  inside = fabsf(t[i]) < 1.0f;
            float scale = inside ? in : ext;
            if (inside && (bits >> i & 1)) scale += sharp;
            p[i] = (p[i] - t[i]) * scale;
        }
        store_vec<float, V>(dpred + m, p);
    }
};

extern "C" void sdf_loss_bwd_cuda(ctx *c, const sdf_loss_args *a) {
    sdf_gradient f = {sdf_values_of(a), (float)(2 * a->scale[SDF_IN]), (float)(2 * a->scale[SDF_EXT]),
                      (float)(2 * a->scale[SDF_SHARP]), ptr<float>(a->dpred)};
    BY_WIDTH(float, aligned16(f.s.pred, f.s.target, f.dpred), V, flat_pass<V>(c, f.s.M, f));
}

/* ---- mse_rows ------------------------------------------------------------------------------------------------- */

/* The runs of a row pass (dev/row_pass.cuh), each one sum. */
template <int V>
__global__ void __launch_bounds__(TOTAL_THREADS)
    mse_rows_kernel(const row_chunks k, const int64_t C, const float *pred, const float *target, double *partial) {
    __shared__ double room[33];
    for_runs(k, (int)blockIdx.x, [&](int64_t lo, int64_t hi, int, int64_t slot) {
        double sum = 0;
        for (int64_t i = lo * C + threadIdx.x * V; i < hi * C; i += TOTAL_THREADS * V) {
            float p[V], t[V];
            load_vec<float, V>(pred + i, p);
            load_vec<float, V>(target + i, t);
#pragma unroll
            for (int j = 0; j < V; j++) {
                double e = (double)p[j] - (double)t[j];
                sum += e * e;
            }
        }
        sum = block_sum(sum, room);
        if (threadIdx.x == 0) partial[slot] = sum;
    });
}

extern "C" void mse_rows_fwd_cuda(ctx *c, const mse_rows_args *a) {
    int64_t      N = a->pred->dim[0], C = a->pred->dim[1];
    const float *pred = ptr<const float>(a->pred), *target = ptr<const float>(a->target);
    int64_t      least = ceil_div(4 * TOTAL_THREADS * 4, C < 1 ? 1 : C); /* rows: four accesses per thread */
    row_chunks   k = chunk_rows(N, a->first, (int64_t)c->cuda->multiprocessors * 16, least);
    double      *partial = (double *)arena_alloc(&c->scratch, sizeof(double) * (size_t)slot_count(k));
    keep_sums<1> keep = {ptr<double>(a->sums), 1};
    if (k.n_chunks > 0) {
        BY_WIDTH(float, wide_rows<float>(C, pred, target), V,
                 mse_rows_kernel<V>
                 <<<(unsigned)k.n_chunks, TOTAL_THREADS, 0, stream_of(c)>>>(k, C, pred, target, partial));
        LAUNCHED(c);
    }
    column_sums<1>(c, k, 1, partial, keep);
}

struct mse_gradient {
    const float *pred, *target;
    float        scale;
    float       *dpred;

    template <int V> __device__ void at(int64_t i) const {
        float p[V], t[V];
        load_vec<float, V>(pred + i, p);
        load_vec<float, V>(target + i, t);
#pragma unroll
        for (int j = 0; j < V; j++) p[j] = (p[j] - t[j]) * scale;
        store_vec<float, V>(dpred + i, p);
    }
};

extern "C" void mse_rows_bwd_cuda(ctx *c, const mse_rows_args *a) {
    mse_gradient f = {ptr<const float>(a->pred), ptr<const float>(a->target), (float)(2 * a->scale),
                      ptr<float>(a->dpred)};
    BY_WIDTH(float, aligned16(f.pred, f.target, f.dpred), V, flat_pass<V>(c, tensor_count(a->pred), f));
}

/* ---- flow_noise ----------------------------------------------------------------------------------------------- */

template <int V_> struct flow_rows {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {
        float keep, mix; /* of x0 and of eps in x_t */
    };
    struct in {
        pack<float, V> x0, eps;
    };
    const float *x0, *eps, *t;
    float       *x_t, *v;
    double       sigma;
    int64_t      C;

    __device__ void begin(int b, int64_t, column &k) const {
        double time = t[b];
        k.keep = (float)(1 - time);
        k.mix = (float)(sigma + (1 - sigma) * time);
    }
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x0 = load_raw<float, V>(x0 + n * C + col);
        r.eps = load_raw<float, V>(eps + n * C + col);
    }
    __device__ void use(int64_t n, int64_t col, const column &k, const in &r, float (&)[1][V]) const {
        float noisy[V], velocity[V], s = (float)(1 - sigma);
#pragma unroll
        for (int i = 0; i < V; i++) {
            noisy[i] = k.keep * r.x0.v[i] + k.mix * r.eps.v[i];
            velocity[i] = s * r.eps.v[i] - r.x0.v[i];
        }
        store_vec<float, V>(x_t + n * C + col, noisy);
        store_vec<float, V>(v + n * C + col, velocity);
    }
};

extern "C" void flow_noise_fwd_cuda(ctx *c, const flow_noise_args *a) {
    int64_t      N = a->x0->dim[0], C = a->x0->dim[1];
    const float *x0 = ptr<const float>(a->x0), *eps = ptr<const float>(a->eps), *t = ptr<const float>(a->t);
    float       *x_t = ptr<float>(a->x_t), *v = ptr<float>(a->v);
    BY_WIDTH(float, wide_rows<float>(C, x0, eps, x_t, v), V, flow_rows<V> f = {x0, eps, t, x_t, v, a->sigma_min, C};
             row_pass(c, f, N, C, a->first));
}
