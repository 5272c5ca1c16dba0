#include "data_prep/sdf.h"
#include "data_prep/bvh.h"
#include "data_prep/scan.h"
#include "data_prep/sdf_closed.h"
#include "data_prep/sdf_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Longest lists that are visited as they are, for cells of 8 and of 4 voxels: longer ones are cut by halving the cell.
 * Of 48/48, 16/32, 8/24, 4/16, 4/8 the fastest by user time on furniture at R = 128 and 512, by 20 % from first to
 * best. */
enum { CELLS = 512, SPLIT8 = 4, SPLIT4 = 16 };

sdf_options sdf_default_options(int resolution, double tau_voxels) {
    return (sdf_options){.resolution = resolution,
                         .tau_voxels = tau_voxels,
                         .half_thickness = 1,
                         .min_half_thickness = 0.6,
                         .cap_share = 0.05,
                         .sharp_degrees = 30,
                         .sharp_voxels = 2};
}

void sdf_field_free(sdf_field *f) {
    free(f->coord), free(f->s), free(f->mark), free(f->tile_at);
    *f = (sdf_field){0};
}

/* ---- tiles near the surface: octree descent ------------------------------------------------------------------- */

typedef struct {
    int32_t c[3]; /* in tiles */
} node;

static double half_diagonal(int tiles) {
    return 0.5 * (8 * tiles - 1) * sqrt(3.0);
}

/* Keeps the nodes of `size` tiles that come within the band of the surface, then halves them, down to single tiles. */
static node *near_tiles(const bvh *b, int resolution, double band, int64_t *count) {
    int     per_axis = resolution / 8, size = 8;
    int64_t n = 0, side = (per_axis + size - 1) / size;
    node   *list = malloc((size_t)(side * side * side) * sizeof *list);
    for (int x = 0; list && x < side; x++)
        for (int y = 0; y < side; y++)
            for (int z = 0; z < side; z++) list[n++] = (node){{x * size, y * size, z * size}};
    for (; list; size /= 2) {
        uint8_t *keep = malloc((size_t)n + 1);
        double   reach = (half_diagonal(size) + band) / (resolution - 1);
        if (!keep) break;
#pragma omp parallel for schedule(dynamic, 64)
        for (int64_t i = 0; i < n; i++) {
            double p[3];
            for (int a = 0; a < 3; a++) p[a] = (8 * list[i].c[a] + 0.5 * (8 * size - 1)) / (resolution - 1) - 0.5;
            keep[i] = bvh_distance(b, p, reach) <= reach;
        }
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++)
            if (keep[i]) list[kept++] = list[i];
        free(keep);
        n = kept;
        if (size == 1) {
            *count = n;
            return list;
        }
        int     h = size / 2;
        node   *next = malloc((size_t)(8 * n + 1) * sizeof *next);
        int64_t m = 0;
        for (int64_t i = 0; next && i < n; i++)
            for (int c = 0; c < 8; c++) {
                node k = {{list[i].c[0] + h * (c >> 2), list[i].c[1] + h * (c >> 1 & 1), list[i].c[2] + h * (c & 1)}};
                if (k.c[0] < per_axis && k.c[1] < per_axis && k.c[2] < per_axis) next[m++] = k;
            }
        free(list);
        list = next;
        n = m;
    }
    free(list);
    return NULL;
}

/* ---- one tile ------------------------------------------------------------------------------------------------- */

typedef struct {
    near_triangle *tri;
    double        *away;     /* of lists that are halved, from the eight centres */
    double        *centre_d; /* distance of each triangle to the tile's centre */
    int32_t       *pick;
    int64_t        cap;
    bvh_list       found;
    int32_t       *part;   /* parts of the tile */
    uint8_t       *inside; /* [parts,512] */
    int64_t        parts_cap, doubt;
    bool           failed;
} tile_work;

/* What is measured together: solid parts each for itself, then all sheets, all parts of the closure, and once more
 * those of them that are too thin for the grid. */
enum { SHEETS, CLOSED, THIN, N_GROUPS };

