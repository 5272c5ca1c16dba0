#include "train/fair_lock.h"

void fair_lock_init(fair_lock *l) {
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->next, NULL);
    l->asked = l->served = 0;
}

void fair_lock_free(fair_lock *l) {
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->next);
}

void fair_lock_get(fair_lock *l) {
    pthread_mutex_lock(&l->mutex);
    int64_t turn = l->asked++;
    while (l->served != turn) pthread_cond_wait(&l->next, &l->mutex);
    pthread_mutex_unlock(&l->mutex);
}

void fair_lock_release(fair_lock *l) {
    pthread_mutex_lock(&l->mutex);
    l->served++;
    pthread_cond_broadcast(&l->next);
    pthread_mutex_unlock(&l->mutex);
}
