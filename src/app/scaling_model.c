#include "app/scaling_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/cluster.h"
#include "app/net_params.h"
#include "app/traffic.h"
#include "core/fit.h"

/* ---- series -------------------------------------------------------------------------------------------------------
 */

static bool alike(const step_row *a, const step_row *b, bool strong) {
    return !strcmp(a->model, b->model) && !strcmp(a->device, b->device) && a->tokens == b->tokens &&
           a->spread == b->spread &&
           (strong ? a->samples * a->ranks == b->samples * b->ranks : a->samples == b->samples);
}

static void add_row(scaling_series *s, const step_row *r) {
    int at = 0;
    while (at < s->n && s->row[at].ranks < r->ranks) at++;
    if (at == s->n || s->row[at].ranks != r->ranks) {
        if (s->n == SERIES_ROWS) return;
        memmove(&s->row[at + 1], &s->row[at], (size_t)(s->n - at) * sizeof *r);
        s->n++;
    }
    s->row[at] = *r;
}

int scaling_series_of(const step_row *rows, int n, scaling_series **out) {
    scaling_series *list = calloc((size_t)(3 * n) + 1, sizeof *list);
    bool           *used = calloc((size_t)n + 1, sizeof *used);
    int             count = 0;
    CHECK(list && used, "no memory for %d rows", n);
    for (int kind = 0; kind < 3; kind++) /* weak, strong, what is left */
        for (int i = 0; i < n; i++) {
            scaling_series *s = &list[count];
            bool            known = false;
            for (int k = 0; k < count; k++)
                known = known || (list[k].strong == (kind == 1) && alike(&list[k].row[0], &rows[i], kind == 1));
            if (known || (kind == 2 && used[i])) continue;
            *s = (scaling_series){.strong = kind == 1};
            for (int j = 0; j < n; j++)
                if (alike(&rows[i], &rows[j], kind == 1)) add_row(s, &rows[j]);
            if (s->n < 2 && kind < 2) continue;
            for (int j = 0; j < n; j++) used[j] = used[j] || alike(&rows[i], &rows[j], kind == 1);
            count++;
        }
    free(used);
    *out = list;
    return count;
}

void scaling_name(const scaling_series *s, char text[160]) {
    const step_row *r = &s->row[0];
    int             at = snprintf(text, 160, "%s, %lld x %lld tokens%s", r->model,
                                  (long long)(s->strong ? r->samples * r->ranks : r->samples), (long long)r->tokens,
                      s->strong ? " in all (strong)" : " each");
    if (r->spread > 0) snprintf(text + at, 160 - (size_t)at, ", spread %g", r->spread);
}

/* ---- model --------------------------------------------------------------------------------------------------------
 */

static scaling_point parts_at(const scaling_series *s, const options *o, int ranks) {
    const step_row *r = &s->row[0];
    scaling_point   p = {.balance = 1};
    traffic         t;
    double          backward = isnan(r->backward_ms) ? (1 - o->cluster.forward) * r->step_ms : r->backward_ms;
    double          own = net_reduced_bytes(o), bytes = isnan(r->reduced_mb) ? own : 1e6 * r->reduced_mb;
    int             width = strstr(r->device, "bf16") ? 2 : 4;
    double          wide = o->train.reduce_dtype == opt_train_reduce_dtype_bf16 ? 2 : 4;
    if (fabs(own - bytes) <= 1e-3 * bytes) /* the configured network is that of the rows */
        traffic_of_network(&t, o, ranks, width);
    else
        traffic_even(&t, o, ranks, bytes, bytes / wide * width);
    p.exposed_s = traffic_exposed(&t, 1e-3 * backward, &p.sums_s);
    p.beside_s = t.beside_s;
    p.share_s = t.share_s;
    traffic_free(&t);
    if (r->spread > 0) {
        int64_t grouped = o->train.balance == opt_train_balance_steps ? o->train.balance_steps : 0;
        int64_t steps = grouped > 64 ? grouped : 64, n = steps * ranks * r->samples;
        if (n > o->cluster.data_samples) n = o->cluster.data_samples;
        int64_t *size = cluster_sizes(r->spread, (double)r->tokens, n, (uint64_t)o->train.seed);
        p.balance = cluster_balance(o, size, n, steps, ranks, r->samples, grouped);
        free(size);
    }
    return p;
}

scaling_model scaling_fit(const scaling_series *s, const options *o) {
    double        a[SERIES_ROWS * 2] = {0}, b[SERIES_ROWS] = {0}, weight[SERIES_ROWS] = {0}, x[2];
    scaling_point p[SERIES_ROWS];
    scaling_model m = {.interference = o->cluster.interference};
    int           terms = 1; /* one row, or rows without sums beside backward, say nothing about interference */
    for (int i = 0; i < s->n; i++) {
        p[i] = parts_at(s, o, (int)s->row[i].ranks);
        if (s->n > 1 && p[i].beside_s > 0) terms = 2;
    }
    for (int i = 0; i < s->n; i++) {
        double step = 1e-3 * s->row[i].step_ms;
        a[terms * i] = 1 / p[i].balance;
        if (terms == 2) a[terms * i + 1] = p[i].beside_s;
        b[i] = step - p[i].exposed_s - p[i].share_s - (terms == 1 ? m.interference * p[i].beside_s : 0);
        weight[i] = 1 / step;
    }
    m.error = fit_nonnegative(a, b, weight, s->n, terms, x);
    m.computing_s = x[0];
    if (terms == 2) m.interference = x[1];
    return m;
}

scaling_point scaling_at(const scaling_series *s, const scaling_model *m, const options *o, int ranks) {
    const step_row *first = &s->row[0];
    scaling_point   p = parts_at(s, o, ranks);
    p.step_s = m->computing_s / p.balance + m->interference * p.beside_s + p.exposed_s + p.share_s;
    p.tokens_s = (double)(first->samples * first->tokens * ranks) / p.step_s;
    p.efficiency = p.tokens_s / ranks / (first->tokens_s / (double)first->ranks);
    return p;
}
