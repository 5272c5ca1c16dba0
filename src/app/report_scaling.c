#include "app/report_scaling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/cluster.h"
#include "app/html.h"
#include "app/plot.h"
#include "app/scaling_model.h"
#include "io/atomic_file.h"

enum { MOST_RANKS = 1024, POINTS = 16 };

typedef struct {
    scaling_series *series;
    int             n;
    scaling_model  *model; /* [n]; of weak ones */
    int (*ranks)[POINTS];  /* [n] of the prediction */
    scaling_point (*point)[POINTS];
    int *n_points; /* [n], 0 for strong ones */
    html md, csv;
} scaling_report;

static double efficiency(const scaling_series *s, int i) {
    const step_row *r = &s->row[i], *first = &s->row[0];
    return r->tokens_s / (double)r->ranks / (first->tokens_s / (double)first->ranks);
}

static void predict(scaling_report *p, const options *o, int k) {
    const scaling_series *s = &p->series[k];
    if (s->strong) return;
    p->model[k] = scaling_fit(s, o);
    for (int ranks = (int)s->row[0].ranks; ranks <= MOST_RANKS && p->n_points[k] < POINTS; ranks *= 2) {
        int i = p->n_points[k]++;
        p->ranks[k][i] = ranks;
        p->point[k][i] = scaling_at(s, &p->model[k], o, ranks);
    }
}

/* "-" for what is not there. */
static void cell(html *h, double v, const char *fmt) {
    char text[32] = "-";
    if (isfinite(v)) snprintf(text, sizeof text, fmt, v);
    html_add(h, " %s |", text);
}

static void csv_row(html *h, const scaling_series *s, bool measured, int ranks, double step_ms, double tokens_s,
                    double share, double exposed_ms, double balance) {
    const step_row *r = &s->row[0];
    html_add(h, "%s,%s,\"%s\",%lld,%lld,%g,%d,%s,%.3f,%.0f,%.4f,%.3f,%.4f\n", s->strong ? "strong" : "weak", r->model,
             r->device, (long long)(s->strong ? r->samples * r->ranks : r->samples), (long long)r->tokens, r->spread,
             ranks, measured ? "measured" : "model", step_ms, tokens_s, share, exposed_ms, balance);
}

static void measured_table(scaling_report *p, const options *o, int k) {
    const scaling_series *s = &p->series[k];
    char                  name[160];
    scaling_name(s, name);
    html_add(&p->md,
             "\n## %s\n\n%s\n\n| ranks | step, ms | tokens/s | efficiency | exposed, ms | of the step | waits "
             "least, ms | balance | planned |%s\n|---|---|---|---|---|---|---|---|---|%s\n",
             name, s->row[0].device, s->strong ? "" : " model, ms | off by |", s->strong ? "" : "---|---|");
    for (int i = 0; i < s->n; i++) {
        const step_row *r = &s->row[i];
        html_add(&p->md, "| %lld | %.2f | %.0f | %.1f %% | %.2f | %.2f %% |", (long long)r->ranks, r->step_ms,
                 r->tokens_s, 100 * efficiency(s, i), r->exposed_ms, 100 * r->exposed_ms / r->step_ms);
        cell(&p->md, r->exposed_min_ms, "%.2f");
        cell(&p->md, r->busy_balance, "%.3f");
        cell(&p->md, r->balance, "%.3f");
        csv_row(&p->csv, s, true, (int)r->ranks, r->step_ms, r->tokens_s, efficiency(s, i), r->exposed_ms,
                r->busy_balance);
        if (!s->strong) {
            double step = 1e3 * scaling_at(s, &p->model[k], o, (int)r->ranks).step_s;
            html_add(&p->md, " %.2f | %+.1f %% |", step, 100 * (step / r->step_ms - 1));
        }
        html_add(&p->md, "\n");
    }
}

static void predicted_table(scaling_report *p, const options *o, int k) {
    const scaling_series *s = &p->series[k];
    const scaling_model  *m = &p->model[k];
    if (s->strong) return;
    html_add(&p->md,
             "\nModel: computing %.2f ms, interference %.2f s for each second of transfer; error over the rows %.2f "
             "%%. With faults: goodput at the best interval between checkpoints.\n\n"
             "| GPUs | step, ms | tokens/s | efficiency | exposed, ms | sums, ms | new weights, ms | balance | "
             "goodput | binds first |\n|---|---|---|---|---|---|---|---|---|---|\n",
             1e3 * m->computing_s, m->interference, 100 * m->error);
    for (int i = 0; i < p->n_points[k]; i++) {
        const scaling_point *x = &p->point[k][i];
        cluster_faults       f = cluster_faults_of(o, p->ranks[k][i]);
        f.every = cluster_interval(&f, x->step_s);
        cluster_run r = cluster_live(&f, &x->step_s, 1);
        double      goodput = r.productive / r.wall, comm = m->interference * x->beside_s + x->exposed_s + x->share_s;
        html_add(&p->md, "| %d | %.1f | %.4g | %.1f %% | %.2f | %.1f | %.1f | %.3f | %.1f %% | %s |\n", p->ranks[k][i],
                 1e3 * x->step_s, x->tokens_s, 100 * x->efficiency, 1e3 * x->exposed_s, 1e3 * x->sums_s,
                 1e3 * x->share_s, x->balance, 100 * goodput,
                 cluster_binds((1 / x->balance - 1) * m->computing_s / x->step_s, comm / x->step_s, 1 - goodput));
        csv_row(&p->csv, s, false, p->ranks[k][i], 1e3 * x->step_s, x->tokens_s, x->efficiency, 1e3 * x->exposed_s,
                x->balance);
    }
}

/* ---- plots --------------------------------------------------------------------------------------------------------
 */

