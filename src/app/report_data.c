#include "app/report_data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const wanted[REPORT_KINDS] = {"metrics.jsonl", "results.json", "config.yaml", "stages.jsonl"};

static bool add(report_data *d, report_kind kind, const char *path, const char *where, status *st) {
    json_t *j = NULL;
    if (kind == REPORT_RESULTS && !(j = json_file_read(path, st))) return false;
    report_file *list = realloc(d->file[kind], (size_t)(d->n[kind] + 1) * sizeof *list);
    CHECK(list, "no memory for %d files", d->n[kind] + 1);
    d->file[kind] = list;
    report_file *f = &list[d->n[kind]++];
    snprintf(f->path, sizeof f->path, "%s", path);
    snprintf(f->where, sizeof f->where, "%s", where);
    f->json = j;
    return true;
}

static bool walk(report_data *d, const char *folder, const char *where, status *st) {
    char **names;
    int    n;
    if (!list_folder(folder, "", &names, &n, st)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        char        path[PATH_CAP], below[PATH_CAP];
        struct stat s;
        if (!(ok = join_path(folder, names[i], path, st)) || lstat(path, &s) != 0) continue;
        if (S_ISDIR(s.st_mode) && strncmp(names[i], "step-", 5) != 0) {
            ok = strcmp(where, ".") ? join_path(where, names[i], below, st)
                                    : snprintf(below, sizeof below, "%s", names[i]) < (int)sizeof below;
            ok = ok && walk(d, path, below, st);
        }
        for (int k = 0; k < REPORT_KINDS && ok; k++)
            if (S_ISREG(s.st_mode) && strcmp(names[i], wanted[k]) == 0) ok = add(d, (report_kind)k, path, where, st);
    }
    free_names(names, n);
    return ok;
}

bool report_find(const char *folder, report_data *d, status *st) {
    struct stat s;
    *d = (report_data){0};
    if (stat(folder, &s) != 0) return status_set(st, ST_NO_INPUT, "%s: %s", folder, strerror(errno));
    if (!S_ISDIR(s.st_mode)) return status_set(st, ST_NO_INPUT, "%s is not a folder", folder);
    if (!walk(d, folder, ".", st)) return false;
    if (d->n[REPORT_METRICS] + d->n[REPORT_RESULTS] == 0)
        return status_set(st, ST_NO_INPUT, "%s: neither metrics.jsonl nor results.json below it: train or eval first",
                          folder);
    return true;
}

void report_data_free(report_data *d) {
    for (int k = 0; k < REPORT_KINDS; k++) {
        for (int i = 0; i < d->n[k]; i++) json_decref(d->file[k][i].json);
        free(d->file[k]);
    }
    *d = (report_data){0};
}
