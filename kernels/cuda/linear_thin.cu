/* Linear layers with at most THIN inputs (the lift 1 -> 32 of voxels) or outputs (gates, the distance 32 -> 1): each
 * byte meets a handful of operations, so that a matrix product is the wrong tool. Every pass reads and writes its rows
 * once.
 *
 *   wide side    the matrix (N,W) whose rows are long, spread over the threads of a row_pass; a thread keeps its
 *                columns of the weights in registers
 *   thin side    the matrix (N,<=4); a thread reads the few values of its row, neighbours the same ones
 *
 *                     few outputs                                  few inputs
 *   y                 dots_kernel, a group of lanes a row          spread_pass
 *   dx                with dw, below                               dots_kernel over dy act'(pre)
 *   dw, db            narrow_pass (dx, dw), dact_run (db)          widen_pass (dw, db)
 *
 * The backward of tanh(w SiLU(x) + b), over the largest tensor of a decoder, is in linear_head.cu. */
#include "kernels/cuda/dev/matmul_parts.cuh"
#include "kernels/cuda/dev/row_pass.cuh"
#include "kernels/linear_pieces.h"

namespace {

enum { THIN = 4, DOTS_THREADS = 256, DOTS_ROWS = 4, DOTS_FLOATS = 12288 /* weights in shared memory */ };

/* Element (o,i) is at[o * o_step + i * i_step]. */
template <class T> struct weights {
    const T *at;
    int64_t  o_step, i_step;
};
template <class T> weights<T> weights_of(const linear_args *a) {
    int64_t wide = a->w->dim[1];
    return {ptr<const T>(a->w), a->w_in_out ? 1 : wide, a->w_in_out ? wide : 1};
}

/* ---- out[n,q] = sum over w of p[n,w] m[w,q] ---------------------------------------------------------------------- */

struct dots_args {
    int64_t  N;
    int      W, n_q, group; /* lanes of a row: 1, 2, .. 32 */
    int64_t  m_w, m_q;      /* steps of m */
    act_kind act;           /* of the output (forward), or whose slope p is multiplied by (backward) */
    bool     add;           /* to out (backward) */
    act_kind p_act;         /* of p (forward) */
};

/* Forward: p = x, out = act(sum + bias), out_pre its argument. Backward: p = dy act'(p_pre). */
template <class P, class M, class D, int V, int Q, bool FORWARD>
__global__ void __launch_bounds__(DOTS_THREADS)
    dots_kernel(const dots_args g, const P *__restrict__ p, const P *__restrict__ p_pre, const M *__restrict__ m,
                const float *__restrict__ bias, D *__restrict__ out_pre, D *__restrict__ out) {
    extern __shared__ float dots_room[]; /* [q][V][W/V]: neighbouring lanes read neighbouring words */
    const int               per = g.W / V;
    for (int i = threadIdx.x; i < g.n_q * g.W; i += DOTS_THREADS) {
        int w = i % g.W, q = i / g.W;
        dots_room[(q * V + w % V) * per + w / V] = to_float(m[w * g.m_w + q * g.m_q]);
    }
    __syncthreads();
    const int lane = threadIdx.x % g.group, row = threadIdx.x / g.group, rows = DOTS_THREADS / g.group;
    for (int64_t n0 = (int64_t)blockIdx.x * rows * DOTS_ROWS; n0 < g.N; n0 += (int64_t)gridDim.x * rows * DOTS_ROWS) {
        float sum[DOTS_ROWS][Q] = {};
        for (int w = lane * V; w < g.W; w += g.group * V) {
            float v[DOTS_ROWS][V], e[DOTS_ROWS][V];
#pragma unroll
            for (int u = 0; u < DOTS_ROWS; u++) {
                int64_t n = n0 + u * rows + row;
                if (n < g.N) {
                    load_pack<P, V>(p + n * g.W + w, v[u]);
                    if (!FORWARD && g.act != ACT_NONE) load_pack<P, V>(p_pre + n * g.W + w, e[u]);
                } else
#pragma unroll
                    for (int i = 0; i < V; i++) v[u][i] = e[u][i] = 0.0f;
            }
            if (FORWARD && g.p_act != ACT_NONE)
#pragma unroll
                for (int u = 0; u < DOTS_ROWS; u++) act_values<P, V>(g.p_act, v[u]);
            if (!FORWARD && g.act != ACT_NONE)
#pragma unroll
                for (int u = 0; u < DOTS_ROWS; u++) act_times_slopes<P, V>(g.act, e[u], v[u]);
#pragma unroll
            for (int q = 0; q < Q; q++)
                if (q < g.n_q)
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        float k = dots_room[(q * V + i) * per + w / V];
#pragma unroll
                        for (int u = 0; u < DOTS_ROWS; u++) sum[u][q] += v[u][i] * k;
                    }
        }
        /* All lanes of the warp are here: the loop over n0 is the block's. */
        __syncwarp();
        for (int s = g.group / 2; s > 0; s /= 2)
#pragma unroll
            for (int u = 0; u < DOTS_ROWS; u++)
#pragma unroll
                for (int q = 0; q < Q; q++) sum[u][q] += __shfl_xor_sync(0xffffffffu, sum[u][q], s);
        for (int u0 = 0; u0 < DOTS_ROWS; u0 += g.group) { /* a lane ends a row */
            const int     mine = u0 + lane;
            const int64_t n = n0 + mine * rows + row;
            if (mine >= DOTS_ROWS || n >= g.N) break;
#pragma unroll
            for (int q = 0; q < Q; q++) {
                if (q >= g.n_q) break;
                float v[1] = {sum[0][q]};
#pragma unroll
                for (int u = 1; u < DOTS_ROWS; u++)
                    if (u == mine) v[0] = sum[u][q];
                if (FORWARD) {
                    if (bias) v[0] += bias[q];
                    if (g.act != ACT_NONE) out_pre[n * g.n_q + q] = from_float<D>(v[0]);
                    act_values<D, 1>(g.act, v);
                } else if (g.add) {
                    v[0] += to_float(out[n * g.n_q + q]);
                }
                out[n * g.n_q + q] = from_float<D>(v[0]);
            }
        }
    }
}

