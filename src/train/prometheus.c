#include "train/prometheus.h"

#include <math.h>
#include <string.h>

typedef struct {
    char text[8192], run[160];
    int  n;
} page;

static void put(page *p, const char *name, const char *type, const char *label, double value) {
    size_t room = sizeof p->text - (size_t)p->n;
    if (*type) p->n += snprintf(p->text + p->n, room, "# TYPE d3s2_%s %s\n", name, type);
    room = sizeof p->text - (size_t)p->n;
    p->n += snprintf(p->text + p->n, room, "d3s2_%s{run=\"%s\"%s} ", name, p->run, label);
    room = sizeof p->text - (size_t)p->n;
    p->n += isnan(value) ? snprintf(p->text + p->n, room, "NaN\n") : snprintf(p->text + p->n, room, "%.9g\n", value);
}

/* In a label a quote, a backslash and a line's end are written with a backslash. */
static void escape(const char *s, char *out, size_t cap) {
    size_t n = 0;
    for (; *s && n + 3 < cap; s++) {
        if (*s == '"' || *s == '\\' || *s == '\n') out[n++] = '\\';
        out[n++] = *s == '\n' ? 'n' : *s;
    }
    out[n] = 0;
}

bool prometheus_write(const char *path, const char *run, const prometheus_values *v, const goodput *g, status *st) {
    page p = {.n = 0};
    char label[64];
    escape(run, p.run, sizeof p.run);
    put(&p, "step", "counter", "", (double)v->step);
    put(&p, "tokens_total", "counter", "", (double)v->tokens);
    put(&p, "skipped_steps_total", "counter", "", (double)v->skipped);
    put(&p, "bad_samples", "gauge", "", (double)v->bad_samples);
    put(&p, "rollbacks_total", "counter", "", (double)v->rollbacks);
    put(&p, "loss", "gauge", "", v->loss);
    put(&p, "gradient_norm", "gauge", "", v->grad_norm);
    put(&p, "learning_rate", "gauge", "", v->lr);
    put(&p, "step_seconds", "gauge", "", v->step_s);
    put(&p, "tokens_per_second", "gauge", "", v->tokens_per_s);
    put(&p, "slowest_rank_factor", "gauge", "", v->slowest);
    put(&p, "goodput_ratio", "gauge", "", goodput_share(g));
    for (int i = 0; i < GOOD_ACCOUNTS; i++) {
        snprintf(label, sizeof label, ",account=\"%s\"", good_account_name((good_account)i));
        put(&p, "run_seconds_total", i ? "" : "counter", label, g->account[i]);
    }
    put(&p, "starts_total", "counter", "", (double)g->starts);
    return atomic_write(path, p.text, p.n, st);
}
