#include "core/fault.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FAULTS = 16, POINT_CAP = 64 };

typedef enum { ACT_KILL, ACT_STOP, ACT_EXIT, ACT_DELAY, ACT_FAIL, ACT_NAN, ACT_COUNT } action_kind;

/* The value that an action has when the text gives none; -1: it must give one, -2: it has none. */
static const struct {
    const char *name;
    long        value;
} action_table[ACT_COUNT] = {[ACT_KILL] = {"kill", -2},   [ACT_STOP] = {"stop", -2},  [ACT_EXIT] = {"exit", 70},
                             [ACT_DELAY] = {"delay", -1}, [ACT_FAIL] = {"fail", EIO}, [ACT_NAN] = {"nan", -2}};

static const struct {
    const char *name;
    int         value;
} errno_table[] = {{"EIO", EIO},     {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},  {"EACCES", EACCES},
                   {"EROFS", EROFS}, {"ENOENT", ENOENT}, {"ESTALE", ESTALE}, {"ENOMEM", ENOMEM}};

typedef struct {
    action_kind action;
    long        value;
    char        point[POINT_CAP];
    long        from, to, every, passed;
    int         rank; /* -1: any */
} fault;

typedef enum { FAULTS_UNREAD, FAULTS_OFF, FAULTS_ON } fault_state;

static struct {
    atomic_int      state;
    pthread_mutex_t lock;
    int             n, rank;
    fault           list[MOST_FAULTS];
} faults = {.lock = PTHREAD_MUTEX_INITIALIZER, .rank = -1};

/* ---- reading the text ------------------------------------------------------------------------------------------ */

/* Called with the lock held, as all of this part. */
_Noreturn static void bad_text(const char *text, const char *why) {
    pthread_mutex_unlock(&faults.lock);
    FATAL("D3S2_FAULT: \"%s\": %s; write action[=value]@point[:passes][,rank=R], see core/fault.h", text, why);
}

/* A whole number at *p, which moves behind it. */
static bool take_number(const char **p, long *v) {
    char *end;
    if (**p < '0' || **p > '9') return false;
    errno = 0;
    *v = strtol(*p, &end, 10);
    *p = end;
    return errno == 0;
}

/* The value of an action up to the end of the word. */
static bool value_of(action_kind a, const char *p, long *v) {
    if (a == ACT_FAIL)
        for (size_t i = 0; i < sizeof errno_table / sizeof *errno_table; i++)
            if (!strcmp(p, errno_table[i].name)) {
                *v = errno_table[i].value;
                return true;
            }
    return take_number(&p, v) && !*p;
}

static void parse_action(fault *f, const char *text, char *word) {
    char *value = strchr(word, '=');
    if (value) *value++ = 0;
    int a = 0;
    while (a < ACT_COUNT && strcmp(word, action_table[a].name)) a++;
    if (a == ACT_COUNT) bad_text(text, "the action is none of kill, stop, exit, delay, fail, nan");
    f->action = (action_kind)a;
    f->value = action_table[a].value;
    if (value && f->value == -2) bad_text(text, "this action has no value");
    if (!value && f->value == -1) bad_text(text, "delay needs its milliseconds: delay=500");
    if (value && !value_of(f->action, value, &f->value)) bad_text(text, "the value is not one of this action");
}

/* One fault; `text` is what the user wrote, for messages. */
static void parse_one(fault *f, const char *text) {
    char copy[256], *at;
    if (strlen(text) >= sizeof copy) bad_text(text, "too long");
    strcpy(copy, text);
    *f = (fault){.from = 1, .to = 1, .every = 1, .rank = -1};
    if (!(at = strchr(copy, '@'))) bad_text(text, "no @point");
    *at++ = 0;
    parse_action(f, text, copy);
    size_t n = strcspn(at, ":,");
    if (n == 0 || n >= POINT_CAP) bad_text(text, "no name of a point, or a long one");
    memcpy(f->point, at, n);
    const char *p = at + n;
    if (*p == ':') {
        p++;
        if (!take_number(&p, &f->from) || f->from < 1) bad_text(text, "passes are counted from 1");
        f->to = f->from;
        if (*p == '-') {
            p++;
            if (!*p || *p == ',' || *p == '/')
                f->to = LONG_MAX;
            else if (!take_number(&p, &f->to) || f->to < f->from)
                bad_text(text, "passes are n, n-m or n-, then perhaps /k");
            if (*p == '/' && (p++, !take_number(&p, &f->every) || f->every < 1))
                bad_text(text, "/k behind the passes is a number from 1");
        }
    }
    long rank;
    if (!strncmp(p, ",rank=", 6)) {
        p += 6;
        if (!take_number(&p, &rank) || rank > INT_MAX) bad_text(text, "the rank is not a number");
        f->rank = (int)rank;
    }
    if (*p) bad_text(text, "something follows that is not understood");
}

