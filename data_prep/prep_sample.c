#include "core/rng.h"
#include "data_prep/import.h"
#include "data_prep/normalize.h"
#include "data_prep/pictures.h"
#include "data_prep/prep.h"
#include "data_prep/sdf.h"
#include "data_prep/views.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool hash_file(const char *path, uint64_t *hash, status *st) {
    FILE       *f = fopen(path, "rb");
    struct stat info;
    if (!f || fstat(fileno(f), &info) != 0) {
        status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
        if (f) fclose(f);
        return false;
    }
    size_t n = (size_t)info.st_size;
    char  *p = malloc(n ? n : 1);
    bool   good = p && fread(p, 1, n, f) == n;
    if (good)
        *hash = hash_bytes(p, n, 0);
    else
        status_set(st, ST_NO_INPUT, "%s: cannot be read", path);
    free(p);
    fclose(f);
    return good;
}

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static json_t *rounded(double x) {
    return json_real((double)(int64_t)(x * 1e6 + 0.5) / 1e6);
}

/* Quality figures, one line: who filters a data set wants them (docs/data.md). */
static char *report_of(const mesh *m, const sdf_shape *shape, const sdf_field *f, const char *title, int n_pictures) {
    const surface *s = &shape->s;
    double         area = 0;
    int            solid = 0, closed = 0;
    for (int32_t p = 0; p < s->n_parts; p++) area += s->area[p], solid += s->solid[p], closed += shape->c.closed[p];
    if (f->leaks) closed = 0;
    double  closed_area = f->leaks ? 0 : shape->c.area, voxels = 512.0 * (double)f->n_tiles;
    json_t *j = json_object();
    if (*title) json_object_set_new(j, "title", json_string(title));
    if (n_pictures) json_object_set_new(j, "pictures", json_integer(n_pictures));
    json_object_set_new(j, "faces", json_integer(m->n_faces));
    json_object_set_new(j, "dropped_faces", json_integer(s->n_dropped));
    json_object_set_new(j, "parts", json_integer(s->n_parts));
    json_object_set_new(j, "solid_parts", json_integer(solid));
    json_object_set_new(j, "closed_parts", json_integer(closed));
    json_object_set_new(j, "thickened_parts", json_integer(f->n_thick_parts));
    json_object_set_new(j, "thin_faces", json_integer(f->n_thin_faces));
    json_object_set_new(j, "genus", json_integer(s->genus));
    json_object_set_new(j, "area", rounded(area));
    json_object_set_new(j, "open_edge_share", rounded(share((double)s->n_open_edges, (double)s->n_edges)));
    json_object_set_new(j, "many_face_edge_share", rounded(share((double)s->n_many_edges, (double)s->n_edges)));
    json_object_set_new(j, "cap_area_share", rounded(share(s->cap_area, area)));
    json_object_set_new(j, "closed_area_share", rounded(share(closed_area, area)));
    json_object_set_new(j, "sheet_area_share", rounded(share(fmax(0, s->sheet_area - closed_area), area)));
    /* parity and winding say outside, the flood from outside cannot reach it; the winding number is no clear integer */
    json_object_set_new(j, "sealed_voxel_share", rounded(share((double)f->n_pocket, voxels)));
    json_object_set_new(j, "doubt_voxel_share", rounded(share((double)f->n_doubt, voxels)));
    json_object_set_new(j, "leaks", json_boolean(f->leaks));
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(j);
    CHECK(text, "no memory for a report");
    return text;
}

static sdf_options options_of(const prep_options *o, const prep_grid *g) {
    sdf_options so = sdf_default_options(g->resolution, g->tau_voxels);
    so.half_thickness = o->half_thickness;
    so.cap_share = o->cap_share;
    so.sharp_degrees = o->sharp_degrees;
    so.sharp_voxels = o->sharp_voxels;
    return so;
}

static bool build_tiles(const prep_options *o, const prep_grid *g, const mesh *m, const sdf_shape *s, const char *path,
                        const char *title, int n_pictures, sample *out, status *st) {
    sdf_options so = options_of(o, g);
    sdf_field   f = {0};
    sdf_tiles   t = {0};
    bool        good = sdf_field_build(s, &so, path, &f, st) && sdf_tiles_build(&f, &s->s, &so, path, &t, st);
    if (good && (t.n_tiles < o->min_tiles || (o->max_tiles > 0 && t.n_tiles > o->max_tiles)))
        good = status_set(st, ST_DATA,
                          "%s: it has %lld tiles at resolution %d, outside %lld..%lld (prep.min_tiles, prep.max_tiles)",
                          path, (long long)t.n_tiles, g->resolution, (long long)o->min_tiles, (long long)o->max_tiles);
    if (good && t.n_tiles == 0) good = status_set(st, ST_DATA, "%s: it has no voxel near its surface", path);
    if (good) {
        out->report = report_of(m, s, &f, title, n_pictures);
        out->n_tiles = t.n_tiles;
        out->coord = t.coord;
        out->value = t.value;
        out->sharp = t.sharp;
    } else {
        sdf_tiles_free(&t);
    }
    sdf_field_free(&f);
    return good;
}

