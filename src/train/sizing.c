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

_Static_assert((int)DATA_FOLDERS <= (int)PLAN_GROUPS, "a folder is a group of the plan");

plan_config plan_config_of(const options *o, const dataset *d, int64_t micro_tokens) {
    plan_config cfg = {.seed = (uint64_t)o->train.seed,
                       .n_samples = d->n,
                       .n_groups = d->n_folders,
                       .tokens = d->tokens,
                       .batch_samples = o->train.batch_tokens > 0 ? 0 : o->train.batch_samples,
                       .batch_tokens = o->train.batch_tokens,
                       .micro_tokens = micro_tokens,
                       .cost = cost_model_of(o),
                       .alike_steps = o->train.balance == opt_train_balance_steps ? o->train.balance_steps : 0};
    for (int f = 0; f < d->n_folders; f++)
        cfg.group[f] = (plan_group){d->folder[f].first, d->folder[f].n, o->data.shares.n ? o->data.shares.v[f] : 1};
    return cfg;
}

/* Tokens of a step on average. */
static double batch_tokens(const options *o, const dataset *d) {
    if (o->train.batch_tokens > 0) return (double)o->train.batch_tokens;
    plan_config cfg = plan_config_of(o, d, 0);
    double      sum = 0, share = 0;
    for (int g = 0; g < cfg.n_groups; g++) {
        const plan_group *of = &cfg.group[g];
        double            tokens = 0;
        for (int64_t i = of->first; i < of->first + of->n; i++) tokens += (double)d->tokens[i];
        sum += of->share * tokens / (double)of->n;
        share += of->share;
    }
    return (double)o->train.batch_samples * sum / share;
}

static int64_t least_tokens(const dataset *d) {
    int64_t least = INT64_MAX;
    for (int64_t i = 0; i < d->n; i++)
        if (d->tokens[i] < least) least = d->tokens[i];
    return least;
}

/* Samples of a global batch at most; a batch larger than the data set has samples several times. */
static int64_t most_samples(const stepper *w, const options *o) {
    return o->train.batch_tokens > 0 ? o->train.batch_tokens / least_tokens(w->d) + 1 : o->train.batch_samples;
}

static by_size *by_sizes(const dataset *d) {
    by_size *all = malloc((size_t)d->n * sizeof *all);
    CHECK(all, "no memory for a list of %lld samples", (long long)d->n);
    for (int64_t i = 0; i < d->n; i++) all[i] = (by_size){d->tokens[i], i};
    qsort(all, (size_t)d->n, sizeof *all, largest_first);
    return all;
}

/* A micro-batch outside of the loader. On a GPU its tensors only pretend to be there, until it is uploaded. */
typedef struct {
    micro_batch   b;
    arena         host;
    device_event *uploaded;
} lone_batch;

static bool lone_load(const stepper *w, const dataset *d, batch_purpose why, const plan_item *const *item, int64_t n,
                      lone_batch *l, status *st) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < n; i++) tiles += d->tokens[item[i]->index];
    *l = (lone_batch){.host = arena_new("host batch", w->t->host_bytes(w->t, tiles, n))};
    if (w->where.dev != DEV_CPU) l->uploaded = device_event_new();
    l->b = micro_batch_in(&l->host, l->uploaded);
    bool ok = w->t->load(w->t, d, why, item, n, &l->b, st);
    if (ok) upload_pretend(w->where.dev, w->t, &l->b);
    return ok;
}

static void lone_free(lone_batch *l) {
    if (l->uploaded) upload_wait(&l->b);
    device_event_free(l->uploaded);
    if (l->host.base) arena_free(&l->host);
    *l = (lone_batch){0};
}

/* Marks those of n items that cannot be read; returns their number. */
static int64_t mark_bad(const stepper *w, batch_purpose why, const plan_item *const *item, int64_t n, bool *bad) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        lone_batch l;
        status     st = {0};
        bool       ok = lone_load(w, w->d, why, &item[i], 1, &l, &st);
        lone_free(&l);
        if (ok || bad[item[i]->index]) continue;
        bad[item[i]->index] = true;
        found++;
    }
    return found;
}

