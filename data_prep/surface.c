#include "data_prep/surface.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef surface_edge edge;

static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

static int64_t table_size(int64_t n) {
    int64_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

/* ---- weld ----------------------------------------------------------------------------------------------------- */

/* Cells of twice the tolerance; a vertex looks at the 8 cells its tolerance ball can touch. */
static bool weld(const mesh *m, surface *s, int32_t *to) {
    int64_t  size = table_size(m->n_vertices), n = 0;
    int32_t *slot = malloc((size_t)size * 4), *next = malloc((size_t)m->n_vertices * 4);
    s->v = malloc((size_t)m->n_vertices * 24);
    if (slot && next && s->v) {
        memset(slot, 0xff, (size_t)size * 4);
        for (int64_t i = 0; i < m->n_vertices; i++) {
            double  p[3], cell = 2 * WELD_TOLERANCE;
            int64_t base[3];
            int32_t found = -1;
            for (int a = 0; a < 3; a++) {
                p[a] = 0.5 * m->position[3 * i + a];
                base[a] = (int64_t)floor(p[a] / cell - 0.5);
            }
            for (int c = 0; c < 8 && found < 0; c++) {
                uint64_t h =
                    mix((uint64_t)(base[0] + (c >> 2)) * 73856093u ^ (uint64_t)(base[1] + (c >> 1 & 1)) * 19349663u ^
                        (uint64_t)(base[2] + (c & 1)) * 83492791u);
                for (int32_t k = slot[h & (uint64_t)(size - 1)]; k >= 0; k = next[k]) {
                    const double *q = s->v + 3 * k;
                    double        d =
                        (p[0] - q[0]) * (p[0] - q[0]) + (p[1] - q[1]) * (p[1] - q[1]) + (p[2] - q[2]) * (p[2] - q[2]);
                    if (d <= WELD_TOLERANCE * WELD_TOLERANCE) {
                        found = k;
                        break;
                    }
                }
            }
            if (found < 0) {
                int64_t own[3];
                found = (int32_t)n++;
                memcpy(s->v + 3 * found, p, 24);
                for (int a = 0; a < 3; a++) own[a] = (int64_t)floor(p[a] / cell);
                uint64_t h =
                    mix((uint64_t)own[0] * 73856093u ^ (uint64_t)own[1] * 19349663u ^ (uint64_t)own[2] * 83492791u) &
                    (uint64_t)(size - 1);
                next[found] = slot[h];
                slot[h] = found;
            }
            to[i] = found;
        }
    }
    s->n_vertices = n;
    bool good = slot && next && s->v;
    free(slot), free(next);
    return good;
}

static bool unique_faces(const mesh *m, surface *s, const int32_t *to) {
    int64_t  size = table_size(m->n_faces);
    int32_t *slot = malloc((size_t)size * 4);
    s->face = malloc((size_t)m->n_faces * 12);
    if (!slot || !s->face) {
        free(slot);
        return false;
    }
    memset(slot, 0xff, (size_t)size * 4);
    for (int64_t f = 0; f < m->n_faces; f++) {
        int32_t t[3], k[3];
        for (int j = 0; j < 3; j++) k[j] = t[j] = to[m->face[3 * f + j]];
        if (t[0] == t[1] || t[1] == t[2] || t[2] == t[0]) continue;
        for (int j = 0; j < 3; j++) { /* sorts k: exchanges (0,1), (1,2), (0,1) */
            int lo = j == 1;
            if (k[lo] <= k[lo + 1]) continue;
            int32_t x = k[lo];
            k[lo] = k[lo + 1];
            k[lo + 1] = x;
        }
        uint64_t h = mix(mix((uint64_t)k[0] << 32 | (uint32_t)k[1]) ^ (uint64_t)k[2]) & (uint64_t)(size - 1);
        bool     seen = false;
        while (slot[h] >= 0 && !seen) {
            const int32_t *o = s->face + 3 * (int64_t)slot[h];
            int            same = 0;
            for (int j = 0; j < 3; j++) same += o[j] == k[0] || o[j] == k[1] || o[j] == k[2];
            seen = same == 3;
            if (!seen) h = (h + 1) & (uint64_t)(size - 1);
        }
        if (seen) continue;
        slot[h] = (int32_t)s->n_faces;
        memcpy(s->face + 3 * s->n_faces++, t, 12);
    }
    s->n_dropped = m->n_faces - s->n_faces;
    free(slot);
    return true;
}

/* ---- edges and parts ------------------------------------------------------------------------------------------ */

static int by_key(const void *a, const void *b) {
    const edge *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->face < y->face ? -1 : x->face > y->face;
}

surface_edge *surface_edges(const surface *s) {
    edge *e = malloc((size_t)s->n_faces * 3 * sizeof *e);
    if (!e) return NULL;
    for (int64_t f = 0; f < s->n_faces; f++)
        for (int j = 0; j < 3; j++) {
            int32_t a = s->face[3 * f + j], b = s->face[3 * f + (j + 1) % 3];
            e[3 * f + j] = (edge){a < b ? (uint64_t)a << 32 | (uint32_t)b : (uint64_t)b << 32 | (uint32_t)a, (int32_t)f,
                                  s->face[3 * f + (j + 2) % 3]};
        }
    qsort(e, (size_t)s->n_faces * 3, sizeof *e, by_key);
    return e;
}

static int32_t root_of(int32_t *up, int32_t i) {
    while (up[i] != i) i = up[i] = up[up[i]];
    return i;
}

static double face_area(const double *v, const int32_t *t) {
    const double *a = v + 3 * (int64_t)t[0], *b = v + 3 * (int64_t)t[1], *c = v + 3 * (int64_t)t[2];
    double        u[3] = {b[0] - a[0], b[1] - a[1], b[2] - a[2]}, w[3] = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
    double        x = u[1] * w[2] - u[2] * w[1], y = u[2] * w[0] - u[0] * w[2], z = u[0] * w[1] - u[1] * w[0];
    return 0.5 * sqrt(x * x + y * y + z * z);
}

static bool make_parts(surface *s, const edge *e) {
    int32_t *up = malloc((size_t)s->n_faces * 4);
    s->part = malloc((size_t)s->n_faces * 4);
    if (!up || !s->part) {
        free(up);
        return false;
    }
    for (int64_t f = 0; f < s->n_faces; f++) up[f] = (int32_t)f;
    for (int64_t i = 1; i < 3 * s->n_faces; i++)
        if (e[i].key == e[i - 1].key) {
            int32_t a = root_of(up, e[i].face), b = root_of(up, e[i - 1].face);
            if (a < b)
                up[b] = a;
            else
                up[a] = b;
        }
    for (int64_t f = 0; f < s->n_faces; f++) /* a root is the smallest face of its part, so it comes first */
        s->part[f] = up[f] == f ? s->n_parts++ : s->part[root_of(up, (int32_t)f)];
    free(up);
    s->solid = calloc((size_t)s->n_parts, 1);
    s->area = calloc((size_t)s->n_parts, sizeof *s->area);
    if (!s->solid || !s->area) return false;
    for (int64_t f = 0; f < s->n_faces; f++) s->area[s->part[f]] += face_area(s->v, s->face + 3 * f);
    return true;
}

/* ---- caps ----------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t at, to, part;
    int64_t twin; /* index of the opposite half in the sorted list */
    bool    used;
} half;