template <class P, class M, class D, int V, int Q, bool FORWARD>
void dots_as(ctx *c, dots_args g, const P *p, const P *p_pre, const M *m, const float *bias, D *out_pre, D *out) {
    g.group = 1;
    while (g.group < 32 && g.group * V < g.W) g.group *= 2;
    int64_t rows = (int64_t)DOTS_THREADS / g.group * DOTS_ROWS, blocks = ceil_div(g.N, rows);
    int64_t most = (int64_t)c->cuda->multiprocessors * 16;
    dots_kernel<P, M, D, V, Q, FORWARD>
        <<<(unsigned)(blocks < most ? blocks : most), DOTS_THREADS, sizeof(float) * (size_t)(g.n_q * g.W),
           stream_of(c)>>>(g, p, p_pre, m, bias, out_pre, out);
    LAUNCHED(c);
}

template <class P, class M, class D, bool FORWARD>
void dots(ctx *c, const dots_args &g, const P *p, const P *p_pre, const M *m, const float *bias, D *out_pre, D *out) {
    if (g.n_q == 1)
        BY_WIDTH(P, wide_rows<P>(g.W, p, p_pre), V,
                 (dots_as<P, M, D, V, 1, FORWARD>(c, g, p, p_pre, m, bias, out_pre, out)));
    else
        BY_WIDTH(P, wide_rows<P>(g.W, p, p_pre), V,
                 (dots_as<P, M, D, V, THIN, FORWARD>(c, g, p, p_pre, m, bias, out_pre, out)));
}

/* ---- few inputs: y = act(x W^T + b) ------------------------------------------------------------------------------ */

