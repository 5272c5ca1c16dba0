/* What a sample costs in a step. The ranks' shares are balanced by it (train/plan); the times of a simulated cluster
 * come from it.
 *
 *   seconds of a rank's step = step + sum over its samples of (sample + token n + token2 n^2)
 *
 * n tokens; n^2 stands for the attention over compressed blocks, whose number grows with n. The coefficients are
 * options (train.cost_*), recorded with the run; nothing is fitted while a run goes on. So shares are the same on all
 * ranks and after a resume. */
#pragma once
#include "io/options.h"

typedef struct {
    double token, token2, sample, step; /* microseconds, none negative; step is not of a sample */
} cost_model;

/* One measured step of a rank. */
typedef struct {
    double samples, tokens, tokens2; /* tokens2: sum of the squares of the samples' tokens */
    double us;                       /* microseconds it took */
} cost_point;

cost_model cost_model_of(const options *o);
/* Of one sample, in nanoseconds, at least 1; grows with n. A model that is all 0 counts tokens. */
int64_t    cost_of(const cost_model *m, int64_t n);
/* Least squares of relative errors without negative coefficients. Terms that the points cannot tell apart are left out.
 * Returns the root of the mean squared relative error. */
double     cost_fit(const cost_point *p, int n, cost_model *m);
