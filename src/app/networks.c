#include "app/networks.h"
#include "io/checkpoint_file.h"
#include "model/ssvae_chunk.h"
#include "ops/loss.h"
#include "train/infer.h"
#include "train/setup.h"
#include "train/upload.h"

#include <stdlib.h>
#include <string.h>

enum { WHOLE_TILES = 16384 }; /* more are decoded in chunks, whose memory does not grow with the sample */

/* Address space, not memory: pages that are not touched cost nothing (pinned ones do). */
static const size_t BOOK_BYTES = (size_t)256 << 20, HOST_BYTES = (size_t)16 << 20, HOST_PER_TILE = (size_t)16 << 10;

bool network_load(network *n, const char *path, bool want_vae, bool ema, const place *where, status *st) {
    ckpt_manifest m = {0};
    *n = (network){.is_vae = want_vae};
    if (!ckpt_open_any(path, false, &m, st)) return false;
    snprintf(n->path, sizeof n->path, "%s", m.folder); /* one step, also while training goes on */
    n->step = m.step;
    n->trained_on = (uint64_t)ckpt_number_of(&m, "vae", 0);
    n->seen = (uint64_t)ckpt_number_of(&m, "encoder", 0);
    n->grid = grid_range_read(&m);
    ckpt_close(&m);
    n->o = malloc(sizeof *n->o);
    CHECK(n->o, "no memory for the options");
    n->c = place_ctx(where);
    bool ok = load_options(n->path, n->o, st) && (want_vae ? load_vae(n->path, ema, &n->c, &n->vae, &n->weights, st)
                                                           : load_dit(n->path, ema, &n->c, &n->dit, &n->weights, st));
    if (!ok) {
        place_ctx_free(&n->c);
        free(n->o);
        n->o = NULL;
        return false;
    }
    n->fingerprint = params_fingerprint(want_vae ? &n->vae.p : &n->dit.p);
    n->gpu_per_tile = want_vae ? ssvae_scratch_per_tile(&n->vae.cfg, n->c.act) : ssdit_scratch_per_tile(&n->dit.cfg);
    n->book = arena_new("book", BOOK_BYTES);
    return true;
}

bool network_encoder(network *dit, const options *o, const place *where, status *st) {
    const options *trained = dit->o;
    image_encoder *e = &dit->encoder;
    if (!view_check(trained, st)) return false;
    if (trained->cond.encoder == opt_cond_encoder_patches) return true;
    if (!image_encoder_open(e, o->cond.weights, (int)trained->cond.size, where, st)) return false;
    if (e->m.cfg.width != trained->dit.cond_width)
        return status_set(st, ST_CONFIG,
                          "%s: gives tokens of %d numbers, %s was trained on %lld: give the right weights",
                          o->cond.weights, e->m.cfg.width, dit->path, (long long)trained->dit.cond_width);
    if (dit->seen && dit->seen != e->fingerprint)
        return status_set(st, ST_CONFIG, "%s: are not the weights (%016llx) whose tokens %s was trained on (%016llx)",
                          o->cond.weights, (unsigned long long)e->fingerprint, dit->path,
                          (unsigned long long)dit->seen);
    return true;
}

void network_free(network *n) {
    if (!n->o) return;
    image_encoder_close(&n->encoder);
    if (n->is_vae)
        ssvae_free(&n->vae);
    else
        ssdit_free(&n->dit);
    arena_free(&n->weights);
    arena_free(&n->book);
    arena *grown[] = {&n->work, &n->host, &n->copy};
    for (int i = 0; i < 3; i++)
        if (grown[i]->base) arena_free(grown[i]);
    place_ctx_free(&n->c);
    free(n->o);
    *n = (network){0};
}

/* Counts the memory of a pass, makes room, runs it. A pass starts with tape_begin. */
typedef void (*pass_fn)(network *n, void *arg);

static device_kind device_of(const network *n) {
    return n->weights.dev;
}

/* Makes `a` at least so large; what was in it is gone. */
static void grow(arena *a, const char *name, size_t bytes, device_kind dev, bool pinned) {
    if (a->base && a->size >= bytes) return;
    if (a->base) arena_free(a);
    *a = pinned ? arena_new_pinned(name, bytes) : arena_new_on(name, bytes, dev);
}

static pass_memory memory_of(const network *n) {
    return (pass_memory){device_of(n), &n->work, &n->c.scratch, &n->copy};
}