template <class T, class D, int WIDTH, int INPUTS> struct spread_pass {
    static constexpr int V = WIDTH, Q = 0, UNROLL = 4;
    typedef float        sum_t;

    const T     *x;
    weights<T>   w;
    const float *b;
    act_kind     act;
    D           *pre, *y;
    int          I;
    int64_t      O;

    struct column {
        float w[INPUTS][V], b[V];
    };
    struct in {
        float x[INPUTS];
    };
    __device__ __forceinline__ void begin(int, int64_t col, column &k) const {
#pragma unroll
        for (int j = 0; j < V; j++) {
#pragma unroll
            for (int i = 0; i < INPUTS; i++)
                k.w[i][j] = i < I ? to_float(w.at[(col + j) * w.o_step + i * w.i_step]) : 0.0f;
            k.b[j] = b ? b[col + j] : 0.0f;
        }
    }
    __device__ __forceinline__ void load(int64_t n, int64_t, const column &, in &x_) const {
#pragma unroll
        for (int i = 0; i < INPUTS; i++) x_.x[i] = i < I ? to_float(x[n * I + i]) : 0.0f;
    }
    __device__ __forceinline__ void use(int64_t n, int64_t col, const column &k, const in &x_, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = k.b[j];
#pragma unroll
        for (int i = 0; i < INPUTS; i++)
            if (i < I)
#pragma unroll
                for (int j = 0; j < V; j++) v[j] += x_.x[i] * k.w[i][j];
        if (act != ACT_NONE) store_vec<D, V>(pre + n * O + col, v);
        act_values<D, V>(act, v);
        store_vec<D, V>(y + n * O + col, v);
    }
};

/* dw[:,i] += x[n,i] dpre[n,:], db += dpre[n,:]. Sums: 0 = db, 1.. = dw of input 0.. */
template <class T, class D, int WIDTH, int INPUTS> struct widen_pass {
    static constexpr int V = WIDTH, Q = 1 + INPUTS, UNROLL = INPUTS == 1 ? 4 : 2;
    typedef float        sum_t;

    const T *x;
    act_kind act;
    const D *pre, *dy;
    int      I;
    int64_t  O;

    struct column {};
    struct in {
        pack<D, V> dy, pre;
        float      x[INPUTS];
    };
    __device__ __forceinline__ void begin(int, int64_t, column &) const {}
    __device__ __forceinline__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.dy = load_raw<D, V>(dy + n * O + col);
        if (act != ACT_NONE) r.pre = load_raw<D, V>(pre + n * O + col);
#pragma unroll
        for (int i = 0; i < INPUTS; i++) r.x[i] = i < I ? to_float(x[n * I + i]) : 0.0f;
    }
    __device__ __forceinline__ void use(int64_t, int64_t, const column &, const in &r, float (&sum)[Q][V]) const {
        float v[V], p[V];
        unpack<D, V>(r.dy, v);
        if (act != ACT_NONE) {
            unpack<D, V>(r.pre, p);
            act_times_slopes<D, V>(act, p, v);
        }
#pragma unroll
        for (int j = 0; j < V; j++) sum[0][j] += v[j];
#pragma unroll
        for (int i = 0; i < INPUTS; i++)
#pragma unroll
            for (int j = 0; j < V; j++) sum[1 + i][j] += r.x[i] * v[j];
    }
};

template <int Q> struct widen_end {
    float  *dw, *db;
    int64_t o_step, i_step;
    int     I;

    __device__ void operator()(int, int64_t o, const double (&sum)[Q]) const {
        if (db) db[o] += (float)sum[0];
        if (dw)
#pragma unroll
            for (int i = 0; i < Q - 1; i++)
                if (i < I) dw[o * o_step + i * i_step] += (float)sum[1 + i];
    }
};

/* ---- few outputs: dx and dw in one pass over x ------------------------------------------------------------------- */

