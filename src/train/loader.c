#include "train/loader.h"

#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "train/upload.h"

typedef struct slot {
    micro_batch   b; /* first: loader_done gets its address */
    arena         host;
    device_event *uploaded;
    struct slot  *next;
} slot;

struct loader {
    loader_config   cfg;
    pthread_t       thread;
    pthread_mutex_t mutex, files;
    pthread_cond_t  changed;
    slot           *ready, *ready_last, *unused;
    int             n_slots, n_ready, n_wanted; /* wanted: at least so many at once, whatever read_ahead says */
    bool            stop, ended, running;
    status          st;
};

/* With the mutex held, or before there is a thread. */
static void slot_add(loader *l) {
    slot *s = calloc(1, sizeof *s);
    CHECK(s, "no memory for a batch");
    if (l->cfg.dev != DEV_CPU) {
        s->host = arena_new_pinned("host batch", l->cfg.host_bytes);
        s->uploaded = device_event_new();
    }
    s->next = l->unused;
    l->unused = s;
    l->n_slots++;
}

/* Host memory for a batch; pinned memory was made for the largest. */
static void slot_clear(slot *s, size_t bytes) {
    upload_wait(&s->b);
    if (!s->host.pinned && s->host.size < bytes) {
        if (s->host.base) arena_free(&s->host);
        s->host = arena_new("host batch", bytes);
    }
    arena_reset(&s->host, 0);
    s->b = micro_batch_in(&s->host, s->uploaded);
}

/* Into an empty batch. */
static bool load(loader *l, int64_t step, const plan_item *const *item, int64_t n, slot *s, status *st) {
    const loader_config *c = &l->cfg;
    arena_reset(&s->host, 0);
    s->b = micro_batch_in(&s->host, s->uploaded);
    return n == 0 || c->t->load(c->t, c->d, (batch_purpose){.step = step}, item, n, &s->b, st);
}

/* Some sample of a batch is bad: finds out which, and makes the batch of the others. What a sample becomes does not
 * depend on its company, so the others are what they would have been. */
static bool load_good(loader *l, int64_t step, const plan_item *const *item, int64_t n, slot *s, status *st) {
    const plan_item **good = malloc((size_t)n * sizeof *good);
    int64_t          *bad = malloc((size_t)n * sizeof *bad), n_good = 0, n_bad = 0;
    status            first = {0};
    CHECK(good && bad, "no memory for a batch of %lld", (long long)n);
    for (int64_t i = 0; i < n && status_ok(st); i++) {
        status one = {0};
        if (load(l, step, &item[i], 1, s, &one))
            good[n_good++] = item[i];
        else if (one.code != ST_DATA)
            *st = one;
        else {
            bad[n_bad++] = item[i]->index;
            if (status_ok(&first)) first = one;
        }
    }
    bool ok = status_ok(st) && load(l, step, good, n_good, s, st);
    if (ok && n_bad > 0) {
        s->b.n_bad = n_bad;
        s->b.bad = arena_alloc(&s->host, (size_t)n_bad * sizeof *bad);
        s->b.bad_text = arena_alloc(&s->host, sizeof first.text);
        memcpy(s->b.bad, bad, (size_t)n_bad * sizeof *bad);
        memcpy(s->b.bad_text, first.text, sizeof first.text);
    }
    free(good);
    free(bad);
    return ok;
}

static void spoil_first(void *user, tensor *x) {
    bool *done = user;
    if (*done || x->dt != DT_F32 || tensor_count(x) == 0) return;
    F32(x)[0] = NAN;
    *done = true;
}

static bool has_room(const loader *l) {
    int most = l->cfg.read_ahead > l->n_wanted ? l->cfg.read_ahead : l->n_wanted;
    return l->unused && l->n_ready < (most > 1 ? most : 1);
}