static void read_environment(void) {
    const char *text = getenv("D3S2_FAULT");
    faults.n = 0;
    while (text && *text) {
        size_t n = strcspn(text, ";");
        char   one[256];
        size_t skip = strspn(text, " \t\n");
        size_t len = n > skip ? n - skip : 0;
        while (len && strchr(" \t\n", text[skip + len - 1])) len--;
        if (len >= sizeof one) bad_text(text, "too long");
        memcpy(one, text + skip, len);
        one[len] = 0;
        if (len) {
            if (faults.n == MOST_FAULTS) bad_text(text, "more than 16 faults");
            parse_one(&faults.list[faults.n++], one);
        }
        text += n + (text[n] == ';');
    }
    atomic_store(&faults.state, faults.n ? FAULTS_ON : FAULTS_OFF);
}

/* ---- doing it -------------------------------------------------------------------------------------------------- */

static void tell(const fault *f) {
    char line[160];
    int  n = snprintf(line, sizeof line, "fault: rank %d: %s at %s, pass %ld\n", faults.rank,
                      action_table[f->action].name, f->point, f->passed);
    (void)!write(STDERR_FILENO, line, (size_t)n); /* whole, also when the next thing is the end */
}

/* True when it is for the caller. */
static bool carry_out(const fault *f) {
    tell(f);
    switch (f->action) {
    case ACT_KILL:
        raise(SIGKILL);
        break;
    case ACT_STOP:
        raise(SIGSTOP);
        break;
    case ACT_EXIT:
        _exit((int)f->value);
    case ACT_DELAY:
        nanosleep(&(struct timespec){.tv_sec = f->value / 1000, .tv_nsec = f->value % 1000 * 1000000}, NULL);
        break;
    case ACT_FAIL:
        errno = (int)f->value;
        return true;
    case ACT_NAN:
        return true;
    case ACT_COUNT:
        break;
    }
    return false;
}

bool fault_at(const char *point) {
    if (atomic_load_explicit(&faults.state, memory_order_acquire) == FAULTS_OFF) return false;
    fault due[MOST_FAULTS];
    int   n = 0;
    pthread_mutex_lock(&faults.lock);
    if (atomic_load(&faults.state) == FAULTS_UNREAD) read_environment();
    for (int i = 0; i < faults.n; i++) {
        fault *f = &faults.list[i];
        if (strcmp(f->point, point)) continue;
        f->passed++;
        if (f->passed >= f->from && f->passed <= f->to && (f->passed - f->from) % f->every == 0 &&
            (f->rank < 0 || f->rank == faults.rank))
            due[n++] = *f;
    }
    pthread_mutex_unlock(&faults.lock);
    bool mine = false;
    for (int i = 0; i < n; i++) mine |= carry_out(&due[i]); /* outside the lock: a delay holds up its own thread only */
    return mine;
}

void fault_rank(int rank) {
    pthread_mutex_lock(&faults.lock);
    faults.rank = rank;
    if (atomic_load(&faults.state) == FAULTS_UNREAD) read_environment();
    pthread_mutex_unlock(&faults.lock);
}

void fault_reset(void) {
    pthread_mutex_lock(&faults.lock);
    faults.n = 0;
    atomic_store(&faults.state, FAULTS_UNREAD);
    pthread_mutex_unlock(&faults.lock);
}
