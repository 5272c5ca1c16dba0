#include "train/state.h"

#include <stdlib.h>
#include <string.h>

ckpt_param *state_params(const params *p) {
    ckpt_param *list = calloc((size_t)p->n + 1, sizeof *list);
    CHECK(list, "no memory for %d rows", p->n);
    for (int i = 0; i < p->n; i++) {
        const param *r = p->row[i];
        snprintf(list[i].name, sizeof list[i].name, "%s", r->name);
        list[i].rank = r->n_dims;
        for (int k = 0; k < r->n_dims; k++) list[i].shape[k] = r->dim[k];
        list[i].offset = r->offset;
    }
    return list;
}

/* The counters of the state, and the windows' numbers as they are in memory, under their names in a checkpoint. Absent
 * ones are 0. */
typedef struct {
    const char *name;
    void       *at;
} state_number;

enum { NUMBERS = 12 };

static void state_numbers(const run_state *s, state_number n[NUMBERS]) {
    run_state   *w = (run_state *)s; /* read or written, as the caller does */
    state_number list[NUMBERS] = {{"bad_in_row", &w->bad_in_row},
                                  {"bad_total", &w->bad_total},
                                  {"tokens", &w->tokens},
                                  {"clip_seen", &w->clip.seen},
                                  {"shift", &w->shift},
                                  {"rollbacks", &w->rollbacks},
                                  {"loss_mean", &w->loss_window.mean},
                                  {"loss_var", &w->loss_window.var},
                                  {"loss_seen", &w->loss_window.n},
                                  {"norm_mean", &w->norm_window.mean},
                                  {"norm_var", &w->norm_window.var},
                                  {"norm_seen", &w->norm_window.n}};
    memcpy(n, list, sizeof list);
}

static void put_number(ckpt_manifest *m, const char *name, int64_t value) {
    CHECK(m->n_numbers < CKPT_NUMBERS, "more than %d numbers in a checkpoint", (int)CKPT_NUMBERS);
    ckpt_number *n = &m->number[m->n_numbers++];
    snprintf(n->name, sizeof n->name, "%s", name);
    n->value = value;
}

/* Hash of names and shapes: which architecture. */
static uint64_t shape_hash(const params *p) {
    uint64_t h = 0;
    for (int i = 0; i < p->n; i++) {
        h = hash_bytes(p->row[i]->name, strlen(p->row[i]->name), h);
        h = hash_bytes(p->row[i]->dim, sizeof p->row[i]->dim, h);
    }
    return h;
}

int state_slabs(const comm *c, const task *t, const optimizer *x, const run_state *s, state_slab slab[STATE_SLABS]) {
    static const char *const name[] = {"adam_m", "adam_v", "ema"};
    const float *const       state[] = {x->m, x->v, x->average};
    const params            *p = t->p;
    int64_t                  first, count;
    int                      n = 1;
    slab_slice(p->total, c->rank, c->size, &first, &count);
    if (x->sharded) { /* where the weights are up to date */
        first = x->own;
        count = x->n_own;
    }
    slab[0] = (state_slab){{"params", p->w + first, first, count}, p->dev};
    if (x->sharded || c->rank == 0) /* unsharded state is the same everywhere */
        for (int i = 0; i < 3 && state[i]; i++) slab[n++] = (state_slab){{name[i], state[i], x->own, x->n_own}, p->dev};
    if (c->rank == 0 && s->clip.window > 0)
        slab[n++] = (state_slab){{"clip_norms", s->clip.ring, 0, s->clip.window}, DEV_CPU};
    return n;
}

void state_manifest(const task *t, const optimizer *x, const run_state *s, const options *o, ckpt_manifest *m) {
    *m = (ckpt_manifest){.step = s->step,
                         .seed = (uint64_t)o->train.seed,
                         .fingerprint = shape_hash(t->p),
                         .n_params = t->p->n,
                         .param = state_params(t->p),
                         .config = options_to_yaml(o)};
    snprintf(m->model, sizeof m->model, "%s", t->name);
    put_number(m, "updates", x->updates);
    put_number(m, "vae", (int64_t)s->vae);
    put_number(m, "encoder", (int64_t)s->encoder);
    put_number(m, "data", (int64_t)s->data);
    put_number(m, "content", (int64_t)s->content);
    const int64_t grid[GRID_NUMBERS] = {s->grid.least, s->grid.most, s->grid.tau_least, s->grid.tau_most};
    for (int i = 0; i < GRID_NUMBERS; i++) put_number(m, grid_number_names[i], grid[i]);
    state_number n[NUMBERS];
    state_numbers(s, n);
    for (int i = 0; i < NUMBERS; i++) {
        int64_t v;
        memcpy(&v, n[i].at, sizeof v);
        put_number(m, n[i].name, v);
    }
}

