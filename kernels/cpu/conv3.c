/* Submanifold convolution without index maps in memory and without an im2col copy. Dense levels with few channels go
 * to conv3_dense.c (dense_pays); here is what works on every level.
 *
 * A panel of rows gets its 27 neighbour rows from the grid's tile table (arithmetic inside a tile). The micro-kernel
 * multiplies six neighbour rows, read where they lie, with 16 columns of a weight block that fits the first cache; the
 * weights are packed once a call as [16 columns][27][Cin][16]. Panels that lack many neighbours compress them away.
 *   forward  y  = conv(x, W)
 *   dx       dx[r] = sum_k dpre[r + d(k)] W[26-k]^T: the same kernel on other weights
 *   dw       per offset, the rows that have it: x^T dpre. Sums over fixed parts of the rows, added in order, so the
 *            result does not depend on the number of threads. */
#include <omp.h>
#include <string.h>

#include "kernels/cpu/conv3_parts.h"
#include "kernels/cpu/mm.h"
#include "kernels/cpu/vmath.h"

enum {
    PANEL = 96, /* rows of a forward panel: the pointer table stays at 20 kB */
    DW_PANEL = 256,
    DW_PARTS = 64,
    DW_PART_FLOATS = 8 << 20 /* all partial sums together */
};

/* ---- forward and dx ------------------------------------------------------------------------------------------- */

/* Into [co/16][k][ci][16], zeros behind the last column. */
static float *pack_weights(ctx *c, const conv3_sum *a) {
    int64_t Cin = a->Cin, Cout = a->Cout, wide = round_up(Cout, 8), i_step = a->ci_step, o_step = a->co_step;
    float  *out = arena_alloc(&c->scratch, (size_t)(27 * Cin * wide) * sizeof *out);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t o = 0; o < wide; o += 16)
        for (int64_t k = 0; k < 27; k++) {
            int64_t      cols = wide - o < 16 ? 8 : 16, n = Cout - o < cols ? Cout - o : cols;
            float       *to = out + o * 27 * Cin + k * Cin * cols;
            const float *w = a->w + k * a->k_step + o * o_step;
            for (int64_t i = 0; i < Cin; i++, to += cols, w += i_step) {
                if (n < cols) memset(to, 0, (size_t)cols * sizeof *to);
                if (o_step == 1)
                    memcpy(to, w, (size_t)n * sizeof *to);
                else
                    for (int64_t j = 0; j < n; j++) to[j] = w[j * o_step];
            }
        }
    return out;
}

/* One output block of up to R rows: y[r] += sum over n_k offsets and n_i channels. rows[k * PANEL + r] are the inputs
 * of offset k, w the weights [k][w_step]. */
