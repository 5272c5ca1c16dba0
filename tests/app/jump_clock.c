/* LD_PRELOAD: the time of day jumps an hour ahead, and a second later two hours back; the monotonic clock goes on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

int    clock_gettime(clockid_t id, struct timespec *t);
time_t time(time_t *t);

static int truth(clockid_t id, struct timespec *t) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "clock_gettime");
    return next(id, t);
}

static time_t jump(void) {
    static time_t   start;
    struct timespec now;
    truth(CLOCK_MONOTONIC, &now);
    if (!start) start = now.tv_sec;
    return now.tv_sec - start < 1 ? 0 : now.tv_sec - start < 2 ? 3600 : -3600;
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int rc = truth(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += jump();
    return rc;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
