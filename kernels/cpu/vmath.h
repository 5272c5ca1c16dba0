/* Exponential family on eight floats at a time (AVX2 + FMA), with scalar fallbacks of the same meaning.
 *
 *   vexp      about 1 ulp over the whole range; over- and underflow as expf, subnormals included
 *   vsigmoid  1/(1+exp(-x)), about 2 ulp
 *   vtanh     about 2 ulp;  verf about 2 ulp
 * NaN in, NaN out. The array helpers give an element the same bits wherever it stands: the tail goes through the same
 * vector code. x and y may be the same array. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define VMATH_AVX2 1

static inline __m256 vexp(__m256 x) {
    /* The operand order of min and max lets NaN through. */
    x = _mm256_max_ps(_mm256_set1_ps(-104.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
    /* 2^n in two factors: n reaches 128 and -150, one exponent field does not. */
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(k, half);
    __m256  s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256  s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, s0), s1);
}

static inline __m256 vneg(__m256 x) {
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

static inline __m256 vsigmoid(__m256 x) {
    __m256 one = _mm256_set1_ps(1.0f);
    return _mm256_div_ps(one, _mm256_add_ps(one, vexp(vneg(x))));
}

static inline __m256 vtanh(__m256 x) {
    __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f)), a = _mm256_xor_ps(x, sign), one = _mm256_set1_ps(1.0f);
    __m256 e = vexp(_mm256_add_ps(a, a));
    __m256 big = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
    /* 1 - 2/(e+1) loses digits near 0: odd polynomial below 0.625. */
    __m256 z = _mm256_mul_ps(a, a), p = _mm256_set1_ps(-5.70498872745e-3f);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(2.06390887954e-2f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-5.37397155531e-2f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.33314422036e-1f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-3.33332819422e-1f));
    __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(p, z), a, a);
    __m256 use_small = _mm256_cmp_ps(a, _mm256_set1_ps(0.625f), _CMP_LT_OQ);
    return _mm256_xor_ps(_mm256_blendv_ps(big, small, use_small), sign);
}

static inline __m256 verf(__m256 x) {
    __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f)), a = _mm256_xor_ps(x, sign), s = _mm256_mul_ps(a, a);
    /* Beyond 4 erf is 1 in f32; the polynomial in the exponent is not meant for more. */
    __m256 t = _mm256_min_ps(_mm256_set1_ps(4.0f), a), t2 = _mm256_mul_ps(t, t);
    __m256 r = _mm256_fmadd_ps(_mm256_set1_ps(-1.72853470e-5f), t, _mm256_set1_ps(3.83197126e-4f));
    __m256 u = _mm256_fmadd_ps(_mm256_set1_ps(-3.88396438e-3f), t, _mm256_set1_ps(2.42546219e-2f));
    r = _mm256_fmadd_ps(r, t2, u);
    r = _mm256_fmadd_ps(r, t, _mm256_set1_ps(-1.06777877e-1f));
    r = _mm256_fmadd_ps(r, t, _mm256_set1_ps(-6.34846687e-1f));
    r = _mm256_fmadd_ps(r, t, _mm256_set1_ps(-1.28717512e-1f));
    r = _mm256_fmsub_ps(r, t, t);
    __m256 big = _mm256_sub_ps(_mm256_set1_ps(1.0f), vexp(r));
    __m256 p = _mm256_set1_ps(-5.96761703e-4f);
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(4.99119423e-3f));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-2.67681349e-2f));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(1.12819925e-1f));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-3.76125336e-1f));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(1.28379166e-1f));
    __m256 small = _mm256_fmadd_ps(p, a, a);
    __m256 use_small = _mm256_cmp_ps(a, _mm256_set1_ps(0.927734375f), _CMP_LT_OQ);
    return _mm256_xor_ps(_mm256_blendv_ps(big, small, use_small), sign);
}

/* Sum of the eight lanes in a fixed order. */
static inline float vsum(__m256 x) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

static inline float vmax_lanes(__m256 x) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}

/* Lanes 0..n-1 set, n in 0..8, for masked loads and stores of a tail. */
static inline __m256i vmask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

#define VMATH_ARRAY(name, vector, scalar)                                                                              \
    static inline void name(const float *x, float *y, int64_t n) {                                                     \
        int64_t i = 0;                                                                                                 \
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, vector(_mm256_loadu_ps(x + i)));                            \
        if (i < n) {                                                                                                   \
            __m256i m = vmask(n - i);                                                                                  \
            _mm256_maskstore_ps(y + i, m, vector(_mm256_maskload_ps(x + i, m)));                                       \
        }                                                                                                              \
    }
#else
#define VMATH_ARRAY(name, vector, scalar)                                                                              \
    static inline void name(const float *x, float *y, int64_t n) {                                                     \
        for (int64_t i = 0; i < n; i++) y[i] = scalar(x[i]);                                                           \
    }
#endif

static inline float sigmoid_scalar(float x) {
    return 1.0f / (1.0f + expf(-x));
}

VMATH_ARRAY(vexp_array, vexp, expf)
VMATH_ARRAY(vsigmoid_array, vsigmoid, sigmoid_scalar)
VMATH_ARRAY(vtanh_array, vtanh, tanhf)
VMATH_ARRAY(verf_array, verf, erff)
#undef VMATH_ARRAY

/* exp of one float with the bits of the vector version. */
static inline float vexp1(float x) {
    float y;
    vexp_array(&x, &y, 1);
    return y;
}
