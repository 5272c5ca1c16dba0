#include "train/straggler.h"

#include <stdlib.h>
#include <unistd.h>

enum { HOST_CAP = 64 };

static const double SLOW = 1 / 0.7, QUIET_SECONDS = 600;

int straggler_find(const pace *p, int n, int *slow, double *factor) {
    double *sorted = malloc((size_t)(n > 0 ? n : 1) * sizeof *sorted);
    int     m = 0, found = 0;
    CHECK(sorted, "no memory for %d ranks", n);
    for (int i = 0; i < n; i++)
        if (p[i].tokens > 0) sorted[m++] = p[i].compute / p[i].tokens;
    qsort(sorted, (size_t)m, sizeof *sorted, ascending_f64);
    double median = m > 0 ? sorted[(m - 1) / 2] : 0;
    free(sorted);
    for (int i = 0; i < n && median > 0; i++) {
        if (p[i].tokens <= 0 || p[i].compute / p[i].tokens <= SLOW * median) continue;
        slow[found] = i;
        factor[found++] = p[i].compute / p[i].tokens / median;
    }
    return found;
}

struct stragglers {
    int     n;
    int64_t steps;
    pace   *sum, *part; /* [n] of the window; of what was added last */
    double *told, worst;
    int    *slow;
    double *factor;
    char (*host)[HOST_CAP];
};

stragglers *stragglers_new(const comm *c) {
    stragglers *s = calloc(1, sizeof *s);
    size_t      n = (size_t)c->size;
    char        own[HOST_CAP] = "";
    CHECK(s, "no memory for %d ranks", c->size);
    *s = (stragglers){.n = c->size,
                      .sum = calloc(n, sizeof *s->sum),
                      .part = calloc(n, sizeof *s->part),
                      .told = calloc(n, sizeof *s->told),
                      .slow = calloc(n, sizeof *s->slow),
                      .factor = calloc(n, sizeof *s->factor),
                      .host = calloc(n, sizeof *s->host)};
    CHECK(s->sum && s->part && s->told && s->slow && s->factor && s->host, "no memory for %d ranks", c->size);
    gethostname(own, sizeof own - 1);
    comm_all_gather(c, own, s->host, sizeof own);
    return s;
}

void stragglers_free(stragglers *s) {
    if (!s) return;
    free(s->sum);
    free(s->part);
    free(s->told);
    free(s->slow);
    free(s->factor);
    free(s->host);
    free(s);
}

static void warn(stragglers *s, int found) {
    double now = now_seconds();
    for (int i = 0; i < found; i++) {
        double *told = &s->told[s->slow[i]];
        if (*told > 0 && now - *told < QUIET_SECONDS) continue;
        *told = now;
        log_warn("rank %d on %s is slow: its steps compute %.2f times as long a token as the median rank's", s->slow[i],
                 s->host[s->slow[i]], s->factor[i]);
    }
}

double stragglers_add(stragglers *s, const comm *c, pace own, int64_t steps) {
    comm_all_gather(c, &own, s->part, sizeof own);
    s->steps += steps;
    for (int i = 0; i < s->n; i++) {
        s->sum[i].compute += s->part[i].compute;
        s->sum[i].tokens += s->part[i].tokens;
    }
    if (s->steps < STRAGGLER_STEPS) return s->worst;
    int found = straggler_find(s->sum, s->n, s->slow, s->factor);
    s->worst = 1;
    for (int i = 0; i < found; i++) s->worst = s->factor[i] > s->worst ? s->factor[i] : s->worst;
    if (c->rank == 0) warn(s, found);
    for (int i = 0; i < s->n; i++) s->sum[i] = (pace){0};
    s->steps = 0;
    return s->worst;
}