typedef struct {
    const surface     *s;
    const sdf_options *o;
    const closure     *closed; /* NULL: its parts are sheets */
    const scan_lines  *lines;
    const double      *h;    /* [n_parts + N_GROUPS] voxels */
    const uint8_t     *thin; /* [n_faces] of solid and closed parts: the grid would miss what is between */
    double             band;
} field_input;

static int32_t group_of(const field_input *in, int32_t part) {
    if (in->o->unsigned_only) return 0;
    if (in->s->solid[part]) return part;
    if (in->closed && in->closed->hidden[part]) return -1;
    return in->s->n_parts + (in->closed && in->closed->closed[part] ? CLOSED : SHEETS);
}

/* Squared distances of the voxels origin .. origin+size-1 of the tile to the picked triangles: a long list is cut by
 * halving the cell, since a triangle further than the nearest one plus the cell's diagonal cannot be the nearest. */
static void cell_distance(const tile_work *w, const int32_t *pick, int64_t n, int32_t *spare, double *away,
                          const int origin[3], int size, double limit, double *d2) {
    if (size > 2 && n > (size == 8 ? SPLIT8 : SPLIT4)) {
        int    h = size / 2, o[8][3];
        double r = 0.5 * (h - 1) * sqrt(3.0), p[3][8];
        for (int c = 0; c < 8; c++)
            for (int a = 0; a < 3; a++) {
                o[c][a] = origin[a] + h * (c >> (2 - a) & 1);
                p[a][c] = o[c][a] + 0.5 * (h - 1) - 3.5;
            }
        for (int64_t i = 0; i < n; i++) near_triangle_eight(&w->tri[pick[i]], p[0], p[1], p[2], away + 8 * i);
        for (int c = 0; c < 8; c++) {
            double  least = limit + r;
            int64_t k = 0;
            for (int64_t i = 0; i < n; i++) least = away[8 * i + c] < least ? away[8 * i + c] : least;
            double reach = least + 2 * r < limit + r ? least + 2 * r : limit + r;
            for (int64_t i = 0; i < n; i++) {
                spare[k] = pick[i];
                k += away[8 * i + c] <= reach;
            }
            if (k > 0) cell_distance(w, spare, k, spare + k, away + 8 * n, o[c], h, limit, d2);
        }
        return;
    }
    double x[CELLS], y[CELLS], z[CELLS], best[CELLS];
    int    at[CELLS], m = 0;
    for (int i = origin[0]; i < origin[0] + size; i++)
        for (int j = origin[1]; j < origin[1] + size; j++)
            for (int k = origin[2]; k < origin[2] + size; k++, m++) {
                x[m] = i - 3.5, y[m] = j - 3.5, z[m] = k - 3.5;
                at[m] = 64 * i + 8 * j + k;
                best[m] = d2[at[m]];
            }
    for (int64_t i = 0; i < n; i++) near_triangle_min(&w->tri[pick[i]], m, x, y, z, best);
    for (int i = 0; i < m; i++) d2[at[i]] = best[i];
}

/* Which parts contain which voxels of the tile, by parity along x. A containing part without a triangle near the tile
 * marks the voxel `deep`. */
static void mark_inside(const field_input *in, const int32_t c[3], tile_work *w, int64_t n_parts, uint8_t *deep) {
    const scan_lines *l = in->lines;
    int32_t           small[64];
    memset(deep, 0, CELLS);
    memset(w->inside, 0, (size_t)(n_parts * CELLS));
    for (int y = 0; y < 8; y++)
        for (int z = 0; z < 8; z++) {
            int64_t line = (int64_t)(8 * c[1] + y) * l->resolution + 8 * c[2] + z, i = l->first[line],
                    end = l->first[line + 1];
            int32_t *active = end - i <= 64 ? small : malloc((size_t)(end - i) * sizeof *active);
            int64_t  n = 0;
            if (!active) {
                w->failed = true;
                return;
            }
            for (int x = 0; x < 8 && (i < end || n > 0); x++) {
                for (; i < end && l->hit[i].at < (float)(8 * c[0] + x); i++) {
                    int64_t k = 0;
                    while (k < n && active[k] != l->hit[i].part) k++;
                    if (k < n)
                        active[k] = active[--n];
                    else
                        active[n++] = l->hit[i].part;
                }
                for (int64_t k = 0; k < n; k++) {
                    int64_t p = 0;
                    while (p < n_parts && w->part[p] != active[k]) p++;
                    if (p < n_parts)
                        w->inside[p * CELLS + 64 * x + 8 * y + z] = 1;
                    else
                        deep[64 * x + 8 * y + z] = 1;
                }
            }
            if (active != small) free(active);
        }
}

