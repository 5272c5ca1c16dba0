#include "app/results.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { JSON_MAX_BYTES = 256 << 20 };

void hex_of(uint64_t v, char out[17]) {
    snprintf(out, 17, "%016llx", (unsigned long long)v);
}

void result_name(const char *source, uint64_t id, char out[96]) {
    const char *base = base_name(source);
    const char *dot = strrchr(base, '.');
    int         n = (int)(dot && dot > base ? dot - base : (int64_t)strlen(base));
    snprintf(out, 96, "%.*s-%04x", n < 80 ? n : 80, base, (unsigned)(id >> 48));
    for (char *c = out; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_') *c = '_';
}

void result_path(const char *folder, const char *name, const char *ending, char out[PATH_CAP]) {
    int n = snprintf(out, PATH_CAP, "%s/%s%s", folder, name, ending);
    CHECK(n < PATH_CAP, "the path %s/%s%s is longer than %d bytes", folder, name, ending, PATH_CAP - 1);
}

bool json_file_write(const char *path, const json_t *j, status *st) {
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    CHECK(text, "no memory for %s, or a number that JSON does not know", path);
    bool ok = atomic_write(path, text, (int64_t)strlen(text), st);
    free(text);
    return ok;
}

json_t *json_file_read(const char *path, status *st) {
    uint8_t     *bytes;
    int64_t      n;
    json_error_t e;
    if (!read_whole_file(path, JSON_MAX_BYTES, &bytes, &n, st)) return NULL;
    json_t *j = json_loadb((const char *)bytes, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    free(bytes);
    if (j && json_is_object(j)) return j;
    status_set(st, ST_DATA, "%s: line %d: %s: remove the file and run again", path, j ? 1 : e.line,
               j ? "not an object" : e.text);
    json_decref(j);
    return NULL;
}

bool result_done(const char *folder, const char *name, const char *key) {
    char    path[PATH_CAP];
    status  st = {0};
    bool    ok;
    json_t *j, *files, *file;
    size_t  i;
    result_path(folder, name, ".json", path);
    if (access(path, R_OK) != 0 || !(j = json_file_read(path, &st))) return false;
    const char *had = json_string_value(json_object_get(j, "key"));
    ok = had && strcmp(had, key) == 0;
    files = json_object_get(j, "files");
    json_array_foreach(files, i, file) {
        char at[PATH_CAP];
        result_path(folder, json_is_string(file) ? json_string_value(file) : "?", "", at);
        ok = ok && access(at, R_OK) == 0;
    }
    json_decref(j);
    return ok;
}

bool results_collect(const char *folder, const char *file, json_t *head, char (*names)[96], int64_t n, status *st) {
    json_t *shapes = json_array();
    bool    ok = true;
    for (int64_t i = 0; i < n && ok; i++) {
        char path[PATH_CAP];
        result_path(folder, names[i], ".json", path);
        json_t *j = json_file_read(path, st);
        ok = j != NULL;
        if (ok) json_array_append_new(shapes, j);
    }
    json_object_set_new(head, "summary", metrics_summary(shapes));
    json_object_set_new(head, "shapes", shapes);
    if (ok) {
        char path[PATH_CAP];
        result_path(folder, file, "", path);
        ok = json_file_write(path, head, st);
    }
    json_decref(head);
    return ok;
}