size_t network_gpu_base(const network *n, size_t *all) {
    pass_memory m = memory_of(n);
    return pass_gpu_base(&m, all);
}

static pass_need count_pass(network *n, int64_t tiles, pass_fn pass, void *arg) {
    arena counting = arena_counting_on("work", device_of(n));
    n->t = (tape){.c = &n->c, .step = &counting, .book = &n->book};
    n->c.dry = true;
    pass(n, arg);
    n->c.dry = false;
    return (pass_need){tiles, counting.peak, place_scratch_bytes(device_of(n), tiles, n->gpu_per_tile), n->copy.size};
}

/* What it takes is told for the largest so far of its kind: asking the GPU takes time. */
static void run_pass(network *n, pass_kind kind, int64_t tiles, pass_fn pass, void *arg) {
    static const char *const what[] = {"encoding", "decoding", "sampling", "flow of"};
    device_kind              dev = device_of(n);
    pass_need                x = count_pass(n, tiles, pass, arg);
    bool                     news = x.activations > n->told[kind];
    size_t                   all = 0, base = news ? network_gpu_base(n, &all) : 0;
    grow(&n->c.scratch, "scratch", x.scratch, dev, false);
    grow(&n->work, "work", x.activations, dev, false);
    n->work.peak = 0;
    n->t = (tape){.c = &n->c, .step = &n->work, .book = &n->book};
    pass(n, arg);
    if (!news) return;
    n->told[kind] = x.activations;
    pass_memory m = memory_of(n);
    pass_taken_print(what[kind], &x, &m, base);
}

/* Tiles in the network's order; memory of the network's host arena, which starts anew. */
typedef struct {
    arena   *host;
    int32_t *order;
    tensor   coord, first;
    int64_t  n;
} sorted;

static bool sort_tiles(network *net, const tile_set *t, int block, int limit, size_t more, sorted *s, status *st) {
    grow(&net->host, "host", HOST_BYTES + (size_t)t->n * HOST_PER_TILE + more, DEV_CPU, device_of(net) != DEV_CPU);
    arena_reset(&net->host, 0);
    *s = (sorted){.n = t->n, .host = &net->host};
    if (!tile_order(s->host, t->coord, t->n, block, limit, t->name, &s->order, st)) return false;
    s->coord = arena_tensor(s->host, DT_I32, DIMS(t->n, 3));
    s->first = arena_tensor(s->host, DT_I32, DIMS(2));
    I32(&s->first)[0] = 0;
    I32(&s->first)[1] = (int32_t)t->n;
    for (int64_t i = 0; i < t->n; i++)
        for (int k = 0; k < 3; k++) I32(&s->coord)[3 * i + k] = t->coord[3 * (int64_t)s->order[i] + k];
    return true;
}

/* Rows of `width` floats: into the network's order, and back. */
static tensor to_network(sorted *s, const float *rows, int64_t width) {
    tensor out = arena_tensor(s->host, DT_F32, DIMS(s->n, width));
    for (int64_t i = 0; i < s->n; i++)
        memcpy(F32(&out) + i * width, rows + s->order[i] * width, (size_t)width * sizeof(float));
    return out;
}

static void from_network(const sorted *s, const float *rows, int64_t stride, int64_t width, float *out) {
    for (int64_t i = 0; i < s->n; i++)
        memcpy(out + s->order[i] * width, rows + i * stride, (size_t)width * sizeof(float));
}

/* ---- auto-encoder ---------------------------------------------------------------------------------------------- */

typedef struct {
    ssvae_batch b, tables; /* tables: b in host memory */
    tensor      z;
    float      *out;
    const var  *result;
} vae_pass;

/* What the pass reads, to the network's device. */
static void place_vae(network *n, vae_pass *p) {
    p->tables = p->b;
    if (device_of(n) == DEV_CPU) return;
    memory_move to = upload_once(device_of(n), &n->host, &n->copy);
    tensor_visit_given(&p->z, tensor_move, &to);
    ssvae_batch_tensors(&p->b, tensor_move, &to);
}

static void encode_pass(network *n, void *arg) {
    vae_pass *p = arg;
    tape_begin(&n->t);
    p->result = ssvae_encode(&n->t, &n->vae, &p->b);
}

