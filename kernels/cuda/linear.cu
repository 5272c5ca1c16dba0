/* y = act(x W^T + b) and its gradients (ops/linear.h): which way a layer takes.
 *
 *   at most four inputs or outputs    linear_thin.cu, bound by memory
 *   otherwise                         cuBLASLt (linear_lt.cu); bias, and GELU of the bf16 form, in its epilogue
 *   what the library does not do      linear_general.cu
 *
 * The library's bias has the dtype of its output, so a bf16 layer adds the bias rounded to bf16 (in scratch).
 *
 * Backward makes d = dy act'(pre) and db in one pass, then dx = d W and dw += d^T x. d is dy itself without activation.
 * Otherwise it lives in scratch, and rows are taken in pieces so that it never needs more than PIECE_BYTES.
 *
 * Scratch: 64 MB of the library, PIECE_BYTES, a few MB of partial sums; without the library up to 96 MB more. */
#include "kernels/cuda/dev/matmul_parts.cuh"
#include "ops/linear_pre.h"

static const int64_t PIECE_BYTES = (int64_t)128 << 20;
/* Rows times width of one product: below 2^31, which not every algorithm counts beyond. */
static const int64_t PIECE_ELEMENTS = (int64_t)1 << 30;

typedef struct {
    int64_t     I, O;
    bool        in_out;
    const void *w;
    dtype       in, out; /* of x, w, dx; of y, pre, dy */
} layer;

static layer layer_of(const linear_args *a, const tensor *y) {
    return (layer){a->x->dim[1], y->dim[1], a->w_in_out, a->w->data, a->x->dt, y->dt};
}

/* Equal pieces of at most `most` rows (up to rounding to 256). */
static int64_t piece_rows(int64_t N, int64_t most) {
    int64_t n = ceil_div(N, most < 256 ? 256 : most);
    return ceil_div(ceil_div(N, n), 256) * 256;
}

