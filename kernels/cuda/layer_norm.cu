/* LayerNorm with affine or modulation (ops/layer_norm.h).
 *
 * A warp holds a row in registers (K packs of V columns per lane, 32*K*V >= C), so x is read once. The mean is a sum in
 * double, used as a float and the rest, so that a mean far from zero does not eat digits.
 * Backward needs two sums over rows per sample and column, P = sum dy xhat and S = sum dy: everything else follows from
 * them:   dscale = gamma P + beta S,  dshift = S,  dgamma += sum_b (1 + scale) P,  dbeta += sum_b (1 + scale) S.
 * It reads x and dy once for dx and the sums together, the next row while one is worked on. Rows that do not fit the
 * registers, or the 16-byte pieces, take the general kernels, which read them again from the cache. */
#include "kernels/cuda/dev/mma.cuh"
#include "kernels/cuda/dev/row_pass.cuh"

enum { FWD_WARPS = 8, BWD_WARPS = 4 };

template <class T> struct norm_rows {
    const T       *x, *scale, *shift, *dy, *dx_add;
    const T       *h, *gate; /* forward behind a residual */
    const float   *gamma, *beta;
    const int32_t *first; /* NULL: no modulation, no gate */
    T             *sum, *y, *dx;
    float         *mean, *rstd;
    int64_t        N, C;
    int            B;
    float          eps;
};

template <class T> static norm_rows<T> norm_rows_of(const layer_norm_args *a, bool fwd) {
    bool         by_sample = tensor_given(a->scale) || (fwd && tensor_given(a->gate));
    norm_rows<T> r = {};
    r.x = ptr<const T>(a->x);
    r.dy = ptr<const T>(a->dy);
    r.y = ptr<T>(a->y);
    r.dx = ptr<T>(a->dx);
    r.gamma = ptr<const float>(a->gamma);
    r.beta = ptr<const float>(a->beta);
    r.scale = ptr<const T>(a->scale);
    r.shift = ptr<const T>(a->shift);
    if (fwd && tensor_given(a->h)) {
        r.h = ptr<const T>(a->h);
        r.gate = ptr<const T>(a->gate);
        r.sum = ptr<T>(a->sum);
    }
    r.first = by_sample ? ptr<const int32_t>(a->first) : NULL;
    r.B = by_sample ? (int)(a->first->dim[0] - 1) : 1;
    r.mean = ptr<float>(a->mean);
    r.rstd = ptr<float>(a->rstd);
    r.N = a->x->dim[0];
    r.C = a->x->dim[1];
    r.eps = (float)a->eps;
    r.dx_add = ptr<const T>(a->dx_add);
    return r;
}

/* 1/std from the sum of squares about `mean`, which is off by `rest`. A variance that rounding made negative is 0, NaN
 * stays. */
__device__ __forceinline__ float inverse_std(float squares, float rest, int64_t C, float eps) {
    float var = squares / (float)C - rest * rest;
    return 1.0f / sqrtf((var < 0 ? 0 : var) + eps);
}

/* ---- forward -------------------------------------------------------------------------------------------------- */

/* Element i of 16 bytes of a row, which stay as they came. */
__device__ __forceinline__ float element(const pack<float, 4> &x, int i) {
    return x.v[i];
}
__device__ __forceinline__ float element(const pack<uint32_t, 4> &x, int i) {
    return __uint_as_float(i % 2 ? x.v[i / 2] & 0xffff0000u : x.v[i / 2] << 16);
}
template <class T> struct row_part { typedef pack<float, 4> type; };
template <> struct row_part<bf16> { typedef pack<uint32_t, 4> type; };

/* Blocks of a multiprocessor, as registers allow. */
static constexpr int fwd_blocks(int k, bool sum) {
    return k == 8 ? 2 : sum ? 4 : 5;
}

