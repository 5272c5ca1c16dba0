/* Tables, curves and circumstances of the report. */
#include "app/report_page.h"
#include "app/machine.h"
#include "app/verbs.h"
#include "io/jsonl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------------------------- */

static const struct {
    const char *key, *label;
    double      scale;
    int         digits;
} columns[] = {
    {"sign_accuracy", "sign right, %", 100, 2},
    {"band_error_tau", "band error, tau", 1, 4},
    {"band_error_voxels", "band error, voxels", 1, 3},
    {"chamfer", "Chamfer x1000", 1000, 3},
    {"f1@0.005", "F1 @0.005, %", 100, 2},
    {"f1@0.001", "F1 @0.001, %", 100, 2},
    {"f1@0.01", "F1 @0.01, %", 100, 2},
    {"normal_error_degrees", "normal error, deg", 1, 2},
    {"vae_chamfer", "VAE Chamfer x1000", 1000, 3},
    {"vae_sign_accuracy", "VAE sign right, %", 100, 2},
    {"generated_sign_accuracy", "generated: sign right, %", 100, 2},
    {"generated_band_error_tau", "generated: band error, tau", 1, 4},
    {"zero_sign_accuracy", "zero latents: sign right, %", 100, 2},
    {"zero_band_error_tau", "zero latents: band error, tau", 1, 4},
    {"noise_sign_accuracy", "noise latents: sign right, %", 100, 2},
    {"noise_band_error_tau", "noise latents: band error, tau", 1, 4},
    {"right_view_lower", "right view has the lower loss, %", 100, 1},
};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

static void table_row(html *h, const char *name, const json_t *group, const bool *shown, bool all) {
    html_add(h, "<tr%s><td>", all ? " class=all" : "");
    html_text(h, name);
    html_add(h, "</td><td>%lld</td>", (long long)json_integer_value(json_object_get(group, "shapes")));
    for (int c = 0; c < N_COLUMNS; c++) {
        if (!shown[c]) continue;
        const json_t *mean = json_object_get(json_object_get(group, columns[c].key), "mean");
        if (json_is_number(mean))
            html_add(h, "<td>%.*f</td>", columns[c].digits, columns[c].scale * json_number_value(mean));
        else
            html_add(h, "<td>&ndash;</td>");
    }
    html_add(h, "</tr>\n");
}

static void flow_table(html *h, const json_t *overall) {
    static const char *const times[] = {"0.1", "0.3", "0.5", "0.7", "0.9"};
    if (!json_object_get(overall, "flow_right@0.5")) return;
    html_add(
        h,
        "<h3>Flow loss per time, same noise</h3><table><tr><th>time</th><th>with the right view</th><th>with another "
        "shape's view</th><th>right view lower, %%</th></tr>\n");
    for (int i = 0; i < 5; i++) {
        char   key[3][32];
        double v[3];
        snprintf(key[0], 32, "flow_right@%s", times[i]);
        snprintf(key[1], 32, "flow_wrong@%s", times[i]);
        snprintf(key[2], 32, "right_lower@%s", times[i]);
        for (int k = 0; k < 3; k++) v[k] = json_number_value(json_object_get(json_object_get(overall, key[k]), "mean"));
        html_add(h, "<tr><td>%s</td><td>%.5f</td><td>%.5f</td><td>%.1f</td></tr>\n", times[i], v[0], v[1], 100 * v[2]);
    }
    html_add(h, "</table>\n");
}

void page_tables(html *h, const report_data *d) {
    html_add(h, "<h2>Figures</h2>\n<p>Chamfer: half the sum of the two mean distances between the surfaces, in the "
                "[-1,1] frame. "
                "The band is where the true distance is below tau. A dash: it could not be computed.</p>\n");
    for (int i = 0; i < d->n[REPORT_RESULTS]; i++) {
        const report_file *f = &d->file[REPORT_RESULTS][i];
        const json_t *summary = json_object_get(f->json, "summary"), *overall = json_object_get(summary, "overall");
        bool          shown[N_COLUMNS];
        html_add(h, "<h3>");
        html_text(h, f->where);
        html_add(h, "</h3><div class=wide><table><tr><th>category</th><th>shapes</th>");
        for (int c = 0; c < N_COLUMNS; c++) {
            shown[c] = json_object_get(overall, columns[c].key) != NULL;
            if (shown[c]) html_add(h, "<th>%s</th>", columns[c].label);
        }
        html_add(h, "</tr>\n");
        table_row(h, "all", overall, shown, true);
        json_t     *categories = json_object_get(summary, "category"), *group;
        const char *name;
        json_object_foreach(categories, name, group) table_row(h, name, group, shown, false);
        html_add(h, "</table></div>\n");
        flow_table(h, overall);
    }
}

/* ---- curves ---------------------------------------------------------------------------------------------------- */

