#include "data_prep/closure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sample points of all sheets together, at most so many of one patch. */
enum { SAMPLES = 3072, PATCH_SAMPLES = 48, DIRECTIONS = 24, ROUNDS = 12 };
static const double STEP = 2e-4, ENOUGH = 0.8, HIDDEN = 0.95,
                    LEAST_FRONT = 0.15; /* unit-cube units; share of area; cosine */
static const double TOLERANCE[] = {0.45, 0.35, 0.25, 0.15, 0.1};

typedef struct {
    int32_t face, part;
    double  p[3], n[3], weight, front, back; /* winding numbers a STEP before and behind the face */
} probe;

typedef struct {
    const surface *s;
    const bvh     *tree;
    int32_t       *up; /* [n_faces] union-find; lowest bit: turned against the parent */
    int32_t       *by_patch;
    int64_t        n_open; /* faces of sheets, in by_patch in order of (patch, face) */
    uint8_t       *turned; /* [n_faces] */
    probe         *probe;
    int64_t        n_probes;
} work;

static double length(const double *n) {
    return sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
}

/* ---- patches -------------------------------------------------------------------------------------------------- */

/* Root of f; *turn: whether f is turned against it. */
static int32_t root_of(int32_t *up, int32_t f, int *turn) {
    int     t = 0;
    int32_t r = f;
    while (up[r] >> 1 != r) t ^= up[r] & 1, r = up[r] >> 1;
    *turn = t;
    while (up[f] >> 1 != r) { /* every face on the way learns its root */
        int32_t next = up[f] >> 1;
        int     own = up[f] & 1;
        up[f] = r << 1 | t;
        t ^= own;
        f = next;
    }
    return r;
}

static bool runs_upward(const surface *s, const surface_edge *e) {
    const int32_t *t = s->face + 3 * (int64_t)e->face;
    int            j = t[0] == e->opposite ? 1 : t[1] == e->opposite ? 2 : 0;
    return t[j] == (int32_t)(e->key >> 32);
}

static bool make_patches(work *w, uint8_t *rim) {
    const surface *s = w->s;
    surface_edge  *e = surface_edges(s);
    w->up = malloc((size_t)s->n_faces * 4);
    w->by_patch = malloc((size_t)s->n_faces * 4 + 4);
    w->turned = calloc((size_t)s->n_faces + 1, 1);
    int64_t *first = calloc((size_t)s->n_faces + 2, 8), n3 = 3 * s->n_faces;
    bool     good = e && w->up && w->by_patch && w->turned && first;
    for (int64_t f = 0; good && f < s->n_faces; f++) w->up[f] = (int32_t)f << 1;
    for (int64_t i = 0, j; good && i < n3; i = j) {
        for (j = i; j < n3 && e[j].key == e[i].key;) j++;
        if (s->solid[s->part[e[i].face]]) continue;
        if (j - i == 1) rim[e[i].face] = 1;
        if (j - i != 2) continue;
        int     ta, tb, differ = runs_upward(s, &e[i]) == runs_upward(s, &e[i + 1]);
        int32_t a = root_of(w->up, e[i].face, &ta), b = root_of(w->up, e[i + 1].face, &tb);
        if (a == b) continue; /* a surface of one side keeps a seam */
        if (a < b)
            w->up[b] = a << 1 | (ta ^ tb ^ differ);
        else
            w->up[a] = b << 1 | (ta ^ tb ^ differ);
    }
    for (int pass = 0; pass < 2 && good; pass++) { /* counting sort by root */
        for (int64_t f = 0; f < s->n_faces; f++) {
            int turn;
            if (s->solid[s->part[f]]) continue;
            int32_t r = root_of(w->up, (int32_t)f, &turn);
            w->turned[f] = (uint8_t)turn;
            if (pass)
                w->by_patch[first[r]++] = (int32_t)f;
            else
                first[r + 1]++, w->n_open++;
        }
        for (int64_t f = 0; !pass && f < s->n_faces; f++) first[f + 1] += first[f];
    }
    free(e), free(first);
    return good;
}

/* ---- sample points -------------------------------------------------------------------------------------------- */

static double face_area(const work *w, int64_t i) {
    double n[3];
    surface_normal(w->s, w->by_patch[i], n);
    return 0.5 * length(n);
}

static void add_probe(work *w, int32_t f, double weight) {
    probe         *q = w->probe + w->n_probes++;
    const surface *s = w->s;
    double         len, i = (double)w->n_probes, u = fmod(i * 0.7548776662466927, 1),
                v = fmod(i * 0.5698402909980532, 1); /* evenly spread pairs */
    if (u + v > 1) u = 1 - u, v = 1 - v;
    *q = (probe){.face = f, .part = s->part[f], .weight = weight};
    surface_normal(s, f, q->n);
    len = length(q->n);
    for (int a = 0; a < 3; a++) {
        const int32_t *t = s->face + 3 * (int64_t)f;
        double         x = s->v[3 * (int64_t)t[0] + a];
        q->p[a] = x + u * (s->v[3 * (int64_t)t[1] + a] - x) + v * (s->v[3 * (int64_t)t[2] + a] - x);
        q->n[a] = len > 0 ? (w->turned[f] ? -1 : 1) * q->n[a] / len : 0;
    }
}

