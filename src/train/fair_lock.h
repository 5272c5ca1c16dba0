/* A mutex that is had in the order it was asked for. A thread that holds one for long and asks for it again at once
 * would keep a plain mutex from those who need it for a moment. */
#pragma once
#include <pthread.h>
#include <stdint.h>

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t  next;
    int64_t         asked, served; /* turns that were given out, that are over */
} fair_lock;

void fair_lock_init(fair_lock *l);
void fair_lock_free(fair_lock *l);
void fair_lock_get(fair_lock *l);
void fair_lock_release(fair_lock *l);