static inline __attribute__((always_inline)) void conv_tile(const int R, const int W, const float *const *rows,
                                                            int64_t n_k, int64_t i0, int64_t n_i, const float *w,
                                                            int64_t w_step, float *const *y) {
    v8f acc[8][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < W; v++) acc[r][v] = v8_set(0);
    for (int64_t k = 0; k < n_k; k++, rows += PANEL, w += w_step) {
        const float *in[8], *wk = w;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) in[r] = rows[r] + i0;
        for (int64_t i = 0; i < n_i; i++, wk += 8 * W) {
            v8f b[2];
#pragma GCC unroll 2
            for (int v = 0; v < W; v++) b[v] = v8_load(wk + 8 * v);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                v8f x = v8_set(in[r][i]);
#pragma GCC unroll 2
                for (int v = 0; v < W; v++) acc[r][v] += x * b[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < W; v++) v8_store(y[r] + 8 * v, v8_load(y[r] + 8 * v) + acc[r][v]);
}

/* Scratch of one thread. */
typedef struct {
    int32_t      nb[PANEL * 27];
    const float *row[27 * PANEL]; /* [k][r] */
    float       *to[27 * PANEL];  /* the sum a row belongs to; [0][r] without compression */
    int          count[27];       /* rows that have a neighbour at k, when compressed */
} panel_rows;

typedef struct {
    conv3_sum    a;
    const float *w;    /* packed */
    int64_t      wide; /* Cout rounded up to 8 */
    const float *zero; /* a row of zeros: absent neighbours */
} conv_job;

/* Fills the tables for n rows; true when so many neighbours are absent that only present ones are listed. */
static bool find_rows(const conv_job *j, int64_t row0, int n, panel_rows *p, float *sum) {
    int present = 0;
    grid_neighbors(j->a.g, row0, n, p->nb);
    for (int i = 0; i < n * 27; i++) present += p->nb[i] >= 0;
    /* A compressed pass loads and stores the sums once per offset: worth it when a quarter of the work falls away. */
    bool compress = present * 4 < n * 27 * 3 && j->a.Cin >= 8;
    for (int k = 0; k < 27; k++) {
        int m = 0;
        for (int r = 0; r < n; r++) {
            int32_t nb = p->nb[27 * r + k];
            if (compress && nb < 0) continue;
            p->row[k * PANEL + m] = nb < 0 ? j->zero : j->a.x + nb * j->a.Cin;
            p->to[k * PANEL + m++] = sum + r * j->wide;
        }
        p->count[k] = m;
    }
    return compress;
}

/* Adds n_k offsets (first k0) of channels [i0, i0 + n_i) to columns [o, o + 8W) of the panel's sums. */
static void add_offsets(const conv_job *j, panel_rows *p, int64_t k0, int64_t n_k, int64_t i0, int64_t n_i, int64_t o) {
    int64_t      cols = j->wide - o < 16 ? 8 : 16;
    const float *w = j->w + o * 27 * j->a.Cin + (k0 * j->a.Cin + i0) * cols;
    int          n = p->count[k0];
    for (int r = 0; r < n;) {
        const float *const *rows = p->row + k0 * PANEL + r;
        float              *y[8];
        int                 left = n - r, at_once = cols == 16 ? 6 : 8;
        for (int i = 0; i < (left < at_once ? left : at_once); i++) y[i] = p->to[k0 * PANEL + r + i] + o;
#define CONV_TILE(R, W)                                                                                                \
    conv_tile(R, W, rows, n_k, i0, n_i, w, j->a.Cin *cols, y);                                                         \
    r += R
        if (cols == 16) {
            if (left >= 6) {
                CONV_TILE(6, 2);
            } else if (left >= 4) {
                CONV_TILE(4, 2);
            } else if (left >= 2) {
                CONV_TILE(2, 2);
            } else {
                CONV_TILE(1, 2);
            }
        } else {
            if (left >= 8) {
                CONV_TILE(8, 1);
            } else if (left >= 4) {
                CONV_TILE(4, 1);
            } else {
                CONV_TILE(1, 1);
            }
        }
#undef CONV_TILE
    }
}

static void conv_panel(const conv_job *j, int64_t row0, int n, panel_rows *p, float *sum) {
    bool    compress = find_rows(j, row0, n, p, sum);
    int64_t wide = j->wide;
    for (int r = 0; r < n; r++) {
        if (j->a.bias) memcpy(sum + r * wide, j->a.bias, (size_t)j->a.Cout * sizeof *sum);
        memset(sum + r * wide + (j->a.bias ? j->a.Cout : 0), 0,
               (size_t)(wide - (j->a.bias ? j->a.Cout : 0)) * sizeof *sum);
    }
    for (int64_t o = 0; o < wide; o += 16) {
        int64_t n_i = j->a.Cin < CONV3_CHAIN ? j->a.Cin : CONV3_CHAIN;
        int64_t n_k = compress ? 1 : CONV3_CHAIN / n_i;
        for (int64_t k = 0; k < 27; k += n_k)
            for (int64_t i = 0; i < j->a.Cin; i += n_i)
                add_offsets(j, p, k, 27 - k < n_k ? 27 - k : n_k, i, j->a.Cin - i < n_i ? j->a.Cin - i : n_i, o);
    }
    /* Without padding the panel is one long row. */
    int64_t n_rows = wide == j->a.Cout ? 1 : n, len = wide == j->a.Cout ? n * wide : j->a.Cout;
    for (int64_t r = 0; r < n_rows; r++) {
        float *y = j->a.y + (row0 + r) * j->a.Cout, *from = sum + r * wide;
        if (!j->a.pre) {
            memcpy(y, from, (size_t)len * sizeof *y);
            continue;
        }
        float *pre = j->a.pre + (row0 + r) * j->a.Cout;
        memcpy(pre, from, (size_t)len * sizeof *pre);
        vsigmoid_array(from, from, len);
        for (int64_t i = 0; i < len; i++) y[i] = from[i] * pre[i];
    }
}

static void any_rows(ctx *c, const conv3_sum *a) {
    int         n_threads = omp_get_max_threads();
    int64_t     N = a->g->n_rows;
    conv_job    j = {.a = *a,
                     .w = pack_weights(c, a),
                     .wide = round_up(a->Cout, 8),
                     .zero = arena_zeros(&c->scratch, (size_t)a->Cin * sizeof(float))};
    panel_rows *p = arena_alloc(&c->scratch, (size_t)n_threads * sizeof *p);
    float      *sum = arena_alloc(&c->scratch, (size_t)(n_threads * PANEL * j.wide) * sizeof *sum);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t row = 0; row < N; row += PANEL) {
        int t = omp_get_thread_num();
        conv_panel(&j, row, N - row < PANEL ? (int)(N - row) : PANEL, p + t, sum + t * PANEL * j.wide);
    }
}

