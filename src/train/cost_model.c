#include "train/cost_model.h"

#include <math.h>
#include <stdlib.h>

#include "core/fit.h"

cost_model cost_model_of(const options *o) {
    return (cost_model){.token = o->train.cost_token, .token2 = o->train.cost_token2, .sample = o->train.cost_sample};
}

int64_t cost_of(const cost_model *m, int64_t n) {
    double us = m->sample + m->token * (double)n + m->token2 * (double)n * (double)n;
    if (m->token + m->token2 + m->sample <= 0) us = (double)n;
    double ns = 1e3 * us;
    return ns < 1 ? 1 : ns < 1e13 ? llround(ns) : (int64_t)1e13; /* sums of 100,000 samples fit 64 bits */
}

double cost_fit(const cost_point *p, int n, cost_model *m) {
    double *a = malloc((size_t)(n + 1) * 5 * sizeof *a), *b = a + 4 * (n + 1), x[4];
    CHECK(a, "no memory for %d measured times", n);
    for (int i = 0; i < n; i++) {
        double row[4] = {p[i].tokens, p[i].tokens2, p[i].samples, 1};
        for (int k = 0; k < 4; k++) a[4 * i + k] = row[k];
        b[i] = p[i].us;
    }
    double error = fit_nonnegative(a, b, NULL, n, 4, x);
    *m = (cost_model){.token = x[0], .token2 = x[1], .sample = x[2], .step = x[3]};
    free(a);
    return error;
}
