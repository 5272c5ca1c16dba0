/* d3s2 sample: views to meshes, on given tiles. */
#include "app/shapes.h"
#include "app/verbs.h"
#include "data/latents.h"
#include "train/share.h"

#include <stdlib.h>
#include <string.h>

static const char *const endings[] = {".glb", ".ply", ".obj"};

typedef struct {
    const options *o;
    place          where;
    dataset        d;
    network        vae, dit;
    char           key[17];
} job;

/* Everything a result depends on. */
static void make_key(job *j) {
    char text[1200];
    int  at = snprintf(text, sizeof text, "%016llx %016llx %lld %g %g %g %lld %lld %lld %lld %d %s",
                       (unsigned long long)j->dit.fingerprint, (unsigned long long)j->vae.fingerprint,
                       (long long)j->o->sample.steps, j->o->sample.shift, j->o->sample.guidance, j->o->sample.level,
                       (long long)j->o->sample.seed, (long long)j->o->sample.view, (long long)j->o->eval.points,
                       (long long)j->o->eval.seed, (int)j->o->sample.format, j->o->sample.image);
    for (int i = 0; i < j->o->eval.f1_thresholds.n; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, " %g", j->o->eval.f1_thresholds.v[i]);
    if (j->dit.encoder.m.block)
        at += snprintf(text + at, sizeof text - (size_t)at, " %016llx", (unsigned long long)j->dit.encoder.fingerprint);
    if (j->where.act == DT_BF16) snprintf(text + at, sizeof text - (size_t)at, " bf16");
    hex_of(hash_text(text), j->key);
}

static bool write_latents(const job *j, const shape *s, const float *z, const char *path, status *st) {
    int     C = j->vae.vae.cfg.latent_channels;
    latents meta = {.vae = j->vae.fingerprint, .channels = C, .resolution = s->resolution, .tau_voxels = s->tau_voxels};
    float  *logvar = calloc((size_t)s->s.n_tiles * (size_t)C + 1, sizeof *logvar); /* a point, not a distribution */
    CHECK(logvar, "no memory for latents");
    snprintf(meta.shard, sizeof meta.shard, "generated");
    latents_writer *w = latents_make_room(path, &s->s.id, 1, st) ? latents_create(path, &meta, st) : NULL;
    bool            ok = w && latents_append(w, s->s.id, s->s.n_tiles, s->s.coord, z, logvar, st);
    if (ok)
        ok = latents_finish(w, st);
    else if (w)
        latents_abandon(w);
    free(logvar);
    return ok;
}

static json_t *camera_json(const shape_view *v) {
    json_t *a = json_array();
    for (int i = 0; i < VIEW_CAMERA_FLOATS && v->has_camera; i++)
        json_array_append_new(a, metrics_number((double)v->camera[i]));
    return a;
}

static bool put_mesh(const job *j, const shape *s, const char *what, const mesh *m, json_t *out, json_t *files,
                     const char *as, status *st) {
    char file[160], path[PATH_CAP];
    snprintf(file, sizeof file, "%s%s%s", s->name, what, endings[j->o->sample.format]);
    result_path(j->o->sample.output, file, "", path);
    json_object_set_new(out, as, json_string(m->n_faces ? file : ""));
    if (m->n_faces == 0) return true;
    json_array_append_new(files, json_string(file));
    return mesh_write(path, m, st);
}

/* Meshes of the truth, the reconstruction and the generated values, and how far the last two are from the first. */
static bool judge(const job *j, const shape *s, const float *made, const float *rebuilt, json_t *out, json_t *files,
                  status *st) {
    mesh            truth, vae, own;
    band_stats      band = {0}, vae_band = {0};
    surface_stats   stats, vae_stats;
    surface_options so = shape_surface_options(j->o, s->s.id);
    double          level = j->o->sample.level;
    shape_surface(s, s->value, level, &truth);
    shape_surface(s, rebuilt, level, &vae);
    shape_surface(s, made, level, &own);
    band_add(&band, made, s->value, s->s.n_tiles * TILE_CELLS);
    band_add(&vae_band, rebuilt, s->value, s->s.n_tiles * TILE_CELLS);
    bool ok = surface_compare(&own, &truth, &so, &stats, st) && surface_compare(&vae, &truth, &so, &vae_stats, st) &&
              put_mesh(j, s, "-truth", &truth, out, files, "truth", st) &&
              put_mesh(j, s, "-vae", &vae, out, files, "reconstruction", st) &&
              put_mesh(j, s, "", &own, out, files, "mesh", st);
    if (ok) {
        metrics_put_band(out, &band, s->tau_voxels);
        metrics_put_surface(out, &stats, &so);
        json_object_set_new(out, "vae_sign_accuracy", metrics_number(band_sign_accuracy(&vae_band)));
        json_object_set_new(out, "vae_band_error_tau", metrics_number(band_error(&vae_band)));
        json_object_set_new(out, "vae_chamfer", metrics_number(vae_stats.chamfer));
    }
    mesh_free(&truth);
    mesh_free(&vae);
    mesh_free(&own);
    return ok;
}