static bool work_reserve(tile_work *w, int64_t n) {
    if (n <= w->cap) return true;
    w->cap = 2 * n + 256;
    free(w->tri), free(w->pick), free(w->away), free(w->centre_d), free(w->part);
    w->tri = malloc((size_t)w->cap * sizeof *w->tri);
    w->pick = malloc((size_t)w->cap * 12 + 4); /* the tile's list and two halvings of it, each behind the last */
    w->away = malloc((size_t)w->cap * 128);
    w->centre_d = malloc((size_t)w->cap * 8);
    w->part = malloc((size_t)w->cap * 4);
    return w->tri && w->pick && w->away && w->centre_d && w->part;
}

static bool work_reserve_parts(tile_work *w, int64_t n) {
    if (n <= w->parts_cap) return true;
    w->parts_cap = 2 * n + 16;
    free(w->inside);
    w->inside = malloc((size_t)w->parts_cap * CELLS);
    return w->inside != NULL;
}

static void work_free(tile_work *w) {
    free(w->tri), free(w->pick), free(w->away), free(w->centre_d), free(w->part), free(w->inside);
    bvh_list_free(&w->found);
}

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

static bool in_group(const near_triangle *t, int32_t group, const surface *s) {
    return group == s->n_parts + THIN ? t->thin : t->part == group;
}

static void tile_field(const field_input *in, const bvh *b, const int32_t c[3], tile_work *w, float *out,
                       uint8_t *mark) {
    int    r1 = in->o->resolution - 1;
    double centre[3], r = half_diagonal(1), limit = in->band;
    for (int a = 0; a < 3; a++) centre[a] = (8 * c[a] + 3.5) / r1 - 0.5;
    if (!bvh_gather(b, centre, (limit + r) / r1, &w->found) || !work_reserve(w, w->found.n)) {
        w->failed = true;
        return;
    }
    const surface *s = in->s;
    int64_t        n = w->found.n, n_parts = 0;
    bool           thin = false, rim = false;
    int32_t       *id = w->found.id;
    qsort(id, (size_t)n, sizeof *id, by_number); /* same order on every run, faces of a part mostly together */
    for (int64_t i = 0, from = 0; from < w->found.n; from++) {
        id[i] = id[from];
        int32_t group = group_of(in, s->part[id[i]]);
        if (group < 0) {
            n--;
            continue;
        }
        const int32_t *t = s->face + 3 * (int64_t)id[i];
        near_triangle_set(&w->tri[i], s->v + 3 * (int64_t)t[0], s->v + 3 * (int64_t)t[1], s->v + 3 * (int64_t)t[2],
                          centre, r1);
        w->tri[i].part = group;
        w->tri[i].thin = group != s->n_parts + SHEETS && in->thin[id[i]];
        thin |= w->tri[i].thin;
        rim |= group == s->n_parts + CLOSED && in->closed->rim[id[i]];
        w->centre_d[i] = sqrt(near_triangle_d2(&w->tri[i], 0, 0, 0));
        int64_t p = 0;
        while (p < n_parts && w->part[p] != w->tri[i].part) p++;
        if (p == n_parts) w->part[n_parts++] = w->tri[i].part;
        i++;
    }
    if (thin) w->part[n_parts++] = s->n_parts + THIN;
    uint8_t deep[CELLS];
    if (!work_reserve_parts(w, n_parts)) {
        w->failed = true;
        return;
    }
    if (in->lines)
        mark_inside(in, c, w, n_parts, deep);
    else
        memset(w->inside, 0, (size_t)(n_parts * CELLS));
    if (in->closed) {
        bool near = false;
        for (int64_t p = 0; p < n_parts; p++) near |= w->part[p] == s->n_parts + CLOSED;
        if (!near && in->closed->number.n > 0 && fabs(winding_at(&in->closed->number, centre)) >= 0.5)
            memset(deep, 1, CELLS);
    }
    double best[CELLS], d2[CELLS];
    for (int v = 0; v < CELLS; v++) best[v] = in->lines && deep[v] ? -limit : limit;
    for (int64_t p = 0; p < n_parts; p++) {
        double  least = limit + r;
        int64_t k = 0, kept = 0;
        for (int64_t i = 0; i < n; i++)
            if (in_group(&w->tri[i], w->part[p], s) && w->centre_d[i] < least) least = w->centre_d[i];
        double reach = fmin(least + 2 * r, limit + r);
        for (int64_t i = 0; i < n; i++)
            if (in_group(&w->tri[i], w->part[p], s) && w->centre_d[i] <= reach) w->pick[k++] = (int32_t)i;
        kept = k;
        for (int v = 0; v < CELLS; v++) d2[v] = limit * limit;
        cell_distance(w, w->pick, kept, w->pick + kept, w->away, (const int[3]){0, 0, 0}, 8, limit, d2);
        if (in->closed && w->part[p] == s->n_parts + CLOSED) {
            int doubt = sdf_closed_signs(in->closed, centre, 1.0 / r1, d2, rim, w->inside + p * CELLS);
            *mark = doubt ? TILE_DOUBT | TILE_CLOSED : TILE_CLOSED;
            w->doubt += doubt;
        }
        double         h = in->h ? in->h[w->part[p]] : 0;
        const uint8_t *inside = w->inside + p * CELLS;
        for (int v = 0; v < CELLS; v++) {
            double d = sqrt(d2[v]), signed_d = (inside[v] ? -d : d) - h;
            best[v] = signed_d < best[v] ? signed_d : best[v];
        }
    }
    for (int v = 0; v < CELLS; v++) out[v] = (float)((best[v] > -limit ? best[v] : -limit) / r1);
}

