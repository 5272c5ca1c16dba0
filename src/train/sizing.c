#include "train/sizing.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct {
    int64_t tiles, index;
} by_size;

static int largest_first(const void *pa, const void *pb) {
    const by_size *a = pa, *b = pb;
    if (a->tiles != b->tiles) return a->tiles > b->tiles ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

plan_config plan_config_of(const options *o, const dataset *d, int64_t micro_tokens) {
    return (plan_config){.seed = (uint64_t)o->train.seed,
                         .n_samples = d->n,
                         .tokens = d->tokens,
                         .batch_samples = o->train.batch_tokens > 0 ? 0 : o->train.batch_samples,
                         .batch_tokens = o->train.batch_tokens,
                         .micro_tokens = micro_tokens};
}

/* The fullest micro-batch there can be: the largest samples within the limit, at least one. */
static bool load_worst(stepper *w, const options *o, int64_t micro_tokens, micro_batch *b, arena *host, status *st) {
    const dataset    *d = w->d;
    int64_t           n = 0, tiles = 0, most = o->train.batch_tokens > 0 ? d->n : o->train.batch_samples;
    by_size          *all = malloc((size_t)d->n * sizeof *all);
    plan_item        *pick = calloc((size_t)most, sizeof *pick);
    const plan_item **item = malloc((size_t)most * sizeof *item);
    CHECK(all && pick && item, "no memory for a list of %lld samples", (long long)d->n);
    for (int64_t i = 0; i < d->n; i++) all[i] = (by_size){d->tokens[i], i};
    qsort(all, (size_t)d->n, sizeof *all, largest_first);
    int64_t rounds = (most + d->n - 1) / d->n; /* a batch larger than the data set has samples several times */
    for (int64_t i = 0; i < d->n * rounds && n < most; i++) {
        const by_size *s = &all[i / rounds];
        if (n > 0 && tiles + s->tiles > micro_tokens) continue;
        pick[n] = (plan_item){.index = s->index, .copy = (int)(i % rounds)};
        item[n] = &pick[n];
        tiles += s->tiles;
        n++;
    }
    *host = arena_new("host batch", w->t->host_bytes(w->t, tiles, n));
    *b = (micro_batch){.host = host};
    bool ok = w->t->load(w->t, d, (batch_purpose){.step = 0}, item, n, b, st);
    free(all);
    free(pick);
    free(item);
    return ok;
}

static size_t machine_share(const comm *c) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"};
    long                     ranks = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && ranks <= 0; i++)
        if (getenv(names[i])) ranks = atol(getenv(names[i]));
    if (ranks <= 0) ranks = c->size;
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / 2 / (size_t)ranks;
}

/* Tokens that fit, taking memory as proportional to tokens. Rank 0 decides: the plan must be one. */
static bool choose_micro(stepper *w, const options *o, int64_t *micro, status *st) {
    micro_batch b;
    arena       host = {0};
    engine_need need = {0};
    double      budget = w->e.bound ? 0.95 * (double)w->e.bound : (double)machine_share(w->c);
    bool        ok = load_worst(w, o, 0, &b, &host, st) && engine_measure(&w->e, w->t, &b, &need, st);
    if (ok) {
        *micro = (int64_t)(budget / (double)(need.bytes + 1) * (double)b.n_tiles);
        if (*micro < b.n_tiles) *micro = b.n_tiles;
    }
    arena_free(&host);
    if (!comm_agree(w->c, st)) return false;
    comm_bcast(w->c, micro, sizeof *micro, 0);
    return true;
}

bool sizing_run(stepper *w, const options *o, sizing *z, status *st) {
    micro_batch b;
    arena       host = {0};
    *z = (sizing){.micro_tokens = o->train.micro_tokens, .slab_bytes = optimizer_bytes(w->t->p, o, w->c)};
    if (z->micro_tokens == 0 && !choose_micro(w, o, &z->micro_tokens, st)) return false;
    if (load_worst(w, o, z->micro_tokens, &b, &host, st) && engine_prepare(&w->e, w->t, &b, &z->need, st)) {
        z->worst_tiles = b.n_tiles;
        z->worst_samples = b.n_samples;
        z->host_bytes = host.used;
    }
    arena_free(&host);
    return comm_agree(w->c, st);
}

bool sizing_time(stepper *w, const options *o, const sizing *z, double *seconds, status *st) {
    micro_batch b;
    arena       host = {0};
    engine_need need;
    double      count[TASK_SUMS] = {0}, sum[TASK_SUMS] = {0}, t = 0;
    if (load_worst(w, o, z->micro_tokens, &b, &host, st) && engine_prepare(&w->e, w->t, &b, &need, st)) {
        for (int i = 0; i < TASK_SUMS; i++) count[i] = b.count[i];
        w->e.t.on_layer_done = NULL;
        t = now_seconds();
        tape_begin(&w->e.t);
        w->t->forward(w->t, &w->e.t, &b, count, sum);
        tape_backward(&w->e.t);
        t = now_seconds() - t;
    }
    int64_t tiles = b.n_tiles;
    arena_free(&host);
    if (!comm_agree(w->c, st)) return false;
    comm_max_f64(w->c, &t, 1);
    double batch = o->train.batch_tokens > 0
                       ? (double)o->train.batch_tokens
                       : (double)o->train.batch_samples * (double)w->d->total_tiles / (double)w->d->n;
    *seconds = t * batch / (double)tiles / w->c->size;
    return true;
}

void sizing_print(const stepper *w, const options *o, const sizing *z, double step_seconds) {
    const dataset *d = w->d;
    const params  *p = w->t->p;
    int64_t        numbers = 0;
    for (int i = 0; i < p->n; i++) numbers += p->row[i]->count;
    log_info("data: %lld samples (%lld left out), %lld tokens, largest %lld, resolution %d, %d shards", (long long)d->n,
             (long long)d->n_left_out, (long long)d->total_tiles, (long long)d->max_tiles, d->resolution, d->n_shards);
    log_info("model: %s, %lld parameters in %d tensors; weights, gradients and optimiser %.1f MB a rank", w->t->name,
             (long long)numbers, p->n, (double)z->slab_bytes / 1e6);
    if (o->train.batch_tokens > 0)
        log_info("steps: %lld of %lld tokens on %d ranks", (long long)o->train.steps, (long long)o->train.batch_tokens,
                 w->c->size);
    else
        log_info("steps: %lld of %lld samples (%.1f epochs) on %d ranks", (long long)o->train.steps,
                 (long long)o->train.batch_samples,
                 (double)o->train.steps * (double)o->train.batch_samples / (double)d->n, w->c->size);
    log_info(
        "micro-batch: at most %lld tokens; the fullest has %lld in %lld samples and needs %.1f MB (%d of %d segments "
        "recomputed), %.1f MB to prepare",
        (long long)z->micro_tokens, (long long)z->worst_tiles, (long long)z->worst_samples, (double)z->need.bytes / 1e6,
        z->need.recomputed, z->need.n_segments, (double)z->host_bytes / 1e6);
    if (step_seconds > 0)
        log_info("time: about %.2f s a step, %.1f hours in all (measured on one micro-batch)", step_seconds,
                 step_seconds * (double)o->train.steps / 3600);
}
