/* VAE posterior (ops/vae_sample.h). One exponential in double serves z, and exp(logvar) as its square for the KL sum.
 */
#include "kernels/cuda/dev/total.cuh"

struct moment_rows {
    const float *moments, *eps, *dz;
    float       *z, *dmoments;
    int64_t      N, C;
    float        kl_scale;
};

/* NaN stays. */
__device__ __forceinline__ float clamp_logvar(float x) {
    return x < -30.0f ? -30.0f : x > 20.0f ? 20.0f : x;
}

/* Piece i of N*C/V: its place in z, in the means, and (C further) in the log variances. */
template <int V> __device__ __forceinline__ void place(const moment_rows &r, int64_t i, int64_t *z, int64_t *mean) {
    int64_t pieces = r.C / V, n = i / pieces, col = (i - n * pieces) * V;
    *z = n * r.C + col;
    *mean = 2 * n * r.C + col;
}

template <int V>
__global__ void __launch_bounds__(TOTAL_THREADS, 2) vae_sample_kernel(const moment_rows r, double *partial) {
    double sum[1] = {0};
    for (int64_t i = (int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x; i < r.N * (r.C / V);
         i += (int64_t)gridDim.x * TOTAL_THREADS) {
        int64_t at, from;
        float   mean[V], logvar[V], eps[V], z[V];
        place<V>(r, i, &at, &from);
        load_vec<float, V>(r.moments + from, mean);
        load_vec<float, V>(r.moments + from + r.C, logvar);
        if (r.eps) load_vec<float, V>(r.eps + at, eps);
#pragma unroll
        for (int j = 0; j < V; j++) {
            double l = clamp_logvar(logvar[j]), sigma = exp(0.5 * l), m = mean[j];
            z[j] = r.eps ? (float)(m + sigma * eps[j]) : mean[j];
            sum[0] += 0.5 * (m * m + sigma * sigma - 1 - l);
        }
        store_vec<float, V>(r.z + at, z);
    }
    store_totals<1>(sum, partial);
}

template <int V> __global__ void __launch_bounds__(TOTAL_THREADS) vae_sample_bwd_kernel(const moment_rows r) {
    for (int64_t i = (int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x; i < r.N * (r.C / V);
         i += (int64_t)gridDim.x * TOTAL_THREADS) {
        int64_t at, from;
        float   mean[V], logvar[V], eps[V], dz[V];
        place<V>(r, i, &at, &from);
        load_vec<float, V>(r.moments + from, mean);
        load_vec<float, V>(r.moments + from + r.C, logvar);
#pragma unroll
        for (int j = 0; j < V; j++) eps[j] = dz[j] = 0;
        if (r.eps) load_vec<float, V>(r.eps + at, eps);
        if (r.dz) load_vec<float, V>(r.dz + at, dz);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float l = clamp_logvar(logvar[j]);
            /* exp(l) - 1 without the cancellation near l = 0 */
            float d = dz[j] * eps[j] * 0.5f * expf(0.5f * l) + r.kl_scale * 0.5f * expm1f(l);
            mean[j] = dz[j] + r.kl_scale * mean[j];
            logvar[j] = logvar[j] < -30.0f || logvar[j] > 20.0f ? 0.0f : d;
        }
        store_vec<float, V>(r.dmoments + from, mean);
        store_vec<float, V>(r.dmoments + from + r.C, logvar);
    }
}

static moment_rows moment_rows_of(const vae_sample_args *a) {
    moment_rows r = {
        ptr<const float>(a->moments), ptr<const float>(a->eps), ptr<const float>(a->dz), ptr<float>(a->z),
        ptr<float>(a->dmoments),      a->moments->dim[0],       a->moments->dim[1] / 2,  (float)a->kl_scale};
    return r;
}

extern "C" void vae_sample_fwd_cuda(ctx *c, const vae_sample_args *a) {
    moment_rows r = moment_rows_of(a);
    int         blocks = total_blocks(c, r.N * r.C);
    double     *partial = (double *)arena_alloc(&c->scratch, sizeof(double) * (size_t)blocks);
    if (blocks > 0) {
        BY_WIDTH(float, wide_rows<float>(r.C, r.moments, r.eps, r.z), V,
                 vae_sample_kernel<V><<<(unsigned)blocks, TOTAL_THREADS, 0, stream_of(c)>>>(r, partial));
        LAUNCHED(c);
    }
    add_totals(c, partial, blocks, 1, ptr<double>(a->kl));
}

extern "C" void vae_sample_bwd_cuda(ctx *c, const vae_sample_args *a) {
    moment_rows r = moment_rows_of(a);
    int         blocks = total_blocks(c, r.N * r.C);
    if (blocks == 0) return;
    BY_WIDTH(float, wide_rows<float>(r.C, r.moments, r.eps, r.dz, r.dmoments), V,
             vae_sample_bwd_kernel<V><<<(unsigned)blocks, TOTAL_THREADS, 0, stream_of(c)>>>(r));
    LAUNCHED(c);
}
