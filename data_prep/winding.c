#include "data_prep/winding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LEAF 4, 8, 16 differ by under 10 % in time; a cluster counts as far beyond FAR times its reach. */
enum { LEAF = 8, DEPTH = 64 };
static const double FAR = 2.2, FOUR_PI = 12.566370614359172;

typedef struct {
    uint64_t key;
    int64_t  at;
} order;

static int by_key(const void *a, const void *b) {
    const order *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static uint64_t morton_key(const double *c) {
    uint64_t key = 0, q[3];
    for (int a = 0; a < 3; a++) {
        double mid = (c[a] + c[3 + a] + c[6 + a]) / 3 + 0.5;
        q[a] = (uint64_t)(fmin(1, fmax(0, mid)) * ((1 << 20) - 1));
    }
    for (int b = 19; b >= 0; b--)
        for (int a = 0; a < 3; a++) key = key << 1 | (q[a] >> b & 1);
    return key;
}

/* Twice the area vector. */
static void normal_of(const double *c, double out[3]) {
    double u[3], v[3];
    for (int a = 0; a < 3; a++) u[a] = c[3 + a] - c[a], v[a] = c[6 + a] - c[a];
    out[0] = u[1] * v[2] - u[2] * v[1];
    out[1] = u[2] * v[0] - u[0] * v[2];
    out[2] = u[0] * v[1] - u[1] * v[0];
}

static int32_t build_node(winding *w, int32_t first, int32_t n) {
    int32_t       at = w->n_nodes++;
    winding_node *k = w->node + at;
    double        sum = 0, plain[3] = {0, 0, 0}, weighted[3] = {0, 0, 0};
    *k = (winding_node){.first = first, .n = n, .right = -1};
    for (int32_t i = first; i < first + n; i++) {
        const double *c = w->corner + 9 * (int64_t)i;
        double        normal[3], area;
        normal_of(c, normal);
        area = sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
        sum += area;
        for (int a = 0; a < 3; a++) {
            double mid = (c[a] + c[3 + a] + c[6 + a]) / 3;
            plain[a] += mid / n;
            weighted[a] += area * mid;
            k->dipole[a] += 0.5 * normal[a];
        }
    }
    for (int a = 0; a < 3; a++) k->center[a] = sum > 0 ? weighted[a] / sum : plain[a];
    for (int32_t i = first; i < first + n; i++) {
        const double *c = w->corner + 9 * (int64_t)i;
        double        normal[3];
        normal_of(c, normal);
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < 3; b++)
                k->moment[3 * a + b] += 0.5 * normal[a] * ((c[b] + c[3 + b] + c[6 + b]) / 3 - k->center[b]);
        for (int j = 0; j < 3; j++) {
            double d2 = 0;
            for (int a = 0; a < 3; a++) d2 += (c[3 * j + a] - k->center[a]) * (c[3 * j + a] - k->center[a]);
            k->reach = fmax(k->reach, sqrt(d2));
        }
    }
    if (n > LEAF) {
        build_node(w, first, n / 2);
        int32_t right = build_node(w, first + n / 2, n - n / 2);
        w->node[at].right = right;
    }
    return at;
}

bool winding_build(winding *w, const double *corner, int64_t n) {
    *w = (winding){.n = n, .corner = malloc((size_t)n * 72), .node = malloc((size_t)(n + 1) * sizeof(winding_node))};
    order *o = malloc((size_t)n * sizeof *o);
    if (w->corner && w->node && o) {
        for (int64_t i = 0; i < n; i++) o[i] = (order){morton_key(corner + 9 * i), i};
        qsort(o, (size_t)n, sizeof *o, by_key);
        for (int64_t i = 0; i < n; i++) memcpy(w->corner + 9 * i, corner + 9 * o[i].at, 72);
        build_node(w, 0, (int32_t)n);
        free(o);
        return true;
    }
    free(o);
    winding_free(w);
    return false;
}

void winding_free(winding *w) {
    free(w->corner), free(w->node);
    *w = (winding){0};
}

/* Solid angle of a triangle seen from p (van Oosterom, Strackee). */
static double solid_angle(const double *c, const double p[3]) {
    double r[9], len[3], dot[3];
    for (int j = 0; j < 3; j++) {
        double *v = r + 3 * j;
        for (int a = 0; a < 3; a++) v[a] = c[3 * j + a] - p[a];
        len[j] = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    }
    for (int j = 0; j < 3; j++) { /* dot[j]: of the two corners other than j */
        const double *u = r + 3 * ((j + 1) % 3), *v = r + 3 * ((j + 2) % 3);
        dot[j] = u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    }
    double det =
        r[0] * (r[4] * r[8] - r[5] * r[7]) - r[1] * (r[3] * r[8] - r[5] * r[6]) + r[2] * (r[3] * r[7] - r[4] * r[6]);
    return 2 * atan2(det, len[0] * len[1] * len[2] + dot[0] * len[0] + dot[1] * len[1] + dot[2] * len[2]);
}

static double far_angle(const winding_node *k, const double d[3], double r2) {
    double inv = 1 / sqrt(r2), inv3 = inv * inv * inv, first = 0, trace = 0, second = 0;
    for (int a = 0; a < 3; a++) {
        first += k->dipole[a] * d[a];
        trace += k->moment[4 * a];
        for (int b = 0; b < 3; b++) second += k->moment[3 * a + b] * d[a] * d[b];
    }
    return inv3 * (first + trace - 3 * second / r2);
}

double winding_at(const winding *w, const double p[3]) {
    int32_t stack[DEPTH], n = 0;
    double  sum = 0;
    stack[n++] = 0;
    while (n > 0) {
        const winding_node *k = w->node + stack[--n];
        double              d[3], r2 = 0;
        for (int a = 0; a < 3; a++) {
            d[a] = k->center[a] - p[a];
            r2 += d[a] * d[a];
        }
        if (r2 > FAR * FAR * k->reach * k->reach) {
            sum += far_angle(k, d, r2);
        } else if (k->right < 0) {
            for (int32_t i = k->first; i < k->first + k->n; i++) sum += solid_angle(w->corner + 9 * (int64_t)i, p);
        } else {
            stack[n++] = k->right;
            stack[n++] = (int32_t)(k - w->node) + 1;
        }
    }
    return sum / FOUR_PI;
}