/* Mean over the last `window` records, NaN left out. */
static double *smoothed(const double *v, int64_t n, int64_t window) {
    double *out = malloc(sizeof *out * (size_t)(n + 1));
    CHECK(out, "no memory for a curve");
    double  sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(v[i])) sum += v[i], count++;
        if (i >= window && isfinite(v[i - window])) sum -= v[i - window], count--;
        out[i] = count ? sum / (double)count : NAN;
    }
    return out;
}

void page_curves(html *h, const report_data *d, int64_t smooth, json_t *summary) {
    json_t *last = json_object();
    html_add(h, "<h2>Training</h2>\n<div class=charts>\n");
    for (int i = 0; i < d->n[REPORT_METRICS]; i++) {
        const report_file       *f = &d->file[REPORT_METRICS][i];
        int64_t                 *step[2] = {NULL, NULL}, n[2] = {0, 0};
        double                  *value[2] = {NULL, NULL};
        static const char *const key[2] = {"loss", "heldout_loss"};
        for (int k = 0; k < 2; k++) {
            status quiet = {0};
            if (!jsonl_series(f->path, key[k], &step[k], &value[k], &n[k], &quiet)) n[k] = 0;
        }
        /* the window is in steps, records are every log_every steps */
        int64_t per = n[0] > 1 ? (step[0][n[0] - 1] - step[0][0]) / (n[0] - 1) : 1;
        int64_t window = smooth / (per > 0 ? per : 1);
        if (window > n[0] / 8) window = n[0] / 8;
        double   *mean = smoothed(value[0], n[0], window > 0 ? window : 1);
        html_line line[3] = {{"each step", step[0], value[0], n[0], true, false},
                             {"training", step[0], mean, n[0], false, false},
                             {"held out", step[1], value[1], n[1], false, n[1] < 60}};
        char      title[PATH_CAP + 16];
        snprintf(title, sizeof title, "Loss of %s", f->where);
        html_chart(h, title, line, n[1] ? 3 : 2);
        if (n[0])
            json_object_set_new(last, f->where,
                                json_pack("{s:I, s:o, s:o}", "step", (json_int_t)step[0][n[0] - 1], "loss",
                                          metrics_number(mean[n[0] - 1]), "heldout_loss",
                                          n[1] ? metrics_number(value[1][n[1] - 1]) : json_null()));
        free(mean);
        for (int k = 0; k < 2; k++) {
            free(step[k]);
            free(value[k]);
        }
    }
    html_add(h, "</div>\n");
    json_object_set_new(summary, "training", last);
}

/* ---- circumstances --------------------------------------------------------------------------------------------- */

static void stage_times(html *h, const report_file *f, json_t *list) {
    uint8_t *bytes;
    int64_t  n;
    status   quiet = {0};
    double   total = 0;
    if (!read_whole_file(f->path, 1 << 20, &bytes, &n, &quiet)) return;
    html_add(h, "<h3>Time per stage</h3><table><tr><th>stage</th><th>seconds</th></tr>\n");
    for (char *line = strtok((char *)bytes, "\n"); line; line = strtok(NULL, "\n")) {
        json_t     *j = json_loads(line, 0, NULL);
        const char *stage = json_string_value(json_object_get(j, "stage"));
        double      seconds = json_number_value(json_object_get(j, "seconds"));
        if (stage) {
            html_add(h, "<tr><td>");
            html_text(h, stage);
            html_add(h, "</td><td>%.0f</td></tr>\n", seconds);
            json_array_append(list, j);
            total += seconds;
        }
        json_decref(j);
    }
    html_add(h, "<tr class=all><td>all</td><td>%.0f</td></tr></table>\n", total);
    free(bytes);
}

void page_circumstances(html *h, const report_data *d, json_t *summary) {
    machine m = machine_look();
    json_t *stages = json_array();
    html_add(h, "<h2>Circumstances</h2>\n<p>d3s2 %s on ", D3S2_VERSION);
    html_text(h, m.cpu);
    html_add(h, ", %d cores, %lld MB of memory; ", m.cores, (long long)m.memory_mb);
    html_text(h, m.system);
    html_add(h, "; ");
    html_text(h, m.libraries);
    html_add(h, ".</p>\n");
    for (int i = 0; i < d->n[REPORT_STAGES]; i++) stage_times(h, &d->file[REPORT_STAGES][i], stages);
    for (int i = 0; i < d->n[REPORT_CONFIG]; i++) {
        const report_file *f = &d->file[REPORT_CONFIG][i];
        uint8_t           *bytes;
        int64_t            n;
        status             quiet = {0};
        if (!read_whole_file(f->path, 1 << 20, &bytes, &n, &quiet)) continue;
        html_add(h, "<details><summary>Configuration of ");
        html_text(h, f->where);
        html_add(h, "</summary><pre>");
        html_text(h, (const char *)bytes);
        html_add(h, "</pre></details>\n");
        free(bytes);
    }
    json_object_set_new(summary, "stages", stages);
    json_object_set_new(summary, "machine",
                        json_pack("{s:s, s:i, s:I, s:s, s:s}", "cpu", m.cpu, "cores", m.cores, "memory_mb",
                                  (json_int_t)m.memory_mb, "system", m.system, "libraries", m.libraries));
}
