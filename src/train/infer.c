#include "train/infer.h"

#include <string.h>

#include "kernels/backend.h"
#include "train/setup.h"
#include "train/state.h"

static bool stored_options(const ckpt_manifest *m, options *o, status *st) {
    options_default(o);
    return options_read_stored(o, m->folder, m->config, (int64_t)strlen(m->config), st);
}

bool load_options(const char *path, options *o, status *st) {
    ckpt_manifest m = {0};
    if (!ckpt_open_any(path, false, &m, st)) return false;
    bool ok = stored_options(&m, o, st);
    ckpt_close(&m);
    return ok;
}

bool load_grid(const char *path, grid_range *g, status *st) {
    ckpt_manifest m = {0};
    if (!ckpt_open_any(path, false, &m, st)) return false;
    *g = grid_range_read(&m);
    ckpt_close(&m);
    return true;
}

/* Opens the checkpoint once, so that options and weights are of the same step while training goes on. */
static bool open_model(const char *path, const char *model, ckpt_manifest *m, options *o, status *st) {
    *m = (ckpt_manifest){0};
    if (!ckpt_open_any(path, false, m, st)) return false;
    bool ok = stored_options(m, o, st);
    if (ok && strcmp(m->model, model) != 0)
        ok = status_set(st, ST_CONFIG, "%s: a checkpoint of the %s, one of the %s is wanted", m->folder, m->model,
                        model);
    if (!ok) ckpt_close(m);
    return ok;
}

static bool fill(ckpt_manifest *m, bool ema, ctx *c, params *p, arena *weights, status *st) {
    arena count = arena_counting_on("weights", c->be->dev);
    p->act = c->act;
    params_alloc(p, &count, false, false);
    *weights = arena_new_on("weights", count.peak, c->be->dev);
    params_alloc(p, weights, false, false);
    bool ok = state_load_weights(m->folder, ema, p, st);
    if (ok)
        params_refresh16(c, p);
    else
        arena_free(weights);
    ckpt_close(m);
    return ok;
}

bool load_vae(const char *path, bool ema, ctx *c, ssvae *m, arena *weights, status *st) {
    ckpt_manifest from;
    options       o;
    if (!open_model(path, "vae", &from, &o, st)) return false;
    ssvae_config cfg = ssvae_config_of(&o);
    ssvae_init(m, &cfg);
    if (fill(&from, ema, c, &m->p, weights, st)) return true;
    ssvae_free(m);
    return false;
}

bool load_dit(const char *path, bool ema, ctx *c, ssdit *m, arena *weights, status *st) {
    ckpt_manifest from;
    options       o;
    if (!open_model(path, "dit", &from, &o, st)) return false;
    ssdit_config cfg = ssdit_config_of(&o);
    ssdit_init(m, &cfg);
    if (fill(&from, ema, c, &m->p, weights, st)) return true;
    ssdit_free(m);
    return false;
}