static int by_part_vertex(const void *a, const void *b) {
    const half *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->to < y->to ? -1 : x->to > y->to;
}

typedef struct {
    double  *v;
    int32_t *face, *part;
    int64_t *n_edges; /* [n_parts] edges of each part and of its caps */
    int64_t  n_vertices, n_faces, v_cap, f_cap;
    bool     full;
} growth;

static void add_fan(growth *g, const int32_t *loop, int64_t n, int32_t part) {
    if (g->n_faces + n > g->f_cap) {
        g->f_cap = 2 * g->f_cap + n;
        int32_t *f = realloc(g->face, (size_t)g->f_cap * 12), *p = f ? realloc(g->part, (size_t)g->f_cap * 4) : NULL;
        if (f) g->face = f;
        if (p) g->part = p;
        g->full |= !p;
    }
    if (g->n_vertices == g->v_cap) {
        g->v_cap = 2 * g->v_cap + 16;
        double *v = realloc(g->v, (size_t)g->v_cap * 24);
        if (v) g->v = v;
        g->full |= !v;
    }
    if (g->full) return;
    if (n == 3) {
        memcpy(g->face + 3 * g->n_faces, loop, 12);
        g->part[g->n_faces++] = part;
        return;
    }
    double *c = g->v + 3 * g->n_vertices, sum = 0;
    c[0] = c[1] = c[2] = 0;
    for (int64_t i = 0; i < n; i++) { /* centre of the loop as a wire */
        const double *p = g->v + 3 * (int64_t)loop[i], *q = g->v + 3 * (int64_t)loop[(i + 1) % n];
        double        len =
            sqrt((p[0] - q[0]) * (p[0] - q[0]) + (p[1] - q[1]) * (p[1] - q[1]) + (p[2] - q[2]) * (p[2] - q[2]));
        for (int a = 0; a < 3; a++) c[a] += 0.5 * len * (p[a] + q[a]);
        sum += len;
    }
    for (int a = 0; a < 3; a++) c[a] = sum > 0 ? c[a] / sum : g->v[3 * (int64_t)loop[0] + a];
    g->n_edges[part] += n;
    for (int64_t i = 0; i < n; i++) {
        int32_t t[3] = {loop[i], loop[(i + 1) % n], (int32_t)(g->n_vertices)};
        memcpy(g->face + 3 * g->n_faces, t, 12);
        g->part[g->n_faces++] = part;
    }
    g->n_vertices++;
}