static bool make_one(job *j, int64_t i, const shape *s, status *st) {
    const options *o = j->o;
    shape_view     view;
    char           path[PATH_CAP], file[160];
    double         t0 = now_seconds();
    size_t         rows = (size_t)s->s.n_tiles;
    if (!shape_view_read(&j->d, i, (int)o->sample.view, o->sample.image, &j->dit, &view, st)) return false;
    sampler_config cfg = shape_sampler(o);
    float         *z = malloc(rows * (size_t)j->vae.vae.cfg.latent_channels * sizeof *z + 1);
    float *made = malloc(rows * TILE_CELLS * sizeof *made + 1), *rebuilt = malloc(rows * TILE_CELLS * sizeof *made + 1);
    json_t *out = shape_json(s, j->key), *files = json_array();
    CHECK(z && made && rebuilt, "no memory for %zu tiles", rows);
    /* The reconstruction comes first, so that z ends as the generated latents. */
    bool ok = vae_encode(&j->vae, &s->t, s->value, z, st) && vae_decode(&j->vae, &s->t, z, rebuilt, st) &&
              dit_sample(&j->dit, &s->t, &view.input, &cfg, z, st) && vae_decode(&j->vae, &s->t, z, made, st);
    double seconds = now_seconds() - t0;
    result_path(o->sample.output, s->name, RESULT_LATENTS, path);
    ok = ok && write_latents(j, s, z, path, st) && judge(j, s, made, rebuilt, out, files, st);
    if (ok) {
        snprintf(file, sizeof file, "%s-view.png", s->name);
        result_path(o->sample.output, file, "", path);
        ok = atomic_write(path, view.png, view.png_size, st);
    }
    if (ok) {
        json_array_append_new(files, json_string(file));
        json_object_set_new(out, "image", json_string(file));
        json_object_set_new(out, "camera", camera_json(&view));
        json_object_set(out, "files", files);
        json_object_set_new(out, "seconds", json_real(seconds));
        result_path(o->sample.output, s->name, ".json", path);
        ok = json_file_write(path, out, st);
    }
    json_decref(out);
    json_decref(files);
    free(z);
    free(made);
    free(rebuilt);
    shape_view_free(&view);
    return ok;
}

static bool make_all(job *j, const comm *c, int64_t n, const int *owner, char (*names)[96], status *st) {
    progress p;
    int64_t  mine = 0, done = 0;
    for (int64_t i = 0; i < n; i++) mine += owner[i] == c->rank;
    progress_begin(&p, "sample", 0, mine);
    for (int64_t i = 0; i < n; i++) {
        result_name(j->d.shards[j->d.entry[i].shard].source[j->d.entry[i].at], j->d.ids[i], names[i]);
        if (owner[i] != c->rank) continue;
        shape s;
        if (!result_done(j->o->sample.output, names[i], j->key)) {
            if (!shape_read(&j->d, i, &s, st)) return false;
            bool ok = make_one(j, i, &s, st);
            shape_free(&s);
            if (!ok) return false;
        }
        progress_step(&p, ++done, names[i]);
    }
    progress_end(&p, c->size > 1 ? "(this rank)" : NULL);
    return true;
}

static bool run(job *j, app *a, status *st) {
    const options *o = j->o;
    const comm    *c = a->world;
    int64_t        n = o->sample.count < j->d.n ? o->sample.count : j->d.n;
    int           *owner = malloc(sizeof *owner * (size_t)n);
    char(*names)[96] = calloc((size_t)n, sizeof *names);
    CHECK(owner && names, "no memory for %lld names", (long long)n);
    make_key(j);
    share_by_size(j->d.tokens, n, c->size, owner);
    log_info("sample: %lld of %lld samples at R = %d, transformer at step %lld, %lld steps, guidance %g, %d ranks",
             (long long)n, (long long)j->d.n, j->d.resolution, (long long)j->dit.step, (long long)o->sample.steps,
             o->sample.guidance, c->size);
    grid_range_warn(&j->vae.grid, j->vae.path, &j->d);
    bool ok = true;
    if (o->command.dry_run) {
        ok = shapes_print_need(&j->vae, &j->d, n, st);
    } else {
        if (c->rank == 0) make_folder(o->sample.output, st);
        ok = comm_agree(c, st);
        if (ok) make_all(j, c, n, owner, names, st);
        ok = comm_agree(c, st);
        if (ok && c->rank == 0)
            ok = results_collect(o->sample.output, "results.json",
                                 json_pack("{s:s, s:s, s:i, s:f, s:I}", "kind", "samples", "data", o->command.arg[0],
                                           "resolution", j->d.resolution, "level", o->sample.level, "step",
                                           (json_int_t)j->dit.step),
                                 names, n, st);
    }
    free(owner);
    free(names);
    return ok;
}

bool verb_sample(app *a, status *st) {
    const options *o = a->opt;
    job            j = {.o = o};
    if (!*o->sample.checkpoint || !*o->sample.vae || !*o->sample.output)
        return status_set(st, ST_USAGE,
                          "sample needs sample.checkpoint=DIT_RUN, sample.vae=VAE_RUN and sample.output=FOLDER");
    if (!(o->sample.level > -1 && o->sample.level < 1))
        return status_set(st, ST_USAGE, "sample.level: %g is not between -1 and 1", o->sample.level);
    if (!place_open(&j.where, o, a->world, false, st)) return false;
    bool ok = shapes_open(o, "sample", o->sample.output, &j.d, st);
    if (ok) {
        ok = network_load(&j.vae, o->sample.vae, true, o->sample.ema, &j.where, st) &&
             network_load(&j.dit, o->sample.checkpoint, false, o->sample.ema, &j.where, st) &&
             network_encoder(&j.dit, o, &j.where, st) && networks_fit(&j.vae, &j.dit, &j.d, st);
        ok = comm_agree(a->world, st) && run(&j, a, st);
        network_free(&j.vae);
        network_free(&j.dit);
        dataset_close(&j.d);
    } else {
        comm_agree(a->world, st);
    }
    return ok;
}
