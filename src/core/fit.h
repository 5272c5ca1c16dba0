/* Least squares with coefficients that may not be negative: what measured times say about costs. */
#pragma once
#include "core/base.h"

enum { FIT_TERMS = 4 };

/* x[k] >= 0 that minimises sum_i (weight[i] * (sum_k a[i*k_terms+k] x[k] - b[i]))^2; weight NULL: 1/|b| (relative
 * errors; rows with b = 0 do not count). Every subset of the terms is solved and the best one without a negative
 * coefficient kept, so the result is exact. Where the rows cannot tell terms apart the earlier ones are taken. Returns
 * the root of the mean squared (weighted) error; k <= FIT_TERMS.
 */
double fit_nonnegative(const double *a, const double *b, const double *weight, int n, int k, double *x);
