/* One tile of softmax attention on one thread, shared by attn_segment, attn_select and topk_blocks.
 *
 * A tile is up to TILE_ROWS query rows (a row is one query in one head; the heads of a key head's group follow each
 * other, so they share the keys) against up to TILE_KEYS keys. Head width D is filled up with zeros to W, a multiple of
 * 8. Keys lie transposed (W,keys) where scores are made and as they are (keys,W) where rows are summed.
 *   forward   running maximum, sum and output of each row, corrected from tile to tile
 *   backward  P = exp(scale q.k - lse), dS = scale P (dP - Delta)                                         (R§4.9) */
#pragma once
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "kernels/cpu/mm.h"
#include "kernels/cpu/vmath.h"

enum { TILE_ROWS = 96, TILE_KEYS = 128 };

typedef struct {
    int64_t D, W;
    float   scale;
    float  *q, *dout, *sum;  /* (TILE_ROWS,W): sum is out in forward, dq in backward */
    float  *k, *v, *dk, *dv; /* (TILE_KEYS,W) */
    float  *kt, *vt;         /* (W,TILE_KEYS) */
    float  *p, *ds;          /* (TILE_ROWS,TILE_KEYS) */
    float  *max, *norm;      /* (TILE_ROWS) running maximum and sum of exponentials */
    float  *lse, *delta;     /* (TILE_ROWS) */
} attn_tile;

static inline attn_tile attn_tile_new(arena *a, int64_t D, float scale) {
    int64_t   W = round_up(D, 8);
    attn_tile t = {.D = D, .W = W, .scale = scale};
    float   **rows[] = {&t.q, &t.dout, &t.sum}, **keys[] = {&t.k, &t.v, &t.dk, &t.dv, &t.kt, &t.vt};
    float   **scores[] = {&t.p, &t.ds}, **columns[] = {&t.max, &t.norm, &t.lse, &t.delta};
    for (int i = 0; i < 3; i++) *rows[i] = arena_alloc(a, (size_t)(TILE_ROWS * W) * sizeof(float));
    for (int i = 0; i < 6; i++) *keys[i] = arena_alloc(a, (size_t)(TILE_KEYS * W) * sizeof(float));
    for (int i = 0; i < 2; i++) *scores[i] = arena_alloc(a, (size_t)(TILE_ROWS * TILE_KEYS) * sizeof(float));
    for (int i = 0; i < 4; i++) *columns[i] = arena_alloc(a, (size_t)TILE_ROWS * sizeof(float));
    return t;
}

/* One row of D floats into W. */
static inline void attn_row_in(const attn_tile *t, float *to, const float *from) {
    memcpy(to, from, (size_t)t->D * sizeof *to);
    for (int64_t d = t->D; d < t->W; d++) to[d] = 0;
}

/* to (W,ld) = the transpose of n rows (n,W), zeros up to the next multiple of 8 columns. */
static inline void attn_transpose(const attn_tile *t, float *to, int64_t ld, const float *from, int64_t n) {
    int64_t wide = round_up(n, 8);
    for (int64_t j0 = 0; j0 < wide; j0 += 8)
        for (int64_t d = 0; d < t->W; d++)
            for (int64_t j = j0; j < j0 + 8; j++) to[d * ld + j] = j < n ? from[j * t->W + d] : 0;
}

static inline void attn_fwd_begin(attn_tile *t, int64_t rows) {
    memset(t->sum, 0, (size_t)(rows * t->W) * sizeof *t->sum);
    memset(t->norm, 0, (size_t)rows * sizeof *t->norm);
    for (int64_t r = 0; r < rows; r++) t->max[r] = -INFINITY;
}

/* Scores of all rows: p = scale q kt, n keys, kt (W,ld). Returns columns including those that fill up to 8. */
static inline int64_t attn_scores(attn_tile *t, int64_t rows, const float *kt, int64_t ld, int64_t n) {
    int64_t wide = round_up(n, 8);
    mm_run(
        rows, wide,
        &(mm_part){.A = t->q, .a_row = t->W, .a_col = 1, .B = kt, .ldb = ld, .C = t->p, .ldc = TILE_KEYS, .K = t->D});
    return wide;
}

/* Takes n <= TILE_KEYS more keys into the running softmax; v (n,ldv). */
static inline void attn_fwd_step(attn_tile *t, int64_t rows, const float *kt, int64_t ld, const float *v, int64_t ldv,
                                 int64_t n) {
    int64_t wide = attn_scores(t, rows, kt, ld, n);
    for (int64_t r = 0; r < rows; r++) {
        float *p = t->p + r * TILE_KEYS, max = t->max[r], norm = 0, *sum = t->sum + r * t->W;
        for (int64_t j = 0; j < n; j++) p[j] *= t->scale;
        for (int64_t j = n; j < wide; j++) p[j] = -INFINITY;
        float top[8] = {max, max, max, max, max, max, max, max};
        for (int64_t j = 0; j < wide; j += 8)
            for (int i = 0; i < 8; i++) top[i] = p[j + i] > top[i] ? p[j + i] : top[i];
        for (int i = 0; i < 8; i++) max = top[i] > max ? top[i] : max;
        for (int64_t j = 0; j < wide; j++) p[j] -= max;
        vexp_array(p, p, wide);
        v8f all = v8_set(0);
        for (int64_t j = 0; j < wide; j += 8) all += v8_load(p + j);
        for (int i = 0; i < 8; i++) norm += all[i];
        if (max != t->max[r]) {
            float keep = vexp1(t->max[r] - max);
            t->norm[r] *= keep;
            for (int64_t d = 0; d < t->W; d++) sum[d] *= keep;
            t->max[r] = max;
        }
        t->norm[r] += norm;
    }
    mm_run(rows, t->W,
           &(mm_part){.A = t->p,
                      .a_row = TILE_KEYS,
                      .a_col = 1,
                      .B = v,
                      .ldb = ldv,
                      .C = t->sum,
                      .ldc = t->W,
                      .K = n,
                      .add = true});
}

