/* What conv3.c (any level), conv3_dense.c (dense levels) and conv3_up.c (those below a subdivision) share. */
#pragma once
#include "kernels/backend.h"

enum { CONV3_CHAIN = 64 }; /* products one float sum takes before it is added to the rest: bounds the rounding error */

/* y[p] = bias + sum_k x[p + d(k)] W(k), W(k)[ci][co] = w[k_step * k + ci_step * ci + co_step * co]: the forward and,
 * with dpre for x and turned weights, dx. With pre: pre = that sum, y = SiLU(pre). */
typedef struct {
    const grid  *g;
    const float *x, *w, *bias; /* x (N,Cin); bias NULL: none */
    int64_t      k_step, ci_step, co_step, Cin, Cout;
    float       *y, *pre; /* (N,Cout); pre NULL: none */
} conv3_sum;

/* Both want a dense level of side 2, 4 or 8. dw (27,I,O) += x^T d per offset; x (N,I), d (N,O). The sums don't depend
 * on the number of threads. */
void conv3_dense_rows(ctx *c, const conv3_sum *a);
void conv3_dense_dw(ctx *c, const grid *g, const float *x, const float *d, int64_t I, int64_t O, float *dw);

/* The same of the level above, on dense levels of side 4 or 8: x (N/8,Cin), weights as they are stored. conv3_up_dx has
 * dpre (N,Cin) as x, W's first offset as w, and dx (N/8,Cout) as y. */
void conv3_up_rows(ctx *c, const conv3_sum *a);
void conv3_up_dx(ctx *c, const conv3_sum *a);
void conv3_up_dw(ctx *c, const grid *g, const float *x, const float *d, int64_t I, int64_t O, float *dw);
