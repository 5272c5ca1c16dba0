/* What linear and conv3 share: products, sums over rows, activations by a kind known at run time. */
#pragma once
#include "kernels/cuda/dev/act.cuh"
#include "kernels/cuda/dev/vec.cuh"

/* Partial sums of a weight gradient may take this much scratch. */
static const int64_t DW_PARTIAL_BYTES = (int64_t)96 << 20;

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* x = act(x); the kind is the same in all threads, so the branch is cheap. */
template <class T, int V> __device__ __forceinline__ void act_values(act_kind kind, float (&x)[V]) {
    BY_KIND(kind, A, _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = act_value<A, T>(x[i]));
}
/* v *= act'(pre) */
template <class T, int V>
__device__ __forceinline__ void act_times_slopes(act_kind kind, const float (&pre)[V], float (&v)[V]) {
    BY_KIND(kind, A, _Pragma("unroll") for (int i = 0; i < V; i++) v[i] *= act_slope<A, T>(pre[i]));
}
/* act(x) and act'(x); SiLU's of one sigmoid in bf16. */
template <int A, class T, int V>
__device__ __forceinline__ void act_values_and_slopes(const float (&x)[V], float (&value)[V], float (&slope)[V]) {
#pragma unroll
    for (int j = 0; j < V; j++) {
        if (A == ACT_SILU && sizeof(T) == 2) {
            float in = clamped(x[j], 80.0f), s, rest;
            both_sigmoids<T>(in, &s, &rest);
            value[j] = x[j] * s;
            slope[j] = s * (1.0f + in * rest);
        } else {
            value[j] = act_value<A, T>(x[j]);
            slope[j] = act_slope<A, T>(x[j]);
        }
    }
}

/* ---- sums over rows (linear_sums.cu) ----------------------------------------------------------------------------- */

/* d = dy act'(pre) and db += column sums of it, in one pass over (rows,width). */
typedef struct {
    act_kind    act;
    const void *dy, *pre; /* pre is not read when act is ACT_NONE */
    dtype       dt;       /* of both */
    void       *d;        /* NULL: only sums */
    dtype       d_dt;     /* dt, or bf16 from f32 */
    float      *db;       /* NULL: no sums */
    int64_t     rows, width;
} dact_args;
void dact_run(ctx *c, const dact_args *a);

/* out[e] += sum over p of partial[p * count + e], in the order of p. */
void partials_add(ctx *c, float *out, const float *partial, int64_t n_parts, int64_t count);

/* y = act(t + bias), t = act == ACT_NONE ? y : pre. bias (width) f32 or NULL; with a bias, pre gets t + bias as well.
 * pre and y of dtype dt. */
void act_rows_run(ctx *c, act_kind act, const float *bias, void *pre, void *y, dtype dt, int64_t rows, int64_t width);

/* Copy of f32 values in scratch, in dtype dt, on 64 bytes. */
void *bias_copy(ctx *c, const float *bias, int64_t n, dtype dt);

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* D (m,n) = op(A) (m,k) op(B) (k,n) [+ D], all column-major as the library has it: a row-major (r,c) matrix is a
 * column-major (c,r) one with leading dimension c. */
typedef enum { LT_PLAIN, LT_BIAS, LT_GELU, LT_GELU_BIAS, LT_GELU_SLOPE } lt_epilogue;
typedef struct {
    bool        ta, tb;
    int64_t     m, n, k, lda, ldb, ldd;
    const void *a, *b;
    dtype       in; /* of A and B */
    void       *d;
    dtype       out;
    bool        add; /* to D */
    lt_epilogue epilogue;
    const void *bias; /* (m) of dtype out, on 16 bytes */
    void       *aux;  /* GELU: the value before it, like D, on 16 bytes, ldd a multiple of 8; read by LT_GELU_SLOPE */
} lt_product;

/* Through cuBLASLt (linear_lt.cu). False when the library has no algorithm for it: nothing has happened then. */
bool lt_run(ctx *c, const lt_product *p);

/* D[r * ldd + j] (+)= sum_t A[r * a_row + t * a_k] B[t * b_k + j * b_col] + bias[j], any shape, plain arithmetic
 * (linear_general.cu). A and B of dtype `in`; D f32 or `in`; bias may be NULL. */
typedef struct {
    int64_t      rows, cols, k, a_row, a_k, b_k, b_col, ldd;
    const void  *a, *b;
    dtype        in, out;
    void        *d;
    bool         add;
    const float *bias;
} general_product;
void general_run(ctx *c, const general_product *p);

/* Layers with at most four inputs or outputs (linear_thin.cu): bound by memory, one pass. False: not such a layer. */
bool thin_fwd(ctx *c, const linear_args *a);
bool thin_bwd(ctx *c, const linear_args *a);
/* One output, tanh(w SiLU(x) + b), dx, dw and db in one pass (linear_head.cu). False: not such a layer. */
bool head_bwd(ctx *c, const linear_args *a);
