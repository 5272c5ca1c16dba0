/* Training of the transformer by rectified flow (R§6): x_t and the velocity from latents and noise, MSE over all tokens
 * and channels of the global batch; the same by ten bins of time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/flow.h"
#include "ops/loss.h"
#include "train/setup.h"
#include "train/view_input.h"

enum { SUM_MSE, SUM_BIN, BINS = 10, SUMS = SUM_BIN + BINS };

typedef struct {
    task    base;
    ssdit   m;
    options o;
    int64_t most_cond; /* condition tokens of one sample at most */
} dit_task;

typedef struct {
    ssdit_batch b;
    tensor      x0, eps, cond;        /* (N,C), (N,C), (Lc,W) */
    tensor      t, model_time, first; /* (B) in [0,1], (B) times 1000, (B+1) */
} dit_body;

static int bin_of(double t) {
    int k = (int)(t * BINS);
    return k < BINS ? k : BINS - 1;
}

static size_t host_bytes(const task *t, int64_t tiles, int64_t samples) {
    const dit_task *d = (const dit_task *)t;
    size_t          cond = (size_t)d->most_cond * ((size_t)d->m.cfg.cond_width * sizeof(float) + 32);
    size_t          tile = 2 * (size_t)d->m.cfg.in_channels * sizeof(float) + 1024;
    return ((size_t)1 << 20) + (size_t)tiles * tile + (size_t)samples * (cond + 16384);
}

static double time_of(const dit_task *v, const dataset *d, batch_purpose why, const plan_item *item) {
    double n = rng_normal(item_key(&v->base, d, RNG_FLOW_TIME, why, item), 0);
    return (double)(float)flow_time(n, v->o.flow.t_mean, v->o.flow.t_std); /* what the batch stores, for the bins */
}

/* Latents of one item into rows row0.. of the batch, sorted. */
static bool place_latents(const dit_task *v, const dataset *d, batch_purpose why, const plan_item *item, int64_t row0,
                          arena *host, dit_body *body, tensor *coord, status *st) {
    int64_t   n = d->entry[item->index].tiles, C = v->m.cfg.in_channels;
    uint16_t *at = NULL;
    float    *mean = NULL, *logvar = NULL;
    int32_t  *order = NULL;
    rng_key   key = item_key(&v->base, d, RNG_POSTERIOR, why, item);
    bool      ok = dataset_read_latents(d, item->index, &at, &mean, &logvar, st) &&
              tile_order(host, at, n, v->m.cfg.ssa.m_slc, v->m.cfg.resolution, sample_name(d, item->index), &order, st);
    for (int64_t i = 0; ok && i < n; i++) {
        int64_t from = order[i], to = row0 + i;
        for (int c = 0; c < 3; c++) I32(coord)[3 * to + c] = at[3 * from + c];
        memcpy(F32(&body->x0) + to * C, mean + from * C, (size_t)C * sizeof(float));
        for (int64_t c = 0; v->o.data.latent_sample && !why.eval && c < C; c++) F32(&body->x0)
        [to * C + c] += (float)(exp(0.5 * (double)logvar[from * C + c]) * rng_normal(key, (uint64_t)(i * C + c)));
    }
    free(at);
    free(mean);
    free(logvar);
    return ok;
}

static bool read_view(const dit_task *v, const dataset *d, batch_purpose why, const plan_item *item, view_input *out,
                      status *st) {
    int      views = d->entry[item->index].views, variants = d->tok ? d->tok[0].variants : 1, pick = 0;
    uint8_t *png = NULL;
    int64_t  size = 0;
    rng_key  augment = item_key(&v->base, d, RNG_AUGMENT, why, item);
    if (!why.eval) pick = (int)(rng_uniform(item_key(&v->base, d, RNG_VIEW, why, item), 0) * views * variants);
    if (d->tok) {
        *out = (view_input){.width = d->tok[0].width};
        return dataset_read_tokens(d, item->index, pick, &out->n_tokens, &out->token, &out->coord, st);
    }
    bool ok = dataset_read_view(d, item->index, pick, &png, &size, st) &&
              view_prepare(&v->o, png, size, sample_name(d, item->index), why.eval ? NULL : &augment, out, st);
    free(png);
    return ok;
}