/* Result of row r; without keys 0 and -inf. */
static inline void attn_fwd_end(const attn_tile *t, int64_t r, float *out, float *lse) {
    float by = t->norm[r] == 0 ? 0 : 1.0f / t->norm[r];
    for (int64_t d = 0; d < t->D; d++) out[d] = t->sum[r * t->W + d] * by;
    *lse = t->max[r] + logf(t->norm[r]);
}

/* p = P and ds = dS of rows q, dout, lse, delta against n keys kt, vt (W,ld). */
static inline void attn_bwd_scores(attn_tile *t, int64_t rows, const float *kt, const float *vt, int64_t ld,
                                   int64_t n) {
    int64_t wide = attn_scores(t, rows, kt, ld, n);
    mm_run(rows, wide,
           &(mm_part){
               .A = t->dout, .a_row = t->W, .a_col = 1, .B = vt, .ldb = ld, .C = t->ds, .ldc = TILE_KEYS, .K = t->D});
    for (int64_t r = 0; r < rows; r++) {
        float *p = t->p + r * TILE_KEYS, *ds = t->ds + r * TILE_KEYS, lse = t->lse[r], delta = t->delta[r];
        for (int64_t j = 0; j < wide; j++) p[j] = p[j] * t->scale - lse;
        vexp_array(p, p, wide);
        for (int64_t j = 0; j < wide; j++) ds[j] = p[j] * (ds[j] - delta) * t->scale;
    }
}

/* dk += dS^T q, dv += P^T dout of the tile. */
static inline void attn_bwd_keys(attn_tile *t, int64_t rows, int64_t n) {
    mm_run(n, t->W,
           &(mm_part){.A = t->ds,
                      .a_row = 1,
                      .a_col = TILE_KEYS,
                      .B = t->q,
                      .ldb = t->W,
                      .C = t->dk,
                      .ldc = t->W,
                      .K = rows,
                      .add = true});
    mm_run(n, t->W,
           &(mm_part){.A = t->p,
                      .a_row = 1,
                      .a_col = TILE_KEYS,
                      .B = t->dout,
                      .ldb = t->W,
                      .C = t->dv,
                      .ldc = t->W,
                      .K = rows,
                      .add = true});
}

/* sum += dS k, k (n,ldk). */
static inline void attn_bwd_rows(attn_tile *t, int64_t rows, const float *k, int64_t ldk, int64_t n) {
    mm_run(rows, t->W,
           &(mm_part){.A = t->ds,
                      .a_row = TILE_KEYS,
                      .a_col = 1,
                      .B = k,
                      .ldb = ldk,
                      .C = t->sum,
                      .ldc = t->W,
                      .K = n,
                      .add = true});
}

/* <out, dout> of a row, added up in the order of mm_run: a query with one key gets dS = 0 exactly. */
static inline float attn_delta(const float *out, const float *dout, int64_t D) {
    float sum = 0;
    for (int64_t d = 0; d < D; d++) sum = fmaf(dout[d], out[d], sum);
    return sum;
}

/* What backward knows of each of N*H rows: log-sum-exp and Delta, from the caller's stat or of its own. */
typedef struct {
    const float *lse, *delta, *stat;
} attn_stats;

static inline attn_stats attn_stats_of(arena *a, const tensor *stat, const tensor *lse, const tensor *out,
                                       const tensor *dout) {
    if (tensor_given(stat)) return (attn_stats){.stat = F32(stat)};
    int64_t n_rows = out->dim[0] * out->dim[1], D = out->dim[2];
    float  *delta = arena_alloc(a, (size_t)n_rows * sizeof *delta);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n_rows; r++) delta[r] = attn_delta(F32(out) + r * D, F32(dout) + r * D, D);
    return (attn_stats){.lse = F32(lse), .delta = delta};
}

/* Row r of the tile is row `at` of the tensors. */
static inline void attn_stats_in(const attn_tile *t, int64_t r, const attn_stats *s, int64_t at) {
    const double ln_2 = 0.69314718055994530942;
    t->lse[r] = s->stat ? (float)(ln_2 * (double)s->stat[2 * at]) : s->lse[at];
    t->delta[r] = s->stat ? -s->stat[2 * at + 1] : s->delta[at];
}
