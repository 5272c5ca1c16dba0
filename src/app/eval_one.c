#include "app/eval_one.h"
#include "app/eval_picture.h"

#include <stdlib.h>

static float *floats(int64_t n) {
    float *p = malloc((size_t)n * sizeof *p + 1);
    CHECK(p, "no memory for %lld numbers", (long long)n);
    return p;
}

static bool put_picture(const dataset *d, int64_t i, const shape *s, const mesh *truth, const mesh *own,
                        const char *folder, json_t *out, status *st) {
    char path[PATH_CAP], file[160];
    snprintf(file, sizeof file, "%s.png", s->name);
    result_path(folder, file, "", path);
    json_object_set_new(out, "picture", json_string(file));
    json_object_set_new(out, "files", json_pack("[s]", file));
    return eval_picture(d, i, truth, own, path, st);
}

bool eval_vae_shape(network *vae, const options *o, const dataset *d, int64_t i, const shape *s, const char *folder,
                    json_t *out, status *st) {
    int64_t         n = s->s.n_tiles;
    float          *z = floats(n * vae->vae.cfg.latent_channels), *value = floats(n * TILE_CELLS);
    mesh            truth = {0}, own = {0};
    band_stats      band = {0};
    surface_stats   stats;
    surface_options so = shape_surface_options(o, s->s.id);
    char            path[PATH_CAP];
    bool            ok = vae_encode(vae, &s->t, s->value, z, st) && vae_decode(vae, &s->t, z, value, st);
    if (ok) {
        band_add(&band, value, s->value, n * TILE_CELLS);
        shape_surface(s, s->value, o->sample.level, &truth);
        shape_surface(s, value, o->sample.level, &own);
        ok = surface_compare(&own, &truth, &so, &stats, st);
    }
    if (ok) {
        metrics_put_band(out, &band, s->tau_voxels);
        metrics_put_surface(out, &stats, &so);
        if (i < o->eval.pictures) ok = put_picture(d, i, s, &truth, &own, folder, out, st);
    }
    for (int k = 0; k < 2 && ok && o->eval.worst > 0; k++) { /* of which the caller keeps the worst */
        const mesh *m = k ? &own : &truth;
        result_path(folder, s->name, k ? "-vae.glb" : "-truth.glb", path);
        if (m->n_faces) ok = mesh_write(path, m, st);
    }
    mesh_free(&truth);
    mesh_free(&own);
    free(z);
    free(value);
    return ok;
}

/* ---- transformer ----------------------------------------------------------------------------------------------- */

static bool put_flow(network *dit, const options *o, const shape *s, const view_input *view, const view_input *other,
                     const float *z, json_t *out, status *st) {
    enum { TIMES = 5 };
    static const double time[TIMES] = {0.1, 0.3, 0.5, 0.7, 0.9};
    double              right[TIMES], wrong[TIMES], lower = 0;
    int64_t             n = s->s.n_tiles * dit->dit.cfg.in_channels;
    float              *eps = floats(n);
    rng_fill_normal((rng_key){(uint64_t)o->eval.seed, RNG_EVAL, 1, s->s.id}, 0, n, eps);
    bool ok = dit_flow_loss(dit, &s->t, view, z, eps, TIMES, time, right, st) &&
              (!other || dit_flow_loss(dit, &s->t, other, z, eps, TIMES, time, wrong, st));
    for (int i = 0; i < TIMES && ok; i++) {
        char key[32];
        snprintf(key, sizeof key, "flow_right@%.1f", time[i]);
        json_object_set_new(out, key, metrics_number(right[i]));
        if (!other) continue;
        snprintf(key, sizeof key, "flow_wrong@%.1f", time[i]);
        json_object_set_new(out, key, metrics_number(wrong[i]));
        snprintf(key, sizeof key, "right_lower@%.1f", time[i]);
        json_object_set_new(out, key, json_real(right[i] < wrong[i]));
        lower += right[i] < wrong[i];
    }
    if (ok && other) json_object_set_new(out, "right_view_lower", json_real(lower / TIMES));
    free(eps);
    return ok;
}

static bool put_decoded(network *vae, const shape *s, const char *what, const float *z, json_t *out, status *st) {
    float     *value = floats(s->s.n_tiles * TILE_CELLS);
    band_stats band = {0};
    char       key[64];
    bool       ok = vae_decode(vae, &s->t, z, value, st);
    if (ok) {
        band_add(&band, value, s->value, s->s.n_tiles * TILE_CELLS);
        snprintf(key, sizeof key, "%s_sign_accuracy", what);
        json_object_set_new(out, key, metrics_number(band_sign_accuracy(&band)));
        snprintf(key, sizeof key, "%s_band_error_tau", what);
        json_object_set_new(out, key, metrics_number(band_error(&band)));
    }
    free(value);
    return ok;
}

/* What the decoder makes of generated latents, of zeros and of noise; z is room for them. */
static bool put_generated(network *vae, network *dit, const options *o, const shape *s, const view_input *view,
                          float *z, int64_t n, json_t *out, status *st) {
    sampler_config cfg = shape_sampler(o);
    if (!dit_sample(dit, &s->t, view, &cfg, z, st) || !put_decoded(vae, s, "generated", z, out, st)) return false;
    for (int64_t i = 0; i < n; i++) z[i] = 0;
    if (!put_decoded(vae, s, "zero", z, out, st)) return false;
    rng_fill_normal((rng_key){(uint64_t)o->eval.seed, RNG_EVAL, 2, s->s.id}, 0, n, z);
    return put_decoded(vae, s, "noise", z, out, st);
}

bool eval_dit_shape(network *vae, network *dit, const options *o, const shape *s, const view_input *view,
                    const view_input *other, bool generate, json_t *out, status *st) {
    int64_t n = s->s.n_tiles * dit->dit.cfg.in_channels;
    float  *z = floats(n);
    bool    ok = vae_encode(vae, &s->t, s->value, z, st) && put_flow(dit, o, s, view, other, z, out, st) &&
              (!generate || put_generated(vae, dit, o, s, view, z, n, out, st));
    free(z);
    return ok;
}
