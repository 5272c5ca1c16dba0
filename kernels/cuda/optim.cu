/* The update over flat slabs (ops/optim.h): adamw reads and writes every slab once. */
#include "kernels/cuda/dev/total.cuh"

#include <math.h>

/* ---- sum_squares ---------------------------------------------------------------------------------------------- */

template <class T, int V>
__global__ void __launch_bounds__(TOTAL_THREADS) sum_squares_kernel(const T *x, int64_t n, double *partial) {
    double  sum[1] = {0};
    int64_t i = ((int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x) * V, step = (int64_t)gridDim.x * TOTAL_THREADS * V;
    for (; i + V <= n; i += step) {
        float v[V];
        load_vec<T, V>(x + i, v);
#pragma unroll
        for (int j = 0; j < V; j++) sum[0] = fma((double)v[j], (double)v[j], sum[0]);
    }
    if (V > 1)
        for (; i < n; i++) sum[0] = fma((double)to_float(x[i]), (double)to_float(x[i]), sum[0]);
    store_totals<1>(sum, partial);
}

template <class T> static void squares(ctx *c, const sum_squares_args *a) {
    int64_t  n = tensor_count(a->x);
    const T *x = ptr<const T>(a->x);
    int      blocks = total_blocks(c, ceil_div(n, 4));
    double  *partial = (double *)arena_alloc(&c->scratch, sizeof(double) * (size_t)blocks);
    if (blocks > 0) {
        BY_WIDTH(T, aligned16(x), V,
                 sum_squares_kernel<T, V><<<(unsigned)blocks, TOTAL_THREADS, 0, stream_of(c)>>>(x, n, partial));
        LAUNCHED(c);
    }
    add_totals(c, partial, blocks, 1, ptr<double>(a->out));
}

extern "C" void sum_squares_fwd_cuda(ctx *c, const sum_squares_args *a) {
    BY_ACT(a->x->dt, T, squares<T>(c, a));
}

/* ---- adamw ---------------------------------------------------------------------------------------------------- */

/* Operation by operation what kernels/ref/optim.c does; the intrinsics keep the compiler from fusing more. */
struct adamw_step {
    float       *w, *m, *v, *ema; /* ema, w16: NULL where not kept */
    bf16        *w16;
    const float *grad;
    float        grad_scale, shrink, eps, b1c, b2, b2c, step, root, keep, mix;

    template <int V> __device__ void at(int64_t i) const {
        float w_[V], m_[V], v_[V], g_[V], e_[V];
        load_vec<float, V>(w + i, w_);
        load_vec<float, V>(m + i, m_);
        load_vec<float, V>(v + i, v_);
        load_vec<float, V>(grad + i, g_);
        if (ema) load_vec<float, V>(ema + i, e_);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float g = __fmul_rn(g_[j], grad_scale);
            m_[j] = __fmaf_rn(b1c, __fsub_rn(g, m_[j]), m_[j]);
            v_[j] = __fmaf_rn(__fmul_rn(b2c, g), g, __fmul_rn(v_[j], b2));
            float down = __fadd_rn(__fdiv_rn(__fsqrt_rn(v_[j]), root), eps);
            w_[j] = __fsub_rn(__fmul_rn(w_[j], shrink), __fdiv_rn(__fmul_rn(step, m_[j]), down));
            if (ema) e_[j] = __fmaf_rn(mix, w_[j], __fmul_rn(keep, e_[j]));
        }
        store_vec<float, V>(w + i, w_);
        store_vec<float, V>(m + i, m_);
        store_vec<float, V>(v + i, v_);
        if (ema) store_vec<float, V>(ema + i, e_);
        if (w16) store_vec<bf16, V>(w16 + i, w_);
    }
};

extern "C" void adamw_fwd_cuda(ctx *c, const adamw_args *a) {
    adamw_step s;
    s.w = ptr<float>(a->w);
    s.m = ptr<float>(a->m);
    s.v = ptr<float>(a->v);
    s.ema = ptr<float>(a->ema);
    s.w16 = ptr<bf16>(a->w16);
    s.grad = ptr<const float>(a->grad);
    s.grad_scale = (float)a->grad_scale;
    s.shrink = (float)(1 - a->lr * a->weight_decay);
    s.eps = (float)a->eps;
    s.b1c = (float)(1 - a->beta1);
    s.b2 = (float)a->beta2;
    s.b2c = (float)(1 - a->beta2);
    s.step = (float)(a->lr / (1 - pow(a->beta1, (double)a->step)));
    s.root = (float)sqrt(1 - pow(a->beta2, (double)a->step));
    s.keep = (float)a->ema_decay;
    s.mix = (float)(1 - a->ema_decay);
    bool wide = aligned16(s.w, s.m, s.v, s.ema, s.grad) && (uintptr_t)s.w16 % 8 == 0;
    BY_WIDTH(float, wide, V, flat_pass<V>(c, tensor_count(a->w), s));
}