typedef enum { VALUE_RATE, VALUE_EFFICIENCY, VALUE_EXPOSED } value_kind;

static double measured_value(const scaling_series *s, int i, value_kind kind) {
    const step_row *r = &s->row[i];
    double          exposed = isnan(r->exposed_min_ms) ? r->exposed_ms : r->exposed_min_ms;
    return kind == VALUE_RATE         ? r->tokens_s
           : kind == VALUE_EFFICIENCY ? 100 * efficiency(s, i)
                                      : 100 * exposed / r->step_ms;
}

static double model_value(const scaling_point *p, value_kind kind) {
    return kind == VALUE_RATE         ? p->tokens_s
           : kind == VALUE_EFFICIENCY ? 100 * p->efficiency
                                      : 100 * p->exposed_s / p->step_s;
}

static bool draw(const scaling_report *p, const char *folder, const char *file, const plot_frame *f, value_kind kind,
                 status *st) {
    char       path[PATH_CAP], (*name)[2][176] = calloc((size_t)p->n, sizeof *name);
    plot_line *line = calloc((size_t)(2 * p->n), sizeof *line);
    double    *x = malloc((size_t)p->n * (SERIES_ROWS + POINTS) * 2 * sizeof *x);
    int        n = 0;
    CHECK(name && line && x, "no memory for a plot of %d lines", p->n);
    for (int k = 0; k < p->n; k++) {
        const scaling_series *s = &p->series[k];
        double *mx = x + (size_t)k * (SERIES_ROWS + POINTS) * 2, *my = mx + SERIES_ROWS, *px = my + SERIES_ROWS,
               *py = px + POINTS;
        scaling_name(s, name[k][0]);
        snprintf(name[k][1], sizeof name[k][1], "%s: model", name[k][0]);
        for (int i = 0; i < s->n; i++) mx[i] = (double)s->row[i].ranks, my[i] = measured_value(s, i, kind);
        for (int i = 0; i < p->n_points[k]; i++) px[i] = p->ranks[k][i], py[i] = model_value(&p->point[k][i], kind);
        line[n++] = (plot_line){name[k][0], mx, my, s->n, k, false, true};
        if (p->n_points[k]) line[n++] = (plot_line){name[k][1], px, py, p->n_points[k], k, true, false};
    }
    bool ok = join_path(folder, file, path, st) && plot_write(path, f, line, n, st);
    free(name);
    free(line);
    free(x);
    return ok;
}

static bool write_all(scaling_report *p, const char *folder, status *st) {
    static const plot_frame frames[] = {
        {"Tokens per second", "ranks", "tokens/s", true, 0, 0},
        {"Efficiency: tokens/s of a rank over those at the fewest ranks", "ranks", "%", false, 0, 0},
        {"Communication that backward does not hide", "ranks", "% of the step", false, 0, 0}};
    static const char *const files[] = {"tokens.svg", "efficiency.svg", "exposed.svg"};
    char                     path[PATH_CAP];
    bool                     ok = make_folder(folder, st);
    html_add(&p->md, "\n");
    for (int i = 0; ok && i < 3; i++) {
        html_add(&p->md, "![%s](%s)\n", frames[i].title, files[i]);
        ok = draw(p, folder, files[i], &frames[i], (value_kind)i, st);
    }
    ok = ok && join_path(folder, "scaling.csv", path, st) && atomic_write(path, p->csv.text, p->csv.n, st) &&
         join_path(folder, "scaling.md", path, st) && atomic_write(path, p->md.text, p->md.n, st);
    if (ok) printf("%s\n", path);
    return ok;
}

bool report_scaling(const options *o, status *st) {
    step_row      *rows = NULL;
    int            n = 0;
    scaling_report p = {0};
    if (o->command.n_args == 0 || !*o->report.output)
        return status_set(st, ST_USAGE,
                          "report --scaling takes files of `d3s2 bench step --csv` and a folder: d3s2 "
                          "report --scaling FILE.csv ... report.output=FOLDER");
    for (int i = 0; i < o->command.n_args && status_ok(st); i++) step_rows_read(o->command.arg[i], &rows, &n, st);
    if (status_ok(st)) {
        p.n = scaling_series_of(rows, n, &p.series);
        p.model = calloc((size_t)p.n, sizeof *p.model);
        p.ranks = calloc((size_t)p.n, sizeof *p.ranks);
        p.point = calloc((size_t)p.n, sizeof *p.point);
        p.n_points = calloc((size_t)p.n, sizeof *p.n_points);
        CHECK(p.model && p.ranks && p.point && p.n_points, "no memory for %d series", p.n);
        html_add(&p.md,
                 "# Scaling\n\nEfficiency: tokens/s of a rank over those at the fewest ranks. Exposed: the longest "
                 "wait of a rank for the sums of gradients, which includes waiting for slower ranks; \"waits "
                 "least\": the shortest, which is communication alone. Balance: mean over the ranks / slowest "
                 "rank, of forward and backward; planned: by the cost model.\n");
        html_add(&p.csv, "kind,model,device,samples,tokens,spread,ranks,source,step_ms,tokens_s,efficiency,exposed_ms,"
                         "balance\n");
        for (int k = 0; k < p.n; k++) {
            predict(&p, o, k);
            measured_table(&p, o, k);
            predicted_table(&p, o, k);
        }
        if (o->command.dry_run)
            printf("%d rows in %d series would go to %s\n", n, p.n, o->report.output);
        else
            write_all(&p, o->report.output, st);
    }
    html_free(&p.md);
    html_free(&p.csv);
    free(p.model);
    free(p.ranks);
    free(p.point);
    free(p.n_points);
    free(p.series);
    free(rows);
    return status_ok(st);
}
