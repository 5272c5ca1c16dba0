/* d3s2 eval: figures of an auto-encoder (eval.checkpoint alone) or of a transformer (with eval.vae). */
#include "app/eval_one.h"
#include "app/eval_picture.h"
#include "app/verbs.h"
#include "train/infer.h"
#include "train/share.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const options *o;
    place          where;
    dataset        d;
    network        vae, dit;
    bool           of_dit;
    char           key[17];
    char (*names)[96];
    int    *owner;
    int64_t n;
} job;

static void make_key(job *j) {
    const options *o = j->o;
    char           text[600];
    int            at = snprintf(text, sizeof text, "%016llx %016llx %lld %lld %g %lld %g %g %lld %lld %lld %lld",
                                 (unsigned long long)j->vae.fingerprint, (unsigned long long)j->dit.fingerprint,
                                 (long long)o->eval.points, (long long)o->eval.seed, o->sample.level, (long long)o->sample.steps,
                                 o->sample.shift, o->sample.guidance, (long long)o->sample.seed, (long long)o->sample.view,
                                 (long long)j->n, (long long)o->eval.generate);
    if (o->eval.pictures > 0)
        at += snprintf(text + at, sizeof text - (size_t)at, " p%lld", (long long)o->eval.pictures);
    for (int i = 0; i < o->eval.f1_thresholds.n && at < 560; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, " %g", o->eval.f1_thresholds.v[i]);
    if (j->where.act == DT_BF16) snprintf(text + at, sizeof text - (size_t)at, " bf16");
    hex_of(hash_text(text), j->key);
}

/* The right view is sample.view of the shape, the wrong one that of the next shape. */
static bool eval_dit(job *j, int64_t i, const shape *s, json_t *out, status *st) {
    shape_view view, other = {0};
    int        which = (int)j->o->sample.view;
    if (!shape_view_read(&j->d, i, which, "", &j->dit, &view, st)) return false;
    bool ok = j->n < 2 || shape_view_read(&j->d, (i + 1) % j->n, which, "", &j->dit, &other, st);
    ok = ok && eval_dit_shape(&j->vae, &j->dit, j->o, s, &view.input, j->n > 1 ? &other.input : NULL,
                              j->o->eval.generate == 0 || i < j->o->eval.generate, out, st);
    shape_view_free(&view);
    shape_view_free(&other);
    return ok;
}

static bool eval_one(job *j, int64_t i, status *st) {
    shape s;
    char  path[PATH_CAP];
    if (!shape_read(&j->d, i, &s, st)) return false;
    json_t *out = shape_json(&s, j->key);
    bool    ok = j->of_dit ? eval_dit(j, i, &s, out, st)
                           : eval_vae_shape(&j->vae, j->o, &j->d, i, &s, j->o->eval.output, out, st);
    result_path(j->o->eval.output, s.name, ".json", path);
    ok = ok && json_file_write(path, out, st);
    json_decref(out);
    shape_free(&s);
    return ok;
}

static bool eval_mine(job *j, int rank, status *st) {
    progress p;
    int64_t  mine = 0, done = 0;
    for (int64_t i = 0; i < j->n; i++) mine += j->owner[i] == rank;
    progress_begin(&p, "eval", 0, mine);
    for (int64_t i = 0; i < j->n; i++) {
        if (j->owner[i] != rank) continue;
        if (!result_done(j->o->eval.output, j->names[i], j->key) && !eval_one(j, i, st)) return false;
        progress_step(&p, ++done, j->names[i]);
    }
    progress_end(&p, NULL);
    return true;
}

/* Only the meshes of the eval.worst largest Chamfer distances (no distance is worst) stay. */
static bool keep_worst(const job *j, status *st) {
    double *bad = malloc(sizeof *bad * (size_t)j->n);
    bool    ok = true;
    CHECK(bad, "no memory for %lld shapes", (long long)j->n);
    for (int64_t i = 0; i < j->n; i++) {
        char   path[PATH_CAP];
        status quiet = {0};
        result_path(j->o->eval.output, j->names[i], ".json", path);
        json_t       *s = json_file_read(path, &quiet);
        const json_t *c = json_object_get(s, "chamfer");
        bad[i] = json_is_number(c) ? json_number_value(c) : INFINITY;
        json_decref(s);
    }
    for (int64_t i = 0; i < j->n && ok; i++) {
        int64_t worse = 0;
        for (int64_t k = 0; k < j->n; k++) worse += bad[k] > bad[i] || (bad[k] == bad[i] && k < i);
        for (int m = 0; m < 2 && worse >= j->o->eval.worst && ok; m++) {
            char path[PATH_CAP];
            result_path(j->o->eval.output, j->names[i], m ? "-vae.glb" : "-truth.glb", path);
            ok = remove_tree(path, st);
        }
    }
    free(bad);
    return ok;
}

