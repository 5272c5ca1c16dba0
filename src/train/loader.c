#include "train/loader.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct slot {
    micro_batch  b; /* first: loader_done gets its address */
    arena        host;
    struct slot *next;
} slot;

struct loader {
    loader_config   cfg;
    pthread_t       thread;
    pthread_mutex_t mutex, files;
    pthread_cond_t  changed;
    slot           *ready, *ready_last, *unused;
    int             n_ready, n_wanted; /* wanted: at least so many at once, whatever read_ahead says */
    bool            stop, ended;
    status          st;
};

static slot *slot_take(loader *l, size_t bytes) {
    slot *s = l->unused;
    if (s)
        l->unused = s->next;
    else
        s = calloc(1, sizeof *s);
    CHECK(s, "no memory for a batch");
    if (s->host.size < bytes) {
        if (s->host.base) arena_free(&s->host);
        s->host = arena_new("host batch", bytes);
    }
    arena_reset(&s->host, 0);
    s->b = (micro_batch){.host = &s->host};
    s->next = NULL;
    return s;
}

static bool has_room(const loader *l) {
    int most = l->cfg.read_ahead > l->n_wanted ? l->cfg.read_ahead : l->n_wanted;
    return l->n_ready < (most > 1 ? most : 1);
}

/* Waits for room, prepares one micro-batch. False: stop. */
static bool produce(loader *l, int64_t step, const plan_item *const *item, int64_t n) {
    const loader_config *c = &l->cfg;
    int64_t              tiles = 0;
    status               st = {0};
    for (int64_t i = 0; i < n; i++) tiles += c->d->entry[item[i]->index].tiles;
    pthread_mutex_lock(&l->mutex);
    while (!l->stop && !has_room(l)) pthread_cond_wait(&l->changed, &l->mutex);
    bool  stop = l->stop;
    slot *s = stop ? NULL : slot_take(l, c->t->host_bytes(c->t, tiles, n));
    pthread_mutex_unlock(&l->mutex);
    if (stop) return false;
    pthread_mutex_lock(&l->files);
    bool ok = c->t->load(c->t, c->d, (batch_purpose){.step = step}, item, n, &s->b, &st);
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
    pthread_mutex_lock(&l->mutex);
    l->ended = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

loader *loader_new(const loader_config *cfg) {
    loader *l = calloc(1, sizeof *l);
    CHECK(l, "no memory for the loader");
    l->cfg = *cfg;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_mutex_init(&l->files, NULL);
    pthread_cond_init(&l->changed, NULL);
    int rc = pthread_create(&l->thread, NULL, run, l);
    CHECK(rc == 0, "no thread for the loader: error %d", rc);
    return l;
}

static void free_slots(slot *s) {
    while (s) {
        slot *next = s->next;
        arena_free(&s->host);
        free(s);
        s = next;
    }
}

void loader_free(loader *l) {
    if (!l) return;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    free_slots(l->ready);
    free_slots(l->unused);
    pthread_mutex_destroy(&l->mutex);
    pthread_mutex_destroy(&l->files);
    pthread_cond_destroy(&l->changed);
    free(l);
}

/* Waits, with the mutex held, for n batches; false when they will never come. */
static bool wait_ready(loader *l, int n, status *st) {
    l->n_wanted = n;
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

void loader_done(loader *l, micro_batch *b) {
    slot *s = (slot *)b;
    pthread_mutex_lock(&l->mutex);
    s->next = l->unused;
    l->unused = s;
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