/* SUM: behind a residual. Rows stay in registers as they come, so that many warps have theirs on the way. */
template <class T, int V, int K, bool SUM>
__global__ void __launch_bounds__(32 * FWD_WARPS, fwd_blocks(K, SUM)) layer_norm_fwd_kernel(const norm_rows<T> r) {
    int     lane = threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * FWD_WARPS + threadIdx.x / 32, C = r.C;
    if (n >= r.N) return;

    typedef typename row_part<T>::type part;
    part                               x[K], h[SUM ? K : 1];
    float                              squares = 0;
    double                             sum = 0;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t col = (k * 32 + lane) * V;
        if (col >= C) continue;
        x[k] = *reinterpret_cast<const part *>(r.x + n * C + col);
        if (SUM) h[k] = *reinterpret_cast<const part *>(r.h + n * C + col);
    }
    int64_t b = r.first ? segment_of(r.first, r.B, n) : 0;
    if (SUM) {
#pragma unroll
        for (int k = 0; k < K; k++) {
            int64_t col = (k * 32 + lane) * V;
            if (col >= C) continue;
            part       gate;
            pack<T, V> to;
            if (r.gate) gate = *reinterpret_cast<const part *>(r.gate + b * C + col);
#pragma unroll
            for (int i = 0; i < V; i++) {
                float add = element(h[k], i);
                to.v[i] = from_float<T>(element(x[k], i) + (r.gate ? element(gate, i) * add : add));
            }
            store_raw<T, V>(r.sum + n * C + col, to);
            x[k] = *reinterpret_cast<const part *>(&to);
        }
    }
#pragma unroll
    for (int k = 0; k < K; k++)
        if ((k * 32 + lane) * V < C) {
            double row = element(x[k], 0); /* K short chains of additions */
#pragma unroll
            for (int i = 1; i < V; i++) row += element(x[k], i);
            sum += row;
        }
    sum = warp_sum(sum) / (double)C;
    float mean = (float)sum, rest = (float)(sum - mean);
#pragma unroll
    for (int k = 0; k < K; k++)
        if ((k * 32 + lane) * V < C)
#pragma unroll
            for (int i = 0; i < V; i++) {
                float d = element(x[k], i) - mean;
                squares += d * d;
            }
    float rstd = inverse_std(warp_sum(squares), rest, C, r.eps);
    if (lane == 0) {
        r.mean[n] = mean;
        r.rstd[n] = rstd;
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t col = (k * 32 + lane) * V;
        if (col >= C) continue;
        float v[V], p[V], q[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = ((element(x[k], i) - mean) - rest) * rstd;
        if (r.gamma) {
            load_vec<float, V>(r.gamma + col, p);
            load_vec<float, V>(r.beta + col, q);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = v[i] * p[i] + q[i];
        }
        if (r.scale) {
            load_vec<T, V>(r.scale + b * C + col, p);
            load_vec<T, V>(r.shift + b * C + col, q);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = v[i] * (1.0f + p[i]) + q[i];
        }
        store_vec<T, V>(r.y + n * C + col, v);
    }
}

/* Any C. */
template <class T> __global__ void __launch_bounds__(32 * FWD_WARPS) layer_norm_fwd_any_kernel(const norm_rows<T> r) {
    int     lane = threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * FWD_WARPS + threadIdx.x / 32, C = r.C;
    if (n >= r.N) return;
    int64_t  b = r.first ? segment_of(r.first, r.B, n) : 0;
    const T *x = r.x + n * C;
    double   sum = 0;
    float    squares = 0;
    if (r.h) {
        for (int64_t i = lane; i < C; i += 32)
            r.sum[n * C + i] = from_float<T>(to_float(x[i]) +
                                             (r.gate ? to_float(r.gate[b * C + i]) : 1.0f) * to_float(r.h[n * C + i]));
        x = r.sum + n * C;
    }
    for (int64_t i = lane; i < C; i += 32) sum += to_float(x[i]);
    sum = warp_sum(sum) / (double)C;
    float mean = (float)sum, rest = (float)(sum - mean);
    for (int64_t i = lane; i < C; i += 32) {
        float d = to_float(x[i]) - mean;
        squares += d * d;
    }
    float rstd = inverse_std(warp_sum(squares), rest, C, r.eps);
    if (lane == 0) {
        r.mean[n] = mean;
        r.rstd[n] = rstd;
    }
    for (int64_t i = lane; i < C; i += 32) {
        float u = ((to_float(x[i]) - mean) - rest) * rstd;
        if (r.gamma) u = u * r.gamma[i] + r.beta[i];
        if (r.scale) u = u * (1.0f + to_float(r.scale[b * C + i])) + to_float(r.shift[b * C + i]);
        r.y[n * C + i] = from_float<T>(u);
    }
}