/* dx[n,:] = sum over o of dpre[n,o] W[o,:], times x_act'(x);  dw[o,:] += dpre[n,o] x[n,:]. */
template <class T, class D, int WIDTH, int OUTPUTS> struct narrow_pass {
    static constexpr int V = WIDTH, Q = OUTPUTS, UNROLL = OUTPUTS == 1 ? 4 : 2;
    typedef float        sum_t;

    const T   *x;
    weights<T> w;
    act_kind   act, x_act; /* x_act: x is given before this */
    const D   *pre, *dy;
    T         *dx; /* NULL: not wanted */
    bool       dx_add, want_dw;
    int        O;
    int64_t    I;

    struct column {
        float w[OUTPUTS][V];
    };
    struct in {
        pack<T, V> x;
        float      dy[OUTPUTS], pre[OUTPUTS];
    };
    __device__ __forceinline__ void begin(int, int64_t col, column &k) const {
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
            for (int j = 0; j < V; j++) k.w[o][j] = o < O ? to_float(w.at[o * w.o_step + (col + j) * w.i_step]) : 0.0f;
    }
    __device__ __forceinline__ void load(int64_t n, int64_t col, const column &, in &r) const {
        if (want_dw || x_act != ACT_NONE) r.x = load_raw<T, V>(x + n * I + col);
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            r.dy[o] = o < O ? to_float(dy[n * O + o]) : 0.0f;
            r.pre[o] = act != ACT_NONE && o < O ? to_float(pre[n * O + o]) : 0.0f;
        }
    }
    __device__ __forceinline__ void use(int64_t n, int64_t col, const column &k, const in &r,
                                        float (&sum)[Q][V]) const {
        float g[OUTPUTS], v[V], slope[V];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) g[o] = r.dy[o];
        if (act != ACT_NONE) act_times_slopes<T, OUTPUTS>(act, r.pre, g);
        if (want_dw || x_act != ACT_NONE) {
            float x_in[V];
            unpack<T, V>(r.x, x_in);
            BY_KIND(x_act, A, (act_values_and_slopes<A, T, V>(x_in, v, slope)));
        }
        if (want_dw) {
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++)
                if (o < O)
#pragma unroll
                    for (int j = 0; j < V; j++) sum[o][j] += g[o] * v[j];
        }
        if (dx) {
            if (dx_add)
                load_vec<T, V>(dx + n * I + col, v);
            else
#pragma unroll
                for (int j = 0; j < V; j++) v[j] = 0.0f;
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++)
                if (o < O)
#pragma unroll
                    for (int j = 0; j < V; j++) v[j] += g[o] * k.w[o][j];
            if (x_act != ACT_NONE)
#pragma unroll
                for (int j = 0; j < V; j++) v[j] *= slope[j];
            store_vec<T, V>(dx + n * I + col, v);
        }
    }
};

template <int Q> struct narrow_end {
    float  *dw;
    int64_t o_step, i_step;
    int     O;

    __device__ void operator()(int, int64_t i, const double (&sum)[Q]) const {
#pragma unroll
        for (int o = 0; o < Q; o++)
            if (o < O) dw[o * o_step + i * i_step] += (float)sum[o];
    }
};

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* T: x, W, dx. D: y, pre, dy. */
template <class T, class D> void narrow_fwd(ctx *c, const linear_args *a) {
    weights<T> w = weights_of<T>(a);
    dots_args  g = {};
    g.N = a->x->dim[0];
    g.W = (int)a->x->dim[1];
    g.n_q = (int)a->y->dim[1];
    g.m_w = w.i_step;
    g.m_q = w.o_step;
    g.act = a->act;
    g.p_act = linear_x_is_pre(a) ? a->in_act : ACT_NONE;
    dots<T, T, D, true>(c, g, ptr<const T>(a->x), (const T *)NULL, w.at, ptr<const float>(a->b),
                        a->act == ACT_NONE ? (D *)NULL : ptr<D>(a->pre), ptr<D>(a->y));
}

template <class T, class D, int V, int INPUTS> void spread_fwd_as(ctx *c, const linear_args *a) {
    typedef spread_pass<T, D, V, INPUTS> pass;
    int64_t                              O = a->y->dim[1];
    pass                                 f = {ptr<const T>(a->x),
                                              weights_of<T>(a),
                                              ptr<const float>(a->b),
                                              a->act,
              a->act == ACT_NONE ? (D *)NULL : ptr<D>(a->pre),
                                              ptr<D>(a->y),
                                              (int)a->x->dim[1],
                                              O};
    row_pass(c, f, a->x->dim[0], O, NULL);
}