/* ---- whole field ---------------------------------------------------------------------------------------------- */

/* h_p of the header, voxels. Volumes are the least of three axes: a plate across an axis is seen only by luck along the
 * others, and too thin is the error that must not happen. */
static bool part_thickness(const surface *s, const sdf_options *o, const scan_lines *x_lines, double *h,
                           int64_t *n_thick) {
    double *volume = malloc((size_t)s->n_parts * 8), *least = malloc((size_t)s->n_parts * 8);
    bool    good = volume && least && scan_volumes(x_lines, s->n_parts, least);
    for (int axis = 1; axis < 3 && good; axis++) {
        scan_lines l;
        good = scan_axis(s, o->resolution, axis, &l);
        if (!good) break;
        good = scan_volumes(&l, s->n_parts, volume);
        scan_free(&l);
        for (int32_t p = 0; p < s->n_parts && good; p++) least[p] = fmin(least[p], volume[p]);
    }
    double r1 = o->resolution - 1;
    for (int32_t p = 0; p < s->n_parts && good; p++) {
        double t = s->area[p] > 0 ? 2 * least[p] / (s->area[p] * r1 * r1) : 0;
        h[p] = s->solid[p] ? fmax(0, o->min_half_thickness - 0.5 * t) : 0;
        *n_thick += s->solid[p] && h[p] > 0;
    }
    h[s->n_parts + SHEETS] = o->half_thickness;
    h[s->n_parts + THIN] = o->min_half_thickness;
    free(volume), free(least);
    return good;
}

static bool evaluate(const field_input *in, const bvh *b, sdf_field *f) {
    bool failed = false;
#pragma omp parallel
    {
        tile_work w = {0};
#pragma omp for schedule(dynamic, 16)
        for (int64_t t = 0; t < f->n_tiles; t++)
            if (!w.failed) tile_field(in, b, f->coord + 3 * t, &w, f->s + CELLS * t, f->mark + t);
#pragma omp atomic
        f->n_doubt += w.doubt;
        if (w.failed) {
#pragma omp atomic write
            failed = true;
        }
        work_free(&w);
    }
    return !failed;
}

