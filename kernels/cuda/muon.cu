/* As on the CPU: the rounds run on the small square matrix G = X X^T (or X^T X), products in f32 through cuBLASLt, or
 * the general kernel where the library has nothing. */
#include "kernels/cuda/dev/matmul_parts.cuh"
#include "kernels/cuda/dev/total.cuh"

/* m, x = momentum and u; partial sums of |u|^2. */
__global__ void __launch_bounds__(TOTAL_THREADS)
    muon_momentum_kernel(const float *grad, float *m, float *x, int64_t n, float scale, float mu, double *partial) {
    double  sum[1] = {0};
    int64_t step = (int64_t)gridDim.x * TOTAL_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x; i < n; i += step) {
        float g = grad[i] * scale, moment = mu * m[i] + g, u = g + mu * moment;
        m[i] = moment;
        x[i] = u;
        sum[0] += (double)u * (double)u;
    }
    store_totals<1>(sum, partial);
}

/* x / |x|, 0 when x is 0 */
__global__ void muon_unit_kernel(float *x, int64_t n, const double *squares) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= *squares != 0 ? (float)(1 / sqrt(*squares)) : 0.0f;
}

/* p = a + b g + c p, p holding g g */
__global__ void muon_polynomial_kernel(const float *g, float *p, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * n) return;
    p[i] = (i % (n + 1) == 0 ? (float)MUON_A : 0.0f) + (float)MUON_B * g[i] + (float)MUON_C * p[i];
}

__global__ void muon_step_kernel(const float *y, float *w, float *ema, bf16 *w16, int64_t n, float step, float shrink,
                                 float keep, float mix) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = w[i] * shrink - step * y[i];
    w[i] = v;
    if (ema) ema[i] = keep * ema[i] + mix * v;
    if (w16) w16[i] = from_float<bf16>(v);
}

/* Row-major d (m,n) = op(a) (m,k) op(b) (k,n); rows of a and b as they are stored, lda and ldb long. */
static void product(ctx *c, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float *d) {
    lt_product p = {};
    p.ta = tb; /* the library's matrices are column-major: d^T = op(b)^T op(a)^T */
    p.tb = ta;
    p.m = n;
    p.n = m;
    p.k = k;
    p.lda = ldb;
    p.ldb = lda;
    p.ldd = n;
    p.a = b;
    p.b = a;
    p.d = d;
    p.in = p.out = DT_F32;
    if (lt_run(c, &p)) return;
    general_product g = {};
    g.rows = m;
    g.cols = n;
    g.k = k;
    g.a_row = ta ? 1 : lda;
    g.a_k = ta ? lda : 1;
    g.b_k = tb ? 1 : ldb;
    g.b_col = tb ? ldb : 1;
    g.ldd = n;
    g.a = a;
    g.b = b;
    g.in = g.out = DT_F32;
    g.d = d;
    general_run(c, &g);
}

static float *floats(ctx *c, int64_t n) {
    return (float *)arena_alloc(&c->scratch, (size_t)n * sizeof(float));
}

/* The last of three buffers that take turns; the first round multiplies by one. */
static const float *rounds(ctx *c, int64_t n, float *g) {
    float *p = floats(c, n * n), *t = floats(c, n * n), *q = floats(c, n * n), *last = floats(c, n * n);
    for (int round = 0; round < MUON_ROUNDS; round++) {
        product(c, false, false, n, n, n, g, n, g, n, p);
        muon_polynomial_kernel<<<(unsigned)ceil_div(n * n, 256), 256, 0, stream_of(c)>>>(g, p, n);
        LAUNCHED(c);
        if (round == 0) {
            CUDA_DO(cudaMemcpyAsync(last, p, (size_t)(n * n) * sizeof(float), cudaMemcpyDeviceToDevice, stream_of(c)));
        } else {
            product(c, false, false, n, n, n, p, n, last, n, q);
            float *swap = q;
            q = last;
            last = swap;
        }
        if (round == MUON_ROUNDS - 1) break; /* nothing reads its G */
        product(c, false, false, n, n, n, p, n, g, n, t);
        product(c, false, false, n, n, n, t, n, p, n, g);
    }
    return last;
}

/* Where the step goes before it is made orthogonal. */
static void direction(ctx *c, const muon_args *a, int64_t n, float *x) {
    int     blocks = total_blocks(c, n);
    double *partial = (double *)arena_alloc(&c->scratch, sizeof(double) * ((size_t)blocks + 1));
    muon_momentum_kernel<<<(unsigned)blocks, TOTAL_THREADS, 0, stream_of(c)>>>(
        ptr<float>(a->grad), ptr<float>(a->m), x, n, (float)a->grad_scale, (float)a->momentum, partial);
    LAUNCHED(c);
    add_totals(c, partial, blocks, 1, partial + blocks);
    muon_unit_kernel<<<(unsigned)ceil_div(n, 256), 256, 0, stream_of(c)>>>(x, n, partial + blocks);
    LAUNCHED(c);
}

extern "C" void muon_fwd_cuda(ctx *c, const muon_args *a) {
    int64_t R = a->w->dim[0], C = a->w->dim[1], n = R * C, small = R < C ? R : C;
    bool    tall = R > C;
    if (n == 0) return;
    float *x = floats(c, n), *y = floats(c, n), *g = floats(c, small * small);
    direction(c, a, n, x);
    if (tall) {
        product(c, true, false, C, C, R, x, C, x, C, g);
        product(c, false, false, R, C, C, x, C, rounds(c, C, g), C, y);
    } else {
        product(c, false, true, R, R, C, x, C, x, C, g);
        product(c, false, false, R, C, R, rounds(c, R, g), R, x, C, y);
    }
    muon_step_kernel<<<(unsigned)ceil_div(n, 256), 256, 0, stream_of(c)>>>(
        y, ptr<float>(a->w), tensor_given(a->ema) ? ptr<float>(a->ema) : nullptr,
        tensor_given(a->w16) ? ptr<bf16>(a->w16) : nullptr, n,
        (float)(a->lr * MUON_SIZE * sqrt((double)(tall ? R : C))), (float)(1 - a->lr * a->weight_decay),
        (float)a->ema_decay, (float)(1 - a->ema_decay));
    LAUNCHED(c);
}
