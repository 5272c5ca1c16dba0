#include "kernels/cpu/act_array.h"
#include "kernels/cpu/rows.h"

#ifdef VMATH_AVX2
static inline __m256 load(const float *p, int64_t left) {
    return left >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, vmask(left));
}
static inline void store(float *p, __m256 v, int64_t left) {
    if (left >= 8)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, vmask(left), v);
}

/* `act` is a constant at each call below, so that every loop holds one function. */
static inline __attribute__((always_inline)) void fwd_loop(act_kind act, const float *x, const float *b, float *pre,
                                                           float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = load(x + i, n - i);
        if (b) v = _mm256_add_ps(v, load(b + i, n - i));
        if (pre) store(pre + i, v, n - i);
        store(y + i, act_vec(act, v), n - i);
    }
}

static inline __attribute__((always_inline)) void bwd_loop(act_kind act, const float *x, const float *dy, float *dx,
                                                           int64_t n) {
    for (int64_t i = 0; i < n; i += 8)
        store(dx + i, _mm256_mul_ps(load(dy + i, n - i), act_slope_vec(act, load(x + i, n - i))), n - i);
}
#else
static inline void fwd_loop(act_kind act, const float *x, const float *b, float *pre, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float v = b ? x[i] + b[i] : x[i];
        if (pre) pre[i] = v;
        y[i] = (float)act_value(act, v);
    }
}

static inline void bwd_loop(act_kind act, const float *x, const float *dy, float *dx, int64_t n) {
    for (int64_t i = 0; i < n; i++) dx[i] = (float)(dy[i] * act_slope(act, x[i]));
}
#endif

void act_array_fwd(act_kind act, const float *x, const float *b, float *pre, float *y, int64_t n) {
    switch (act) {
    case ACT_SILU:
        fwd_loop(ACT_SILU, x, b, pre, y, n);
        break;
    case ACT_GELU_TANH:
        fwd_loop(ACT_GELU_TANH, x, b, pre, y, n);
        break;
    case ACT_GELU_ERF:
        fwd_loop(ACT_GELU_ERF, x, b, pre, y, n);
        break;
    case ACT_SIGMOID:
        fwd_loop(ACT_SIGMOID, x, b, pre, y, n);
        break;
    case ACT_TANH:
        fwd_loop(ACT_TANH, x, b, pre, y, n);
        break;
    default:
        fwd_loop(ACT_NONE, x, b, pre, y, n);
    }
}

void act_array_bwd(act_kind act, const float *x, const float *dy, float *dx, int64_t n) {
    switch (act) {
    case ACT_SILU:
        bwd_loop(ACT_SILU, x, dy, dx, n);
        break;
    case ACT_GELU_TANH:
        bwd_loop(ACT_GELU_TANH, x, dy, dx, n);
        break;
    case ACT_GELU_ERF:
        bwd_loop(ACT_GELU_ERF, x, dy, dx, n);
        break;
    case ACT_SIGMOID:
        bwd_loop(ACT_SIGMOID, x, dy, dx, n);
        break;
    case ACT_TANH:
        bwd_loop(ACT_TANH, x, dy, dx, n);
        break;
    default:
        bwd_loop(ACT_NONE, x, dy, dx, n);
    }
}

void act_fwd_cpu(ctx *c, const act_args *a) {
    int64_t n = tensor_count(a->x);
    (void)c;
#pragma omp parallel if (n > SMALL_LOOP)
    {
        int64_t lo, hi;
        rows_part(n, 16, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        act_array_fwd(a->act, F32(a->x) + lo, NULL, NULL, F32(a->y) + lo, hi - lo);
    }
}

void act_bwd_cpu(ctx *c, const act_args *a) {
    int64_t n = tensor_count(a->x);
    (void)c;
#pragma omp parallel if (n > SMALL_LOOP)
    {
        int64_t lo, hi;
        rows_part(n, 16, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        act_array_bwd(a->act, F32(a->x) + lo, F32(a->dy) + lo, F32(a->dx) + lo, hi - lo);
    }
}