static void decode_pass(network *n, void *arg) {
    vae_pass *p = arg;
    tape_begin(&n->t);
    if (p->b.n_tiles > WHOLE_TILES)
        ssvae_decode_chunks(&n->t, &n->vae, &p->b, &p->tables, tape_leaf(&n->t, p->z, false), 16, 4, p->out);
    else
        p->result = ssvae_decode(&n->t, &n->vae, &p->b, tape_leaf(&n->t, p->z, false));
}

static bool encode_setup(network *v, const tile_set *t, const float *value, sorted *s, vae_pass *p, status *st) {
    if (!sort_tiles(v, t, v->vae.cfg.window, 1 << 16, 0, s, st)) return false;
    tensor sdf = to_network(s, value, 512);
    *p = (vae_pass){.b = ssvae_batch_build(s->host, &v->vae.cfg, t->resolution, &s->coord, &s->first, F32(&sdf))};
    return true;
}

/* z NULL: for a dry pass. */
static bool decode_setup(network *v, const tile_set *t, const float *z, sorted *s, vae_pass *p, status *st) {
    int C = v->vae.cfg.latent_channels;
    if (!sort_tiles(v, t, v->vae.cfg.window, 1 << 16, 0, s, st)) return false;
    *p = (vae_pass){.b = ssvae_batch_build(s->host, &v->vae.cfg, t->resolution, &s->coord, &s->first, NULL),
                    .z = z ? to_network(s, z, C) : arena_tensor(s->host, DT_F32, DIMS(s->n, C))};
    return true;
}

bool vae_encode(network *v, const tile_set *t, const float *value, float *mean, status *st) {
    sorted   s;
    vae_pass p;
    int      C = v->vae.cfg.latent_channels;
    if (!encode_setup(v, t, value, &s, &p, st)) return false;
    place_vae(v, &p);
    run_pass(v, PASS_ENCODE, t->n, encode_pass, &p);
    from_network(&s, download_f32(&p.result->v, s.host), 2 * C, C, mean);
    return true;
}

bool vae_decode(network *v, const tile_set *t, const float *z, float *value, status *st) {
    sorted   s;
    vae_pass p;
    if (!decode_setup(v, t, z, &s, &p, st)) return false;
    place_vae(v, &p);
    if (t->n > WHOLE_TILES) p.out = arena_alloc(s.host, (size_t)t->n * 512 * sizeof(float));
    run_pass(v, PASS_DECODE, t->n, decode_pass, &p);
    from_network(&s, p.out ? p.out : download_f32(&p.result->v, s.host), 512, 512, value);
    return true;
}

/* The pass with tensors that only pretend to be on the network's device. */
static pass_need need_of(network *v, vae_pass *p, pass_fn pass) {
    size_t      bytes;
    memory_move to = upload_once_pretend(device_of(v), &v->host, &bytes);
    p->tables = p->b;
    if (device_of(v) != DEV_CPU) {
        tensor_visit_given(&p->z, tensor_move, &to);
        ssvae_batch_tensors(&p->b, tensor_move, &to);
    }
    pass_need x = count_pass(v, p->b.n_tiles, pass, p);
    x.tables = bytes;
    return x;
}

bool vae_encode_need(network *v, const tile_set *t, const float *value, pass_need *need, status *st) {
    sorted   s;
    vae_pass p;
    if (!encode_setup(v, t, value, &s, &p, st)) return false;
    *need = need_of(v, &p, encode_pass);
    return true;
}

bool vae_decode_need(network *v, const tile_set *t, pass_need *need, status *st) {
    sorted   s;
    vae_pass p;
    if (!decode_setup(v, t, NULL, &s, &p, st)) return false;
    *need = need_of(v, &p, decode_pass);
    return true;
}

/* ---- transformer ----------------------------------------------------------------------------------------------- */

typedef struct {
    ssdit_batch           b;
    tensor                cond, z, eps, time01, time; /* times: all, and row `at` of them is used */
    int64_t               at;
    double                sigma_min;
    const sampler_config *cfg;
    uint64_t              id;
    const int32_t        *first_row;
    float                *latents;
    const var            *velocity;
    const tensor         *target;
} dit_pass;

static void sample_pass(network *n, void *arg) {
    dit_pass *p = arg;
    sampler_run(&n->t, &n->dit, &p->b, &p->cond, &p->id, p->first_row, p->cfg, p->latents);
}