template <class T, class D> void spread_fwd(ctx *c, const linear_args *a) {
    bool wide = wide_rows<D>(a->y->dim[1], a->act == ACT_NONE ? NULL : a->pre->data, a->y->data);
    if (a->x->dim[1] == 1)
        BY_WIDTH(D, wide, V, (spread_fwd_as<T, D, V, 1>(c, a)));
    else
        BY_WIDTH(D, wide, V, (spread_fwd_as<T, D, V, THIN>(c, a)));
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

template <class T, class D, int V, int OUTPUTS> void narrow_bwd_as(ctx *c, const linear_args *a) {
    typedef narrow_pass<T, D, V, OUTPUTS> pass;
    int64_t                               I = a->x->dim[1], wide = a->w->dim[1];
    int                                   O = (int)a->dy->dim[1];
    bool                                  want_dw = tensor_given(a->dw);
    pass                                  f = {ptr<const T>(a->x),
                                               weights_of<T>(a),
                                               a->act,
              linear_x_is_pre(a) ? a->in_act : ACT_NONE,
              a->act == ACT_NONE ? NULL : ptr<const D>(a->pre),
                                               ptr<const D>(a->dy),
              tensor_given(a->dx) ? ptr<T>(a->dx) : (T *)NULL,
                                               a->dx_add,
                                               want_dw,
                                               O,
                                               I};
    row_chunks                            chunks;
    float                                *partial;
    row_pass(c, f, a->x->dim[0], I, NULL, &chunks, &partial);
    narrow_end<OUTPUTS> end = {ptr<float>(a->dw), a->w_in_out ? 1 : wide, a->w_in_out ? wide : 1, O};
    if (want_dw) column_sums<OUTPUTS>(c, chunks, I, partial, end);
}

template <class T, class D> void narrow_bwd(ctx *c, const linear_args *a) {
    const void *dx = tensor_given(a->dx) ? a->dx->data : NULL;
    bool        wide = wide_rows<T>(a->x->dim[1], a->x->data, dx);
    if (tensor_given(a->dx) || tensor_given(a->dw)) {
        if (a->dy->dim[1] == 1)
            BY_WIDTH(T, wide, V, (narrow_bwd_as<T, D, V, 1>(c, a)));
        else if (wide && a->dy->dim[1] == 3)
            narrow_bwd_as<T, D, 16 / (int)sizeof(T), 3>(c, a);
        else if (wide)
            narrow_bwd_as<T, D, 4, THIN>(c, a); /* weights and sums of eight columns would take all registers */
        else
            narrow_bwd_as<T, D, 1, THIN>(c, a);
    }
    if (!tensor_given(a->db)) return;
    dact_args s = {};
    s.act = a->act;
    s.dy = a->dy->data;
    s.pre = a->act == ACT_NONE ? NULL : a->pre->data;
    s.dt = a->dy->dt;
    s.db = ptr<float>(a->db);
    s.rows = a->dy->dim[0];
    s.width = a->dy->dim[1];
    dact_run(c, &s);
}

template <class T, class D, int V, int INPUTS> void spread_bwd_as(ctx *c, const linear_args *a) {
    typedef widen_pass<T, D, V, INPUTS> pass;
    int64_t                             O = a->dy->dim[1], wide = a->w->dim[1];
    int                                 I = (int)a->x->dim[1];
    pass f = {ptr<const T>(a->x), a->act, a->act == ACT_NONE ? NULL : ptr<const D>(a->pre), ptr<const D>(a->dy), I, O};
    row_chunks chunks;
    float     *partial;
    row_pass(c, f, a->x->dim[0], O, NULL, &chunks, &partial);
    widen_end<1 + INPUTS> end = {tensor_given(a->dw) ? ptr<float>(a->dw) : (float *)NULL,
                                 tensor_given(a->db) ? ptr<float>(a->db) : (float *)NULL, a->w_in_out ? 1 : wide,
                                 a->w_in_out ? wide : 1, I};
    column_sums<1 + INPUTS>(c, chunks, O, partial, end);
}

template <class T, class D> void spread_bwd(ctx *c, const linear_args *a) {
    int64_t  O = a->dy->dim[1];
    const D *pre = a->act == ACT_NONE ? NULL : ptr<const D>(a->pre), *dy = ptr<const D>(a->dy);
    if (tensor_given(a->dw) || tensor_given(a->db)) {
        if (a->x->dim[1] == 1)
            BY_WIDTH(D, wide_rows<D>(O, dy, pre), V, (spread_bwd_as<T, D, V, 1>(c, a)));
        else
            BY_WIDTH(D, wide_rows<D>(O, dy, pre), V, (spread_bwd_as<T, D, V, THIN>(c, a)));
    }
    if (!tensor_given(a->dx)) return;
    weights<T> w = weights_of<T>(a);
    dots_args  g = {};
    g.N = a->x->dim[0];
    g.W = (int)O;
    g.n_q = (int)a->x->dim[1];
    g.m_w = w.o_step;
    g.m_q = w.i_step;
    g.act = a->act;
    g.add = a->dx_add;
    dots<D, T, T, false>(c, g, dy, pre, w.at, NULL, (T *)NULL, ptr<T>(a->dx));
}

/* 0: neither side is thin. The longer side's weights must fit the shared memory of dots_kernel. */
int thin_side(int64_t I, int64_t O) {
    if (O <= THIN && O * I <= DOTS_FLOATS) return 'o';
    if (I <= THIN && O * I <= DOTS_FLOATS) return 'i';
    return 0;
}

} // namespace

