/* d3s2 report: report.html and summary.json of everything below a folder; with --scaling tables and plots of `d3s2
 * bench step` over ranks. */
#include "app/report_page.h"
#include "app/report_scaling.h"
#include "app/verbs.h"

#include <stdio.h>
#include <string.h>

static bool write_page(const app *a, const char *folder, const char *output, report_data *d, status *st) {
    html    h = {0};
    json_t *summary = json_object(), *results = json_object();
    html_begin(&h, "d3s2 report");
    html_add(&h, "<h1>Training of Direct3D-S2 on small data</h1>\n");
    html_add(&h, "<p class=note>The active tiles of every shape are given in this stage: the network fills tiles that "
                 "already outline "
                 "the shape. A small Chamfer distance alone therefore proves nothing; compare with decoded zero and "
                 "noise latents, "
                 "and with another shape's view.</p>\n");
    if (a->opt->report.images) page_pictures(&h, d);
    page_tables(&h, d);
    page_curves(&h, d, a->opt->report.smooth, summary);
    page_circumstances(&h, d, summary);
    html_add(&h, "</body></html>\n");
    for (int i = 0; i < d->n[REPORT_RESULTS]; i++) {
        const report_file *f = &d->file[REPORT_RESULTS][i];
        json_object_set_new(results, f->where,
                            json_pack("{s:O, s:O}", "kind", json_object_get(f->json, "kind"), "means",
                                      json_object_get(f->json, "summary")));
    }
    json_object_set_new(summary, "results", results);
    json_object_set_new(summary, "version", json_string(D3S2_VERSION));
    char beside[PATH_CAP], path[PATH_CAP];
    folder_of(output, beside);
    bool ok = atomic_write(output, h.text, h.n, st) && join_path(beside, "summary.json", path, st) &&
              json_file_write(path, summary, st);
    if (ok) printf("%s\n", output);
    if (ok && strcmp(beside, folder) != 0) log_info("meshes are linked relative to %s", folder);
    html_free(&h);
    json_decref(summary);
    return ok;
}

bool verb_report(app *a, status *st) {
    const options *o = a->opt;
    const char    *folder = o->command.n_args ? o->command.arg[0] : o->report.run;
    char           output[PATH_CAP];
    report_data    d;
    if (a->flag) return report_scaling(o, st);
    if (!*folder || o->command.n_args > 1)
        return status_set(st, ST_USAGE, "report takes one folder: d3s2 report FOLDER");
    if (*o->report.output)
        snprintf(output, sizeof output, "%s", o->report.output);
    else if (!join_path(folder, "report.html", output, st))
        return false;
    bool ok = report_find(folder, &d, st);
    if (ok && o->command.dry_run)
        printf("report of %d training curves and %d results would go to %s\n", d.n[REPORT_METRICS], d.n[REPORT_RESULTS],
               output);
    else if (ok)
        ok = write_page(a, folder, output, &d, st);
    report_data_free(&d);
    return ok;
}
