/* Linear layers through sgemm. Forward: each thread owns a block of rows (or of columns, when there are few rows) and
 * finishes it, bias and activation included, in pieces that stay in its cache. Backward: the gradient before the
 * activation is made for a bounded number of rows at a time, so scratch doesn't grow with the batch; sums over more
 * rows than a product adds up well in f32 go on in double. */
#include "kernels/cpu/act_array.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/rows.h"
#include "kernels/backend.h"
#include "kernels/linear_pieces.h"

/* Rows of a piece with `width` columns: about 512 KB, at least 64. */
static int64_t piece_rows(int64_t width) {
    int64_t rows = 131072 / (width + 1) / 16 * 16;
    return rows < 64 ? 64 : rows;
}

static void fwd_block(const linear_args *a, int64_t r0, int64_t r1, int64_t o0, int64_t o1) {
    int64_t      I = a->x->dim[1], O = a->y->dim[1], step = piece_rows(o1 - o0);
    const float *w = F32(a->w) + (a->w_in_out ? o0 : o0 * I), *b = tensor_given(a->b) ? F32(a->b) + o0 : NULL;
    bool         act = a->act != ACT_NONE;
    float       *out = act ? F32(a->pre) : F32(a->y);
    for (int64_t r = r0; r < r1; r += step) {
        int64_t rows = r + step < r1 ? step : r1 - r;
        gemm_f32_one(false, !a->w_in_out, rows, o1 - o0, I, F32(a->x) + r * I, I, w, a->w_in_out ? O : I, 0,
                     out + r * O + o0, O);
        if (!act && !b) continue;
        for (int64_t i = r; i < r + rows; i++) {
            float *pre = out + i * O + o0;
            act_array_fwd(a->act, pre, b, act && b ? pre : NULL, F32(a->y) + i * O + o0, o1 - o0);
        }
    }
}

void linear_fwd_cpu(ctx *c, const linear_args *a) {
    int64_t N = a->x->dim[0], I = a->x->dim[1], O = a->y->dim[1];
    if (linear_x_is_pre(a)) {
        linear_by_pieces(c, a, act_fwd_cpu, linear_fwd_cpu);
        return;
    }
#pragma omp parallel if ((double)N * (double)I * (double)O > 2e5)
    {
        int     part = omp_get_thread_num(), parts = omp_get_num_threads();
        int64_t lo, hi;
        bool    by_rows = N >= 32 * (int64_t)parts || N >= O;
        rows_part(by_rows ? N : O, by_rows ? 8 : 16, part, parts, &lo, &hi);
        if (by_rows)
            fwd_block(a, lo, hi, 0, O);
        else
            fwd_block(a, 0, N, lo, hi);
    }
}

/* total += column sums of x (rows, width). */
static void add_columns(const float *x, int64_t rows, int64_t width, const row_sums *s, double *total) {
    int n_threads = 1;
#pragma omp        parallel if (rows * width > SMALL_LOOP)
    {
               int64_t lo, hi;
               double *mine = row_sums_mine(s);
               rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t r = lo; r < hi; r++)
            for (int64_t i = 0; i < width; i++) mine[i] += x[r * width + i];
    }
    for (int64_t i = 0; i < width; i++) total[i] += row_sums_total(s, i, n_threads);
}

/* dx = dy act'(pre) over n values; dx may be dy. */
static void act_slopes(act_kind act, const float *pre, const float *dy, float *dx, int64_t n) {
#pragma omp parallel if (n > SMALL_LOOP)
    {
        int64_t lo, hi;
        rows_part(n, 16, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        act_array_bwd(act, pre + lo, dy + lo, dx + lo, hi - lo);
    }
}

/* dw of any number of rows: products of SUM_ROWS rows in f32, their sum in double. */
enum { SUM_ROWS = 4096 };
typedef struct {
    float  *part;
    double *total; /* NULL: the rows are few, dw is added to directly */
} weight_sums;

static weight_sums weight_sums_new(arena *scratch, const linear_args *a) {
    size_t n = (size_t)tensor_count(a->dw);
    if (a->x->dim[0] <= SUM_ROWS) return (weight_sums){NULL, NULL};
    return (weight_sums){arena_alloc(scratch, n * sizeof(float)), arena_zeros(scratch, n * sizeof(double))};
}

static void add_weights(const linear_args *a, const weight_sums *s, const float *x, const float *d, int64_t rows) {
    int64_t I = a->x->dim[1], O = a->dy->dim[1];
    float  *to = s->total ? s->part : F32(a->dw);
    for (int64_t r = 0; r < rows; r += SUM_ROWS) {
        int64_t n = r + SUM_ROWS < rows ? SUM_ROWS : rows - r;
        if (a->w_in_out)
            gemm_f32(true, false, I, O, n, x + r * I, I, d + r * O, O, !s->total, to, O);
        else
            gemm_f32(true, false, O, I, n, d + r * O, O, x + r * I, I, !s->total, to, I);
        if (!s->total) continue;
#pragma omp parallel for schedule(static) if (I * O > SMALL_LOOP)
        for (int64_t i = 0; i < I * O; i++) s->total[i] += s->part[i];
    }
}

void linear_bwd_cpu(ctx *c, const linear_args *a) {
    int64_t  N = a->x->dim[0], I = a->x->dim[1], O = a->dy->dim[1];
    bool     act = a->act != ACT_NONE;
    int64_t  step = act ? 8 * piece_rows(O) : N;
    float   *buffer = act ? arena_alloc(&c->scratch, (size_t)((step < N ? step : N) * O) * sizeof *buffer) : NULL;
    row_sums sums = {0};
    double  *db = NULL;
    if (linear_x_is_pre(a)) {
        linear_by_pieces(c, a, act_fwd_cpu, linear_bwd_cpu);
        return;
    }
    weight_sums weights = {0};
    if (tensor_given(a->dw)) weights = weight_sums_new(&c->scratch, a);
    if (tensor_given(a->db)) {
        sums = row_sums_new(&c->scratch, O);
        db = arena_zeros(&c->scratch, (size_t)O * sizeof *db);
    }
    for (int64_t r = 0; r < N; r += step) {
        int64_t      rows = r + step < N ? step : N - r;
        const float *d = F32(a->dy) + r * O, *x = F32(a->x) + r * I;
        if (act) {
            act_slopes(a->act, F32(a->pre) + r * O, d, buffer, rows * O);
            d = buffer;
        }
        if (tensor_given(a->dx))
            gemm_f32(false, a->w_in_out, rows, I, O, d, O, F32(a->w), a->w_in_out ? O : I, a->dx_add,
                     F32(a->dx) + r * I, I);
        if (tensor_given(a->dx) && a->in_act != ACT_NONE)
            act_slopes(a->in_act, F32(a->in_pre) + r * I, F32(a->dx) + r * I, F32(a->dx) + r * I, rows * I);
        if (tensor_given(a->dw)) add_weights(a, &weights, x, d, rows);
        if (db) add_columns(d, rows, O, &sums, db);
    }
    for (int64_t i = 0; weights.total && i < I * O; i++) F32(a->dw)[i] = (float)(F32(a->dw)[i] + weights.total[i]);
    for (int64_t i = 0; db && i < O; i++) F32(a->db)[i] = (float)(F32(a->db)[i] + db[i]);
}
