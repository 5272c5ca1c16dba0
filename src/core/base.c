#include "core/base.h"
#include "core/host_memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void default_abort(int code) {
    fflush(NULL);
    exit(code);
}

static fatal_hook hook;
static void (*abort_job)(int) = default_abort;
static struct {
    int       rank, size;
    log_level level;
} log_state = {0, 1, LOG_INFO};

void fatal_set_hook(fatal_hook h) {
    hook = h;
}
void fatal_set_abort(void (*f)(int)) {
    abort_job = f ? f : default_abort;
}

static struct {
    int             file;
    int64_t         left;
    pthread_mutex_t lock;
} tee = {.file = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

void log_tee(int file, int64_t max_bytes) {
    pthread_mutex_lock(&tee.lock);
    tee.file = file;
    tee.left = max_bytes;
    pthread_mutex_unlock(&tee.lock);
}

int log_tee_file(void) {
    return tee.file;
}

static void write_tee(const char *kind, const char *text) {
    char      line[2304], when[32];
    time_t    now = time(NULL);
    struct tm t;
    if (tee.file < 0) return;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &t));
    int n = snprintf(line, sizeof line, "%s %s%s\n", when, kind, text);
    pthread_mutex_lock(&tee.lock);
    if (tee.file >= 0 && tee.left > 0) {
        tee.left -= n;
        (void)!write(tee.file, line, (size_t)n);
        if (tee.left <= 0) (void)!write(tee.file, "this log is full\n", 17);
    }
    pthread_mutex_unlock(&tee.lock);
}

_Noreturn void fatal_at(const char *file, int line, const char *func, const char *fmt, ...) {
    char    host[64] = "?", text[1024], message[1600], left[128] = "";
    va_list ap;
    gethostname(host, sizeof host - 1);
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bool   memory = !strncmp(text, "no memory", 9);
    size_t bytes = memory ? host_memory_left() : SIZE_MAX; /* that: nobody knows */
    if (bytes < SIZE_MAX)
        snprintf(left, sizeof left, "; %.0f MB are left here: free some, or start fewer ranks on this host",
                 (double)bytes / 1e6);
    snprintf(message, sizeof message, "d3s2: fatal: rank %d of %d on %s: %s:%d: %s: %s%s", log_state.rank,
             log_state.size, host, file, line, func, text, left);
    if (hook) hook(message);
    fprintf(stderr, "%s\n", message);
    write_tee("", message);
    abort_job(memory ? ST_MEMORY : ST_INTERNAL);
    _Exit(memory ? ST_MEMORY : ST_INTERNAL);
}

bool status_set(status *s, status_code code, const char *fmt, ...) {
    if (s->code == ST_OK) {
        va_list ap;
        s->code = code;
        va_start(ap, fmt);
        vsnprintf(s->text, sizeof s->text, fmt, ap);
        va_end(ap);
        /* one line, whatever a file had in the place that is told */
        for (char *c = s->text; *c; c++)
            if ((unsigned char)*c < 32 || *c == 127) *c = ' ';
    }
    return false;
}

void log_init(int rank, int size, log_level level) {
    log_state.rank = rank;
    log_state.size = size;
    log_state.level = level;
}

int log_rank(void) {
    return log_state.rank;
}

void log_at(log_level level, const char *fmt, ...) {
    if (level > log_state.level) return;
    char    text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    write_tee(level == LOG_WARN ? "warning: " : "", text);
    if (level == LOG_INFO && log_state.rank != 0) return;
    if (level == LOG_WARN && log_state.size > 1)
        fprintf(stderr, "d3s2: warning: rank %d: %s\n", log_state.rank, text);
    else
        fprintf(stderr, "d3s2: %s%s\n", level == LOG_WARN ? "warning: " : "", text);
}

void log_to_tee(const char *fmt, ...) {
    char    text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    write_tee("", text);
}

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_span(char *out, size_t cap, double seconds) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, cap, "%lld:%02lld:%02lld", (long long)(s / 3600), (long long)(s / 60 % 60), (long long)(s % 60));
    else
        snprintf(out, cap, "%lld:%02lld", (long long)(s / 60), (long long)(s % 60));
}

static void progress_print(const progress *p, int64_t done, const char *note, bool last) {
    bool   tty = isatty(STDERR_FILENO);
    double spent = now_seconds() - p->t0;
    char   eta[32] = "?", used[32], bar[25];
    if (done > p->start) print_span(eta, sizeof eta, spent / (double)(done - p->start) * (double)(p->total - done));
    print_span(used, sizeof used, spent);
    int fill = p->total > 0 ? (int)(24 * done / p->total) : 24;
    for (int i = 0; i < 24; i++) bar[i] = i < fill ? '#' : '.';
    bar[24] = 0;
    if (tty)
        fprintf(stderr, "\r\033[K%s [%s] %lld/%lld  %s, ETA %s  %s%s", p->what, bar, (long long)done,
                (long long)p->total, used, eta, note ? note : "", last ? "\n" : "");
    else
        fprintf(stderr, "%s %lld/%lld  %s, ETA %s  %s\n", p->what, (long long)done, (long long)p->total, used, eta,
                note ? note : "");
    fflush(stderr);
}

void progress_begin(progress *p, const char *what, int64_t start, int64_t total) {
    *p = (progress){.what = what, .total = total, .start = start, .t0 = now_seconds()};
    p->t_last = p->t0;
}

void progress_step(progress *p, int64_t done, const char *note) {
    double t = now_seconds(), every = isatty(STDERR_FILENO) ? 0.2 : 10.0;
    if (log_state.rank != 0 || log_state.level < LOG_INFO || t - p->t_last < every) return;
    p->t_last = t;
    progress_print(p, done, note, false);
}

void progress_end(progress *p, const char *note) {
    if (log_state.rank != 0 || log_state.level < LOG_INFO || p->total == p->start) return;
    progress_print(p, p->total, note, true);
}

int ascending_f64(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