/* Tiles, values and flood with the closure or without; false also when the closure leaks. */
static bool fill(field_input *in, const bvh *b, sdf_field *f, bool *leaks) {
    const surface     *s = in->s;
    const sdf_options *o = in->o;
    int                T = o->resolution / 8;
    double             h_max = 0, voxel = 1.0 / (o->resolution - 1);
    for (int32_t p = 0; in->h && p < s->n_parts; p++)
        h_max = group_of(in, p) < 0 ? h_max : fmax(h_max, in->h[group_of(in, p)]);
    for (int64_t i = 0; i < s->n_faces; i++) h_max = fmax(h_max, in->thin[i] * o->min_half_thickness);
    /* at least 1.5 voxels, so that a voxel beside a far tile is on its side of the surface */
    in->band = fmax(f->tau / voxel, 1.5) + h_max;
    f->band = (in->band - h_max) * voxel;
    f->n_doubt = f->n_pocket = 0;
    free(f->coord), free(f->s), free(f->mark);
    f->coord = (int32_t *)near_tiles(b, o->resolution, in->band, &f->n_tiles);
    f->s = f->coord ? malloc((size_t)(f->n_tiles + 1) * CELLS * sizeof(float)) : NULL;
    f->mark = calloc((size_t)f->n_tiles + 1, 1);
    if (!f->coord || !f->s || !f->mark) return false;
    memset(f->tile_at, 0xff, (size_t)T * T * T * 4);
    for (int64_t t = 0; t < f->n_tiles; t++)
        f->tile_at[((int64_t)f->coord[3 * t] * T + f->coord[3 * t + 1]) * T + f->coord[3 * t + 2]] = (int32_t)t;
    return evaluate(in, b, f) && (o->unsigned_only || sdf_flood(f, leaks));
}

bool sdf_field_build(const sdf_shape *shape, const sdf_options *o, const char *name, sdf_field *f, status *st) {
    const surface *s = &shape->s;
    const closure *c = &shape->c;
    int            R = o->resolution, T = R / 8;
    CHECK(R >= 16 && R <= 4096 && R % 8 == 0, "resolution %d", R);
    CHECK(o->tau_voxels > 0 && o->tau_voxels <= 16, "tau %g voxels", o->tau_voxels);
    double     *h = o->unsigned_only ? NULL : calloc((size_t)s->n_parts + N_GROUPS, 8);
    uint8_t    *thin = calloc((size_t)s->n_faces + 1, 1);
    scan_lines  lines = {0};
    field_input in = {s, o, c->closed ? c : NULL, NULL, h, thin, 0};
    bool        leaks = false;
    *f = (sdf_field){.resolution = R, .tau = o->tau_voxels / R, .tile_at = malloc((size_t)T * T * T * 4)};
    bool good =
        f->tile_at && thin &&
        (o->unsigned_only || (h && scan_axis(s, R, 0, &lines) && part_thickness(s, o, &lines, h, &f->n_thick_parts)));
    if (!o->unsigned_only) in.lines = &lines;
    for (int64_t i = 0; good && h && i < s->n_faces; i++) {
        int32_t p = s->part[i];
        double  way = s->solid[p] ? (double)shape->plate[i] : c->closed[p] ? c->thickness[p] : INFINITY;
        thin[i] = h[p] + 0.5 * way * (R - 1) < o->min_half_thickness;
        f->n_thin_faces += thin[i];
    }
    good = good && fill(&in, &shape->tree, f, &leaks);
    if (good && leaks) { /* a gap too wide for this grid: what it belongs to has no inside */
        in.closed = NULL;
        f->leaks = true;
        good = fill(&in, &shape->tree, f, &leaks);
    }
    for (int64_t i = 0; good && i < f->n_tiles * CELLS; i++) {
        f->s[i] = f->s[i] > (float)f->band ? (float)f->band : f->s[i] < -(float)f->band ? -(float)f->band : f->s[i];
        f->n_near += fabsf(f->s[i]) < (float)f->tau;
    }
    scan_free(&lines);
    free(h), free(thin);
    if (good) return true;
    sdf_field_free(f);
    return status_set(st, ST_DATA, "%s: out of memory for the distance field at resolution %d", name, R);
}
