#include "train/watchdog.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STACKS = 4, FRAMES = 64, LOOK_MS = 200 };
/* Of all ranks waiting for another host; of a vanished process, which the launcher usually sees first; for stacks. */
static const double HOLD_BACK = 3, VANISHED = 2, STACK_SECONDS = 2;

typedef enum { ROW_EMPTY, ROW_WATCHED, ROW_LEFT } row_state;

/* One rank, in the host's memory; the two records follow it. */
typedef struct {
    _Atomic int state, show, shown; /* show: this rank's watch is asked for its stacks */
    _Atomic int spoken;             /* of the first row: one watch of the host reports */
    int         rank;
    pid_t       pid;
    char        host[48];
} row;

typedef struct {
    row      *r;
    beat_view v, loader;
    double    silent, limit;
    bool      watched, over, gone, asked; /* asked: for its stacks */
} look_row;

/* The watch takes no memory once it runs: the main thread may hang inside malloc. */
struct watchdog {
    const comm     *c;
    double          timeout;
    char           *memory;
    size_t          row_bytes;
    int             own, n, text_cap;
    look_row       *rows;          /* [n] of the look under way */
    char           *text;          /* of the report */
    double          looked, awake; /* the last look; since when this process runs without a break */
    double          gone_since;    /* of the next rank's process; 0: it is there */
    pthread_t       thread;
    pthread_mutex_t mutex;
    pthread_cond_t  changed;
    bool            stop;
};

/* ---- stacks ---------------------------------------------------------------------------------------------------- */

/* What a signal handler can reach. */
static struct {
    pthread_t        thread[STACKS];
    const char      *name[STACKS];
    int              n, rank;
    pthread_mutex_t  lock;
    struct sigaction before;
    _Atomic int      done;
} stacks = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int stack_signal(void) {
    return SIGRTMIN + 7;
}

static void write_both(const char *text, size_t n) {
    (void)!write(STDERR_FILENO, text, n);
    if (log_tee_file() >= 0) (void)!write(log_tee_file(), text, n);
}

static void on_stack_signal(int number) {
    (void)number;
    void *frame[FRAMES];
    int   kept = errno, n = backtrace(frame, FRAMES);
    backtrace_symbols_fd(frame, n, STDERR_FILENO);
    if (log_tee_file() >= 0) backtrace_symbols_fd(frame, n, log_tee_file());
    atomic_store(&stacks.done, 1);
    errno = kept;
}

static void pause_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* One thread after the other; one that does not answer (blocked in the kernel) is passed over. */
static void show_stacks(void) {
    pthread_mutex_lock(&stacks.lock);
    for (int i = 0; i < stacks.n; i++) {
        char head[128];
        int  n = snprintf(head, sizeof head, "d3s2: stack of rank %d, %s thread:\n", stacks.rank, stacks.name[i]);
        write_both(head, (size_t)n);
        atomic_store(&stacks.done, 0);
        if (pthread_kill(stacks.thread[i], stack_signal()) != 0) continue;
        for (int k = 0; k < 50 && !atomic_load(&stacks.done); k++) pause_ms(10);
        if (!atomic_load(&stacks.done)) write_both("  (no answer)\n", 14);
    }
    pthread_mutex_unlock(&stacks.lock);
}

void watchdog_show_stack(watchdog *d, const char *name) {
    if (!d) return;
    pthread_mutex_lock(&stacks.lock);
    CHECK(stacks.n < STACKS, "more than %d threads with stacks to show", (int)STACKS);
    stacks.thread[stacks.n] = pthread_self();
    stacks.name[stacks.n++] = name;
    pthread_mutex_unlock(&stacks.lock);
}

void watchdog_hide_stack(watchdog *d) {
    if (!d) return;
    pthread_mutex_lock(&stacks.lock);
    for (int i = 0; i < stacks.n; i++) {
        if (!pthread_equal(stacks.thread[i], pthread_self())) continue;
        stacks.n--;
        stacks.thread[i] = stacks.thread[stacks.n];
        stacks.name[i] = stacks.name[stacks.n];
        break;
    }
    pthread_mutex_unlock(&stacks.lock);
}

static void stacks_open(int rank) {
    struct sigaction a = {.sa_handler = on_stack_signal, .sa_flags = SA_RESTART};
    void            *frame[2];
    sigemptyset(&a.sa_mask);
    backtrace(frame, 2); /* loads what the first call loads, where that may take memory */
    stacks.rank = rank;
    sigaction(stack_signal(), &a, &stacks.before);
}

