#include "train/read_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Item i has the place i % room. */
typedef struct {
    bool   ready;
    status st;
} place_state;

struct read_ahead {
    read_ahead_config cfg;
    pthread_t        *thread;
    pthread_mutex_t   mutex;
    pthread_cond_t    made, taken;
    char             *items;
    place_state      *state;
    int64_t           begun, given; /* items whose making has begun, that were taken */
    bool              stop;
};

static void *item_at(const read_ahead *r, int64_t i) {
    return r->items + (size_t)(i % r->cfg.room) * r->cfg.item_bytes;
}

static void *run(void *arg) {
    read_ahead *r = arg;
    pthread_mutex_lock(&r->mutex);
    for (;;) {
        while (!r->stop && r->begun < r->cfg.n && r->begun - r->given == r->cfg.room)
            pthread_cond_wait(&r->taken, &r->mutex);
        if (r->stop || r->begun == r->cfg.n) break;
        int64_t      i = r->begun++;
        place_state *s = &r->state[i % r->cfg.room];
        pthread_mutex_unlock(&r->mutex);
        s->st = (status){0};
        bool ok = r->cfg.make(r->cfg.user, i, item_at(r, i), &s->st);
        pthread_mutex_lock(&r->mutex);
        s->ready = true;
        r->stop |= !ok; /* those before it are being made already */
        pthread_cond_broadcast(&r->made);
        if (r->stop) pthread_cond_broadcast(&r->taken);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

read_ahead *read_ahead_new(const read_ahead_config *cfg) {
    read_ahead *r = calloc(1, sizeof *r);
    CHECK(r && cfg->threads > 0 && cfg->room > 0, "%d threads, room for %d items", cfg->threads, cfg->room);
    r->cfg = *cfg;
    r->thread = malloc((size_t)cfg->threads * sizeof *r->thread);
    r->items = malloc((size_t)cfg->room * cfg->item_bytes);
    r->state = calloc((size_t)cfg->room, sizeof *r->state);
    CHECK(r->thread && r->items && r->state, "no memory to read %d items ahead", cfg->room);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->made, NULL);
    pthread_cond_init(&r->taken, NULL);
    for (int i = 0; i < cfg->threads; i++) {
        int rc = pthread_create(&r->thread[i], NULL, run, r);
        CHECK(rc == 0, "no thread to read ahead: error %d", rc);
    }
    return r;
}

bool read_ahead_take(read_ahead *r, void *item, status *st) {
    CHECK(r->given < r->cfg.n, "more than %lld items are asked for", (long long)r->cfg.n);
    pthread_mutex_lock(&r->mutex);
    place_state *s = &r->state[r->given % r->cfg.room];
    while (!s->ready) pthread_cond_wait(&r->made, &r->mutex);
    bool ok = status_ok(&s->st);
    if (ok) { /* one that failed stays: who asks again is told again */
        memcpy(item, item_at(r, r->given), r->cfg.item_bytes);
        s->ready = false;
        r->given++;
        pthread_cond_signal(&r->taken);
    } else {
        *st = s->st;
    }
    pthread_mutex_unlock(&r->mutex);
    return ok;
}

void read_ahead_free(read_ahead *r) {
    if (!r) return;
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_broadcast(&r->taken);
    pthread_mutex_unlock(&r->mutex);
    for (int i = 0; i < r->cfg.threads; i++) pthread_join(r->thread[i], NULL);
    for (int64_t i = r->given; i < r->begun; i++)
        if (status_ok(&r->state[i % r->cfg.room].st)) r->cfg.drop(item_at(r, i));
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->made);
    pthread_cond_destroy(&r->taken);
    free(r->thread);
    free(r->items);
    free(r->state);
    free(r);
}