/* x f32: all f32. x bf16: y bf16 or f32. */
#define BY_FORM(x_dt, y_dt, CALL)                                                                                      \
    do {                                                                                                               \
        if ((x_dt) == DT_F32)                                                                                          \
            CALL(float, float);                                                                                        \
        else if ((y_dt) == DT_F32)                                                                                     \
            CALL(bf16, float);                                                                                         \
        else                                                                                                           \
            CALL(bf16, bf16);                                                                                          \
    } while (0)

bool thin_fwd(ctx *c, const linear_args *a) {
    int side = thin_side(a->x->dim[1], a->y->dim[1]);
    if (linear_x_is_pre(a) && side != 'o') {
        linear_by_pieces(c, a, act_fwd_cuda, linear_fwd_cuda);
        return true;
    }
#define NARROW(T, D) narrow_fwd<T, D>(c, a)
#define SPREAD(T, D) spread_fwd<T, D>(c, a)
    if (side == 'o') BY_FORM(a->x->dt, a->y->dt, NARROW);
    if (side == 'i') BY_FORM(a->x->dt, a->y->dt, SPREAD);
#undef NARROW
#undef SPREAD
    return side != 0;
}

bool thin_bwd(ctx *c, const linear_args *a) {
    int    side = thin_side(a->x->dim[1], a->dy->dim[1]);
    size_t mark = arena_mark(&c->scratch);
    if (head_bwd(c, a)) {
        arena_reset(&c->scratch, mark);
        return true;
    }
    if (linear_x_is_pre(a) && side != 'o') {
        linear_by_pieces(c, a, act_fwd_cuda, linear_bwd_cuda);
        arena_reset(&c->scratch, mark);
        return true;
    }
#define NARROW(T, D) narrow_bwd<T, D>(c, a)
#define SPREAD(T, D) spread_bwd<T, D>(c, a)
    if (side == 'o') BY_FORM(a->x->dt, a->dy->dt, NARROW);
    if (side == 'i') BY_FORM(a->x->dt, a->dy->dt, SPREAD);
#undef NARROW
#undef SPREAD
    arena_reset(&c->scratch, mark);
    return side != 0;
}
