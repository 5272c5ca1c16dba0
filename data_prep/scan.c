#include "data_prep/scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_STEP = 1 << 16 }; /* fixed-point units between two grid lines; vertices are odd, lines even: never equal */

typedef struct {
    scan_hit hit;
    uint32_t line;
} raw_hit;

typedef struct {
    raw_hit *raw;
    int64_t  n, cap;
} hit_list;

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static bool push(hit_list *l, uint32_t line, float at, int32_t part) {
    if (l->n == l->cap) {
        l->cap = 2 * l->cap + 1024;
        raw_hit *r = realloc(l->raw, (size_t)l->cap * sizeof *r);
        if (!r) return false;
        l->raw = r;
    }
    l->raw[l->n++] = (raw_hit){{at, part}, line};
    return true;
}

/* Number of grid points k = .., K-1 that lie below edge ab on the line u = at: both faces of the edge get the same K.
 */
static int64_t edge_below(const int64_t *a, const int64_t *b, int64_t at) {
    if (a[0] > b[0]) {
        const int64_t *t = a;
        a = b;
        b = t;
    }
    int64_t d = b[0] - a[0], num = a[1] * d + (b[1] - a[1]) * (at - a[0]);
    return floor_div(num - 1, LINE_STEP * d) + 1;
}

static bool scan_face(const surface *s, int64_t f, int resolution, int axis, hit_list *out) {
    double  p[3][3], lo = INFINITY, hi = -INFINITY;
    int64_t q[3][2], min_u = INT64_MAX, max_u = INT64_MIN;
    int     u = (axis + 1) % 3, w = (axis + 2) % 3;
    for (int j = 0; j < 3; j++) {
        const double *v = s->v + 3 * (int64_t)s->face[3 * f + j];
        p[j][0] = (v[axis] + 0.5) * (resolution - 1);
        p[j][1] = (v[u] + 0.5) * (resolution - 1);
        p[j][2] = (v[w] + 0.5) * (resolution - 1);
        for (int a = 0; a < 2; a++) q[j][a] = 2 * (int64_t)llround(p[j][a + 1] * (LINE_STEP / 2)) + 1;
        lo = fmin(lo, p[j][0]), hi = fmax(hi, p[j][0]);
        if (q[j][0] < min_u) min_u = q[j][0];
        if (q[j][0] > max_u) max_u = q[j][0];
    }
    double e1[3], e2[3], n[3];
    for (int a = 0; a < 3; a++) e1[a] = p[1][a] - p[0][a], e2[a] = p[2][a] - p[0][a];
    n[0] = e1[1] * e2[2] - e1[2] * e2[1];
    n[1] = e1[2] * e2[0] - e1[0] * e2[2];
    n[2] = e1[0] * e2[1] - e1[1] * e2[0];
    int64_t j0 = floor_div(min_u, LINE_STEP) + 1, j1 = floor_div(max_u, LINE_STEP);
    for (int64_t j = j0 < 0 ? 0 : j0; j <= j1 && j < resolution; j++) {
        int64_t at = j * LINE_STEP, k[2];
        int     n_cross = 0;
        for (int e = 0; e < 3; e++) {
            const int64_t *a = q[e], *b = q[(e + 1) % 3];
            if ((a[0] > at) != (b[0] > at)) k[n_cross++] = edge_below(a, b, at);
        }
        if (n_cross != 2) continue;
        int64_t k0 = k[0] < k[1] ? k[0] : k[1], k1 = k[0] < k[1] ? k[1] : k[0];
        for (int64_t i = k0 < 0 ? 0 : k0; i < k1 && i < resolution; i++) {
            double x = p[0][0] - (n[1] * ((double)j - p[0][1]) + n[2] * ((double)i - p[0][2])) / n[0];
            x = x >= lo ? x <= hi ? x : hi : lo; /* also catches NaN of a face seen edge on */
            if (!push(out, (uint32_t)(j * resolution + i), (float)x, s->part[f])) return false;
        }
    }
    return true;
}

static int by_position(const void *a, const void *b) {
    const scan_hit *x = a, *y = b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

bool scan_axis(const surface *s, int resolution, int axis, scan_lines *out) {
    hit_list list = {0};
    int64_t  n_lines = (int64_t)resolution * resolution;
    bool     good = true;
    for (int64_t f = 0; f < s->n_faces && good; f++)
        if (s->solid[s->part[f]]) good = scan_face(s, f, resolution, axis, &list);
    *out = (scan_lines){resolution, calloc((size_t)n_lines + 2, sizeof(int64_t)),
                        malloc((size_t)(list.n + 1) * sizeof(scan_hit))};
    if (good && out->first && out->hit) {
        int64_t *fill = out->first + 1; /* counts land one further, so that filling leaves the offsets */
        for (int64_t i = 0; i < list.n; i++) fill[list.raw[i].line + 1]++;
        for (int64_t i = 1; i <= n_lines; i++) fill[i] += fill[i - 1];
        for (int64_t i = 0; i < list.n; i++) out->hit[fill[list.raw[i].line]++] = list.raw[i].hit;
#pragma omp parallel for schedule(dynamic, 4096)
        for (int64_t i = 0; i < n_lines; i++) {
            int64_t n = out->first[i + 1] - out->first[i];
            if (n > 1) qsort(out->hit + out->first[i], (size_t)n, sizeof(scan_hit), by_position);
        }
    } else {
        scan_free(out);
        good = false;
    }
    free(list.raw);
    return good;
}

void scan_free(scan_lines *l) {
    free(l->first), free(l->hit);
    *l = (scan_lines){0};
}

bool scan_volumes(const scan_lines *l, int32_t n_parts, double *volume) {
    uint8_t *in = calloc((size_t)n_parts + 1, 1);
    if (!in) return false;
    memset(volume, 0, (size_t)n_parts * sizeof *volume);
    int64_t n = l->first[(int64_t)l->resolution * l->resolution];
    for (int64_t i = 0; i < n; i++) { /* every line leaves every part as it came: one pass over all hits */
        int32_t p = l->hit[i].part;
        in[p] ^= 1;
        volume[p] += in[p] ? -(double)l->hit[i].at : (double)l->hit[i].at;
    }
    free(in);
    return true;
}