static void stacks_close(void) {
    sigaction(stack_signal(), &stacks.before, NULL);
    stacks.n = 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static row *row_at(const watchdog *d, int i) {
    return (row *)(d->memory + (size_t)i * d->row_bytes);
}
static size_t rounded(size_t n) {
    return (n + 127) / 128 * 128;
}
static beat *main_beat(row *r) {
    return (beat *)((char *)r + rounded(sizeof *r));
}
static beat *loader_beat(row *r) {
    return (beat *)((char *)main_beat(r) + rounded(beat_size()));
}

beat *watchdog_loader(watchdog *d) {
    return d ? loader_beat(row_at(d, d->own)) : NULL;
}

/* 'T' stopped, 'Z' or 0 gone, else as the kernel says. */
static char process_state(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return kill(pid, 0) != 0 && errno == ESRCH ? 0 : '?';
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    text[n > 0 ? n : 0] = 0;
    char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : '?';
}

static bool is_gone(pid_t pid) {
    char s = process_state(pid);
    return s == 0 || s == 'Z' || s == 'X';
}

double watchdog_limit(const beat_view *v, double timeout_s) {
    bool   slow = !v->warm || v->section == BEAT_CHECKPOINT || v->section == BEAT_EVAL;
    double most = 6 * timeout_s, limit = slow ? most : 5 * v->longest[v->section];
    return limit < timeout_s ? timeout_s : limit > most ? most : limit;
}

/* Silence while this process itself was stopped is nobody's fault: a suspended job goes on when it is let. */
static look_row look_at(const watchdog *d, int i, double now) {
    look_row l = {.r = row_at(d, i)};
    l.watched = atomic_load(&l.r->state) == ROW_WATCHED;
    if (!l.watched) return l;
    beat_read(main_beat(l.r), &l.v);
    beat_read(loader_beat(l.r), &l.loader);
    l.silent = now - (l.v.at > d->awake ? l.v.at : d->awake);
    l.limit = watchdog_limit(&l.v, d->timeout);
    return l;
}

/* Each watch looks after the process of the next rank. */
static bool has_vanished(watchdog *d, const look_row *next, double now) {
    if (!next->watched || !is_gone(next->r->pid)) {
        d->gone_since = 0;
        return false;
    }
    if (d->gone_since == 0) d->gone_since = now;
    return now - d->gone_since > VANISHED && atomic_load(&next->r->state) == ROW_WATCHED;
}

static int append(char *text, int at, int cap, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int append(char *text, int at, int cap, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text + at, (size_t)(cap - at), fmt, ap);
    va_end(ap);
    return at + n < cap ? at + n : cap - 1;
}

static const char *condition(const look_row *l) {
    char s = process_state(l->r->pid);
    return l->gone || s == 0 || s == 'Z' ? "GONE"
           : s == 'T' || s == 't'        ? "STOPPED by a signal"
           : l->over && !l->v.waiting    ? "HANGS"
           : l->v.waiting                ? "waits for others"
                                         : "works";
}

/* Those that the others wait for: whoever is over the limit without waiting, is stopped or gone; if there is none, who
 * has made the fewest collective calls. */
static bool is_culprit(const look_row *l, const look_row *all, int n) {
    bool    other = false;
    int64_t most = 0;
    for (int i = 0; i < n; i++) {
        if (!all[i].watched) continue;
        char s = process_state(all[i].r->pid);
        bool bad = all[i].gone || s == 'T' || s == 0 || s == 'Z' || (all[i].over && !all[i].v.waiting);
        if (bad && all[i].r == l->r) return true;
        other |= bad;
        if (all[i].v.collectives > most) most = all[i].v.collectives;
    }
    return !other && l->watched && l->v.collectives < most;
}

static void print_table(const watchdog *d, const look_row *l) {
    int   cap = d->text_cap, at = 0;
    char *text = d->text, number[32];
    at =
        append(text, at, cap,
               "d3s2: error: a rank hangs or is gone (train.hang_timeout_s = %g): the ranks of %s, seconds of silence\n"
               "d3s2: %5s %8s %8s %-10s %7s  %-24s %-40s %-20s %s\n",
               d->timeout, l[d->own].r->host, "rank", "pid", "step", "section", "silent", "in", "last collective call",
               "state", "loader");
    for (int i = 0; i < d->n; i++) {
        const look_row *k = &l[i];
        char            call[96];
        if (!k->watched) continue;
        snprintf(call, sizeof call, "#%lld %s of %lld bytes", (long long)k->v.collectives, k->v.collective,
                 (long long)k->v.bytes);
        snprintf(number, sizeof number, "%lld", (long long)k->v.step);
        at = append(text, at, cap, "d3s2: %5d %8ld %8s %-10s %7.1f  %-24s %-40s %-20s %s, %.1f s ago\n", k->r->rank,
                    (long)k->r->pid, k->v.step < 0 ? "-" : number, beat_section_name(k->v.section), k->silent, k->v.op,
                    call, condition(k), k->loader.op, k->silent + k->v.at - k->loader.at);
    }
    bool nobody = true;
    for (int i = 0; i < d->n; i++) nobody &= !l[i].watched || !is_culprit(&l[i], l, d->n);
    if (nobody) at = append(text, at, cap, "d3s2: all of them wait: for a rank of another host, or for their GPUs\n");
    for (int i = 0; i < d->n; i++)
        if (l[i].watched && is_culprit(&l[i], l, d->n))
            at = append(text, at, cap, "d3s2: rank %d on %s, process %ld, keeps the others waiting: %s in %s%s%s\n",
                        l[i].r->rank, l[i].r->host, (long)l[i].r->pid, condition(&l[i]),
                        beat_section_name(l[i].v.section), *l[i].v.op ? ", " : "", l[i].v.op);
    write_both(text, (size_t)at);
}

/* ---- the watch ------------------------------------------------------------------------------------------------- */

/* Asks the culprits' watches for stacks, or shows the own. */
static void collect_stacks(watchdog *d, look_row *l) {
    for (int i = 0; i < d->n; i++) {
        l[i].asked = l[i].watched && !l[i].gone && is_culprit(&l[i], l, d->n);
        if (l[i].asked && i != d->own) atomic_store(&l[i].r->show, 1);
    }
    if (l[d->own].asked) show_stacks();
    for (int waited = 0; waited < STACK_SECONDS * 1000; waited += 50) {
        bool all = true;
        for (int i = 0; i < d->n; i++) all &= i == d->own || !l[i].asked || atomic_load(&l[i].r->shown);
        if (all) return;
        pause_ms(50);
    }
}

/* Shows the own stacks when another watch asks for them. */
static void answer(watchdog *d) {
    row *own = row_at(d, d->own);
    if (!atomic_exchange(&own->show, 0)) return;
    show_stacks();
    atomic_store(&own->shown, 1);
}

static void speak(watchdog *d, look_row *l) {
    int nobody = 0;
    if (atomic_compare_exchange_strong(&row_at(d, 0)->spoken, &nobody, 1)) {
        print_table(d, l);
        collect_stacks(d, l);
    } else { /* another rank's watch reports and ends the job, unless it dies itself */
        for (int waited = 0; waited < 2 * STACK_SECONDS * 1000; waited += 50) {
            answer(d);
            pause_ms(50);
        }
    }
    comm_abort(d->c, ST_HUNG);
}

static void look(watchdog *d) {
    double    now = now_seconds(), most = 0;
    look_row *l = d->rows;
    bool      over = false, waiting = true;
    int       next = (d->own + 1) % d->n;
    if (now - d->looked > 1 + d->timeout / 2) d->awake = now;
    d->looked = now;
    for (int i = 0; i < d->n; i++) {
        l[i] = look_at(d, i, now);
        if (l[i].limit > most) most = l[i].limit;
    }
    for (int i = 0; i < d->n; i++) {
        if (!l[i].watched) continue;
        waiting &= l[i].v.waiting;
        if (l[i].v.waiting) l[i].limit = most; /* for whoever is still within his */
        l[i].over = l[i].silent > l[i].limit;
    }
    for (int i = 0; i < d->n; i++) over |= l[i].watched && l[i].silent > l[i].limit + (waiting ? HOLD_BACK : 0);
    l[next].gone = next != d->own && has_vanished(d, &l[next], now);
    answer(d);
    if (over || l[next].gone) speak(d, l);
}

static void *watch(void *arg) {
    watchdog *d = arg;
    pthread_mutex_lock(&d->mutex);
    while (!d->stop) {
        struct timespec until;
        pthread_mutex_unlock(&d->mutex);
        look(d);
        pthread_mutex_lock(&d->mutex);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!d->stop) pthread_cond_timedwait(&d->changed, &d->mutex, &until);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

watchdog *watchdog_start(const comm *c, double timeout_s) {
    if (timeout_s <= 0) return NULL;
    watchdog *d = calloc(1, sizeof *d);
    CHECK(d, "no memory for the watchdog");
    *d = (watchdog){.c = c, .timeout = timeout_s, .looked = now_seconds(), .awake = now_seconds()};
    d->row_bytes = rounded(sizeof(row)) + 2 * rounded(beat_size());
    d->memory = comm_host_memory(c, d->row_bytes, &d->own, &d->n);
    d->text_cap = 4096 + d->n * 512;
    d->rows = calloc((size_t)d->n, sizeof *d->rows);
    d->text = malloc((size_t)d->text_cap);
    CHECK(d->rows && d->text, "no memory for a watchdog of %d ranks", d->n);
    row *r = row_at(d, d->own);
    r->rank = c->rank;
    r->pid = getpid();
    gethostname(r->host, sizeof r->host - 1);
    beat_init(main_beat(r));
    beat_init(loader_beat(r));
    beat_bind(main_beat(r));
    stacks_open(c->rank);
    watchdog_show_stack(d, "main");
    atomic_store(&r->state, ROW_WATCHED);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->changed, &a);
    pthread_condattr_destroy(&a);
    int rc = pthread_create(&d->thread, NULL, watch, d);
    CHECK(rc == 0, "no thread for the watchdog: error %d", rc);
    return d;
}

void watchdog_stop(watchdog *d) {
    if (!d) return;
    atomic_store(&row_at(d, d->own)->state, ROW_LEFT);
    pthread_mutex_lock(&d->mutex);
    d->stop = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
    pthread_join(d->thread, NULL);
    pthread_mutex_destroy(&d->mutex);
    pthread_cond_destroy(&d->changed);
    beat_bind(NULL);
    stacks_close();
    comm_host_memory_free(d->memory, d->row_bytes, d->n);
    free(d->rows);
    free(d->text);
    free(d);
}
