#include "app/bench_cluster.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/step_rows.h"
#include "core/fit.h"
#include "train/cost_model.h"

/* Rows of one rank with shapes of one size: what the others say is mixed with balance and communication. */
static bool counts(const step_row *r) {
    return r->ranks == 1 && r->spread == 0;
}

static cost_point point_of(const step_row *r) {
    double s = (double)r->samples, n = (double)r->tokens;
    return (cost_point){s, s * n, s * n * n, 1e3 * r->step_ms};
}

/* Of the rows like `like`, which are marked as done. */
static void fit_group(const step_row *rows, int n_rows, const step_row *like, bool *done) {
    cost_point *p = malloc((size_t)n_rows * sizeof *p);
    cost_model  m;
    int         n = 0;
    CHECK(p, "no memory for %d rows", n_rows);
    for (int i = 0; i < n_rows; i++) {
        if (!counts(&rows[i]) || strcmp(rows[i].model, like->model) != 0 || strcmp(rows[i].device, like->device) != 0)
            continue;
        done[i] = true;
        p[n++] = point_of(&rows[i]);
    }
    double error = cost_fit(p, n, &m);
    printf("%s, %s: %d rows, mean error %.1f %%\n", like->model, like->device, n, 100 * error);
    printf("  %8s %9s %12s %12s\n", "samples", "tokens", "measured ms", "model ms");
    for (int i = 0; i < n; i++)
        printf("  %8.0f %9.0f %12.3f %12.3f\n", p[i].samples, p[i].tokens / p[i].samples, 1e-3 * p[i].us,
               1e-3 * (m.step + m.sample * p[i].samples + m.token * p[i].tokens + m.token2 * p[i].tokens2));
    printf("  train.cost_token=%.6g train.cost_token2=%.6g train.cost_sample=%.6g cluster.step_ms=%.6g\n", m.token,
           m.token2, m.sample, 1e-3 * m.step);
    free(p);
}

int bench_cost(const options *o) {
    status    st = {0};
    step_row *rows = NULL;
    int       n = 0, groups = 0;
    for (int i = 0; i < o->command.n_args && status_ok(&st); i++) step_rows_read(o->command.arg[i], &rows, &n, &st);
    if (o->command.n_args == 0)
        status_set(&st, ST_USAGE, "bench cost takes files of `d3s2 bench step --csv` on one rank, with several sizes");
    bool *done = calloc((size_t)n + 1, sizeof *done);
    CHECK(done, "no memory for %d rows", n);
    for (int i = 0; i < n && status_ok(&st); i++)
        if (counts(&rows[i]) && !done[i]) {
            fit_group(rows, n, &rows[i], done);
            groups++;
        }
    if (status_ok(&st) && groups == 0)
        status_set(&st, ST_DATA, "no row of one rank without spread: measure with `d3s2 bench step` on one rank");
    if (!status_ok(&st)) fprintf(stderr, "d3s2: error: %s\n", st.text);
    free(done);
    free(rows);
    return (int)st.code;
}

int bench_links(const options *o) {
    int     n = o->command.n_args;
    double *a = malloc((size_t)(n + 1) * 3 * sizeof *a), *seconds = a + 2 * (n + 1), x[2];
    status  st = {0};
    CHECK(a, "no memory for %d measured sums", n);
    if (n == 0) status_set(&st, ST_USAGE, "bench links takes measured sums over GPUs of a node: RANKS:MB:MS ...");
    for (int i = 0; i < n && status_ok(&st); i++) {
        double ranks, mb, ms;
        char   rest;
        if (sscanf(o->command.arg[i], "%lf:%lf:%lf%c", &ranks, &mb, &ms, &rest) != 3 ||
            !(ranks >= 2 && mb > 0 && ms > 0 && ranks < 1e6 && mb < 1e9 && ms < 1e9)) {
            status_set(&st, ST_USAGE, "'%.80s' is not RANKS:MB:MS, as 4:268:1.19", o->command.arg[i]);
            break;
        }
        a[2 * i] = 2 * (ranks - 1) / ranks * mb * 1e6; /* comm_ring_seconds */
        a[2 * i + 1] = 2 * (ranks - 1);
        seconds[i] = 1e-3 * ms;
    }
    if (status_ok(&st)) {
        double error = fit_nonnegative(a, seconds, NULL, n, 2, x);
        printf("%d sums, mean error %.1f %%\n", n, 100 * error);
        if (x[0] > 0) printf("cluster.inside_us=%.6g cluster.inside_gb_s=%.6g\n", 1e6 * x[1], 1e-9 / x[0]);
        if (x[0] <= 0) status_set(&st, ST_DATA, "these sums take no longer for more bytes: measure larger ones");
    }
    if (!status_ok(&st)) fprintf(stderr, "d3s2: error: %s\n", st.text);
    free(a);
    return (int)st.code;
}