template <class T, int V, int K> static void forward_wide(const norm_rows<T> &r, unsigned blocks, cudaStream_t s) {
    if (r.h)
        layer_norm_fwd_kernel<T, V, K, true><<<blocks, 32 * FWD_WARPS, 0, s>>>(r);
    else
        layer_norm_fwd_kernel<T, V, K, false><<<blocks, 32 * FWD_WARPS, 0, s>>>(r);
}

template <class T> static void forward(ctx *c, const layer_norm_args *a) {
    constexpr int V = 16 / (int)sizeof(T);
    norm_rows<T>  r = norm_rows_of<T>(a, true);
    if (r.N == 0) return;
    unsigned     blocks = (unsigned)ceil_div(r.N, FWD_WARPS);
    int          threads = 32 * FWD_WARPS;
    cudaStream_t s = stream_of(c);
    if (!wide_rows<T>(r.C, r.x, r.h, r.gate, r.sum, r.y, r.gamma, r.beta, r.scale, r.shift) || r.C > 8 * 32 * V)
        layer_norm_fwd_any_kernel<T><<<blocks, threads, 0, s>>>(r);
    else if (r.C <= 32 * V)
        forward_wide<T, V, 1>(r, blocks, s);
    else if (r.C <= 2 * 32 * V)
        forward_wide<T, V, 2>(r, blocks, s);
    else if (r.C <= 4 * 32 * V)
        forward_wide<T, V, 4>(r, blocks, s);
    else
        forward_wide<T, V, 8>(r, blocks, s);
    LAUNCHED(c);
}

/* ---- backward: dx and the sums in one pass -------------------------------------------------------------------- */

/* What dy becomes on the way to xhat, for V columns: dy gamma (1 + scale). Without gamma the scale stays packed, for
 * the registers of the widest bf16 kernel. */
template <class T, int V, bool AFFINE> struct norm_factor {
    float f[V];

    __device__ __forceinline__ void load(const norm_rows<T> &r, int b, int64_t col) {
        load_vec<float, V>(r.gamma + col, f);
        if (r.scale) {
            float scale[V];
            load_vec<T, V>(r.scale + b * r.C + col, scale);
#pragma unroll
            for (int i = 0; i < V; i++) f[i] *= 1.0f + scale[i];
        }
    }
    __device__ __forceinline__ float times(float d, int i) const {
        return d * f[i];
    }
};
template <class T, int V> struct norm_factor<T, V, false> {
    pack<T, V> scale;

    __device__ __forceinline__ void load(const norm_rows<T> &r, int b, int64_t col) {
        if (r.scale) {
            scale = load_raw<T, V>(r.scale + b * r.C + col);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) scale.v[i] = from_float<T>(0.0f);
        }
    }
    __device__ __forceinline__ float times(float d, int i) const {
        return d + d * to_float(scale.v[i]);
    }
};

/* A row on its way: each lane copies the pieces that it reads itself, so no barrier is needed. */
template <class T, int V, int K> struct norm_row { pack<T, V> x[K][32], dy[K][32], add[K][32]; };

enum { BWD_STAGES = 2 };