/* Condition rows of all items; a dropped condition keeps its token set with zeros (R§5.4). */
static bool place_conditions(const dit_task *v, const dataset *d, batch_purpose why, const plan_item *const *item,
                             int64_t n, arena *host, dit_body *body, tensor *first, tensor *coord, status *st) {
    view_input *view = arena_zeros(host, (size_t)n * sizeof *view);
    int64_t     W = v->m.cfg.cond_width, row = 0;
    bool        ok = true;
    *first = arena_tensor(host, DT_I32, DIMS(n + 1));
    I32(first)[0] = 0;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = read_view(v, d, why, item[i], &view[i], st);
        row += view[i].n_tokens;
        I32(first)[i + 1] = (int32_t)row;
    }
    if (ok) {
        body->cond = arena_tensor(host, DT_F32, DIMS(row, W));
        *coord = arena_tensor(host, DT_I32, DIMS(row, 3));
    }
    for (int64_t i = 0; i < n; i++) {
        if (ok) {
            int64_t at = I32(first)[i];
            float  *token = F32(&body->cond) + at * W;
            view_tokens(&v->o, &view[i], token, I32(coord) + 3 * at);
            if (!why.eval && rng_uniform(item_key(&v->base, d, RNG_COND_DROP, why, item[i]), 0) < v->o.cond.drop)
                memset(token, 0, (size_t)(view[i].n_tokens * W) * sizeof(float));
        }
        view_free(&view[i]);
    }
    return ok;
}

static bool load(const task *t, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                 micro_batch *b, status *st) {
    const dit_task *v = (const dit_task *)t;
    dit_body       *body = b->body = arena_zeros(b->host, sizeof *body);
    int64_t         C = v->m.cfg.in_channels, row = 0;
    tensor          cond_first, cond_coord;
    b->n_samples = b->n_values = n; /* one sum of squares a sample */
    b->into = arena_alloc(b->host, (size_t)n * sizeof *b->into);
    b->n_tiles = 0;
    memset(b->count, 0, sizeof b->count);
    for (int64_t i = 0; i < n; i++) b->n_tiles += d->entry[item[i]->index].tiles;
    tensor coord = arena_tensor(b->host, DT_I32, DIMS(b->n_tiles, 3));
    body->first = arena_tensor(b->host, DT_I32, DIMS(n + 1));
    body->t = arena_tensor(b->host, DT_F32, DIMS(n));
    body->model_time = arena_tensor(b->host, DT_F32, DIMS(n));
    body->x0 = arena_tensor(b->host, DT_F32, DIMS(b->n_tiles, C));
    body->eps = arena_tensor(b->host, DT_F32, DIMS(b->n_tiles, C));
    I32(&body->first)[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t tiles = d->entry[item[i]->index].tiles;
        double  time = time_of(v, d, why, item[i]);
        if (!place_latents(v, d, why, item[i], row, b->host, body, &coord, st)) return false;
        rng_fill_normal(item_key(t, d, RNG_FLOW_NOISE, why, item[i]), 0, tiles * C, F32(&body->eps) + row * C);
        F32(&body->t)[i] = (float)time;
        F32(&body->model_time)[i] = (float)(1000 * time);
        row += tiles;
        I32(&body->first)[i + 1] = (int32_t)row;
        b->into[i][0] = SUM_MSE;
        b->into[i][1] = (uint8_t)(SUM_BIN + bin_of(time));
        for (int k = 0; k < 2; k++) b->count[b->into[i][k]] += (double)(tiles * C);
    }
    if (!place_conditions(v, d, why, item, n, b->host, body, &cond_first, &cond_coord, st)) return false;
    body->b = ssdit_batch_build(b->host, &v->m.cfg, &coord, &body->first, &cond_first,
                                v->m.cfg.sparse_cond ? &cond_coord : NULL);
    return true;
}

/* Time is a pure function of the key, so even the bins are known without talking to other ranks. */
static void counts(const task *t, const dataset *d, const plan_step *s, double count[TASK_SUMS]) {
    const dit_task *v = (const dit_task *)t;
    for (int64_t i = 0; i < s->n_items; i++) {
        double n = (double)(d->entry[s->item[i].index].tiles * v->m.cfg.in_channels);
        count[SUM_MSE] += n;
        count[SUM_BIN + bin_of(time_of(v, d, (batch_purpose){.step = s->step}, &s->item[i]))] += n;
    }
}

static void tensors(const task *t, micro_batch *b, tensor_visit f, void *user) {
    dit_body *body = b->body;
    tensor   *own[] = {&body->x0, &body->eps, &body->cond, &body->t, &body->model_time, &body->first};
    (void)t;
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) tensor_visit_given(own[i], f, user);
    ssdit_batch_tensors(&body->b, f, user);
}