/* Whether conv3_dense.c is faster. It multiplies two to three times as fast at 8 channels, where this file pays for its
 * tables, and about as fast at 32 x 32; but it also multiplies absent neighbours, which are many in small tiles.
 * Measured with a shell of tiles (41 % of the neighbour tiles present): even at 32 x 32 for side 4 and 8, near 24 x 24
 * for side 2. */
static bool dense_pays(const grid *g, int64_t I, int64_t O) {
    return !g->mask.data && g->side > 1 && I * O <= (g->side == 2 ? 24 * 24 : 32 * 32);
}

static void conv_rows(ctx *c, const conv3_sum *a) {
    if (dense_pays(a->g, a->Cin, a->Cout))
        conv3_dense_rows(c, a);
    else
        any_rows(c, a);
}

/* Whether conv3_up.c does a layer of the level above, with eight products a child; where it multiplies absent
 * neighbours (see dense_pays) a third of the work is still less. */
static bool up_pays(const conv3_args *a, int64_t I, int64_t O) {
    return a->up && !a->g->mask.data && a->g->side >= 4 && I * O <= 64 * 64;
}

/* x of the level above, once for each child. */
static tensor children_of(ctx *c, const conv3_args *a) {
    tensor x = arena_tensor(&c->scratch, DT_F32, DIMS(a->g->n_rows, a->x->dim[1]));
    subdivide_fwd_cpu(c, &(subdivide_args){.x = a->x, .y = &x});
    return x;
}

void conv3_fwd_cpu(ctx *c, const conv3_args *a) {
    int64_t I = a->w->dim[1], O = a->w->dim[2];
    bool    up = up_pays(a, I, O);
    tensor  x = a->up && !up ? children_of(c, a) : *a->x;
    (up ? conv3_up_rows : conv_rows)(c, &(conv3_sum){.g = a->g,
                                                     .x = F32(&x),
                                                     .w = F32(a->w),
                                                     .bias = F32(a->b),
                                                     .k_step = I * O,
                                                     .ci_step = O,
                                                     .co_step = 1,
                                                     .Cin = I,
                                                     .Cout = O,
                                                     .y = F32(a->y),
                                                     .pre = a->act == ACT_NONE ? NULL : F32(a->pre)});
}

/* ---- dw, db --------------------------------------------------------------------------------------------------- */

typedef struct {
    const grid  *g;
    const float *x, *d; /* (N,I), (N,O): dpre */
    int64_t      I, O, wide, n_parts, part_rows;
    float       *sum; /* (parts,27,I,wide) */
} dw_job;

typedef struct {
    int32_t      nb[DW_PANEL * 27];
    const float *x[DW_PANEL], *d[DW_PANEL];
} dw_rows;

