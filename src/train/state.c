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

static bool all_ranks_ok(bool ok, void *user) {
    int64_t bad = !ok;
    comm_max_i64(user, &bad, 1);
    return !bad;
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

/* A slab's range in host memory: itself, or a copy that *mine then holds. */
static const float *on_host(const params *p, const float *slab, int64_t first, int64_t count, float **mine) {
    *mine = NULL;
    if (p->dev == DEV_CPU) return slab + first;
    *mine = malloc((size_t)count * sizeof **mine + 1);
    CHECK(*mine, "no memory for a copy of %lld floats of the GPU", (long long)count);
    slab_read(p->dev, slab, first, count, *mine);
    return *mine;
}

bool state_save(const char *run, const comm *c, const task *t, const optimizer *x, const run_state *s, const options *o,
                status *st) {
    const params *p = t->p;
    int64_t       first, count;
    ckpt_manifest m = {.step = s->step,
                       .seed = (uint64_t)o->train.seed,
                       .fingerprint = shape_hash(p),
                       .n_params = p->n,
                       .param = state_params(p),
                       .config = options_to_yaml(o)};
    snprintf(m.model, sizeof m.model, "%s", t->name);
    put_number(&m, "updates", x->updates);
    put_number(&m, "bad_in_row", s->bad_in_row);
    put_number(&m, "bad_total", s->bad_total);
    put_number(&m, "tokens", s->tokens);
    put_number(&m, "vae", (int64_t)s->vae);
    put_number(&m, "encoder", (int64_t)s->encoder);
    put_number(&m, "data", (int64_t)s->data);
    put_number(&m, "clip_seen", s->clip.seen);
    slab_slice(p->total, c->rank, c->size, &first, &count);
    if (x->sharded) { /* where the weights are up to date */
        first = x->own;
        count = x->n_own;
    }
    float    *copy[4] = {NULL};
    ckpt_slab slab[5] = {{"params", on_host(p, p->w, first, count, &copy[0]), first, count}};
    int       n = 1;
    if (x->sharded || c->rank == 0) { /* unsharded state is the same everywhere */
        static const char *const name[] = {"adam_m", "adam_v", "ema"};
        const float *const       state[] = {x->m, x->v, x->average};
        for (int i = 0; i < 3 && state[i]; i++, n++)
            slab[n] = (ckpt_slab){name[i], on_host(p, state[i], 0, x->n_own, &copy[n]), x->own, x->n_own};
    }
    comm_device_settled(c); /* the weights came by it */
    if (c->rank == 0 && s->clip.window > 0) slab[n++] = (ckpt_slab){"clip_norms", s->clip.ring, 0, s->clip.window};
    bool ok = ckpt_save(run, c->rank, c->size, s->step, slab, n, &m, all_ranks_ok, (void *)c, st);
    if (ok && c->rank == 0) {
        status pruning = {0};
        if (!ckpt_prune(run, (int)o->train.keep_last, o->train.keep_every, &pruning)) log_warn("%s", pruning.text);
    }
    for (int i = 0; i < 4; i++) free(copy[i]);
    free(m.param);
    free(m.config);
    return comm_agree(c, st) && ok;
}

/* Elements first .. of a stored slab to out, which is where p's slabs are. */
static bool read_slab(const ckpt_manifest *m, const char *name, int64_t first, int64_t count, const params *p,
                      float *out, status *st) {
    int64_t stored = ckpt_slab_count(m, name);
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
    if (ok && s->clip.window > 0 && ckpt_slab_count(m, "clip_norms") == s->clip.window) {
        ok = ckpt_read_range(m, "clip_norms", 0, s->clip.window, s->clip.ring, st);
        s->clip.seen = ckpt_number_of(m, "clip_seen", 0);
        clip_refresh(&s->clip);
    }
    s->step = m->step;
    s->bad_in_row = ckpt_number_of(m, "bad_in_row", 0);
    s->bad_total = ckpt_number_of(m, "bad_total", 0);
    s->tokens = ckpt_number_of(m, "tokens", 0);
    x->updates = ckpt_number_of(m, "updates", m->step);
    return ok;
}

bool state_resume(const char *run, const comm *c, const task *t, optimizer *x, run_state *s, bool *found, status *st) {
    ckpt_manifest m = {0};
    char          folder[PATH_CAP] = "";
    uint64_t      data = s->data;
    /* Rank 0 looks for the newest good one; the others open that very folder. */
    if (c->rank == 0 && ckpt_latest(run, true, &m, st)) snprintf(folder, sizeof folder, "%s", m.folder);
    if (c->rank == 0 && st->code == ST_NO_INPUT) *st = (status){0};
    if (!comm_agree(c, st)) return false;
    comm_bcast(c, folder, sizeof folder, 0);
    *found = folder[0] != 0;
    if (!*found) return true;
    bool ok = (c->rank == 0 || ckpt_open(folder, &m, st)) && read_state(&m, t, x, s, st);
    if (ok) {
        log_info("continuing from %s", folder);
        if (c->rank == 0 && ckpt_number_of(&m, "data", (int64_t)data) != (int64_t)data)
            log_warn("the data set is not the one of %s: epochs start over in another order", folder);
    }
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