static int forward(task *t, tape *tp, const micro_batch *b, const double count[TASK_SUMS], tensor value[TASK_TENSORS]) {
    dit_task *v = (dit_task *)t;
    dit_body *body = b->body;
    int64_t   C = v->m.cfg.in_channels;
    var      *x = tape_new_as(tp, b->n_tiles, C, DT_F32, false);
    tensor   *target = tape_keep(tp, arena_tensor(tp->step, DT_F32, DIMS(b->n_tiles, C)));
    flow_noise_fwd(tp->c, &(flow_noise_args){.x0 = &body->x0,
                                             .eps = &body->eps,
                                             .t = &body->t,
                                             .first = &body->first,
                                             .sigma_min = v->o.flow.sigma_min,
                                             .x_t = &x->v,
                                             .v = target});
    var *velocity = ssdit_forward(tp, &v->m, &body->b, x, &body->model_time, tape_leaf(tp, body->cond, false));
    nn_mse(tp, velocity, target, &body->first, count[SUM_MSE] > 0 ? 1 / count[SUM_MSE] : 0, &value[0]);
    return 1;
}

static double loss(const task *t, const double mean[TASK_SUMS]) {
    (void)t;
    return mean[SUM_MSE];
}

static size_t scratch_per_tile(const task *t) {
    return ssdit_scratch_per_tile(&((const dit_task *)t)->m.cfg);
}

static void task_free(task *t) {
    ssdit_free(&((dit_task *)t)->m);
    free(t);
}

static bool tokens_usable(const options *o, const dataset *d, status *st) {
    CHECK(d->tok, "no tokens of dinov2"); /* config_check */
    const token_file *t = &d->tok[0];
    if (t->width != o->dit.cond_width)
        return status_set(st, ST_CONFIG, "%s: tokens have %d numbers, dit.cond_width is %lld: set it to %d", t->path,
                          t->width, (long long)o->dit.cond_width, t->width);
    if (t->size != o->cond.size)
        return status_set(st, ST_CONFIG, "%s: made from images of %d pixels, cond.size is %lld: set it to %d", t->path,
                          t->size, (long long)o->cond.size, t->size);
    if (t->foreground != o->dit.sparse_cond)
        return status_set(st, ST_CONFIG,
                          "%s: holds %s, dit.sparse_cond=%s wants %s: run `d3s2 tokens` with "
                          "tokens.foreground=%s",
                          t->path, t->foreground ? "foreground tokens" : "all tokens",
                          o->dit.sparse_cond ? "true" : "false", t->foreground ? "all" : "those of the foreground",
                          o->dit.sparse_cond ? "true" : "false");
    return true;
}

static bool fits(const options *o, const dataset *d, status *st) {
    if (!d->lat)
        return status_set(st, ST_CONFIG, "the transformer trains on latents: set data.latents (made by `d3s2 encode`)");
    if (d->channels != o->vae.latent_channels)
        return status_set(st, ST_CONFIG, "%s: latents have %d channels, vae.latent_channels is %lld: set it to %d",
                          d->lat[0].path, d->channels, (long long)o->vae.latent_channels, d->channels);
    if (d->resolution > 8 * o->dit.resolution)
        return status_set(st, ST_CONFIG, "%s: resolution %d needs dit.resolution = %d or more, it is %lld",
                          d->shards[0].path, d->resolution, d->resolution / 8, (long long)o->dit.resolution);
    for (int64_t i = 0; i < d->n; i++)
        if (d->entry[i].views == 0)
            return status_set(st, ST_DATA, "%s: no view to condition on: prepare with prep.views >= 1",
                              sample_name(d, i));
    return view_check(o, st) && (o->cond.encoder == opt_cond_encoder_patches || tokens_usable(o, d, st));
}

task *task_dit_new(const options *o, const dataset *d, status *st) {
    if (!fits(o, d, st)) return NULL;
    dit_task *v = calloc(1, sizeof *v);
    CHECK(v, "no memory for the task");
    ssdit_config cfg = ssdit_config_of(o);
    ssdit_init(&v->m, &cfg);
    v->o = *o;
    v->most_cond = d->tok ? tokens_most(&d->tok[0]) : view_most_tokens(o);
    v->base = (task){.name = "dit",
                     .p = &v->m.p,
                     .n_layers = ssdit_n_layers(&cfg),
                     .n_sums = SUMS,
                     .sum_name = {"mse", "mse_t0", "mse_t1", "mse_t2", "mse_t3", "mse_t4", "mse_t5", "mse_t6", "mse_t7",
                                  "mse_t8", "mse_t9"},
                     .seed = (uint64_t)o->train.seed,
                     .host_bytes = host_bytes,
                     .load = load,
                     .counts = counts,
                     .scratch_per_tile = scratch_per_tile,
                     .tensors = tensors,
                     .forward = forward,
                     .loss = loss,
                     .free = task_free};
    return &v->base;
}