/* Elements first .. of a stored slab to out, which is where p's slabs are. */
static bool read_slab(const ckpt_manifest *m, const char *name, int64_t first, int64_t count, const params *p,
                      float *out, status *st) {
    int64_t stored = ckpt_slab_count(m, name);
    if (stored == 0)
        return status_set(st, ST_CONFIG,
                          "%s: holds weights without %s, as `d3s2 import` makes them: they start another run by "
                          "train.init_from",
                          m->folder, name);
    if (stored != p->total)
        return status_set(st, ST_DATA, "%s: slab %s has %lld floats, %lld are wanted: another version wrote it",
                          m->folder, name, (long long)stored, (long long)p->total);
    if (p->dev == DEV_CPU) return ckpt_read_range(m, name, first, count, out, st);
    float *via = malloc((size_t)count * sizeof *via + 1);
    CHECK(via, "no memory for %lld floats on their way to the GPU", (long long)count);
    bool ok = ckpt_read_range(m, name, first, count, via, st);
    if (ok) slab_write(p->dev, out, 0, count, via);
    free(via);
    return ok;
}

static bool check_model(const ckpt_manifest *m, const char *model, const params *p, status *st) {
    if (model && strcmp(m->model, model) != 0)
        return status_set(st, ST_CONFIG, "%s: a checkpoint of the %s, train.model is %s: choose another train.run",
                          m->folder, m->model, model);
    ckpt_param *want = state_params(p);
    bool        ok = ckpt_match(m, want, p->n, st);
    free(want);
    return ok;
}

static bool read_state(const ckpt_manifest *m, const task *t, optimizer *x, run_state *s, status *st) {
    int64_t before = (int64_t)s->vae;
    if (!check_model(m, t->name, t->p, st)) return false;
    if (ckpt_number_of(m, "vae", before) != before)
        return status_set(st, ST_CONFIG,
                          "%s: trained on latents of another auto-encoder than those of data.latents: start "
                          "a new run",
                          m->folder);
    int64_t seen = (int64_t)s->encoder;
    if (ckpt_number_of(m, "encoder", seen) != seen)
        return status_set(st, ST_CONFIG,
                          "%s: trained on tokens of another image encoder than those of data.tokens: start "
                          "a new run",
                          m->folder);
    bool ok = read_slab(m, "params", 0, t->p->total, t->p, t->p->w, st) &&
              read_slab(m, "adam_m", x->own, x->n_own, t->p, x->m, st) &&
              read_slab(m, "adam_v", x->own, x->n_own, t->p, x->v, st);
    if (ok && x->average) {
        if (ckpt_slab_count(m, "ema") == 0)
            optimizer_start(x); /* a run that kept none before */
        else
            ok = read_slab(m, "ema", x->own, x->n_own, t->p, x->average, st);
    }
    state_number n[NUMBERS];
    state_numbers(s, n);
    for (int i = 0; i < NUMBERS; i++) {
        int64_t v = ckpt_number_of(m, n[i].name, 0);
        memcpy(n[i].at, &v, sizeof v);
    }
    if (ok && s->clip.window > 0 && ckpt_slab_count(m, "clip_norms") == s->clip.window) {
        ok = ckpt_read_range(m, "clip_norms", 0, s->clip.window, s->clip.ring, st);
        clip_refresh(&s->clip);
    } else {
        s->clip.seen = 0;
    }
    s->grid = grid_range_join(s->grid, grid_range_read(m));
    s->step = m->step;
    x->updates = ckpt_number_of(m, "updates", m->step);
    return ok;
}

/* Order and noise come from the list of samples, so another list or other samples make another run of it. */
static bool same_data(const ckpt_manifest *m, const comm *c, const run_state *s, status *st) {
    const char *what = ckpt_number_of(m, "data", (int64_t)s->data) != (int64_t)s->data
                           ? "other samples or another order (train.balance) than those"
                       : ckpt_number_of(m, "content", (int64_t)s->content) != (int64_t)s->content
                           ? "the same names with other content than those"
                           : NULL;
    if (!what) return true;
    if (!s->accept_data)
        return status_set(st, ST_CONFIG,
                          "data.train holds %s of %s: give it the data it began with, or set data.accept_new=true",
                          what, m->folder);
    if (c->rank == 0) log_warn("data.train holds %s of %s; going on with them", what, m->folder);
    return true;
}

bool state_resume(const char *run, const comm *c, const task *t, optimizer *x, run_state *s, bool *found, status *st) {
    ckpt_manifest m = {0};
    char          folder[PATH_CAP] = "";
    /* Rank 0 looks for the newest good one; the others open that very folder. */
    if (c->rank == 0 && ckpt_latest(run, true, &m, st)) snprintf(folder, sizeof folder, "%s", m.folder);
    if (c->rank == 0 && st->code == ST_NO_INPUT) *st = (status){0};
    if (!comm_agree(c, st)) return false;
    comm_bcast(c, folder, sizeof folder, 0);
    *found = folder[0] != 0;
    if (!*found) return true;
    bool ok = (c->rank == 0 || ckpt_open(folder, &m, st)) && read_state(&m, t, x, s, st) && same_data(&m, c, s, st);
    if (ok) log_info("continuing from %s", folder);
    ckpt_close(&m);
    return comm_agree(c, st);
}

bool state_load_weights(const char *path, bool ema, params *p, status *st) {
    ckpt_manifest m = {0};
    if (!ckpt_open_any(path, false, &m, st)) return false;
    bool averaged = ema && ckpt_slab_count(&m, "ema") > 0;
    bool ok = check_model(&m, NULL, p, st) && read_slab(&m, averaged ? "ema" : "params", 0, p->total, p, p->w, st);
    ckpt_close(&m);
    return ok;
}