/* Waits for room, prepares one micro-batch. False: stop. */
static bool produce(loader *l, int64_t step, const plan_item *const *item, int64_t n) {
    const loader_config *c = &l->cfg;
    int64_t              tiles = 0;
    status               st = {0};
    for (int64_t i = 0; i < n; i++) tiles += c->d->tokens[item[i]->index];
    pthread_mutex_lock(&l->mutex);
    beat_op("room, step", step);
    while (!l->stop && !has_room(l)) pthread_cond_wait(&l->changed, &l->mutex);
    slot *s = l->stop ? NULL : l->unused;
    if (s) l->unused = s->next;
    pthread_mutex_unlock(&l->mutex);
    if (!s) return false;
    slot_clear(s, c->t->host_bytes(c->t, tiles, n));
    s->next = NULL;
    beat_op("samples of step", step);
    pthread_mutex_lock(&l->files);
    double t0 = now_seconds();
    fault_at("loader.read");
    bool ok = load(l, step, item, n, s, &st);
    if (st.code == ST_DATA) {
        st = (status){0};
        ok = load_good(l, step, item, n, s, &st);
    }
    if (ok && s->b.n_samples > 0 && fault_at("loader.batch")) c->t->tensors(c->t, &s->b, spoil_first, &(bool){false});
    s->b.seconds = now_seconds() - t0;
    pthread_mutex_unlock(&l->files);
    pthread_mutex_lock(&l->mutex);
    if (ok) {
        if (l->ready_last)
            l->ready_last->next = s;
        else
            l->ready = s;
        l->ready_last = s;
        l->n_ready++;
    } else {
        s->next = l->unused;
        l->unused = s;
        l->st = st;
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    return ok;
}

static void *run(void *arg) {
    loader *l = arg;
    plan   *p = plan_new(&l->cfg.plan);
    bool    go = true;
    beat_bind(watchdog_loader(l->cfg.dog));
    watchdog_show_stack(l->cfg.dog, "loader");
    omp_set_num_threads(l->cfg.threads > 1 ? l->cfg.threads : 1); /* of this thread's loops */
    for (int64_t step = l->cfg.first_step; go && step < l->cfg.end_step; step++) {
        plan_step         s = plan_of_step(p, step, l->cfg.world);
        const plan_item **item = malloc((size_t)s.n_items * sizeof *item);
        CHECK(item, "no memory for a batch of %lld", (long long)s.n_items);
        for (int m = 0; go && m < s.n_micro[l->cfg.rank]; m++)
            go = produce(l, step, item, plan_micro(&s, l->cfg.rank, m, item));
        free(item);
        plan_step_free(&s);
    }
    plan_free(p);
    watchdog_hide_stack(l->cfg.dog);
    pthread_mutex_lock(&l->mutex);
    l->ended = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

/* Beside n batches that are ready: the one in use, and the one before it, on its way to a GPU. */
static void slots_for(loader *l, int n) {
    while (l->n_slots < n + 2) slot_add(l);
}

loader *loader_new(const loader_config *cfg) {
    loader *l = calloc(1, sizeof *l);
    CHECK(l, "no memory for the loader");
    l->cfg = *cfg;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_mutex_init(&l->files, NULL);
    pthread_cond_init(&l->changed, NULL);
    slots_for(l, cfg->read_ahead > 1 ? cfg->read_ahead : 1);
    loader_go_on(l, cfg->first_step, cfg->end_step);
    return l;
}

void loader_go_on(loader *l, int64_t first_step, int64_t end_step) {
    l->cfg.first_step = first_step;
    l->cfg.end_step = end_step;
    l->stop = l->ended = false;
    l->st = (status){0};
    int rc = pthread_create(&l->thread, NULL, run, l);
    CHECK(rc == 0, "no thread for the loader: error %d", rc);
    l->running = true;
}

void loader_halt(loader *l) {
    if (!l->running) return;
    l->running = false;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    while (l->ready) {
        slot *s = l->ready;
        l->ready = s->next;
        s->next = l->unused;
        l->unused = s;
    }
    l->ready_last = NULL;
    l->n_ready = 0;
}

static void free_slots(slot *s) {
    while (s) {
        slot *next = s->next;
        upload_wait(&s->b);
        if (s->host.base) arena_free(&s->host);
        device_event_free(s->uploaded);
        free(s);
        s = next;
    }
}

void loader_free(loader *l) {
    if (!l) return;
    loader_halt(l);
    free_slots(l->unused);
    pthread_mutex_destroy(&l->mutex);
    pthread_mutex_destroy(&l->files);
    pthread_cond_destroy(&l->changed);
    free(l);
}

/* Waits, with the mutex held, for n batches; false when they will never come. */
static bool wait_ready(loader *l, int n, status *st) {
    l->n_wanted = n;
    slots_for(l, n);
    pthread_cond_broadcast(&l->changed);
    while (l->n_ready < n && status_ok(&l->st) && !l->ended) pthread_cond_wait(&l->changed, &l->mutex);
    l->n_wanted = 0;
    if (l->n_ready >= n) return true;
    CHECK(!status_ok(&l->st), "more batches were asked for than the plan has");
    *st = l->st;
    return false;
}

bool loader_next(loader *l, micro_batch **b, status *st) {
    pthread_mutex_lock(&l->mutex);
    bool ok = wait_ready(l, 1, st);
    if (ok) {
        slot *s = l->ready;
        l->ready = s->next;
        if (!l->ready) l->ready_last = NULL;
        s->next = NULL;
        l->n_ready--;
        *b = &s->b;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->mutex);
    return ok;
}

micro_batch *loader_peek(loader *l) {
    pthread_mutex_lock(&l->mutex);
    slot *s = l->ready;
    pthread_mutex_unlock(&l->mutex);
    return s ? &s->b : NULL;
}

/* To the end of the queue: the one whose upload began first is the next. */
void loader_done(loader *l, micro_batch *b) {
    slot *s = (slot *)b, **end = &l->unused;
    pthread_mutex_lock(&l->mutex);
    while (*end) end = &(*end)->next;
    s->next = NULL;
    *end = s;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

bool loader_counts(loader *l, int n, double count[TASK_SUMS], status *st) {
    pthread_mutex_lock(&l->mutex);
    bool ok = n == 0 || wait_ready(l, n, st);
    int  i = 0;
    for (const slot *s = l->ready; ok && i < n; s = s->next, i++)
        for (int k = 0; k < TASK_SUMS; k++) count[k] += s->b.count[k];
    pthread_mutex_unlock(&l->mutex);
    return ok;
}

void loader_lock(loader *l) {
    pthread_mutex_lock(&l->files);
}
void loader_unlock(loader *l) {
    pthread_mutex_unlock(&l->files);
}
