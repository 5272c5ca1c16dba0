/* Softmax attention of one query over a list of keys in double, forward and backward: what attn_segment and attn_select
 * are made of. Key t of the list is the row key[t] of k and v; p has room for n values. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const float   *q, *k, *v;          /* q: this row; k, v: column block of the key head */
    int64_t        k_stride, v_stride; /* elements between rows */
    const int32_t *key;
    int64_t        n, D;
    double         scale;
    const float   *stat;   /* backward: this row's, or NULL */
    bool           dq_add; /* backward */
    double        *p;
} attn_row;

/* p = scale q.k */
static inline void attn_row_scores(const attn_row *r) {
    for (int64_t t = 0; t < r->n; t++) {
        double s = 0;
        for (int64_t d = 0; d < r->D; d++) s += (double)r->q[d] * (double)r->k[r->key[t] * r->k_stride + d];
        r->p[t] = s * r->scale;
    }
}

/* p = softmax(scale q.k); returns the log-sum-exp, -inf without keys. */
static inline double attn_row_softmax(const attn_row *r) {
    double max = -INFINITY, sum = 0;
    attn_row_scores(r);
    for (int64_t t = 0; t < r->n; t++) /* Written so that a NaN score becomes the maximum and reaches the result. */
        if (!(r->p[t] <= max)) max = r->p[t];
    for (int64_t t = 0; t < r->n; t++) sum += r->p[t] = exp(r->p[t] - max);
    for (int64_t t = 0; t < r->n; t++) r->p[t] /= sum;
    return r->n == 0 ? -INFINITY : max + log(sum);
}

static inline void attn_row_fwd(const attn_row *r, float *out, float *lse) {
    *lse = (float)attn_row_softmax(r);
    for (int64_t d = 0; d < r->D; d++) {
        double sum = 0;
        for (int64_t t = 0; t < r->n; t++) sum += r->p[t] * (double)r->v[r->key[t] * r->v_stride + d];
        out[d] = (float)sum;
    }
}

/* Weights of the backward, and Delta, where `stat` says what they are. */
static inline double attn_row_given(const attn_row *r) {
    const double log2_e = 1.44269504088896340736;
    attn_row_scores(r);
    for (int64_t t = 0; t < r->n; t++) r->p[t] = exp2(r->p[t] * log2_e - (double)r->stat[0]);
    return -(double)r->stat[1];
}

/* R§4.9: dS = P (dP - Delta), Delta = sum_t P dP. dk, dv (keys,D) are sums in double over all queries; dq_sum has room
 * for D values. Needs nothing that forward stored. */
static inline void attn_row_bwd(const attn_row *r, const float *dout, double *dq_sum, float *dq, double *dk,
                                double *dv) {
    double delta = 0;
    if (r->stat)
        delta = attn_row_given(r);
    else
        attn_row_softmax(r);
    for (int pass = r->stat ? 1 : 0; pass < 2; pass++)
        for (int64_t t = 0; t < r->n; t++) {
            int64_t      row = r->key[t];
            const float *k = r->k + row * r->k_stride, *v = r->v + row * r->v_stride;
            double       dp = 0;
            for (int64_t d = 0; d < r->D; d++) dp += (double)dout[d] * (double)v[d];
            if (pass == 0) {
                delta += r->p[t] * dp;
                continue;
            }
            double ds = r->p[t] * (dp - delta) * r->scale;
            for (int64_t d = 0; d < r->D; d++) {
                dq_sum[d] = (t == 0 ? 0 : dq_sum[d]) + ds * (double)k[d];
                dk[row * r->D + d] += ds * (double)r->q[d];
                dv[row * r->D + d] += r->p[t] * (double)dout[d];
            }
        }
    for (int64_t d = 0; d < r->D; d++) dq[d] = (float)((r->dq_add ? (double)dq[d] : 0) + (r->n == 0 ? 0 : dq_sum[d]));
}
