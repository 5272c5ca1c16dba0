#include "app/shapes.h"
#include "core/half.h"
#include "eval/marching_cubes.h"
#include "train/setup.h"

#include <stdlib.h>
#include <string.h>

bool shape_read(const dataset *d, int64_t i, shape *out, status *st) {
    *out = (shape){.resolution = d->resolution, .tau_voxels = d->tau_voxels};
    if (!dataset_read(d, i, &out->s, st)) return false;
    const sample *s = &out->s;
    out->value = malloc((size_t)s->n_tiles * TILE_CELLS * sizeof(float) + 1);
    out->coord = malloc((size_t)s->n_tiles * 3 * sizeof(int32_t) + 1);
    CHECK(out->value && out->coord, "no memory for %lld tiles", (long long)s->n_tiles);
    for (int64_t k = 0; k < s->n_tiles * TILE_CELLS; k++) out->value[k] = f16_to_f32(s->value[k]);
    for (int64_t k = 0; k < s->n_tiles * 3; k++) out->coord[k] = s->coord[k];
    result_name(s->source, s->id, out->name);
    snprintf(out->where, sizeof out->where, "%s", sample_name(d, i));
    out->t = (tile_set){out->where, s->id, out->resolution, s->n_tiles, s->coord};
    return true;
}

void shape_free(shape *s) {
    sample_free(&s->s);
    free(s->value);
    free(s->coord);
    *s = (shape){0};
}

void shape_surface(const shape *s, const float *value, double level, mesh *out) {
    marching_cubes(s->coord, value, s->s.n_tiles, &(mc_options){s->resolution, level, s->tau_voxels}, out);
}

json_t *shape_json(const shape *s, const char *key) {
    char id[17];
    hex_of(s->s.id, id);
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s}", "id", id, "name", s->name, "source", s->s.source, "category",
                     s->s.category, "tokens", (json_int_t)s->s.n_tiles, "key", key);
}

/* Shards, latents and tokens are all of their folder's HDF5 files; with generated latents among them it could not be
 * read. */
static bool results_room(const char *verb, const char *output, status *st) {
    char **names;
    int    n;
    status none = {0};
    if (!list_folder(output, ".h5", &names, &n, &none)) return true; /* not there yet */
    for (int i = 0; i < n && status_ok(st); i++)
        if (!strstr(names[i], RESULT_LATENTS))
            status_set(st, ST_USAGE, "%s.output=%s holds %s: results need a folder of their own", verb, output,
                       names[i]);
    free_names(names, n);
    return status_ok(st);
}

bool shapes_open(const options *o, const char *verb, const char *output, dataset *d, status *st) {
    if (o->command.n_args != 1)
        return status_set(st, ST_USAGE, "%s takes one folder of shards: d3s2 %s SHARDS ...", verb, verb);
    if (!results_room(verb, output, st)) return false;
    dataset_request r = {
        .shards = o->command.arg[0], .resolution = (int)o->data.resolution, .max_tiles = o->data.max_tiles};
    if (!dataset_open(d, &r, st)) return false;
    if (d->n > 0) return true;
    dataset_close(d);
    return status_set(st, ST_DATA, "%s: no sample in these shards", o->command.arg[0]);
}

bool shape_view_read(const dataset *d, int64_t i, int view, const char *path, network *dit, shape_view *out,
                     status *st) {
    const data_entry *e = &d->entry[i];
    const char       *name = *path ? path : sample_name(d, i);
    *out = (shape_view){0};
    if (view >= e->views && (!*path || e->views > 0))
        return status_set(st, ST_USAGE, "%s has %d views, there is no view %d: sample.view counts from 0",
                          sample_name(d, i), e->views, view);
    if (e->views > 0) {
        if (!shard_read_view(&d->shards[e->shard], e->at, view, &out->png, &out->png_size, out->camera, st))
            return false;
        out->has_camera = out->camera[16] > 0; /* 0: a user's picture */
    }
    if (*path) {
        free(out->png);
        out->png = NULL;
        if (!read_whole_file(path, 256 << 20, &out->png, &out->png_size, st)) return false;
    }
    if (view_prepare(dit->o, out->png, out->png_size, name, NULL, &out->input, st)) {
        if (dit->encoder.m.block)
            image_encoder_run(&dit->encoder, (view_input *[]){&out->input}, 1, dit->o->dit.sparse_cond);
        return true;
    }
    shape_view_free(out);
    return false;
}

void shape_view_free(shape_view *v) {
    free(v->png);
    view_free(&v->input);
    *v = (shape_view){0};
}

surface_options shape_surface_options(const options *o, uint64_t id) {
    return (surface_options){.points = o->eval.points,
                             .n_thresholds = o->eval.f1_thresholds.n < F1_MAX ? o->eval.f1_thresholds.n : F1_MAX,
                             .threshold = o->eval.f1_thresholds.v,
                             .key = {(uint64_t)o->eval.seed, RNG_EVAL, 0, id}};
}

sampler_config shape_sampler(const options *o) {
    return (sampler_config){.schedule = SCHEDULE_PUBLISHED,
                            .steps = (int)o->sample.steps,
                            .shift = o->sample.shift,
                            .guidance = o->sample.guidance,
                            .seed = (uint64_t)o->sample.seed};
}

bool networks_fit(const network *vae, const network *dit, const dataset *d, status *st) {
    if (dit->o->dit.resolution * 8 != d->resolution)
        return status_set(st, ST_CONFIG, "%s: trained at R = %lld, %s has R = %d: choose data of that resolution",
                          dit->path, (long long)dit->o->dit.resolution * 8, d->shards[0].path, d->resolution);
    if (dit->trained_on && dit->trained_on != vae->fingerprint)
        return status_set(st, ST_CONFIG,
                          "%s: learnt latents of the auto-encoder %016llx, %s is %016llx: give the checkpoint (and "
                          "ema) that encoded them",
                          dit->path, (unsigned long long)dit->trained_on, vae->path,
                          (unsigned long long)vae->fingerprint);
    return true;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

bool shapes_print_need(network *vae, const dataset *d, int64_t n, status *st) {
    static const char *const what[] = {"encoding", "decoding"};
    shape                    s;
    pass_need                x[2], most = {0};
    int64_t                  at = 0;
    for (int64_t i = 1; i < n; i++)
        if (d->tokens[i] > d->tokens[at]) at = i;
    if (!shape_read(d, at, &s, st)) return false;
    bool ok = vae_encode_need(vae, &s.t, s.value, &x[0], st) && vae_decode_need(vae, &s.t, &x[1], st);
    for (int i = 0; i < 2 && ok; i++) {
        pass_need_print(what[i], &x[i]);
        most.activations = larger(most.activations, x[i].activations);
        most.scratch = larger(most.scratch, x[i].scratch);
        most.tables = larger(most.tables, x[i].tables);
    }
    size_t all, base = network_gpu_base(vae, &all), sum = most.activations + most.scratch + most.tables;
    if (ok && all > 0 && base + sum > all)
        ok = status_set(st, ST_CONFIG,
                        "%s: the auto-encoder's passes need %.0f MB of the GPU, %.0f of %.0f are in use: leave shapes "
                        "of so many tiles out with data.max_tiles",
                        s.where, (double)sum / 1e6, (double)base / 1e6, (double)all / 1e6);
    else if (ok && all > 0)
        log_info("memory of the GPU: %.0f MB are in use, with the auto-encoder's passes %.0f of %.0f",
                 (double)base / 1e6, (double)(base + sum) / 1e6, (double)all / 1e6);
    shape_free(&s);
    return ok;
}