/* Of the patch by_patch[i..j-1], evenly by area. */
static void sample_patch(work *w, int64_t i, int64_t j, double total) {
    double area = 0, seen = 0;
    for (int64_t k = i; k < j; k++) area += face_area(w, k);
    if (!(area > 0)) return;
    int64_t n = (int64_t)fmin(PATCH_SAMPLES, fmax(1, SAMPLES * area / total)), taken = 0;
    for (int64_t k = i; k < j && taken < n; k++) {
        seen += face_area(w, k);
        for (; taken < n && (double)taken + 0.5 <= seen / area * (double)n; taken++)
            add_probe(w, w->by_patch[k], area / (double)n);
    }
}

/* Turns the patch of probes a..b-1 so that its front is the side that sees more of the outside. */
static void face_out(work *w, int64_t i, int64_t j, int64_t a, int64_t b) {
    int64_t front = 0, back = 0;
    for (int64_t k = a; k < b; k++) {
        const probe *q = w->probe + k;
        for (int d = 0; d < DIRECTIONS; d++) {
            double z = 1 - (2 * d + 1) / (double)DIRECTIONS, r = sqrt(1 - z * z), angle = 2.399963229728653 * d;
            double dir[3] = {r * cos(angle), r * sin(angle), z}, from[3];
            double side = dir[0] * q->n[0] + dir[1] * q->n[1] + dir[2] * q->n[2];
            if (fabs(side) < LEAST_FRONT) continue;
            for (int c = 0; c < 3; c++) from[c] = q->p[c] + (side > 0 ? STEP : -STEP) * q->n[c];
            if (!isinf(bvh_ray(w->tree, from, dir, INFINITY, NULL))) continue;
            if (side > 0)
                front++;
            else
                back++;
        }
    }
    if (front >= back) return;
    for (int64_t k = i; k < j; k++) w->turned[w->by_patch[k]] ^= 1;
    for (int64_t k = a; k < b; k++)
        for (int c = 0; c < 3; c++) w->probe[k].n[c] *= -1;
}

static bool orient(work *w) {
    double  total = 0;
    int64_t n_patches = 0;
    int64_t(*range)[4] = malloc((size_t)(w->n_open + 1) * sizeof *range);
    w->probe = malloc((size_t)(w->n_open + SAMPLES + 1) * sizeof *w->probe);
    if (!range || !w->probe) {
        free(range);
        return false;
    }
    for (int64_t i = 0; i < w->n_open; i++) total += face_area(w, i);
    for (int64_t i = 0, j; i < w->n_open; i = j) {
        int     turn;
        int32_t r = root_of(w->up, w->by_patch[i], &turn);
        for (j = i + 1; j < w->n_open && root_of(w->up, w->by_patch[j], &turn) == r;) j++;
        int64_t a = w->n_probes;
        sample_patch(w, i, j, total);
        memcpy(range[n_patches++], (int64_t[4]){i, j, a, w->n_probes}, sizeof *range);
    }
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t k = 0; k < n_patches; k++) face_out(w, range[k][0], range[k][1], range[k][2], range[k][3]);
    free(range);
    return true;
}

/* ---- which parts close ---------------------------------------------------------------------------------------- */

static bool build_number(const work *w, const uint8_t *closed, winding *out) {
    const surface *s = w->s;
    double        *corner = malloc((size_t)(w->n_open + 1) * 72);
    int64_t        n = 0;
    winding_free(out);
    for (int64_t i = 0; corner && i < w->n_open; i++) {
        int32_t f = w->by_patch[i];
        if (!closed[s->part[f]]) continue;
        for (int j = 0; j < 3; j++)
            memcpy(corner + 9 * n + 3 * j, s->v + 3 * (int64_t)s->face[3 * (int64_t)f + (w->turned[f] ? 2 - j : j)],
                   24);
        n++;
    }
    bool good = corner && (n == 0 || winding_build(out, corner, n));
    free(corner);
    return good;
}

/* Drops the parts that do not meet the tolerance; returns how many. */
static int64_t drop_open(work *w, double tolerance, uint8_t *closed, double *clear) {
    int64_t n = 0;
    memset(clear, 0, (size_t)w->s->n_parts * 2 * sizeof *clear);
    for (int64_t i = 0; i < w->n_probes; i++) {
        const probe *q = w->probe + i;
        if (!closed[q->part]) continue;
        clear[2 * q->part + 1] += q->weight;
        double front = nearbyint(q->front), back = nearbyint(q->back);
        if (front != back && fabs(q->front - front) <= tolerance && fabs(q->back - back) <= tolerance)
            clear[2 * q->part] += q->weight;
    }
    for (int32_t p = 0; p < w->s->n_parts; p++)
        if (closed[p] && !(clear[2 * p + 1] > 0 && clear[2 * p] >= ENOUGH * clear[2 * p + 1])) closed[p] = 0, n++;
    return n;
}