static void flow_pass(network *n, void *arg) {
    dit_pass *p = arg;
    tape_begin(&n->t);
    int64_t C = n->dit.cfg.in_channels;
    var    *x = tape_new_as(&n->t, p->b.n_tokens, C, DT_F32, false);
    tensor *target = tape_keep(&n->t, arena_tensor(n->t.step, DT_F32, DIMS(p->b.n_tokens, C)));
    tensor *time01 = tape_keep(&n->t, tensor_rows(&p->time01, p->at, 1));
    tensor *time = tape_keep(&n->t, tensor_rows(&p->time, p->at, 1));
    flow_noise_fwd(&n->c, &(flow_noise_args){.x0 = &p->z,
                                             .eps = &p->eps,
                                             .t = time01,
                                             .first = &p->b.sample_first,
                                             .sigma_min = p->sigma_min,
                                             .x_t = &x->v,
                                             .v = target});
    p->velocity = ssdit_forward(&n->t, &n->dit, &p->b, x, time, tape_leaf(&n->t, p->cond, false));
    p->target = target;
}

static void place_dit(network *n, dit_pass *p) {
    if (device_of(n) == DEV_CPU) return;
    memory_move to = upload_once(device_of(n), &n->host, &n->copy);
    tensor     *own[] = {&p->cond, &p->z, &p->eps, &p->time01, &p->time};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) tensor_visit_given(own[i], tensor_move, &to);
    ssdit_batch_tensors(&p->b, tensor_move, &to);
}

static bool dit_setup(network *d, const tile_set *t, const view_input *view, sorted *s, dit_pass *p, status *st) {
    const ssdit_config *c = &d->dit.cfg;
    size_t              cond_bytes = (size_t)view->n_tokens * ((size_t)c->cond_width + 16) * sizeof(float);
    if (!sort_tiles(d, t, c->ssa.m_slc, c->resolution, cond_bytes, s, st)) return false;
    tensor coord = arena_tensor(s->host, DT_I32, DIMS(view->n_tokens, 3)),
           first = arena_tensor(s->host, DT_I32, DIMS(2));
    p->cond = arena_tensor(s->host, DT_F32, DIMS(view->n_tokens, c->cond_width));
    view_tokens(d->o, view, F32(&p->cond), I32(&coord));
    I32(&first)[0] = 0;
    I32(&first)[1] = (int32_t)view->n_tokens;
    p->first_row = I32(&s->first);
    p->b = ssdit_batch_build(s->host, c, &s->coord, &s->first, &first, c->sparse_cond ? &coord : NULL);
    return true;
}

bool dit_sample(network *d, const tile_set *t, const view_input *view, const sampler_config *cfg, float *z,
                status *st) {
    sorted   s;
    dit_pass p = {.cfg = cfg, .id = t->id};
    int      C = d->dit.cfg.in_channels;
    if (!dit_setup(d, t, view, &s, &p, st)) return false;
    place_dit(d, &p);
    p.latents = arena_alloc(s.host, (size_t)t->n * (size_t)C * sizeof(float));
    run_pass(d, PASS_SAMPLE, t->n, sample_pass, &p);
    from_network(&s, p.latents, C, C, z);
    return true;
}

bool dit_flow_loss(network *d, const tile_set *t, const view_input *view, const float *z, const float *eps, int n_times,
                   const double *time, double *loss, status *st) {
    sorted   s;
    dit_pass p = {.sigma_min = d->o->flow.sigma_min};
    int      C = d->dit.cfg.in_channels;
    if (!dit_setup(d, t, view, &s, &p, st)) return false;
    p.z = to_network(&s, z, C);
    p.eps = to_network(&s, eps, C);
    p.time01 = arena_tensor(s.host, DT_F32, DIMS(n_times));
    p.time = arena_tensor(s.host, DT_F32, DIMS(n_times));
    for (int i = 0; i < n_times; i++) {
        F32(&p.time01)[i] = (float)time[i];
        F32(&p.time)[i] = (float)(1000 * time[i]);
    }
    place_dit(d, &p);
    for (p.at = 0; p.at < n_times; p.at++) {
        size_t mark = arena_mark(s.host);
        run_pass(d, PASS_FLOW, t->n, flow_pass, &p);
        const float *v = download_f32(&p.velocity->v, s.host), *want = download_f32(p.target, s.host);
        double       sum = 0;
        for (int64_t k = 0; k < t->n * C; k++)
            sum += ((double)v[k] - (double)want[k]) * ((double)v[k] - (double)want[k]);
        loss[p.at] = sum / (double)(t->n * C);
        arena_reset(s.host, mark);
    }
    return true;
}