/* sum (R, 8W) += x[i .. i+R)^T d[o .. o+8W) over the n listed rows. */
static inline __attribute__((always_inline)) void dw_tile(const int R, const int W, const dw_rows *p, int n, int64_t i,
                                                          int64_t o, float *sum, int64_t wide) {
    v8f acc[6][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < W; v++) acc[r][v] = v8_set(0);
    for (int t = 0; t < n; t++) {
        const float *x = p->x[t] + i, *d = p->d[t] + o;
        v8f          b[2];
#pragma GCC unroll 2
        for (int v = 0; v < W; v++) b[v] = v8_load(d + 8 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            v8f s = v8_set(x[r]);
#pragma GCC unroll 2
            for (int v = 0; v < W; v++) acc[r][v] += s * b[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < W; v++) v8_store(sum + r * wide + 8 * v, v8_load(sum + r * wide + 8 * v) + acc[r][v]);
}

static void dw_offset(const dw_job *j, const dw_rows *p, int n, float *sum) {
    for (int64_t o = 0; o < j->wide; o += 16)
        for (int64_t i = 0; i < j->I;) {
            int64_t left = j->I - i;
            float  *to = sum + i * j->wide + o;
#define DW_TILE(R)                                                                                                     \
    if (j->wide - o < 16)                                                                                              \
        dw_tile(R, 1, p, n, i, o, to, j->wide);                                                                        \
    else                                                                                                               \
        dw_tile(R, 2, p, n, i, o, to, j->wide);                                                                        \
    i += R
            if (left >= 6 && left != 8) {
                DW_TILE(6);
            } else if (left >= 4) {
                DW_TILE(4);
            } else if (left >= 2) {
                DW_TILE(2);
            } else {
                DW_TILE(1);
            }
#undef DW_TILE
        }
}

/* Offsets [k0, k1) of one part of the rows. d_copy (DW_PANEL, wide) holds dpre with zeros behind the last column. */
static void dw_part(const dw_job *j, int64_t part, int k0, int k1, dw_rows *p, float *d_copy) {
    int64_t N = j->g->n_rows, end = (part + 1) * j->part_rows < N ? (part + 1) * j->part_rows : N;
    float  *sum = j->sum + part * 27 * j->I * j->wide;
    memset(sum + k0 * j->I * j->wide, 0, (size_t)((k1 - k0) * j->I * j->wide) * sizeof *sum);
    for (int64_t row0 = part * j->part_rows; row0 < end; row0 += DW_PANEL) {
        int n = end - row0 < DW_PANEL ? (int)(end - row0) : DW_PANEL;
        grid_neighbors(j->g, row0, n, p->nb);
        if (j->wide != j->O)
            for (int r = 0; r < n; r++) {
                memcpy(d_copy + r * j->wide, j->d + (row0 + r) * j->O, (size_t)j->O * sizeof *d_copy);
                memset(d_copy + r * j->wide + j->O, 0, (size_t)(j->wide - j->O) * sizeof *d_copy);
            }
        const float *d = j->wide != j->O ? d_copy : j->d + row0 * j->O;
        for (int k = k0; k < k1; k++) {
            int m = 0;
            for (int r = 0; r < n; r++) {
                int32_t nb = p->nb[27 * r + k];
                p->x[m] = j->x + (nb < 0 ? 0 : nb) * j->I;
                p->d[m] = d + r * j->wide;
                m += nb >= 0;
            }
            dw_offset(j, p, m, sum + k * j->I * j->wide);
        }
    }
}

static void any_dw(ctx *c, const dw_job *from, float *dw) {
    dw_job  job = *from, *j = &job;
    int     n_threads = omp_get_max_threads();
    int64_t N = j->g->n_rows, I = j->I, O = j->O, wide = round_up(O, 8), part = 27 * I * wide;
    int64_t n_parts = DW_PART_FLOATS / (part ? part : 1), n_panels = (N + DW_PANEL - 1) / DW_PANEL;
    if (n_parts > DW_PARTS) n_parts = DW_PARTS;
    if (n_parts > n_panels) n_parts = n_panels;
    if (n_parts < 1) n_parts = 1;
    j->wide = wide;
    j->n_parts = n_parts;
    j->part_rows = round_up((N + n_parts - 1) / n_parts, DW_PANEL);
    j->sum = arena_alloc(&c->scratch, (size_t)(n_parts * part) * sizeof *j->sum);
    dw_rows *p = arena_alloc(&c->scratch, (size_t)n_threads * sizeof *p);
    float   *d_copy = arena_alloc(&c->scratch, (size_t)(n_threads * DW_PANEL * wide) * sizeof *d_copy);
    /* Few parts: the offsets share the work, each of them paying for the neighbour rows again. */
    int      n_k = n_parts >= 16 ? 27 : I * O < 4096 ? 9 : 1;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) collapse(2)
    for (int64_t s = 0; s < n_parts; s++)
        for (int k = 0; k < 27; k += n_k) {
            int t = omp_get_thread_num();
            dw_part(j, s, k, k + n_k, p + t, d_copy + t * DW_PANEL * wide);
        }
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < 27 * I; r++)
        for (int64_t s = 0; s < n_parts; s++)
            for (int64_t o = 0; o < O; o++) dw[r * O + o] += j->sum[(s * 27 * I + r) * wide + o];
}