typedef enum { LARGEST_FIRST, SMALLEST_FIRST } sample_order;

/* A micro-batch of the largest or the smallest samples within the limit, at least one; `largest`: see batch_purpose.
 * Damaged samples are passed over, as training does (bad_samples.h). */
static bool load_samples(stepper *w, const options *o, sample_order by, int64_t micro_tokens, int64_t largest,
                         lone_batch *l, status *st) {
    const dataset *d = w->d;
    if (o->train.batch_tokens > 0 && o->train.batch_tokens < micro_tokens) micro_tokens = o->train.batch_tokens;
    int64_t batch = most_samples(w, o), least = least_tokens(d), most = batch, n_bad = 0;
    if (micro_tokens / least < batch) most = micro_tokens / least + 1;
    batch_purpose     why = {.largest = largest};
    by_size          *all = by_sizes(d);
    plan_item        *pick = calloc((size_t)most, sizeof *pick);
    const plan_item **item = malloc((size_t)most * sizeof *item);
    bool             *bad = calloc((size_t)d->n, sizeof *bad), ok;
    CHECK(pick && item && bad, "no memory for a list of %lld samples", (long long)most);
    int64_t rounds = (batch + d->n - 1) / d->n;
    for (;;) {
        int64_t n = 0, tiles = 0, more;
        status  first = {0};
        for (int64_t i = 0; i < d->n * rounds && n < most && (n == 0 || tiles + least <= micro_tokens); i++) {
            const by_size *s = &all[by == LARGEST_FIRST ? i / rounds : d->n - 1 - i / rounds];
            if (bad[s->index] || (n > 0 && tiles + s->tiles > micro_tokens)) continue;
            pick[n] = (plan_item){.index = s->index, .copy = (int)(i % rounds)};
            item[n] = &pick[n];
            tiles += s->tiles;
            n++;
        }
        ok = lone_load(w, d, why, item, n, l, &first);
        if (first.code == ST_DATA && (more = mark_bad(w, why, item, n, bad)) > 0 &&
            (double)(n_bad += more) <= o->data.max_bad_samples * (double)d->n) {
            lone_free(l);
            continue;
        }
        if (!ok) *st = first;
        break;
    }
    free(bad);
    free(all);
    free(pick);
    free(item);
    return ok;
}

/* The fullest micro-batch there can be. */
static bool load_worst(stepper *w, const options *o, int64_t micro_tokens, int64_t largest, lone_batch *l, status *st) {
    return load_samples(w, o, LARGEST_FIRST, micro_tokens, largest, l, st);
}

static size_t machine_share(const comm *c) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"};
    long                     ranks = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && ranks <= 0; i++)
        if (getenv(names[i])) ranks = atol(getenv(names[i]));
    if (ranks <= 0) ranks = c->size;
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / 2 / (size_t)ranks;
}

/* ---- on a GPU ------------------------------------------------------------------------------------------------- */

/* Left to the libraries, and to NCCL's buffers. */
static const size_t GPU_RESERVE = (size_t)768 << 20, NCCL_RESERVE = (size_t)1536 << 20;
/* On top of what the fullest micro-batch needs. */
static const size_t GPU_ROOMY = (size_t)1 << 30;

/* What micro-batches within a limit can have, however the samples fall: tokens, samples, and bytes to prepare and
 * upload.
 */
typedef struct {
    int64_t tokens, samples;
    size_t  bytes;
} extremes;

static extremes extremes_of(const stepper *w, const options *o, const by_size *all, const dataset *heldout,
                            int64_t micro_tokens) {
    const dataset *d = w->d;
    int64_t        most = most_samples(w, o), rounds = (most + d->n - 1) / d->n, sum = 0;
    extremes       x = {0};
    for (int64_t i = 0; i < most && x.tokens < micro_tokens; i++) x.tokens += all[i / rounds].tiles;
    if (x.tokens > micro_tokens) x.tokens = micro_tokens;
    if (x.tokens < d->max_tiles) x.tokens = d->max_tiles;
    for (int64_t i = 0; x.samples < most && sum <= x.tokens; i++, x.samples++) sum += all[d->n - 1 - i / rounds].tiles;
    x.bytes = w->t->host_bytes(w->t, x.tokens, x.samples);
    if (heldout->n > 0) {
        size_t bytes = w->t->host_bytes(w->t, heldout->max_tiles, 1);
        if (bytes > x.bytes) x.bytes = bytes;
        if (heldout->max_tiles > x.tokens) x.tokens = heldout->max_tiles;
    }
    return x;
}