/* partial: [slot][P, S][C], or NULL. A block takes a chunk of rows, its warps take turns. */
template <class T, int V, int K, bool AFFINE>
__global__ void __launch_bounds__(32 * BWD_WARPS, sizeof(T) == 2 ? 3 : 2)
    layer_norm_bwd_kernel(const norm_rows<T> r, const row_chunks chunks, float *partial) {
    extern __shared__ __align__(16) unsigned char shared_bytes[];

    int                lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t            C = r.C;
    float             *room = reinterpret_cast<float *>(shared_bytes);
    norm_row<T, V, K> *stage = reinterpret_cast<norm_row<T, V, K> *>(shared_bytes) + warp * BWD_STAGES;
    for_runs(chunks, (int)blockIdx.x, [&](int64_t lo, int64_t hi, int b, int64_t slot) {
        norm_factor<T, V, AFFINE> factor[K];
        float                     sum[2][K][V], next_mean = 0, next_rstd = 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            int64_t col = (k * 32 + lane) * V;
            if (col < C) factor[k].load(r, b, col);
#pragma unroll
            for (int i = 0; i < V; i++) sum[0][k][i] = sum[1][k][i] = 0;
        }
        auto fetch = [&](int64_t n, norm_row<T, V, K> &to) {
            if (n < hi) {
#pragma unroll
                for (int k = 0; k < K; k++) {
                    int64_t col = (k * 32 + lane) * V;
                    if (col >= C) continue;
                    cp_async_16(smem_addr(&to.x[k][lane]), r.x + n * C + col, 16);
                    cp_async_16(smem_addr(&to.dy[k][lane]), r.dy + n * C + col, 16);
                    if (r.dx_add) cp_async_16(smem_addr(&to.add[k][lane]), r.dx_add + n * C + col, 16);
                }
                next_mean = r.mean[n];
                next_rstd = r.rstd[n];
            }
            cp_async_commit();
        };
        int at = 0;
        fetch(lo + warp, stage[0]);
        for (int64_t n = lo + warp; n < hi; n += BWD_WARPS, at ^= 1) {
            const norm_row<T, V, K> &in = stage[at];
            float                    mean = next_mean, rstd = next_rstd, s0 = 0, s1 = 0;
            fetch(n + BWD_WARPS, stage[at ^ 1]);
            cp_async_wait<1>();
#pragma unroll
            for (int k = 0; k < K; k++)
                if ((k * 32 + lane) * V < C) {
                    pack<T, V> x = in.x[k][lane], dy = in.dy[k][lane];
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        float xhat = (to_float(x.v[i]) - mean) * rstd, d = to_float(dy.v[i]);
                        float g = factor[k].times(d, i);
                        s0 += g;
                        s1 += g * xhat;
                        sum[0][k][i] += d * xhat;
                        sum[1][k][i] += d;
                    }
                }
            s0 = warp_sum(s0) / (float)C;
            s1 = warp_sum(s1) / (float)C;
            asm volatile("" ::: "memory"); /* the row is read again instead of being kept in registers */
#pragma unroll
            for (int k = 0; k < K; k++) {
                int64_t col = (k * 32 + lane) * V;
                if (col >= C) continue;
                pack<T, V> x = in.x[k][lane], dy = in.dy[k][lane];
                float      out[V];
#pragma unroll
                for (int i = 0; i < V; i++) {
                    float xhat = (to_float(x.v[i]) - mean) * rstd;
                    out[i] = rstd * (factor[k].times(to_float(dy.v[i]), i) - s0 - xhat * s1);
                }
                if (r.dx_add) {
                    pack<T, V> add = in.add[k][lane];
#pragma unroll
                    for (int i = 0; i < V; i++) out[i] = to_float(add.v[i]) + out[i];
                }
                store_vec<T, V>(r.dx + n * C + col, out);
            }
        }
        if (!partial) return;
        cp_async_wait<0>();
        __syncthreads(); /* room is the stages' memory */
        /* The warps add theirs in turn; the last one writes. */
        for (int w = 0; w < BWD_WARPS; w++) {
            if (warp == w)
#pragma unroll
                for (int q = 0; q < 2; q++)
#pragma unroll
                    for (int k = 0; k < K; k++) {
                        int64_t col = (k * 32 + lane) * V;
#pragma unroll
                        for (int i = 0; i < V; i++) {
                            float *mine = &room[((q * K + k) * V + i) * 32 + lane];
                            if (w > 0) sum[q][k][i] += *mine;
                            if (w + 1 < BWD_WARPS) *mine = sum[q][k][i];
                        }
                        if (w + 1 == BWD_WARPS && col < C)
                            store_vec<float, V>(partial + (slot * 2 + q) * C + col, sum[q][k]);
                    }
            __syncthreads();
        }
    });
}