/* What does not depend on the grid: name, place, views. */
static void copy_common(sample *to, const sample *from) {
    size_t n = (size_t)from->n_views;
    to->id = from->id;
    to->source = strdup(from->source);
    to->category = strdup(from->category);
    to->source_hash = from->source_hash;
    memcpy(to->center, from->center, sizeof to->center);
    to->scale = from->scale;
    to->n_views = from->n_views;
    to->camera = malloc(n * VIEW_CAMERA_FLOATS * sizeof(float) + 1);
    to->png = calloc(n + 1, sizeof *to->png);
    to->png_size = malloc(n * sizeof *to->png_size + 1);
    CHECK(to->source && to->category && to->camera && to->png && to->png_size, "no memory for %d views", to->n_views);
    if (n == 0) return;
    memcpy(to->camera, from->camera, n * VIEW_CAMERA_FLOATS * sizeof(float));
    memcpy(to->png_size, from->png_size, n * sizeof *to->png_size);
    for (size_t v = 0; v < n; v++) {
        to->png[v] = malloc((size_t)from->png_size[v]);
        CHECK(to->png[v], "no memory for a view");
        memcpy(to->png[v], from->png[v], (size_t)from->png_size[v]);
    }
}

static bool fill_grids(const prep_options *o, const scene *sc, const pictures *p, unsigned which, const char *path,
                       const char *title, sample *out, status *st) {
    prep_grid    grid[PREP_MAX_GRIDS];
    int          n = prep_grids(o, grid), first = -1;
    view_options vo = {o->views, o->view_size, o->view_samples, o->up_axis, o->orbit, o->seed};
    int          coarsest = 0;
    for (int k = 1; k < n; k++) coarsest = grid[k].resolution < grid[coarsest].resolution ? k : coarsest;
    sdf_options so = options_of(o, &grid[coarsest]);
    sdf_shape   s;
    bool        good = sdf_shape_build(&sc->m, &so, path, &s, st);
    if (!good) return false;
    for (int k = 0; k < n && good; k++) {
        if (!(which >> k & 1)) continue;
        good = build_tiles(o, &grid[k], &sc->m, &s, path, title, p->n, &out[k], st);
        if (good) sample_count(&out[k]);
    }
    sdf_shape_free(&s);
    for (int k = 0; k < n && good; k++) {
        if (!(which >> k & 1)) continue;
        if (first < 0) {
            first = k;
            good = o->images ? pictures_read(p, &out[k], st) : views_render(sc, &vo, out[k].id, &out[k], st);
        } else {
            copy_common(&out[k], &out[first]);
        }
    }
    return good;
}

bool prep_sample(const prep_options *o, const char *path, const char *name, const char *category, const char *title,
                 unsigned which, sample *out, status *st) {
    import_limits limits = {o->limit_seconds, o->limit_mbytes, o->limit_faces};
    prep_grid     grid[PREP_MAX_GRIDS];
    int           n = prep_grids(o, grid);
    scene         sc;
    pictures      p = {0};
    sample       *first = NULL;
    for (int k = n - 1; k >= 0; k--) {
        out[k] = (sample){0};
        if (which >> k & 1) first = &out[k];
    }
    CHECK(first, "%s: asked for no grid", path);
    if ((o->images && !pictures_find(o->images, name, &p, st)) || !import_scene(path, &limits, &sc, st)) {
        pictures_free(&p);
        return false;
    }
    first->id = hash_text(name);
    first->source = strdup(name);
    first->category = strdup(category);
    CHECK(first->source && first->category, "no memory for the name of %s", path);
    bool good = hash_file(path, &first->source_hash, st) && normalize_of(&sc.m, path, first->center, &first->scale, st);
    if (good) normalize_apply(&sc.m, first->center, first->scale);
    good = good && fill_grids(o, &sc, &p, which, path, title, out, st);
    scene_free(&sc);
    pictures_free(&p);
    for (int k = 0; k < n && !good; k++) sample_free(&out[k]);
    return good;
}