/* Bytes that are left for the activations of such micro-batches; below 0 when even their other needs do not fit. */
static double room_for(const stepper *w, const options *o, const extremes *x) {
    size_t free_bytes, all;
    device_memory(&free_bytes, &all);
    double room = (double)free_bytes + (double)w->e.step.size + (double)w->e.c.scratch.size - (double)GPU_RESERVE -
                  (w->c->size > 1 ? (double)NCCL_RESERVE : 0) -
                  (double)place_scratch_bytes(DEV_CUDA, x->tokens, w->e.gpu_per_tile) -
                  UPLOAD_PLACES * (double)x->bytes;
    double wanted = (double)o->train.memory_mb * (1 << 20);
    return o->train.memory_mb > 0 && wanted < room ? wanted : room;
}

static bool set_gpu_bound(stepper *w, const options *o, const extremes *x, status *st) {
    double room = room_for(w, o, x);
    if (room < (double)(1 << 20))
        return status_set(
            st, ST_CONFIG,
            "micro-batches of %lld tokens in %lld samples do not fit on the GPU beside %.0f MB of weights "
            "and optimiser: lower train.micro_tokens or data.max_tiles, or use more ranks",
            (long long)x->tokens, (long long)x->samples, (double)optimizer_bytes(w->t->p, o, w->c) / 1e6);
    w->e.bound = (size_t)room;
    return true;
}

/* ---- micro-batches -------------------------------------------------------------------------------------------- */

