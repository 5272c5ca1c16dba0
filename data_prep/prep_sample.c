#include "core/rng.h"
#include "data_prep/import.h"
#include "data_prep/normalize.h"
#include "data_prep/prep.h"
#include "data_prep/sdf.h"
#include "data_prep/views.h"

#include <errno.h>
#include <jansson.h>
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

/* Quality figures, one line: who filters a data set wants them. */
static char *report_of(const mesh *m, const surface *s, const sdf_field *f, const char *title) {
    double area = 0;
    int    solid = 0;
    for (int32_t p = 0; p < s->n_parts; p++) area += s->area[p], solid += s->solid[p];
    json_t *j = json_object();
    if (*title) json_object_set_new(j, "title", json_string(title));
    json_object_set_new(j, "faces", json_integer(m->n_faces));
    json_object_set_new(j, "dropped_faces", json_integer(s->n_dropped));
    json_object_set_new(j, "parts", json_integer(s->n_parts));
    json_object_set_new(j, "solid_parts", json_integer(solid));
    json_object_set_new(j, "thickened_parts", json_integer(f->n_thick_parts));
    json_object_set_new(j, "area", rounded(area));
    json_object_set_new(j, "open_edge_share", rounded(share((double)s->n_open_edges, (double)s->n_edges)));
    json_object_set_new(j, "many_face_edge_share", rounded(share((double)s->n_many_edges, (double)s->n_edges)));
    json_object_set_new(j, "cap_area_share", rounded(share(s->cap_area, area)));
    json_object_set_new(j, "sheet_area_share", rounded(share(s->sheet_area, area)));
    /* parity says outside, the flood from outside cannot reach it */
    json_object_set_new(j, "sealed_voxel_share", rounded(share((double)f->n_pocket, 512.0 * (double)f->n_tiles)));
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(j);
    CHECK(text, "no memory for a report");
    return text;
}

static bool build_tiles(const prep_options *o, const mesh *m, const char *path, const char *title, sample *out,
                        status *st) {
    sdf_options so = sdf_default_options(o->resolution, o->tau_voxels);
    so.half_thickness = o->half_thickness;
    so.cap_share = o->cap_share;
    so.sharp_degrees = o->sharp_degrees;
    so.sharp_voxels = o->sharp_voxels;
    surface   s;
    sdf_field f = {0};
    sdf_tiles t = {0};
    if (!surface_build(m, so.cap_share, so.sharp_degrees, path, &s, st)) return false;
    bool good = sdf_field_build(&s, &so, path, &f, st) && sdf_tiles_build(&f, &s, &so, path, &t, st);
    if (good && (t.n_tiles < o->min_tiles || (o->max_tiles > 0 && t.n_tiles > o->max_tiles)))
        good = status_set(st, ST_DATA, "%s: it has %lld tiles, outside %lld..%lld (prep.min_tiles, prep.max_tiles)",
                          path, (long long)t.n_tiles, (long long)o->min_tiles, (long long)o->max_tiles);
    if (good && t.n_tiles == 0) good = status_set(st, ST_DATA, "%s: it has no voxel near its surface", path);
    if (good) {
        out->report = report_of(m, &s, &f, title);
        out->n_tiles = t.n_tiles;
        out->coord = t.coord;
        out->value = t.value;
        out->sharp = t.sharp;
    } else {
        sdf_tiles_free(&t);
    }
    sdf_field_free(&f);
    surface_free(&s);
    return good;
}

bool prep_sample(const prep_options *o, const char *path, const char *name, const char *category, const char *title,
                 sample *out, status *st) {
    import_limits limits = {o->limit_seconds, o->limit_mbytes, o->limit_faces};
    view_options  vo = {o->views, o->view_size, o->view_samples, o->up_axis, o->orbit, o->seed};
    scene         sc;
    *out = (sample){0};
    if (!import_scene(path, &limits, &sc, st)) return false;
    out->id = hash_text(name);
    out->source = strdup(name);
    out->category = strdup(category);
    CHECK(out->source && out->category, "no memory for the name of %s", path);
    bool good = hash_file(path, &out->source_hash, st) && normalize_of(&sc.m, path, out->center, &out->scale, st);
    if (good) normalize_apply(&sc.m, out->center, out->scale);
    good = good && build_tiles(o, &sc.m, path, title, out, st) && views_render(&sc, &vo, out->id, out, st);
    if (good) sample_count(out);
    scene_free(&sc);
    if (!good) sample_free(out);
    return good;
}
