#include "core/fit.h"

#include <math.h>
#include <string.h>

/* Solves the normal equations of the terms in `set` by elimination with pivots; false when they are singular. */
static bool solve(double m[FIT_TERMS][FIT_TERMS], const double rhs[FIT_TERMS], const int *set, int n, double *x) {
    double a[FIT_TERMS][FIT_TERMS + 1];
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) a[i][j] = m[set[i]][set[j]];
        a[i][n] = rhs[set[i]];
    }
    for (int c = 0; c < n; c++) {
        int pivot = c;
        for (int r = c + 1; r < n; r++)
            if (fabs(a[r][c]) > fabs(a[pivot][c])) pivot = r;
        if (!(fabs(a[pivot][c]) > 1e-12)) return false; /* columns have length one */
        for (int j = 0; j <= n; j++) {
            double t = a[c][j];
            a[c][j] = a[pivot][j];
            a[pivot][j] = t;
        }
        for (int r = 0; r < n; r++) {
            double f = r == c ? 0 : a[r][c] / a[c][c];
            for (int j = c; f != 0 && j <= n; j++) a[r][j] -= f * a[c][j];
        }
    }
    for (int i = 0; i < n; i++) x[set[i]] = a[i][n] / a[i][i];
    return true;
}

static double weight_of(const double *weight, const double *b, int i) {
    return weight ? weight[i] : b[i] != 0 ? 1 / fabs(b[i]) : 0;
}

double fit_nonnegative(const double *a, const double *b, const double *weight, int n, int k, double *x) {
    double m[FIT_TERMS][FIT_TERMS] = {{0}}, rhs[FIT_TERMS] = {0}, length[FIT_TERMS] = {0}, all = 0, best = INFINITY;
    CHECK(n >= 0 && k > 0 && k <= FIT_TERMS, "%d rows of %d terms", n, k);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < k; c++) length[c] += pow(weight_of(weight, b, i) * a[i * k + c], 2);
    for (int c = 0; c < k; c++) length[c] = length[c] > 0 ? sqrt(length[c]) : 1;
    for (int i = 0; i < n; i++) {
        double w = weight_of(weight, b, i);
        all += pow(w * b[i], 2);
        for (int c = 0; c < k; c++) {
            double ac = w * a[i * k + c] / length[c];
            rhs[c] += ac * w * b[i];
            for (int d = 0; d < k; d++) m[c][d] += ac * w * a[i * k + d] / length[d];
        }
    }
    memset(x, 0, (size_t)k * sizeof *x);
    for (int mask = 0; mask < 1 << k; mask++) {
        int    set[FIT_TERMS], terms = 0;
        double y[FIT_TERMS] = {0}, error = 0;
        for (int c = 0; c < k; c++)
            if (mask >> c & 1) set[terms++] = c;
        bool ok = solve(m, rhs, set, terms, y);
        for (int c = 0; c < k; c++) ok = ok && y[c] >= 0;
        for (int i = 0; ok && i < n; i++) {
            double e = -b[i];
            for (int c = 0; c < k; c++) e += a[i * k + c] * y[c] / length[c];
            error += pow(weight_of(weight, b, i) * e, 2);
        }
        if (!ok || !(error < best * (1 - 1e-9) - 1e-14 * all)) continue; /* a tie is the earlier set's */
        best = error;
        for (int c = 0; c < k; c++) x[c] = y[c] / length[c];
    }
    return n > 0 ? sqrt(best / n) : 0;
}