static int64_t first_at(const half *h, int64_t lo, int64_t hi, int32_t part, int32_t vertex) {
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (h[mid].part < part || (h[mid].part == part && h[mid].at < vertex))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Walks the odd edges; whenever the path meets itself, the closed piece becomes a fan. */
static bool make_caps(surface *s, const edge *e, growth *g) {
    int64_t n = 0, n_edges3 = 3 * s->n_faces;
    half   *h = malloc((size_t)(2 * n_edges3) * sizeof *h);
    if (!h) return false;
    for (int64_t i = 0, j; i < n_edges3; i = j) {
        for (j = i; j < n_edges3 && e[j].key == e[i].key;) j++;
        s->n_edges++;
        g->n_edges[s->part[e[i].face]]++;
        s->n_open_edges += j - i == 1;
        s->n_many_edges += j - i > 2;
        if ((j - i) % 2 == 0) continue;
        int32_t a = (int32_t)(e[i].key >> 32), b = (int32_t)(uint32_t)e[i].key, part = s->part[e[i].face];
        h[n++] = (half){a, b, part, 0, false};
        h[n++] = (half){b, a, part, 0, false};
    }
    qsort(h, (size_t)n, sizeof *h, by_part_vertex);
    for (int64_t i = 0; i < n; i++) {
        int64_t t = first_at(h, 0, n, h[i].part, h[i].to);
        while (h[t].to != h[i].at) t++;
        h[i].twin = t;
    }
    int32_t *path = malloc((size_t)(n + 1) * 4), *place = malloc((size_t)s->n_vertices * 4);
    bool     good = path && place;
    if (good) memset(place, 0xff, (size_t)s->n_vertices * 4);
    for (int64_t i = 0; good && i < n; i++) {
        if (h[i].used) continue;
        int64_t depth = 0;
        path[0] = h[i].at;
        place[path[0]] = 0;
        for (;;) {
            int32_t at = path[depth], part = h[i].part;
            int64_t k = first_at(h, 0, n, part, at);
            while (k < n && h[k].part == part && h[k].at == at && h[k].used) k++;
            if (k == n || h[k].part != part || h[k].at != at) break; /* only the empty path ends: degrees are even */
            h[k].used = h[h[k].twin].used = true;
            int32_t to = h[k].to;
            if (place[to] >= 0) {
                int64_t from = place[to];
                add_fan(g, path + from, depth - from + 1, part);
                for (int64_t j = from + 1; j <= depth; j++) place[path[j]] = -1;
                depth = from;
            } else {
                path[++depth] = to;
                place[to] = (int32_t)depth;
            }
        }
        place[path[0]] = -1;
    }
    free(path), free(place), free(h);
    return good && !g->full;
}

/* Keeps the caps of the parts they close cheaply, drops the others: those parts are sheets. */
static bool judge_parts(surface *s, growth *g, double cap_share) {
    double *cap = calloc((size_t)s->n_parts, sizeof *cap);
    if (!cap) return false;
    int64_t n = s->n_faces;
    for (int64_t f = n; f < g->n_faces; f++) cap[g->part[f]] += face_area(g->v, g->face + 3 * f);
    for (int32_t p = 0; p < s->n_parts; p++) {
        s->solid[p] = cap[p] <= cap_share * s->area[p];
        if (s->solid[p])
            s->cap_area += cap[p];
        else
            s->sheet_area += s->area[p];
    }
    for (int64_t f = s->n_faces; f < g->n_faces; f++) {
        if (!s->solid[g->part[f]]) continue;
        memmove(g->face + 3 * n, g->face + 3 * f, 12);
        g->part[n++] = g->part[f];
    }
    s->n_caps = n - s->n_faces;
    s->n_faces = n;
    s->n_vertices = g->n_vertices;
    s->v = g->v;
    s->face = g->face;
    s->part = g->part;
    free(cap);
    return true;
}

/* Vertices - edges + faces = 2 - 2 genus, summed over the solid parts. */
static bool count_genus(surface *s, const int64_t *n_edges) {
    int64_t *euler = calloc((size_t)s->n_parts + 1, 8), *first = calloc((size_t)s->n_parts + 2, 8);
    int32_t *by_part = malloc((size_t)s->n_faces * 4 + 4), *seen = malloc((size_t)s->n_vertices * 4 + 4);
    bool     good = euler && first && by_part && seen;
    for (int64_t f = 0; good && f < s->n_faces; f++) first[s->part[f] + 1]++;
    for (int32_t p = 0; good && p < s->n_parts; p++) {
        euler[p] = first[p + 1] - n_edges[p];
        first[p + 1] += first[p];
    }
    for (int64_t f = 0; good && f < s->n_faces; f++) by_part[first[s->part[f]]++] = (int32_t)f;
    if (good) memset(seen, 0xff, (size_t)s->n_vertices * 4);
    for (int64_t i = 0; good && i < 3 * s->n_faces; i++) {
        int32_t f = by_part[i / 3], v = s->face[3 * (int64_t)f + i % 3];
        euler[s->part[f]] += seen[v] != s->part[f];
        seen[v] = s->part[f];
    }
    for (int32_t p = 0; good && p < s->n_parts; p++)
        if (s->solid[p] && euler[p] < 2) s->genus += (2 - euler[p]) / 2;
    free(euler), free(first), free(by_part), free(seen);
    return good;
}

/* ---- sharp edges ---------------------------------------------------------------------------------------------- */

/* Cosine of the angle by which the surface bends at edge ab between the faces with opposite corners c and d, from the
 * directions in the faces away from the edge: needs no orientation. */
static double bend_cosine(const double *a, const double *b, const double *c, const double *d) {
    double u[3], p[3], q[3], uu = 0, pu = 0, qu = 0, pp = 0, qq = 0, pq = 0;
    for (int i = 0; i < 3; i++) {
        u[i] = b[i] - a[i];
        p[i] = c[i] - a[i];
        q[i] = d[i] - a[i];
        uu += u[i] * u[i];
        pu += p[i] * u[i];
        qu += q[i] * u[i];
    }
    for (int i = 0; i < 3 && uu > 0; i++) {
        p[i] -= pu / uu * u[i];
        q[i] -= qu / uu * u[i];
        pp += p[i] * p[i];
        qq += q[i] * q[i];
        pq += p[i] * q[i];
    }
    return pp > 0 && qq > 0 ? -pq / sqrt(pp * qq) : 1; /* a collapsed face has no direction: flat */
}

static bool make_sharp(surface *s, const edge *e, int64_t n_edges3, double degrees) {
    double limit = cos(degrees * 3.14159265358979323846 / 180);
    for (int pass = 0; pass < 2; pass++) {
        int64_t n = 0;
        for (int64_t i = 0, j; i < n_edges3; i = j) {
            for (j = i; j < n_edges3 && e[j].key == e[i].key;) j++;
            int32_t       ia = (int32_t)(e[i].key >> 32), ib = (int32_t)(uint32_t)e[i].key;
            const double *a = s->v + 3 * (int64_t)ia, *b = s->v + 3 * (int64_t)ib;
            bool          sharp = j - i > 2 || (j - i == 1 && !s->solid[s->part[e[i].face]]);
            if (j - i == 2)
                sharp =
                    bend_cosine(a, b, s->v + 3 * (int64_t)e[i].opposite, s->v + 3 * (int64_t)e[i + 1].opposite) < limit;
            if (!sharp) continue;
            if (pass) {
                memcpy(s->sharp + 6 * n, a, 24);
                memcpy(s->sharp + 6 * n + 3, b, 24);
            }
            n++;
        }
        if (pass) break;
        s->n_sharp = n;
        s->sharp = malloc((size_t)(n ? n : 1) * 48);
        if (!s->sharp) return false;
    }
    return true;
}

void surface_free(surface *s) {
    free(s->v), free(s->face), free(s->part), free(s->solid), free(s->area), free(s->sharp);
    *s = (surface){0};
}

bool surface_build(const mesh *m, double cap_share, double sharp_degrees, const char *name, surface *s, status *st) {
    *s = (surface){0};
    int32_t *to = malloc((size_t)(m->n_vertices ? m->n_vertices : 1) * 4);
    edge    *e = NULL;
    bool     good = to && weld(m, s, to) && unique_faces(m, s, to);
    free(to);
    if (good && s->n_faces == 0) {
        surface_free(s);
        return status_set(st, ST_DATA, "%s: no triangle has an area", name);
    }
    int64_t n_edges3 = 3 * s->n_faces;
    good = good && (e = surface_edges(s)) && make_parts(s, e);
    if (good) {
        growth g = {s->v,          s->face,    s->part, calloc((size_t)s->n_parts + 1, 8), s->n_vertices, s->n_faces,
                    s->n_vertices, s->n_faces, false};
        good = g.n_edges && make_caps(s, e, &g);
        s->v = g.v, s->face = g.face, s->part = g.part; /* they may have moved */
        good = good && judge_parts(s, &g, cap_share) && count_genus(s, g.n_edges) &&
               make_sharp(s, e, n_edges3, sharp_degrees);
        free(g.n_edges);
    }
    free(e);
    if (good) return true;
    surface_free(s);
    return status_set(st, ST_DATA, "%s: out of memory for %lld triangles", name, (long long)m->n_faces);
}

void surface_normal(const surface *s, int64_t f, double n[3]) {
    const int32_t *t = s->face + 3 * f;
    double         u[3], v[3];
    for (int a = 0; a < 3; a++) {
        u[a] = s->v[3 * (int64_t)t[1] + a] - s->v[3 * (int64_t)t[0] + a];
        v[a] = s->v[3 * (int64_t)t[2] + a] - s->v[3 * (int64_t)t[0] + a];
    }
    n[0] = u[1] * v[2] - u[2] * v[1];
    n[1] = u[2] * v[0] - u[0] * v[2];
    n[2] = u[0] * v[1] - u[1] * v[0];
}
