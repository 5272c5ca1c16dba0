/* The elementwise functions and their derivatives (ops/act.h), in f32 for rows of T: with T = float within a few ulp,
 * with bf16 through the fast exponential and division, whose error (about 1e-6) is far below a rounding to bf16. A is a
 * constant, so that a kernel holds one function. NaN in, NaN out. */
#pragma once
#include "kernels/cuda/dev/common.cuh"

/* exp(-x) and 1/x in a multiplication and an instruction of the special unit; below 2^-126 they are 0. */
__device__ __forceinline__ float exp_minus_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x * -1.4426950408889634f));
    return y;
}
__device__ __forceinline__ float inverse_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* x/(1 + exp(-y)) */
template <class T> __device__ __forceinline__ float times_sigmoid(float x, float y) {
    return sizeof(T) == 2 ? x * inverse_fast(1.0f + exp_minus_fast(y)) : x / (1.0f + expf(-y));
}
template <class T> __device__ __forceinline__ float sigmoid(float x) {
    return times_sigmoid<T>(1.0f, x);
}

/* s = sigmoid(x) and 1 - s, which keeps its digits near 0 too; x from -87 on. */
template <class T> __device__ __forceinline__ void both_sigmoids(float x, float *s, float *rest) {
    float e = sizeof(T) == 2 ? exp_minus_fast(x) : expf(-x);
    *s = sizeof(T) == 2 ? inverse_fast(1.0f + e) : 1.0f / (1.0f + e);
    *rest = e * *s;
}
/* NaN passes both comparisons. */
__device__ __forceinline__ float clamped(float x, float limit) {
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* GELU's tanh form by 0.5 (1 + tanh(u)) = sigmoid(2u), which keeps its digits where tanh is near -1. */
#define GELU_2K 1.5957691216057308f /* 2 sqrt(2/pi) */
#define GELU_CUBE 0.044715f

template <int A, class T> __device__ __forceinline__ float act_value(float x) {
    switch (A) {
    case ACT_SILU:
        return times_sigmoid<T>(x, x);
    case ACT_GELU_TANH:
        return times_sigmoid<T>(x, GELU_2K * (x + GELU_CUBE * x * x * x));
    case ACT_GELU_ERF:
        return x * normcdff(x);
    case ACT_SIGMOID:
        return sigmoid<T>(x);
    case ACT_TANH:
        return tanhf(x);
    default:
        return x;
    }
}

/* The clamps are where a slope has become its limit, 0 or 1. */
template <int A, class T> __device__ __forceinline__ float act_slope(float x) {
    float s, rest;
    switch (A) {
    case ACT_SILU:
        x = clamped(x, 80.0f);
        both_sigmoids<T>(x, &s, &rest);
        return s * (1.0f + x * rest);
    case ACT_GELU_TANH:
        x = clamped(x, 10.0f);
        both_sigmoids<T>(GELU_2K * (x + GELU_CUBE * x * x * x), &s, &rest);
        return s + x * s * rest * (GELU_2K * (1.0f + 3.0f * GELU_CUBE * x * x));
    case ACT_GELU_ERF:
        return normcdff(x) + x * 0.3989422804014327f * expf(-0.5f * x * x);
    case ACT_SIGMOID:
        both_sigmoids<T>(clamped(x, 80.0f), &s, &rest);
        return s * rest;
    case ACT_TANH: {
        if (sizeof(T) == 2) { /* tanh(x) = 2 sigmoid(2x) - 1 */
            both_sigmoids<T>(2.0f * clamped(x, 40.0f), &s, &rest);
            return 4.0f * s * rest;
        }
        float t = tanhf(x);
        return 1.0f - t * t;
    }
    default:
        return 1.0f;
    }
}

/* Runs the statement with A as a constant. */
#define BY_KIND(kind, A, ...)                                                                                          \
    do {                                                                                                               \
        switch (kind) {                                                                                                \
        case ACT_SILU: {                                                                                               \
            constexpr int A = ACT_SILU;                                                                                \
            __VA_ARGS__;                                                                                               \
        } break;                                                                                                       \
        case ACT_GELU_TANH: {                                                                                          \
            constexpr int A = ACT_GELU_TANH;                                                                           \
            __VA_ARGS__;                                                                                               \
        } break;                                                                                                       \
        case ACT_GELU_ERF: {                                                                                           \
            constexpr int A = ACT_GELU_ERF;                                                                            \
            __VA_ARGS__;                                                                                               \
        } break;                                                                                                       \
        case ACT_SIGMOID: {                                                                                            \
            constexpr int A = ACT_SIGMOID;                                                                             \
            __VA_ARGS__;                                                                                               \
        } break;                                                                                                       \
        case ACT_TANH: {                                                                                               \
            constexpr int A = ACT_TANH;                                                                                \
            __VA_ARGS__;                                                                                               \
        } break;                                                                                                       \
        default: {                                                                                                     \
            constexpr int A = ACT_NONE;                                                                                \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        }                                                                                                              \
    } while (0)