/* The sums alone, and dx alone, for any C. */
template <class T, int V_> struct norm_sums {
    static constexpr int V = V_, Q = 2, UNROLL = 2;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> x, dy;
        float      mean, rstd;
    };
    norm_rows<T> r;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &x) const {
        x.x = load_raw<T, V>(r.x + n * r.C + col);
        x.dy = load_raw<T, V>(r.dy + n * r.C + col);
        x.mean = r.mean[n];
        x.rstd = r.rstd[n];
    }
    __device__ void use(int64_t, int64_t, const column &, const in &x, float (&sum)[2][V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) {
            float d = to_float(x.dy.v[i]);
            sum[0][i] += d * ((to_float(x.x.v[i]) - x.mean) * x.rstd);
            sum[1][i] += d;
        }
    }
};

template <class T> __global__ void __launch_bounds__(32 * FWD_WARPS) layer_norm_dx_any_kernel(const norm_rows<T> r) {
    int     lane = threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * FWD_WARPS + threadIdx.x / 32, C = r.C;
    if (n >= r.N) return;
    int      b = r.first ? segment_of(r.first, r.B, n) : 0;
    const T *x = r.x + n * C, *dy = r.dy + n * C;
    float    mean = r.mean[n], rstd = r.rstd[n], s0 = 0, s1 = 0;
    auto     du = [&](int64_t i) {
        float d = to_float(dy[i]);
        if (r.gamma) d *= r.gamma[i];
        return r.scale ? d + d * to_float(r.scale[b * C + i]) : d;
    };
    for (int64_t i = lane; i < C; i += 32) {
        float g = du(i);
        s0 += g;
        s1 += g * ((to_float(x[i]) - mean) * rstd);
    }
    s0 = warp_sum(s0) / (float)C;
    s1 = warp_sum(s1) / (float)C;
    for (int64_t i = lane; i < C; i += 32) {
        float xhat = (to_float(x[i]) - mean) * rstd;
        float v = rstd * (du(i) - s0 - xhat * s1);
        r.dx[n * C + i] = from_float<T>(r.dx_add ? to_float(r.dx_add[n * C + i]) + v : v);
    }
}

/* ---- backward: from the sums to the parameters ---------------------------------------------------------------- */

template <class T> struct norm_gradients {
    const float *gamma, *beta;
    const T     *scale;
    T           *dscale, *dshift;
    float       *dgamma, *dbeta; /* of the one sample, without modulation */
    double      *weighted;       /* (B,2,C): (1 + scale) P, (1 + scale) S, for layer_norm_params_kernel */
    int64_t      C;

    __device__ void operator()(int b, int64_t col, const double (&sum)[2]) const {
        int64_t at = b * C + col;
        if (dscale) {
            double u = gamma ? gamma[col] * sum[0] + beta[col] * sum[1] : sum[0];
            dscale[at] = from_float<T>((float)u);
            dshift[at] = from_float<T>((float)sum[1]);
        }
        if (dgamma) {
            dgamma[col] = (float)(dgamma[col] + sum[0]);
            dbeta[col] = (float)(dbeta[col] + sum[1]);
        }
        if (weighted) {
            double w = 1.0 + to_float(scale[at]);
            weighted[((int64_t)b * 2) * C + col] = w * sum[0];
            weighted[((int64_t)b * 2 + 1) * C + col] = w * sum[1];
        }
    }
};

static __global__ void layer_norm_params_kernel(const double *weighted, int B, int64_t C, float *dgamma, float *dbeta) {
    int64_t col = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= C) return;
    double p = 0, s = 0;
    for (int64_t b = 0; b < B; b++) {
        p += weighted[b * 2 * C + col];
        s += weighted[(b * 2 + 1) * C + col];
    }
    dgamma[col] = (float)(dgamma[col] + p);
    dbeta[col] = (float)(dbeta[col] + s);
}

