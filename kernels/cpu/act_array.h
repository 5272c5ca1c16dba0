/* Elementwise functions over arrays, eight floats at a time. */
#pragma once
#include "kernels/cpu/vmath.h"
#include "kernels/ref/act_math.h"

/* y = act(x + b); b may be NULL; pre (may be NULL, may be x) gets x + b. */
void act_array_fwd(act_kind act, const float *x, const float *b, float *pre, float *y, int64_t n);
/* dx = dy act'(x) */
void act_array_bwd(act_kind act, const float *x, const float *dy, float *dx, int64_t n);

#ifdef VMATH_AVX2
/* GELU in its tanh form is x sigmoid(2u): tanh is not needed and nothing cancels. */
static inline __m256 act_vec(act_kind act, __m256 x) {
    switch (act) {
    case ACT_SILU:
        return _mm256_mul_ps(x, vsigmoid(x));
    case ACT_GELU_TANH: {
        __m256 p = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(2 * 0.7978845608f * 0.044715f),
                                   _mm256_set1_ps(2 * 0.7978845608f));
        return _mm256_mul_ps(x, vsigmoid(_mm256_mul_ps(x, p)));
    }
    case ACT_GELU_ERF: {
        __m256 h = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
        return _mm256_fmadd_ps(h, verf(_mm256_mul_ps(x, _mm256_set1_ps(0.7071067811865476f))), h);
    }
    case ACT_SIGMOID:
        return vsigmoid(x);
    case ACT_TANH:
        return vtanh(x);
    default:
        return x;
    }
}

/* s = sigmoid(x) and 1 - s = exp(-x) s, without the cancellation. Below -87 both are as at -87 (exp must stay finite).
 */
static inline __m256 sigmoid_pair(__m256 x, __m256 *rest) {
    __m256 one = _mm256_set1_ps(1.0f), e = vexp(vneg(_mm256_max_ps(_mm256_set1_ps(-87.0f), x)));
    __m256 s = _mm256_div_ps(one, _mm256_add_ps(one, e));
    *rest = _mm256_mul_ps(e, s);
    return s;
}

static inline __m256 act_slope_vec(act_kind act, __m256 x) {
    __m256 one = _mm256_set1_ps(1.0f), r;
    switch (act) {
    case ACT_SILU: {
        __m256 s = sigmoid_pair(x, &r);
        return _mm256_mul_ps(s, _mm256_fmadd_ps(x, r, one));
    }
    case ACT_GELU_TANH: {
        __m256 x2 = _mm256_mul_ps(x, x);
        __m256 p =
            _mm256_fmadd_ps(x2, _mm256_set1_ps(2 * 0.7978845608f * 0.044715f), _mm256_set1_ps(2 * 0.7978845608f));
        __m256 dp =
            _mm256_fmadd_ps(x2, _mm256_set1_ps(6 * 0.7978845608f * 0.044715f), _mm256_set1_ps(2 * 0.7978845608f));
        __m256 s = sigmoid_pair(_mm256_mul_ps(x, p), &r);
        return _mm256_mul_ps(s, _mm256_fmadd_ps(_mm256_mul_ps(x, dp), r, one));
    }
    case ACT_GELU_ERF: {
        __m256 half = _mm256_set1_ps(0.5f);
        __m256 cdf = _mm256_fmadd_ps(half, verf(_mm256_mul_ps(x, _mm256_set1_ps(0.7071067811865476f))), half);
        __m256 e = vexp(_mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.5f)));
        return _mm256_fmadd_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.3989422804f)), e, cdf);
    }
    case ACT_SIGMOID: {
        __m256 s = sigmoid_pair(x, &r);
        return _mm256_mul_ps(s, r);
    }
    case ACT_TANH: {
        __m256 t = vtanh(x);
        return _mm256_fnmadd_ps(t, t, one);
    }
    default:
        return one;
    }
}
#endif