/* sum[0..n) += columns of d over rows [r0, r1); n a constant: the sums stay in registers. */
static inline __attribute__((always_inline)) void add_columns(const int n, const float *d, int64_t r0, int64_t r1,
                                                              int64_t O, double *sum) {
    double s[8] = {0};
    for (int64_t r = r0; r < r1; r++)
        for (int o = 0; o < n; o++) s[o] += (double)d[r * O + o];
    for (int o = 0; o < n; o++) sum[o] += s[o];
}

static void add_db(ctx *c, const float *d, int64_t N, int64_t O, float *db) {
    int64_t part_rows = (N + DW_PARTS - 1) / DW_PARTS;
    double *sum = arena_zeros(&c->scratch, (size_t)(DW_PARTS * O) * sizeof *sum);
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < DW_PARTS; s++) {
        int64_t r0 = s * part_rows, r1 = r0 + part_rows < N ? r0 + part_rows : N, o = 0;
        for (; o + 8 <= O; o += 8) add_columns(8, d + o, r0, r1, O, sum + s * O + o);
        for (; o < O; o++) add_columns(1, d + o, r0, r1, O, sum + s * O + o);
    }
    for (int64_t o = 0; o < O; o++) {
        double all = 0;
        for (int64_t s = 0; s < DW_PARTS; s++) all += sum[s * O + o];
        db[o] += (float)all;
    }
}

/* dy SiLU'(pre), SiLU'(x) = s (1 + x (1 - s)) */
static const float *silu_bwd(ctx *c, const float *dy, const float *pre, int64_t n) {
    float *d = arena_alloc(&c->scratch, (size_t)n * sizeof *d);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += 1024) {
        int64_t m = n - i < 1024 ? n - i : 1024;
        vsigmoid_array(pre + i, d + i, m);
        for (int64_t t = i; t < i + m; t++) d[t] = dy[t] * d[t] * (1.0f + pre[t] * (1.0f - d[t]));
    }
    return d;
}

/* dx by way of the children's. */
static void any_dx(ctx *c, const conv3_args *a, const float *d, int64_t I, int64_t O) {
    tensor dx = a->up ? arena_tensor(&c->scratch, DT_F32, DIMS(a->g->n_rows, I)) : *a->dx;
    conv_rows(c, &(conv3_sum){.g = a->g,
                              .x = d,
                              .w = F32(a->w) + 26 * I * O,
                              .k_step = -I * O,
                              .ci_step = 1,
                              .co_step = O,
                              .Cin = O,
                              .Cout = I,
                              .y = F32(&dx)});
    if (a->up) subdivide_bwd_cpu(c, &(subdivide_args){.dy = &dx, .dx = a->dx});
}

void conv3_bwd_cpu(ctx *c, const conv3_args *a) {
    int64_t      N = a->g->n_rows, I = a->w->dim[1], O = a->w->dim[2];
    bool         up = up_pays(a, I, O);
    const float *d = a->act == ACT_NONE ? F32(a->dy) : silu_bwd(c, F32(a->dy), F32(a->pre), N * O);
    if (tensor_given(a->dx)) {
        size_t mark = arena_mark(&c->scratch);
        if (up)
            conv3_up_dx(c, &(conv3_sum){.g = a->g, .x = d, .w = F32(a->w), .Cin = O, .Cout = I, .y = F32(a->dx)});
        else
            any_dx(c, a, d, I, O);
        arena_reset(&c->scratch, mark);
    }
    tensor x = a->up && !up ? children_of(c, a) : *a->x;
    if (up) {
        conv3_up_dw(c, a->g, F32(&x), d, I, O, F32(a->dw));
    } else if (dense_pays(a->g, I, O)) {
        conv3_dense_dw(c, a->g, F32(&x), d, I, O, F32(a->dw));
    } else {
        dw_job j = {.g = a->g, .x = F32(&x), .d = d, .I = I, .O = O};
        any_dw(c, &j, F32(a->dw));
    }
    add_db(c, d, N, O, F32(a->db));
}