template <class T>
static void gradients(ctx *c, const layer_norm_args *a, const norm_rows<T> &r, const row_chunks &k,
                      const float *partial) {
    bool              both = tensor_given(a->dgamma) && r.first;
    norm_gradients<T> g = {};
    g.gamma = r.gamma;
    g.beta = r.beta;
    g.scale = r.scale;
    g.dscale = ptr<T>(a->dscale);
    g.dshift = ptr<T>(a->dshift);
    g.dgamma = both ? NULL : ptr<float>(a->dgamma);
    g.dbeta = both ? NULL : ptr<float>(a->dbeta);
    g.weighted = both ? (double *)arena_alloc(&c->scratch, sizeof(double) * 2 * (size_t)(r.B * r.C)) : NULL;
    g.C = r.C;
    column_sums<2>(c, k, r.C, partial, g);
    if (!both || r.B == 0) return;
    layer_norm_params_kernel<<<(unsigned)ceil_div(r.C, 128), 128, 0, stream_of(c)>>>(
        g.weighted, r.B, r.C, ptr<float>(a->dgamma), ptr<float>(a->dbeta));
    LAUNCHED(c);
}

template <class T, int V, int K, bool AFFINE>
static void fused_backward(ctx *c, const layer_norm_args *a, const norm_rows<T> &r, bool sums) {
    auto kernel = layer_norm_bwd_kernel<T, V, K, AFFINE>;
    int  threads = 32 * BWD_WARPS, bytes = (int)sizeof(norm_row<T, V, K>) * BWD_STAGES * BWD_WARPS;
    CUDA_DO(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    int64_t    blocks = (int64_t)resident_blocks(kernel, threads, (size_t)bytes) * c->cuda->multiprocessors;
    row_chunks k = chunk_rows(r.N, r.first ? a->first : NULL, blocks, BWD_WARPS);
    float     *partial = NULL;
    if (sums) partial = (float *)arena_alloc(&c->scratch, sizeof(float) * 2 * (size_t)(slot_count(k) * r.C));
    if (k.n_chunks > 0) {
        kernel<<<(unsigned)k.n_chunks, threads, (size_t)bytes, stream_of(c)>>>(r, k, partial);
        LAUNCHED(c);
    }
    if (sums) gradients<T>(c, a, r, k, partial);
}

template <class T, int V, int K>
static void fused_backward(ctx *c, const layer_norm_args *a, const norm_rows<T> &r, bool sums) {
    if (r.gamma)
        fused_backward<T, V, K, true>(c, a, r, sums);
    else
        fused_backward<T, V, K, false>(c, a, r, sums);
}

template <class T> static void backward(ctx *c, const layer_norm_args *a) {
    constexpr int V = 16 / (int)sizeof(T), K_MAX = 32 / V; /* 32 columns per lane */
    norm_rows<T>  r = norm_rows_of<T>(a, false);
    bool          sums = tensor_given(a->dgamma) || tensor_given(a->dscale);
    bool          wide = wide_rows<T>(r.C, r.x, r.dy, r.dx, r.dx_add, r.gamma, r.scale);
    if (wide && r.C <= 32 * V) {
        fused_backward<T, V, 1>(c, a, r, sums);
    } else if (wide && r.C <= 2 * 32 * V) {
        fused_backward<T, V, 2>(c, a, r, sums);
    } else if (wide && r.C <= 4 * 32 * V) {
        fused_backward<T, V, 4>(c, a, r, sums);
    } else if (wide && r.C <= K_MAX * 32 * V) {
        fused_backward<T, V, K_MAX>(c, a, r, sums);
    } else {
        if (sums) {
            row_chunks k;
            float     *partial;
            BY_WIDTH(T, wide, W, norm_sums<T, W> f = {r};
                     row_pass(c, f, r.N, r.C, r.first ? a->first : NULL, &k, &partial));
            gradients<T>(c, a, r, k, partial);
        }
        if (r.N == 0) return;
        layer_norm_dx_any_kernel<T><<<(unsigned)ceil_div(r.N, FWD_WARPS), 32 * FWD_WARPS, 0, stream_of(c)>>>(r);
        LAUNCHED(c);
    }
}

extern "C" void layer_norm_fwd_cuda(ctx *c, const layer_norm_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void layer_norm_bwd_cuda(ctx *c, const layer_norm_args *a) {
    BY_ACT(a->x->dt, T, backward<T>(c, a));
}