static bool find_closed(work *w, closure *c) {
    double *clear = malloc((size_t)w->s->n_parts * 2 * sizeof *clear);
    bool    good = clear != NULL, again = true;
    for (int round = 0, step = 0; good && (again || step < 5); round++) {
        if (again) {
            good = build_number(w, c->closed, &c->number);
            if (!good || c->number.n == 0) break;
#pragma omp parallel for schedule(dynamic, 64)
            for (int64_t i = 0; i < w->n_probes; i++) {
                probe *q = w->probe + i;
                double p[2][3];
                if (!c->closed[q->part]) continue;
                for (int a = 0; a < 3; a++) p[0][a] = q->p[a] + STEP * q->n[a], p[1][a] = q->p[a] - STEP * q->n[a];
                q->front = winding_at(&c->number, p[0]);
                q->back = winding_at(&c->number, p[1]);
            }
        }
        again = drop_open(w, TOLERANCE[step < 5 ? step : 4], c->closed, clear) > 0;
        step += step < 5;
        if (again && round >= ROUNDS) { /* it crumbles piece by piece: nothing of it is sure */
            memset(c->closed, 0, (size_t)w->s->n_parts);
            winding_free(&c->number);
            break;
        }
    }
    free(clear);
    return good;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Probes of a part are not neighbours when it has several patches: one list a part. */
static bool measure_thickness(const work *w, closure *c) {
    int64_t *first = calloc((size_t)w->s->n_parts + 2, 8);
    double  *way = malloc((size_t)(w->n_probes + 1) * sizeof *way);
    bool     good = first && way;
    for (int64_t i = 0; good && i < w->n_probes; i++) first[w->probe[i].part + 2]++;
    for (int32_t p = 0; good && p < w->s->n_parts; p++) first[p + 2] += first[p + 1];
    for (int64_t i = 0; good && i < w->n_probes; i++) {
        const probe *q = w->probe + i;
        double       from[3], dir[3];
        for (int a = 0; a < 3; a++) from[a] = q->p[a] - 1e-6 * q->n[a], dir[a] = -q->n[a];
        way[first[q->part + 1]++] = c->closed[q->part] ? bvh_ray(w->tree, from, dir, INFINITY, NULL) : INFINITY;
    }
    for (int32_t p = 0; good && p < w->s->n_parts; p++) {
        int64_t n = first[p + 1] - first[p];
        if (!c->closed[p] || n == 0) continue;
        qsort(way + first[p], (size_t)n, sizeof *way, by_value);
        c->thickness[p] = way[first[p] + n / 2];
        c->area += w->s->area[p];
    }
    free(first), free(way);
    return good;
}

/* Sheets on what has an inside of its own: their shell would only thicken it. */
static bool find_hidden(const work *w, closure *c) {
    const surface *s = w->s;
    double        *on = calloc((size_t)s->n_parts * 2 + 1, sizeof *on);
    bvh_list       near = {0};
    bool           good = on != NULL;
    for (int64_t i = 0; good && i < w->n_probes; i++) {
        const probe *q = w->probe + i;
        bool         covered = false;
        if (c->closed[q->part]) continue;
        good = bvh_gather(w->tree, q->p, STEP, &near);
        for (int64_t k = 0; good && k < near.n; k++) {
            int32_t p = s->part[near.id[k]];
            covered |= s->solid[p] || c->closed[p];
        }
        on[2 * q->part + 1] += q->weight;
        on[2 * q->part] += covered ? q->weight : 0;
    }
    for (int32_t p = 0; good && p < s->n_parts; p++) c->hidden[p] = on[2 * p] > HIDDEN * on[2 * p + 1];
    bvh_list_free(&near);
    free(on);
    return good;
}

bool closure_build(const surface *s, const bvh *tree, closure *c) {
    work w = {.s = s, .tree = tree};
    bool any = false, good;
    *c = (closure){.closed = calloc((size_t)s->n_parts + 1, 1),
                   .hidden = calloc((size_t)s->n_parts + 1, 1),
                   .rim = calloc((size_t)s->n_faces + 1, 1),
                   .thickness = calloc((size_t)s->n_parts + 1, 8)};
    good = c->closed && c->hidden && c->rim && c->thickness;
    for (int32_t p = 0; good && p < s->n_parts; p++) any |= c->closed[p] = !s->solid[p];
    if (good && any)
        good = make_patches(&w, c->rim) && orient(&w) && find_closed(&w, c) && measure_thickness(&w, c) &&
               find_hidden(&w, c);
    free(w.up), free(w.by_patch), free(w.turned), free(w.probe);
    if (!good) closure_free(c);
    return good;
}

void closure_free(closure *c) {
    free(c->closed), free(c->hidden), free(c->rim), free(c->thickness);
    winding_free(&c->number);
    *c = (closure){0};
}