/* The most tokens whose activations, at so many bytes each, leave room for what else such a micro-batch needs. */
static int64_t gpu_micro(const stepper *w, const options *o, const by_size *all, const dataset *heldout,
                         double per_token) {
    int64_t low = w->d->max_tiles, high = extremes_of(w, o, all, heldout, INT64_MAX).tokens;
    while (low < high) {
        int64_t  middle = low + (high - low + 1) / 2;
        extremes x = extremes_of(w, o, all, heldout, middle);
        if (per_token * (double)middle <= 0.95 * room_for(w, o, &x))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Tokens whose activations fit on the GPU, from the largest sample alone. */
static bool choose_on_gpu(stepper *w, const options *o, const dataset *heldout, lone_batch *l, int64_t *micro,
                          status *st) {
    engine_need need;
    by_size    *all = by_sizes(w->d);
    extremes    x = extremes_of(w, o, all, heldout, l->b.n_tiles);
    bool        ok = set_gpu_bound(w, o, &x, st) && engine_measure(&w->e, w->t, &l->b, &need, st);
    if (ok) *micro = gpu_micro(w, o, all, heldout, (double)need.bytes / (double)l->b.n_tiles);
    free(all);
    return ok;
}

/* The same on the CPU. */
static bool choose_on_cpu(stepper *w, lone_batch *l, int64_t *micro, status *st) {
    engine_need need;
    double      budget = w->e.bound ? 0.95 * (double)w->e.bound : (double)machine_share(w->c);
    if (!engine_measure(&w->e, w->t, &l->b, &need, st)) return false;
    *micro = (int64_t)(budget / (double)(need.bytes + 1) * (double)l->b.n_tiles);
    if (*micro < l->b.n_tiles) *micro = l->b.n_tiles;
    return true;
}

/* Tokens that fit, taking memory as proportional to tokens. Rank 0 decides and is the only one to look: the plan must
 * be one. */
static bool choose_micro(stepper *w, const options *o, const dataset *heldout, int64_t *micro, status *st) {
    lone_batch l = {0};
    if (w->c->rank == 0 && load_worst(w, o, 0, 0, &l, st)) {
        if (w->where.dev != DEV_CPU)
            choose_on_gpu(w, o, heldout, &l, micro, st);
        else
            choose_on_cpu(w, &l, micro, st);
    }
    lone_free(&l);
    if (!comm_agree(w->c, st)) return false;
    comm_bcast(w->c, micro, sizeof *micro, 0);
    return true;
}

/* What the host leaves bounds the activations, beside train.memory_mb if that is set. */
static bool fits_host(const options *o, const sizing *z, const lone_batch *l, status *st) {
    size_t room = host_plan_room(&z->host);
    if (o->train.memory_mb == 0 || z->need.bytes <= room) return true; /* 0: it is the bound */
    return status_set(st, ST_MEMORY,
                      "%s: a micro-batch of %lld tiles needs %.0f MB within train.memory_mb=%lld, its share of the "
                      "host's memory leaves %.0f: lower train.memory_mb, train.micro_tokens or data.max_tiles, or "
                      "start fewer ranks on a host",
                      place_who(), (long long)l->b.n_tiles, (double)z->need.bytes / 1e6, (long long)o->train.memory_mb,
                      (double)room / 1e6);
}

/* On the CPU. A dry run takes nothing. */
static bool take_host(stepper *w, const options *o, const lone_batch *l, sizing *z, status *st) {
    z->host = host_plan_of(w, o, l->b.n_tiles, l->host.used, z->untaken ? z->slab_bytes : 0);
    if (o->train.memory_mb == 0) {
        w->e.bound = host_plan_room(&z->host);
        w->e.host_bound = true;
    }
    return engine_measure(&w->e, w->t, &l->b, &z->need, st) && fits_host(o, z, l, st) &&
           (o->command.dry_run || engine_prepare(&w->e, w->t, &l->b, &z->need, st));
}

/* What the largest held-out sample needs, without recording. */
static bool measure_heldout(stepper *w, const dataset *heldout, size_t *bytes, status *st) {
    lone_batch       l = {0};
    plan_item        item = {0};
    const plan_item *list[1] = {&item};
    while (heldout->tokens[item.index] < heldout->max_tiles) item.index++;
    bool ok = lone_load(w, heldout, (batch_purpose){.eval = true}, list, 1, &l, st);
    if (ok) {
        *bytes = engine_measure_forward(&w->e, w->t, &l.b);
        if (*bytes > w->e.bound)
            ok = status_set(st, ST_CONFIG,
                            "the largest held-out sample, %lld tiles, needs %.0f MB, %.0f are left: lower "
                            "data.max_tiles or set train.eval_every=0",
                            (long long)l.b.n_tiles, (double)*bytes / 1e6, (double)w->e.bound / 1e6);
    }
    lone_free(&l);
    return ok;
}

/* Where each step sees other parts of samples: what the largest micro-batch needs. That may be far more than those that
 * come, and more than there is: then all there is, and such a batch is recomputed or refused. */
static bool measure_largest(stepper *w, const options *o, const extremes *x, const sizing *z, size_t *bytes,
                            status *st) {
    lone_batch  l = {0};
    engine_need need;
    status      too_large = {0};
    bool        ok = load_worst(w, o, z->micro_tokens, x->samples, &l, st);
    if (ok) *bytes = engine_measure(&w->e, w->t, &l.b, &need, &too_large) ? need.bytes : w->e.bound;
    lone_free(&l);
    return ok;
}

/* All that is taken on the GPU beside the slabs. Later micro-batches may need a little more than the fullest. */
static bool take_gpu(stepper *w, const options *o, const dataset *heldout, const extremes *x, sizing *z, status *st) {
    size_t of_heldout = 0, of_largest = 0, step = z->need.bytes, free_bytes;
    if (heldout->n > 0 && !measure_heldout(w, heldout, &of_heldout, st)) return false;
    if (w->t->count_batches && !measure_largest(w, o, x, z, &of_largest, st)) return false;
    if (of_heldout > step) step = of_heldout;
    if (of_largest > step) step = of_largest;
    step += step / 8 + GPU_ROOMY;
    if (o->train.memory_mb > 0 || step > w->e.bound) step = w->e.bound;
    engine_room(&w->e, step, x->tokens);
    upload_room(&w->up, w->where.dev, x->bytes);
    engine_freeze(&w->e);
    z->most_bytes = x->bytes;
    device_memory(&free_bytes, &z->gpu_all);
    z->gpu_used = z->gpu_all - free_bytes;
    return true;
}

bool sizing_run(stepper *w, const options *o, const dataset *heldout, bool untaken, sizing *z, status *st) {
    lone_batch l = {0};
    extremes   x = {0};
    bool       on_gpu = w->where.dev != DEV_CPU;
    *z = (sizing){.micro_tokens = o->train.micro_tokens,
                  .slab_bytes = optimizer_bytes(w->t->p, o, w->c),
                  .most_values = TASK_SUMS * most_samples(w, o),
                  .untaken = untaken};
    if (z->micro_tokens == 0 && !choose_micro(w, o, heldout, &z->micro_tokens, st)) return false;
    if (on_gpu) {
        by_size *all = by_sizes(w->d);
        x = extremes_of(w, o, all, heldout, z->micro_tokens);
        free(all);
        set_gpu_bound(w, o, &x, st);
    } else {
        comm_barrier(w->c); /* all ranks of a host have their weights before they look at what it has left */
    }
    if (status_ok(st) && load_worst(w, o, z->micro_tokens, 0, &l, st)) {
        z->worst_tiles = l.b.n_tiles;
        z->worst_samples = l.b.n_samples;
        z->host_bytes = l.host.used;
        (void)(on_gpu ? engine_measure(&w->e, w->t, &l.b, &z->need, st) : take_host(w, o, &l, z, st));
    }
    lone_free(&l);
    if (on_gpu && status_ok(st)) take_gpu(w, o, heldout, &x, z, st);
    return comm_agree(w->c, st);
}

/* Tokens that a CPU computes with within seconds: without such samples nothing is timed. */
enum { TIMED_TOKENS = 1024 };

static bool is_timed(const dataset *d, const place *where) {
    return where->dev != DEV_CPU || least_tokens(d) <= TIMED_TOKENS;
}

bool sizing_slabs(const stepper *w, const options *o, size_t bytes, bool *untaken, status *st) {
    int64_t without = !host_plan_slabs(w->c, bytes, st);
    if (o->command.dry_run) {
        *st = (status){0};
        without |= !is_timed(w->d, &w->where);
        comm_max_i64(w->c, &without, 1);
        *untaken = without;
    }
    return comm_agree(w->c, st);
}

bool sizing_time(stepper *w, const options *o, const sizing *z, double *seconds, status *st) {
    lone_batch  l = {0};
    engine_need need;
    double      count[TASK_SUMS] = {0}, t = 0;
    tensor      value[TASK_TENSORS];
    bool        on_gpu = w->where.dev != DEV_CPU, worst = on_gpu || z->worst_tiles <= TIMED_TOKENS;
    if (load_samples(w, o, worst ? LARGEST_FIRST : SMALLEST_FIRST, worst ? z->micro_tokens : TIMED_TOKENS, 0, &l, st) &&
        engine_prepare(&w->e, w->t, &l.b, &need, st)) {
        for (int i = 0; i < TASK_SUMS; i++) count[i] = l.b.count[i];
        w->e.t.on_layer_done = NULL;
        for (int round = 0; round < (on_gpu ? 2 : 1); round++) { /* the first one on a GPU loads kernels */
            upload_use(&w->up, w->t, &l.b);
            t = now_seconds();
            tape_begin(&w->e.t);
            w->t->forward(w->t, &w->e.t, &l.b, count, value);
            tape_backward(&w->e.t);
            upload_done(&w->up, &l.b);
            if (on_gpu) device_sync(STREAM_COMPUTE);
            t = now_seconds() - t;
        }
    }
    int64_t tiles = l.b.n_tiles;
    lone_free(&l);
    if (!comm_agree(w->c, st)) return false;
    comm_max_f64(w->c, &t, 1);
    *seconds = t * batch_tokens(o, w->d) / (double)tiles / w->c->size;
    return true;
}