static const void *rows_at(const tensor *t, int64_t row) {
    return (const char *)t->data + (size_t)(row * t->dim[1]) * dtype_size(t->dt);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static lt_product forward_product(const layer *l, const void *x, int64_t rows) {
    lt_product p = {};
    p.ta = !l->in_out;
    p.m = l->O;
    p.n = rows;
    p.k = l->I;
    p.lda = l->in_out ? l->O : l->I;
    p.ldb = l->I;
    p.ldd = l->O;
    p.a = l->w;
    p.b = x;
    p.in = l->in;
    p.out = l->out;
    return p;
}

static void forward_general(ctx *c, const layer *l, const void *x, const float *bias, void *to, int64_t rows) {
    general_product g = {};
    g.rows = rows;
    g.cols = l->O;
    g.k = l->I;
    g.a_row = l->I;
    g.a_k = 1;
    g.b_k = l->in_out ? l->O : 1;
    g.b_col = l->in_out ? 1 : l->I;
    g.ldd = l->O;
    g.a = x;
    g.b = l->w;
    g.in = l->in;
    g.out = l->out;
    g.d = to;
    g.bias = bias;
    general_run(c, &g);
}

/* bias: f32; rounded: the same in l->out. Both NULL without. */
static void forward_rows(ctx *c, const layer *l, act_kind act, const void *x, const float *bias, const void *rounded,
                         void *pre, void *y, int64_t rows) {
    lt_product p = forward_product(l, x, rows);
    if (act == ACT_GELU_TANH && l->in == DT_BF16 && l->out == DT_BF16 && l->O % 8 == 0 && aligned16(pre, y)) {
        p.epilogue = bias ? LT_GELU_BIAS : LT_GELU;
        p.bias = rounded;
        p.d = y;
        p.aux = pre;
        if (lt_run(c, &p)) return;
    }
    p.d = act == ACT_NONE ? y : pre;
    p.aux = NULL;
    p.epilogue = bias ? LT_BIAS : LT_PLAIN;
    p.bias = rounded;
    const float *missing = NULL; /* bias that the product has not added */
    if (!lt_run(c, &p)) {
        p.epilogue = LT_PLAIN;
        if (bias && lt_run(c, &p))
            missing = bias;
        else
            forward_general(c, l, x, bias, p.d, rows);
    }
    act_rows_run(c, act, missing, pre, y, l->out, rows, l->O);
}

extern "C" void linear_fwd_cuda(ctx *c, const linear_args *a) {
    int64_t N = a->x->dim[0];
    layer   l = layer_of(a, a->y);
    if (N == 0 || l.O == 0 || thin_fwd(c, a)) return;
    const float *bias = tensor_given(a->b) ? ptr<const float>(a->b) : NULL;
    const void  *rounded = bias ? bias_copy(c, bias, l.O, l.out) : NULL;
    int64_t      step = piece_rows(N, PIECE_ELEMENTS / (l.I > l.O ? l.I : l.O));
    for (int64_t r = 0; r < N; r += step)
        forward_rows(c, &l, a->act, rows_at(a->x, r), bias, rounded,
                     a->act == ACT_NONE ? NULL : (void *)rows_at(a->pre, r), (void *)rows_at(a->y, r),
                     N - r < step ? N - r : step);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* (rows,I) at dx *= act'(pre) */
static void input_slope(ctx *c, const layer *l, act_kind act, const void *pre, void *dx, int64_t rows) {
    dact_args s = {};
    s.act = act;
    s.dy = s.d = dx;
    s.pre = pre;
    s.dt = s.d_dt = l->in;
    s.rows = rows;
    s.width = l->I;
    dact_run(c, &s);
}

/* dx = d W in_act'(in_pre), or dx += d W, for `rows` rows from r on. d has the dtype of x. */
static void input_gradient(ctx *c, const linear_args *a, const layer *l, const void *d, int64_t r, int64_t rows) {
    void       *dx = (void *)rows_at(a->dx, r);
    const void *pre = a->in_act == ACT_NONE ? NULL : rows_at(a->in_pre, r);
    lt_product  p = {};
    p.ta = l->in_out;
    p.m = l->I;
    p.n = rows;
    p.k = l->O;
    p.lda = l->in_out ? l->O : l->I;
    p.ldb = l->O;
    p.ldd = l->I;
    p.a = l->w;
    p.b = d;
    p.in = p.out = l->in;
    p.d = dx;
    p.add = a->dx_add;
    if (a->in_act == ACT_GELU_TANH && l->in == DT_BF16 && l->I % 8 == 0 && aligned16(pre, dx)) {
        p.epilogue = LT_GELU_SLOPE;
        p.aux = (void *)pre;
        if (lt_run(c, &p)) return;
        p.epilogue = LT_PLAIN;
        p.aux = NULL;
    }
    if (!lt_run(c, &p)) {
        general_product g = {};
        g.rows = rows;
        g.cols = l->I;
        g.k = l->O;
        g.a_row = l->O;
        g.a_k = 1;
        g.b_k = l->in_out ? 1 : l->I;
        g.b_col = l->in_out ? l->O : 1;
        g.ldd = l->I;
        g.a = d;
        g.b = l->w;
        g.in = g.out = l->in;
        g.d = dx;
        g.add = a->dx_add;
        general_run(c, &g);
    }
    if (pre) input_slope(c, l, a->in_act, pre, dx, rows);
}

/* dw += d^T x, or x^T d when W is (I,O). */
static void weight_gradient(ctx *c, const layer *l, const void *d, const void *x, float *dw, int64_t rows) {
    int64_t     slow = l->in_out ? l->I : l->O, fast = l->in_out ? l->O : l->I; /* dims of dw */
    const void *left = l->in_out ? x : d, *right = l->in_out ? d : x;           /* (rows,slow), (rows,fast) */
    lt_product  p = {};
    p.tb = true;
    p.m = fast;
    p.n = slow;
    p.k = rows;
    p.lda = fast;
    p.ldb = slow;
    p.ldd = fast;
    p.a = right;
    p.b = left;
    p.in = l->in;
    p.out = DT_F32;
    p.d = dw;
    p.add = true;
    if (lt_run(c, &p)) return;
    general_product g = {};
    g.rows = slow;
    g.cols = fast;
    g.k = rows;
    g.a_row = 1;
    g.a_k = slow;
    g.b_k = fast;
    g.b_col = 1;
    g.ldd = fast;
    g.a = left;
    g.b = right;
    g.in = l->in;
    g.out = DT_F32;
    g.d = dw;
    g.add = true;
    general_run(c, &g);
}

extern "C" void linear_bwd_cuda(ctx *c, const linear_args *a) {
    int64_t N = a->x->dim[0];
    layer   l = layer_of(a, a->dy);
    if (N == 0 || l.O == 0) return;
    if (thin_bwd(c, a)) {
        if (a->in_act != ACT_NONE && tensor_given(a->dx) && !linear_x_is_pre(a))
            input_slope(c, &l, a->in_act, a->in_pre->data, a->dx->data, N);
        return;
    }
    bool    want_dx = tensor_given(a->dx), want_dw = tensor_given(a->dw);
    bool    own_d = (want_dx || want_dw) && (a->act != ACT_NONE || l.out != l.in);
    int64_t most = PIECE_ELEMENTS / (l.I > l.O ? l.I : l.O), fits = PIECE_BYTES / (l.O * (int64_t)dtype_size(l.in));
    int64_t step = piece_rows(N, own_d && fits < most ? fits : most);
    void   *room = own_d ? arena_alloc(&c->scratch, (size_t)((step < N ? step : N) * l.O) * dtype_size(l.in)) : NULL;
    for (int64_t r = 0; r < N; r += step) {
        int64_t     rows = N - r < step ? N - r : step;
        const void *x = rows_at(a->x, r), *d = own_d ? room : rows_at(a->dy, r);
        dact_args   s = {};
        s.act = a->act;
        s.dy = rows_at(a->dy, r);
        s.pre = a->act == ACT_NONE ? NULL : rows_at(a->pre, r);
        s.dt = l.out;
        s.d = room;
        s.d_dt = l.in;
        s.db = tensor_given(a->db) ? ptr<float>(a->db) : NULL;
        s.rows = rows;
        s.width = l.O;
        dact_run(c, &s);
        if (want_dx) input_gradient(c, a, &l, d, r, rows);
        if (want_dw) weight_gradient(c, &l, d, x, ptr<float>(a->dw), rows);
    }
}