static void print_means(const char *path) {
    static const char *const key[] = {"sign_accuracy",        "band_error_voxels",   "chamfer",
                                      "normal_error_degrees", "right_view_lower",    "generated_band_error_tau",
                                      "zero_band_error_tau",  "noise_band_error_tau"};
    status                   quiet = {0};
    json_t *j = json_file_read(path, &quiet), *all = json_object_get(json_object_get(j, "summary"), "overall");
    printf("%s: %lld shapes\n", path, (long long)json_integer_value(json_object_get(all, "shapes")));
    for (size_t i = 0; i < sizeof key / sizeof key[0]; i++) {
        const json_t *mean = json_object_get(json_object_get(all, key[i]), "mean");
        if (json_is_number(mean)) printf("  %-26s %.5g\n", key[i], json_number_value(mean));
    }
    json_decref(j);
}

static bool run(job *j, const comm *c, status *st) {
    const options *o = j->o;
    char           path[PATH_CAP];
    share_by_size(j->d.tokens, j->n, c->size, j->owner);
    for (int64_t i = 0; i < j->n; i++)
        result_name(j->d.shards[j->d.entry[i].shard].source[j->d.entry[i].at], j->d.ids[i], j->names[i]);
    log_info("eval: %s at step %lld on %lld samples at R = %d, %d ranks", j->of_dit ? "transformer" : "auto-encoder",
             (long long)(j->of_dit ? j->dit.step : j->vae.step), (long long)j->n, j->d.resolution, c->size);
    grid_range_warn(&j->vae.grid, j->vae.path, &j->d);
    if (o->command.dry_run) return shapes_print_need(&j->vae, &j->d, j->n, st);
    if (c->rank == 0) make_folder(o->eval.output, st);
    if (!comm_agree(c, st)) return false;
    eval_mine(j, c->rank, st);
    if (!comm_agree(c, st) || c->rank != 0) return status_ok(st);
    json_t *head = json_pack("{s:s, s:s, s:i, s:f, s:I, s:I}", "kind", j->of_dit ? "dit" : "vae", "data",
                             o->command.arg[0], "resolution", j->d.resolution, "level", o->sample.level, "step",
                             (json_int_t)(j->of_dit ? j->dit.step : j->vae.step), "points", (json_int_t)o->eval.points);
    bool    ok =
        results_collect(o->eval.output, "results.json", head, j->names, j->n, st) && (j->of_dit || keep_worst(j, st));
    int64_t pictures = j->of_dit ? 0 : o->eval.pictures < j->n ? o->eval.pictures : j->n;
    if (pictures > 0) ok = ok && eval_pictures_join(o->eval.output, j->names, pictures, st);
    result_path(o->eval.output, "results.json", "", path);
    if (ok) print_means(path);
    return ok;
}

/* A transformer needs the auto-encoder that decodes its latents. */
static bool vae_is_given(const options *o, status *st) {
    if (*o->eval.vae) return true;
    options *trained = malloc(sizeof *trained);
    CHECK(trained, "no memory for the options");
    bool ok = load_options(o->eval.checkpoint, trained, st);
    if (ok && trained->train.model == opt_train_model_dit)
        ok = status_set(st, ST_USAGE, "%s: is a transformer: give eval.vae=RUN too, which decodes its latents",
                        o->eval.checkpoint);
    free(trained);
    return ok;
}

bool verb_eval(app *a, status *st) {
    const options *o = a->opt;
    job            j = {.o = o, .of_dit = *o->eval.vae != 0};
    if (!*o->eval.checkpoint || !*o->eval.output)
        return status_set(st, ST_USAGE,
                          "eval needs eval.checkpoint=RUN and eval.output=FOLDER (and eval.vae=RUN of a transformer)");
    if (!(o->sample.level > -1 && o->sample.level < 1))
        return status_set(st, ST_USAGE, "sample.level: %g is not between -1 and 1", o->sample.level);
    if (!place_open(&j.where, o, a->world, false, st)) return false;
    bool opened = shapes_open(o, "eval", o->eval.output, &j.d, st);
    bool ok = opened && vae_is_given(o, st) &&
              network_load(&j.vae, j.of_dit ? o->eval.vae : o->eval.checkpoint, true, o->eval.ema, &j.where, st) &&
              (!j.of_dit || (network_load(&j.dit, o->eval.checkpoint, false, o->eval.ema, &j.where, st) &&
                             network_encoder(&j.dit, o, &j.where, st) && networks_fit(&j.vae, &j.dit, &j.d, st)));
    ok = comm_agree(a->world, st) && ok;
    if (ok) {
        j.n = o->eval.max_samples > 0 && o->eval.max_samples < j.d.n ? o->eval.max_samples : j.d.n;
        j.names = calloc((size_t)j.n, sizeof *j.names);
        j.owner = malloc((size_t)j.n * sizeof *j.owner);
        CHECK(j.names && j.owner, "no memory for %lld names", (long long)j.n);
        make_key(&j);
        ok = run(&j, a->world, st);
    }
    free(j.names);
    free(j.owner);
    network_free(&j.vae);
    network_free(&j.dit);
    if (opened) dataset_close(&j.d);
    return ok;
}
