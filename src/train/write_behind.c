#include "train/write_behind.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct write_behind {
    write_behind_config cfg;
    pthread_t           thread;
    pthread_mutex_t     mutex;
    pthread_cond_t      put, done;
    char               *items; /* item i has the place i % room */
    int64_t             n_put, n_done;
    bool                stop;
    status              st; /* of the first that failed */
};

static void *item_at(const write_behind *w, int64_t i) {
    return w->items + (size_t)(i % w->cfg.room) * w->cfg.item_bytes;
}

static void *run(void *arg) {
    write_behind *w = arg;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->stop && w->n_done == w->n_put) pthread_cond_wait(&w->put, &w->mutex);
        if (w->n_done == w->n_put) break;
        void  *item = item_at(w, w->n_done);
        bool   wanted = !w->stop && status_ok(&w->st);
        status st = {0};
        pthread_mutex_unlock(&w->mutex);
        if (wanted) w->cfg.write(w->cfg.user, item, &st);
        w->cfg.drop(item);
        pthread_mutex_lock(&w->mutex);
        if (status_ok(&w->st)) w->st = st;
        w->n_done++;
        pthread_cond_broadcast(&w->done);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

write_behind *write_behind_new(const write_behind_config *cfg) {
    write_behind *w = calloc(1, sizeof *w);
    CHECK(w && cfg->room > 0, "room for %d items", cfg->room);
    w->cfg = *cfg;
    w->items = malloc((size_t)cfg->room * cfg->item_bytes);
    CHECK(w->items, "no memory to write %d items behind", cfg->room);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->put, NULL);
    pthread_cond_init(&w->done, NULL);
    int rc = pthread_create(&w->thread, NULL, run, w);
    CHECK(rc == 0, "no thread to write behind: error %d", rc);
    return w;
}

bool write_behind_put(write_behind *w, const void *item, status *st) {
    pthread_mutex_lock(&w->mutex);
    while (w->n_put - w->n_done == w->cfg.room) pthread_cond_wait(&w->done, &w->mutex);
    memcpy(item_at(w, w->n_put++), item, w->cfg.item_bytes);
    if (!status_ok(&w->st)) *st = w->st;
    pthread_cond_signal(&w->put);
    pthread_mutex_unlock(&w->mutex);
    return status_ok(st);
}

bool write_behind_flush(write_behind *w, status *st) {
    pthread_mutex_lock(&w->mutex);
    while (w->n_done < w->n_put) pthread_cond_wait(&w->done, &w->mutex);
    if (!status_ok(&w->st)) *st = w->st;
    pthread_mutex_unlock(&w->mutex);
    return status_ok(st);
}

void write_behind_free(write_behind *w) {
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->stop = true;
    pthread_cond_signal(&w->put);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->put);
    pthread_cond_destroy(&w->done);
    free(w->items);
    free(w);
}
